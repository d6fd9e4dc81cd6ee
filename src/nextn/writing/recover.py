"""Unfinished in-place changes: found by the journal beside the file, and brought to an end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .. import oscalls
from ..errors import InPlaceRefused, NextnError, StorageError
from ..gguf.files import split_shard_name
from ..gguf.header import MAGIC
from . import journal as journals
from .guards import check_unused
from .journal import Seen, TornJournal, Verb
from .leftovers import clean
from .restore import restore
from .system import System, explained

_OPEN = oscalls.CLOEXEC | oscalls.NOFOLLOW | oscalls.NONBLOCK | oscalls.BINARY


@dataclass(frozen=True)
class Recovered:
    """What was done about one journal."""

    journal: Path
    files: tuple[Path, ...]
    verb: Verb | None  # of the interrupted change; None: the journal is torn
    what: Literal["undone", "finished", "removed"]  # removed: a torn journal


@dataclass(frozen=True)
class Failed:
    """A journal that is left as it is, and why."""

    journal: Path
    error: NextnError


@dataclass(frozen=True)
class Unfinished:
    """A journal beside a file."""

    journal: Path
    files: tuple[Path, ...]
    verb: Verb
    running: bool  # the run that wrote it is still running

    def sentence(self) -> str:
        """What it means and what to do, as a message."""
        path = self.files[-1]
        if self.running:
            return f"{path}: another run of nextn is changing this file in place; wait until it is done."
        return (
            f"{path}: a change in place ({self.verb}) was interrupted, and its journal {self.journal.name} is beside "
            "the file; finish or undo it with 'nextn recover', and move or load the file only after that."
        )


@contextlib.contextmanager
def locked(paths: Sequence[Path], inodes: Sequence[int | None] | None = None) -> Iterator[list[int]]:
    """The files open for reading and writing, locked; with `inodes`, they must have these inodes.

    Raises StorageError when another run holds one, or one cannot be opened.
    """
    fds: list[int] = []
    try:
        for path, inode in zip(paths, inodes or [None] * len(paths), strict=True):
            with explained(path, "open it for writing"):
                fds.append(oscalls.open_file(path, os.O_RDWR | _OPEN))
            if inode is not None and os.fstat(fds[-1]).st_ino != inode:
                raise StorageError(
                    f"{path}: this is not the file that the journal beside it was written for: it was replaced, and is "
                    "left as it is; if it is complete, remove the journal."
                )
            try:
                oscalls.lock(fds[-1])
            except BlockingIOError:
                raise StorageError(
                    f"{path}: another run of nextn is changing this file; wait until it is done."
                ) from None
            except OSError as error:
                raise InPlaceRefused(
                    f"{path}: its file system does not support locks ({error.strerror}), so two runs could change it "
                    "at once; attach with another --layout, or detach without --in-place: both write new files."
                ) from error
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def unfinished(path: Path) -> list[Unfinished]:
    """The journals of a file (links followed), of the set that a shard belongs to, or of all files in a folder.

    Nothing is changed. Journals that cannot be read are left out: their changes had not begun.
    """
    return _unfinished(*_looked_for(path))


def unfinished_of(files: Sequence[Path]) -> list[Unfinished]:
    """The journals of any of these files (links followed); each folder is looked through once."""
    names: dict[Path, set[str]] = {}
    for path in files:
        real = Path(os.path.realpath(path))
        names.setdefault(real.parent, set()).add(real.name)
    return [each for folder, some in names.items() for each in _unfinished(folder, some.__contains__)]


def _unfinished(folder: Path, belongs: Callable[[str], bool]) -> list[Unfinished]:
    out = []
    try:
        found = journals.journals_in(folder)
    except OSError:
        return []
    for each in found:
        try:
            seen = journals.look(folder, each, belongs)
        except (TornJournal, OSError, StorageError):
            continue
        if seen is not None:
            files = tuple(folder / name for name, _ in seen.files)
            out.append(Unfinished(folder / each, files, seen.verb, _is_held(files[-1])))
    return out


def _looked_for(path: Path) -> tuple[Path, Callable[[str], bool]]:
    """The folder in which a path's journals are (links followed), and which file names in it belong to the path."""
    real = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for a link to itself
    if real.is_dir():
        return real, lambda name: True
    own = split_shard_name(real.name)
    if own is None:
        return real.parent, real.name.__eq__
    prefix, _, count = own
    return real.parent, lambda name: name == real.name or (split_shard_name(name) or ())[::2] == (prefix, count)


