"""A shard set that cannot be opened, described as far as it exists."""

from __future__ import annotations

from dataclasses import dataclass

from ..diagnosis.examine import Diagnosis
from ..diagnosis.finding import Finding
from ..schemas.base import Documented, filled
from ..schemas.inspect import InspectDocument
from .model import hints_of, problems_of


@dataclass(frozen=True)
class SetInspection(Documented):
    """What is wrong with a set that does not make a model."""

    where: str  # a path, or the address
    problems: tuple[str, ...]
    hints: tuple[str, ...]
    findings: tuple[Finding, ...]  # doctor's findings

    shape = "set"
    architecture = "unknown"
    block_sha256: str | None = None

    @classmethod
    def of(cls, diagnosis: Diagnosis) -> SetInspection:
        """The inspection of a set that was diagnosed."""
        return cls(diagnosis.name, problems_of(diagnosis), hints_of(diagnosis), diagnosis.findings)

    @property
    def document(self) -> InspectDocument:
        """What --json prints."""
        unknown = (
            "revision", "name", "n_layer_trunk", "size_bytes", "n_vocab", "gguf_version", "alignment", "provenance",
            "draft",
        )  # fmt: skip
        none_there = ("n_layer_nextn", "block_bytes", "n_files", "n_tensors", "bytes_downloaded")
        return filled(
            InspectDocument, self, path=self.where, **dict.fromkeys(unknown), **dict.fromkeys(none_there, 0), types={},
            sidecars=[], runs_on={}, findings=[finding.entry for finding in self.findings],
        )  # fmt: skip
