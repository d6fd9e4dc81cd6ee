"""What a checkpoint is as a donor, by its config, its index and the headers of its shards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..archs import BY_CLASS
from ..block.from_checkpoint import block_from_checkpoint
from ..block.model import Block
from ..errors import FormatError, NoBlock, UnsupportedModel
from ..gguf.kv import printable
from ..remote.opening import Opened
from ..sources.checkpoint import Checkpoint


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