def _is_held(path: Path) -> bool:
    """Whether a run holds the file's lock."""
    try:
        fd = oscalls.open_file(path, os.O_RDONLY | _OPEN)
    except OSError:
        return False
    try:
        oscalls.lock(fd, shared=True)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def recover(
    path: Path, *, system: System | None = None, dry_run: bool = False, failed: list[Failed] | None = None
) -> list[Recovered]:
    """End the interrupted changes of a file (links followed), of a shard's set, or of all files in a folder.

    An interrupted attach is undone, an interrupted detach finished. Raises StorageError (also while the run is still
    active, and for a file that is not the journal's), InPlaceRefused for a file in use; with `failed`, what cannot be
    ended is added to it instead, and the others are.
    """
    system = system or System()
    folder, belongs = _looked_for(path)
    own = journals.journal_name(Path(os.path.realpath(path)).name)
    with explained(folder, "look for journals"):
        found = journals.journals_in(folder)
        if not dry_run:
            clean(folder, system)
    out = []
    for each in found:
        is_own = each == own or belongs(journals.file_name(each))
        try:
            out += _ended(folder, each, belongs, system, is_own=is_own, dry_run=dry_run)
        except NextnError as error:
            if failed is None:
                raise
            failed.append(Failed(folder / each, error))
    return out


def _ended(
    folder: Path, name: str, belongs: Callable[[str], bool], system: System, *, is_own: bool, dry_run: bool
) -> list[Recovered]:
    """What became of one journal. `is_own`: by its name it belongs to what was asked about."""
    try:
        seen = journals.look(folder, name, belongs)
    except FileNotFoundError:
        return []
    except TornJournal:
        return _drop_torn(folder, name, system, dry_run=dry_run) if is_own else []
    except StorageError:
        if is_own:
            raise
        return []
    return [] if seen is None else _recover(folder, seen, system, dry_run=dry_run)


def _recover(folder: Path, seen: Seen, system: System, *, dry_run: bool) -> list[Recovered]:
    paths = [folder / name for name, _ in seen.files]
    what: Literal["undone", "finished"] = "undone" if seen.verb == "attach" else "finished"
    with locked(paths, [inode for _, inode in seen.files]) as fds:
        try:
            record = journals.open_journal(folder, seen.name, write=not dry_run)
        except FileNotFoundError:  # its run was still going and has just finished
            return []
        try:
            for path, fd in zip(paths, fds, strict=True):
                check_unused(path, fd)
            if not dry_run:
                restore(record, fds, system)
                journals.remove(record.path, system)
        finally:
            record.close()
    return [Recovered(folder / seen.name, tuple(paths), seen.verb, what)]


def _drop_torn(folder: Path, name: str, system: System, *, dry_run: bool) -> list[Recovered]:
    """Remove an incomplete journal. Raises StorageError when its file needs it.

    Journals get their names only when complete, so only a failing disk leaves a torn one.
    """
    path, file = folder / name, folder / journals.file_name(name)
    with explained(file, "read it"), file.open("rb") as data:
        if data.read(len(MAGIC)) != MAGIC:
            raise StorageError(
                f"{path}: this journal is damaged, and {file.name} cannot be loaded without it; nothing was changed: "
                "keep both files, and get the model again from where it came."
            )
    if not dry_run:
        journals.remove(path, system)
    return [Recovered(path, (), None, "removed")]
