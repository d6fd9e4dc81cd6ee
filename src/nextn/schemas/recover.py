"""`nextn recover --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from .base import Document, DocumentPart, doc


class RecoveredJournal(DocumentPart):
    """What became of one journal, or in a dry run would."""

    path: str
    verb: Annotated[Literal["attach", "detach"] | None, doc("what was interrupted; null: the journal is torn")]
    what: Annotated[
        Literal["undone", "finished", "removed"], doc("removed: a torn journal, whose file had not been changed")
    ]
    files: list[str]


class FailedJournal(DocumentPart):
    """A journal that was left as it is."""

    path: str
    why: str


class RecoverDocument(Document, tag="recover", kw_only=True):
    """What interrupted changes in place had left."""

    dry_run: Annotated[bool, doc("true: nothing was changed")]
    path: str
    journals: list[RecoveredJournal]
    failed: Annotated[list[FailedJournal], doc("of a folder: what could not be undone or finished")]
