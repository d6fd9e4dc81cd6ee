"""Inspect whatever a user names: a model, or a checkpoint that a block may be taken from, here or on a server."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..archs import BY_CLASS
from ..block.from_checkpoint import block_from_checkpoint
from ..block.model import Block, block_of
from ..errors import FormatError, NoBlock, UnsupportedModel
from ..gguf.kv import printable
from ..inspection.model import Inspection, inspect_model
from ..remote.opening import Opened, http_options, opened
from ..sources.checkpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    Progress = Callable[[int, int], None]  # (bytes done, bytes in all)


@dataclass(frozen=True)
class CheckpointInspection:
    """A checkpoint as a donor: what its config, its index and the headers of the block's shards tell."""

    checkpoint: Checkpoint
    where: str  # the folder, or the address
    architecture: str  # GGUF's name; the model class where nextn does not know it
    n_layer_trunk: int
    n_layer_nextn: int  # blocks that are really there
    block_bytes: int
    size_bytes: int | None  # of all weight files, as far as the index or the server tells
    problems: tuple[str, ...]
    hints: tuple[str, ...]
    types: dict[str, int] = field(default_factory=dict)  # dtype -> bytes of the block
    revision: str | None = None
    bytes_downloaded: int = 0
    block_sha256: str | None = None

    shape = "checkpoint"
    provenance: dict[str, str] | None = None
    sidecars: tuple[Path, ...] = ()

    @property
    def runs_on(self) -> dict[str, str]:
        """Engine -> what it does with it."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """JSON as in the schema of inspect."""
        files = set(self.checkpoint.weight_map.values())
        return {
            "version": 1,
            "path": self.where,
            "revision": self.revision,
            "name": self.checkpoint.folder.name,
            "architecture": self.architecture,
            "n_layer_trunk": self.n_layer_trunk,
            "n_layer_nextn": self.n_layer_nextn,
            "shape": self.shape,
            "block_bytes": self.block_bytes,
            "size_bytes": self.size_bytes,
            "n_files": len(files),
            "n_tensors": len(self.checkpoint.weight_map),
            "n_vocab": self.checkpoint.integer("vocab_size"),
            "gguf_version": None,
            "alignment": None,
            "types": self.types,
            "provenance": None,
            "sidecars": [],
            "runs_on": self.runs_on,
            "problems": list(self.problems),
            "hints": list(self.hints),
            "block_sha256": self.block_sha256,
            "bytes_downloaded": self.bytes_downloaded,
        }


def inspect(
    source: str | Path,
    *,
    block_hash: bool = False,
    limit_rate: float | None = None,
    progress: Progress | None = None,
) -> Inspection | CheckpointInspection:
    """Look into a GGUF, a shard set or a checkpoint, here or on a server, by headers alone.

    `source`: a path, ORG/NAME, hf:ORG/NAME@REVISION:FILE or an address. With `block_hash` the block is read (and
    fetched), and `block_sha256` tells its hash, which `attach` takes as `expect`; `limit_rate` (bytes per second) and
    `progress` are for that. Raises UsageError, RemoteError, FormatError and its kin for what cannot be read at all;
    everything else is a problem in the result.
    """
    with opened(source, http_options(limit_rate)) as found:
        digest = _hash(found, progress) if block_hash else None
        if found.model is not None:
            return _model(found, found.model, digest)
        assert found.checkpoint is not None
        seen = inspect_checkpoint(found)
        return replace(seen, block_sha256=digest, bytes_downloaded=found.bytes_downloaded)


def _hash(found: Opened, progress: Progress | None) -> str | None:
    from ..block.fingerprint import block_sha256

    try:
        block = block_of(found)
    except NoBlock:
        return None
    if found.remote is not None:
        found.remote.fetch(block.ranges, progress)
    return block_sha256(block)


def _model(found: Opened, model: Any, digest: str | None) -> Inspection:
    if found.remote is None:
        return replace(inspect_model(model), block_sha256=digest)
    seen = inspect_model(model, neighbours=False)
    return replace(
        seen,
        problems=tuple(found.text(problem) for problem in seen.problems),
        hints=(*seen.hints, *_hints(found, seen.shape)),
        label=found.name,
        revision=found.revision,
        bytes_downloaded=found.bytes_downloaded,
        block_sha256=digest,
    )


def _hints(found: Opened, shape: str) -> list[str]:
    """A sidecar in the same repository, by its name: no more headers are read for it."""
    from ..discovery import llama_cpp_names as hf_rules

    entry = found.path_in_place
    beside = hf_rules.sidecars(found.beside, entry) if entry is not None and shape == "trunk-only" else []
    if not beside:
        return []
    return [f"{PurePosixPath(beside[0]).name} in the same repository is its sidecar by name: 'nextn pull' gets both."]


def inspect_checkpoint(found: Opened) -> CheckpointInspection:
    """Look into a checkpoint: what is wrong with its block is a problem in the result."""
    checkpoint = found.checkpoint
    assert checkpoint is not None
    problems: list[str] = []
    hints: list[str] = []
    block: Block | None = None
    try:
        block = block_from_checkpoint(checkpoint)
    except NoBlock as error:
        (problems if "promises" in str(error) else hints).append(str(error))
    except (UnsupportedModel, FormatError) as error:
        problems.append(str(error))
    family = next((BY_CLASS[name] for name in checkpoint.classes if name in BY_CLASS), None)
    types: Counter[str] = Counter()
    for tensor in block.tensors if block else ():
        for span in tensor.rows.spans:
            types[span.tensor.dtype.lower()] += span.read_bytes
    if block is not None:
        hints.append(f"put its block onto a quant with 'nextn attach TRUNK.gguf --from {found.name}'.")
    return CheckpointInspection(
        checkpoint=checkpoint,
        where=found.name,
        architecture=family.arch if family else ", ".join(checkpoint.classes) or "unknown",
        n_layer_trunk=checkpoint.integer("num_hidden_layers") or 0,
        n_layer_nextn=block.n_layer_nextn if block else 0,
        block_bytes=block.read_bytes if block else 0,
        size_bytes=_size_bytes(found, checkpoint),
        problems=tuple(printable(found.text(problem), 1000) for problem in problems),
        hints=tuple(printable(found.text(hint), 1000) for hint in hints),
        types=dict(types.most_common()),
        revision=found.revision,
        bytes_downloaded=found.bytes_downloaded,
    )


def _size_bytes(found: Opened, checkpoint: Checkpoint) -> int | None:
    """Bytes of all weight files; no file is asked for it."""
    files = set(checkpoint.weight_map.values())
    if found.remote is None:
        paths = [checkpoint.folder / file for file in files]
        return sum(path.stat().st_size for path in paths) if all(path.exists() for path in paths) else None
    sizes = found.remote.place.sizes()
    names = [found.remote.prefix + file for file in files]
    return sum(sizes[name] for name in names) if all(name in sizes for name in names) else None
