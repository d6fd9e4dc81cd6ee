"""Inspect whatever a user names: a model, or a checkpoint that could supply a block, local or remote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from ..block.opening import block_of
from ..diagnosis.examine import Diagnosis, examined
from ..diagnosis.subject import Subject, subject_of
from ..errors import NoBlock
from ..inspection.checkpoint import CheckpointInspection, inspect_checkpoint
from ..inspection.model import Inspection, inspection_of
from ..inspection.shard_set import SetInspection
from ..progress import Progress
from ..remote.opening import Opened, http_options


def inspect(
    source: str | Path,
    *,
    block_hash: bool = False,
    limit_rate: float | None = None,
    progress: Progress | None = None,
) -> Inspection | CheckpointInspection | SetInspection:
    """Inspect a GGUF, a shard set or a checkpoint, local or remote, reading only headers.

    Its problems are what `nextn.doctor` finds without reading tensors. `source`: a path, ORG/NAME,
    hf:ORG/NAME@REVISION:FILE or an address. With `block_hash` the block is read (or fetched), and `block_sha256` is
    its hash, which `attach` takes as `expect`; `limit_rate` (bytes per second) and `progress` are for that. Raises
    UsageError, RemoteError, FormatError or a subclass if nothing can be read at all; everything else is a problem in
    the result.
    """
    with subject_of(source, http_options(limit_rate)) as subject:
        diagnosis = examined(subject)
        found = subject.opened
        if subject.model is None and subject.checkpoint is None:
            return SetInspection.of(diagnosis)
        digest = _hash(found, progress) if block_hash and found is not None else None
        if subject.model is not None:
            return _model(subject, diagnosis, digest)
        assert found is not None
        seen = inspect_checkpoint(found, diagnosis)
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


def _model(subject: Subject, diagnosis: Diagnosis, digest: str | None) -> Inspection:
    assert subject.model is not None
    seen = inspection_of(subject.model, diagnosis, neighbours=not subject.is_remote)
    found = subject.opened
    if found is None or not subject.is_remote:
        return replace(seen, block_sha256=digest)
    return replace(
        seen,
        hints=(*(found.text(hint) for hint in seen.hints), *_hints(found, seen.shape)),
        label=found.name,
        revision=found.revision,
        bytes_downloaded=found.bytes_downloaded,
        block_sha256=digest,
    )


def _hints(found: Opened, shape: str) -> list[str]:
    """A sidecar in the same repository, recognised by its name: no further headers are read."""
    from ..discovery.sidecars import named

    entry = found.path_in_place
    beside = named(found.beside, entry) if entry is not None and shape == "trunk-only" else []
    if not beside:
        return []
    name = PurePosixPath(beside[0]).name
    return [f"{name} in the same repository is, by its name, its sidecar: 'nextn pull' gets both."]
