"""`nextn recover`: undo or finish an interrupted in-place change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..absent import not_regular, nothing_at
from ..errors import StorageError
from ..gguf.files import open_sound
from ..schemas.base import Documented
from ..schemas.recover import FailedJournal, RecoverDocument, RecoveredJournal
from ..writing import recover as journals
from ..writing.recover import Failed, Recovered


@dataclass(frozen=True)
class Recovery(Documented):
    """What was found beside a file or in a folder, and what became of it."""

    path: Path
    dry_run: bool
    journals: tuple[Recovered, ...]
    failed: tuple[Failed, ...] = ()  # journals in a folder that are left as they are

    @property
    def when_unprinted(self) -> str:
        """What was done anyway."""
        return "nothing was changed" if self.dry_run else "the interrupted change is finished or undone"

    @property
    def document(self) -> RecoverDocument:
        """What --json prints."""
        found = [
            RecoveredJournal(str(each.journal), each.verb, each.what, [str(path) for path in each.files])
            for each in self.journals
        ]
        failed = [FailedJournal(str(each.journal), str(each.error)) for each in self.failed]
        return RecoverDocument(dry_run=self.dry_run, path=str(self.path), journals=found, failed=failed)


def recover(path: str | Path, *, dry_run: bool = False) -> Recovery:
    """Undo or finish an interrupted in-place change to a file, to the set it belongs to, or in a folder.

    An interrupted attach is undone, an interrupted detach finished: both give the model without the block. Raises
    StorageError (also while a change is in progress), InPlaceRefused if an engine has the file open; and for a file to
    which nothing was done, what opening it raises if it is damaged. In a folder, a journal that cannot be dealt with
    does not keep the others from being dealt with, and is in the result's `failed`.
    """
    place = Path(path)
    if not place.exists():
        raise StorageError(nothing_at(path))
    if not (place.is_dir() or place.is_file()):
        raise StorageError(f"{path}: {not_regular(place.stat().st_mode)}.")
    failed: list[Failed] = []
    found = tuple(journals.recover(place, dry_run=dry_run, failed=failed if place.is_dir() else None))
    if not found and place.is_file():
        open_sound(place)  # nothing was interrupted, so what is wrong with it is said
    return Recovery(place, dry_run, found, tuple(failed))
