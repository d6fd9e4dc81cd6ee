"""A shard set that cannot be opened, as far as it is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..diagnosis.examine import Diagnosis
from ..diagnosis.finding import Finding
from .model import hints_of, problems_of


@dataclass(frozen=True)
class SetInspection:
    """What is wrong with a set of which no model can be made."""

    where: str  # a path, or the address
    problems: tuple[str, ...]
    hints: tuple[str, ...]
    findings: tuple[Finding, ...]  # those of doctor

    shape = "set"
    architecture = "unknown"
    block_sha256: str | None = None

    @classmethod
    def of(cls, diagnosis: Diagnosis) -> SetInspection:
        """The inspection of a set that was diagnosed."""
        return cls(diagnosis.name, problems_of(diagnosis), hints_of(diagnosis), diagnosis.findings)

    def to_json(self) -> dict[str, Any]:
        """JSON as in the schema of inspect."""
        unknown = ("revision", "name", "size_bytes", "n_vocab", "gguf_version", "alignment", "provenance")
        none_there = ("n_layer_trunk", "n_layer_nextn", "block_bytes", "n_files", "n_tensors", "bytes_downloaded")
        return {
            "version": 1,
            "path": self.where,
            "architecture": self.architecture,
            "shape": self.shape,
            **dict.fromkeys((*unknown, "block_sha256")),
            **dict.fromkeys(none_there, 0),
            "types": {},
            "sidecars": [],
            "runs_on": {},
            "problems": list(self.problems),
            "hints": list(self.hints),
            "findings": [finding.to_json() for finding in self.findings],
        }
