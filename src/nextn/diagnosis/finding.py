"""A finding: what it is, where, which engine fails how, and what fixes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from ..brief import Brief
from ..printable import printable
from ..schemas.doctor import FindingEntry
from .advice import Advice, Help
from .patient import Patient

Severity: TypeAlias = Literal["error", "warning", "note"]
# error: an engine refuses the model, aborts, or drafts uselessly; warning: it works only if named explicitly, or on
# one engine; note: nothing is wrong, but something is worth knowing (such as that no block was ever published).

Change: TypeAlias = Callable[[Patient], Patient]


@dataclass(frozen=True)
class Finding(Brief):
    """One thing that is wrong, or worth knowing."""

    id: str  # one of the headings in docs/doctor.md
    severity: Severity
    what: str  # one sentence
    where: str  # file, key or tensor
    engine: str  # which engine fails how; "" for notes
    advice: Help  # a command, or what to get and where
    change: Change | None = field(default=None, compare=False, repr=False)  # what --fix does to the headers in memory
    attaches: bool = field(default=False, compare=False, repr=False)  # --fix then also attaches a block, or roots

    @property
    def mend(self) -> str:
        """What to do, as text."""
        return str(self.advice)

    def advised(self, change: Callable[[Advice], Help], *, by_hand: bool = False) -> Finding:
        """The same with other advice; `by_hand`: `--fix` no longer applies it."""
        advice = change(Advice.of(self.advice))
        if by_hand:
            return replace(self, advice=advice, change=None, attaches=False)
        return replace(self, advice=advice)

    @property
    def fixable(self) -> bool:
        """Whether `--fix` can fix it with what was given."""
        return self.change is not None

    @property
    def is_problem(self) -> bool:
        """True for errors and warnings, false for notes."""
        return self.severity != "note"

    @property
    def entry(self) -> FindingEntry:
        """What --json prints of it."""
        return FindingEntry(
            id=self.id,
            severity=self.severity,
            what=printable(self.what, 2000),
            where=printable(self.where, 1000),
            engine=printable(self.engine, 1000),
            mend=printable(self.mend, 2000),
            fixable=self.fixable,
        )
