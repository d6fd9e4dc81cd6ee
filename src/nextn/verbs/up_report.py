"""What `nextn up` did, or with --dry-run would do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..schemas.base import Documented, filled
from ..schemas.up import StepTaken, UpDocument

if TYPE_CHECKING:
    from .serve import Serving

StepName = Literal["get", "worth", "attach", "detach", "verify", "tune", "serve", "hand over"]
StepState = Literal["kept", "done", "planned", "skipped", "failed", "left"]


@dataclass
class UpReport(Documented):
    """The steps, and what they led to."""

    asked: str  # the model as the user named it
    program: str | None
    dry_run: bool
    model: Path | None = None  # to load
    sidecar: Path | None = None
    steps: list[StepTaken] = field(default_factory=list)
    serving: Serving | None = None  # ready to run
    address: str | None = None
    needs: list[str] = field(default_factory=list)
    failed: str | None = None  # verify did not pass: why, and how to go on
    exit_code: int = 0
    notes: list[str] = field(default_factory=list)

    def names(self, *states: str) -> list[str]:
        """The steps in these states."""
        return [each.step for each in self.steps if each.state in states]

    def note(self, *notes: str) -> None:
        """Notes, each once."""
        self.notes += [note for note in notes if note not in self.notes]

    @property
    def when_unprinted(self) -> str:
        """What was done anyway."""
        done = self.names("done")
        return f"done: {', '.join(done)}" if done else "nothing was written"

    @property
    def document(self) -> UpDocument:
        """What --json prints."""
        serving = self.serving
        return filled(
            UpDocument,
            self,
            command=[] if serving is None else list(serving.command),
            env={} if serving is None else dict(serving.env),
        )
