"""A checkpoint as a donor, judged by its config, its index and the headers of its shards."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..archs import of_classes
from ..block.from_checkpoint import block_from_checkpoint
from ..block.model import Block
from ..diagnosis.examine import Diagnosis
from ..diagnosis.finding import Finding
from ..errors import FormatError, IncompleteModel, NoBlock, UnsupportedModel
from ..printable import printable
from ..remote.opening import Opened
from ..schemas.base import Documented, filled
from ..schemas.inspect import DraftEntry, InspectDocument
from ..shell import shell
from ..sources.checkpoint import Checkpoint
from .model import hints_of, problems_of


@dataclass(frozen=True)
class CheckpointInspection(Documented):
    """A checkpoint as a donor: what its config, its index and the headers of the block's shards show."""

    checkpoint: Checkpoint
    where: str  # the folder, or the address
    architecture: str  # GGUF's name, or the model class if nextn does not know it
    n_layer_trunk: int
    n_layer_nextn: int  # blocks that are actually present
    block_bytes: int
    size_bytes: int | None  # of all weight files, as far as the index or the server gives it
    problems: tuple[str, ...]
    hints: tuple[str, ...]
    n_files: int = 0
    n_tensors: int = 0
    findings: tuple[Finding, ...] = ()  # doctor's findings
    types: dict[str, int] = field(default_factory=dict)  # dtype -> bytes of the block
    revision: str | None = None
    bytes_downloaded: int = 0
    block_sha256: str | None = None

    shape = "checkpoint"
    provenance: dict[str, str] | None = None
    draft: DraftEntry | None = None
    sidecars: tuple[Path, ...] = ()

    @property
    def runs_on(self) -> dict[str, str]:
        """Engine -> what it does with it."""
        return {}

    @property
    def document(self) -> InspectDocument:
        """What --json prints."""
        return filled(
            InspectDocument,
            self,
            path=self.where,
            name=self.checkpoint.folder.name,
            n_layer_trunk=self.n_layer_trunk or None,
            n_vocab=self.checkpoint.integer("vocab_size"),
            gguf_version=None,
            alignment=None,
            findings=[finding.entry for finding in self.findings],
        )



def inspect_checkpoint(found: Opened, diagnosis: Diagnosis) -> CheckpointInspection:
    """Inspect a checkpoint whose names were diagnosed."""
    checkpoint = found.checkpoint
    assert checkpoint is not None
    hints = list(hints_of(diagnosis))
    block: Block | None = None
    with suppress(NoBlock, UnsupportedModel, FormatError, IncompleteModel):  # the diagnosis says why not
        block = block_from_checkpoint(checkpoint)
    family = of_classes(checkpoint.classes)
    types: Counter[str] = Counter()
    for tensor in block.tensors if block else ():
        for span in tensor.rows.spans:
            types[span.tensor.dtype.lower()] += span.read_bytes
    if block is not None:
        hints.append(f"attach its block to a quant: {shell('nextn', 'attach', 'TRUNK.gguf', '--from', found.name)}")
    try:
        weights = checkpoint.weight_map
    except IncompleteModel:
        weights = {}
    return CheckpointInspection(
        checkpoint=checkpoint,
        where=found.name,
        architecture=family.arch if family else ", ".join(checkpoint.classes) or "unknown",
        n_layer_trunk=checkpoint.integer("num_hidden_layers") or 0,
        n_layer_nextn=block.n_layer_nextn if block else 0,
        block_bytes=block.read_bytes if block else 0,
        size_bytes=_size_bytes(found, set(weights.values())),
        n_files=len(set(weights.values())),
        n_tensors=len(weights),
        problems=problems_of(diagnosis),
        hints=tuple(printable(found.text(hint), 1000) for hint in hints),
        findings=diagnosis.findings,
        types=dict(types.most_common()),
        revision=found.revision,
        bytes_downloaded=found.bytes_downloaded,
    )


def _size_bytes(found: Opened, files: set[str]) -> int | None:
    """Total bytes of all weight files; no file is requested to find out."""
    if found.remote is None:
        assert found.checkpoint is not None
        paths = [found.checkpoint.folder / file for file in files]
        return sum(path.stat().st_size for path in paths) if all(path.exists() for path in paths) else None
    sizes = found.remote.place.sizes()
    names = [found.remote.prefix + file for file in files]
    return sum(sizes[name] for name in names) if all(name in sizes for name in names) else None
