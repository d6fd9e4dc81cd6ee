"""Inspect whatever a user names: a model, or a checkpoint that a block may be taken from, here or on a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..block.opening import block_of
from ..errors import NoBlock
from ..inspection.model import Inspection, inspect_model
from ..progress import Progress
from ..remote.opening import Opened, http_options, opened

if TYPE_CHECKING:
    pass
from ..inspection.checkpoint import CheckpointInspection, inspect_checkpoint


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
