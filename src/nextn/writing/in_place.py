"""Change a file where it lies: the one way in which an input is ever written to, and so with a journal.

Protocol of an attach. Lock the file. Write the journal (the file as it is: size, header), sync it and its folder. Save
what lies after the last tensor, append the block, sync. Make the header unreadable, sync: from here on no engine loads
the file. Insert room at the start where the header needs it, sync. Write the header but for its first four bytes, sync;
write these, sync. Remove the journal, sync the folder: that is the commit. A detach goes the way that every recovery
goes: `restore` brings the file to what its journal calls bare. So a stopped attach leaves the old file and a stopped
detach the new one, both without the block, and there is one way back that has to be right.

Guarantees: whatever stops a run (an error, Ctrl-C, SIGKILL, power, a full disk), the file is byte for byte what it was
or what it was to be, at once or after `recover`; until then either the old header describes it or no engine loads it.
Limits: a disk that lies about fsync; other programs that write to the file meanwhile; engines of other users that
/proc does not show.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ChangeUnfinished, InPlaceRefused, NextnError, NoSpace, StorageError
from ..gguf.header import MAGIC, UNREADABLE
from ..sources.ranges import Meter, Reader
from . import journal as journals
from .durable import System, clean, explained, free_bytes, write_all
from .execute import COPY_BYTES, SLACK_BYTES, Outcome, Progress, Run, write_segment
from .guards import check_unused
from .journal import FULL, NONE, SHIFTING, Bare, Journal, State, TornJournal
from .plan import Change, Plan
from .ranges import data_map, where_shifted


@dataclass(frozen=True)
class Recovered:
    """What became of one journal."""

    journal: Path
    files: tuple[Path, ...]
    verb: str  # of the interrupted change
    what: str  # "undone", "finished", or for a torn journal "removed"


@dataclass(frozen=True)
class Unfinished:
    """A journal beside a file."""

    journal: Path
    files: tuple[Path, ...]
    verb: str
    running: bool  # the run that wrote it is alive

    def sentence(self) -> str:
        """What it means and what to do, for people."""
        path = self.files[-1]
        if self.running:
            return f"{path}: another run of nextn is changing this file in place; wait until it is done."
        return (
            f"{path}: a change in place ({self.verb}) was interrupted, and its journal {self.journal.name} lies beside "
            "the file; end it with 'nextn recover', and move or load the file only after that."
        )


def check_changes(plan: Plan) -> None:
    """Everything that can be known before a file is changed. Raises NoSpace, ChangeUnfinished, StorageError."""
    for change in plan.changes:
        for found in unfinished(change.path):
            raise ChangeUnfinished(found.sentence())
    folder = plan.changes[0].path.parent
    need = SLACK_BYTES + journals.SPARE_BYTES + sum(
        max(change.size_with_block - change.size_bytes, 0) + len(change.bare_head) for change in plan.changes
    )  # fmt: skip
    free = free_bytes(folder)
    if need > free:
        raise NoSpace(f"{folder}: {need:,} bytes are needed and {free:,} are free; free some room.")


def change_files(plan: Plan, *, progress: Progress | None = None, system: System | None = None) -> Outcome:
    """Carry out a plan that changes files in place. They end as planned, or as they were.

    Raises InPlaceRefused, NoSpace, StorageError, FormatError, QuantizeError; ChangeUnfinished when the journal had to
    be left for `recover`.
    """
    started = time.perf_counter()
    system = system or System()
    check_changes(plan)
    meter = Meter()
    with Reader(meter) as reader, _locked([change.path for change in plan.changes]) as fds:
        run = Run(plan, reader, system, progress, min(os.cpu_count() or 1, 8))
        for change, fd in zip(plan.changes, fds, strict=True):
            _check_planned(change, fd)
            check_unused(change.path, fd)
        attaches = plan.changes[-1].header is not None
        files = [Bare.of(change, os.fstat(fd).st_ino) for change, fd in zip(plan.changes, fds, strict=True)]
        states = [_first_state(change) for change in plan.changes]
        record = journals.create(plan.changes[-1].path.parent, plan.verb, files, states, system)
        try:
            if attaches:
                _attach(run, plan.changes[-1], record, fds[-1])
            else:
                restore(record, fds, system)
                run.advance(plan.bytes_written)
            journals.remove(record, system)
        except BaseException as error:
            if not _end(record, fds, system, error, finish=not attaches):
                raise
        finally:
            record.close()
    wall_s = time.perf_counter() - started
    n_read = plan.header_bytes + meter.bytes_read
    return Outcome(plan, n_read, plan.bytes_written, 0, wall_s, run.hashes, {}, run.source_hash.hexdigest())


def _first_state(change: Change) -> State:
    if change.header is not None:
        return State(NONE, tail_saved=False)
    return State(FULL if change.room else NONE, tail_saved=change.tail is not None)


def _end(record: Journal, fds: Sequence[int], system: System, error: BaseException, *, finish: bool) -> bool:
    """After `error`: bring the files to what the journal calls bare; returns whether the change is done all the same.

    Raises ChangeUnfinished when that fails, too.
    """
    if not os.path.lexists(record.path):  # the commit itself had been made
        return isinstance(error, KeyboardInterrupt)
    try:
        restore(record, fds, system)
        journals.remove(record, system)
    except BaseException as second:
        why = f"{error}" if isinstance(error, NextnError) else f"{type(error).__name__} {error}".strip()
        path = record.folder / record.files[-1].name
        raise ChangeUnfinished(
            f"{path}: the change was interrupted ({why.rstrip('.')}) and could not be "
            f"{'finished' if finish else 'undone'} ({str(second).rstrip('.') or type(second).__name__}); nothing is "
            "lost: run 'nextn recover' on it before anything else."
        ) from error
    return finish


# -- attach ----------------------------------------------------------------------------------------------------------


def _attach(run: Run, change: Change, record: Journal, fd: int) -> None:
    system, path, header = run.system, change.path, change.header
    assert header is not None
    state = record.states[-1]
    if change.tail is not None:
        _copy(fd, change.tail.bare_at, change.tail.block_at, change.tail.size_bytes, system, path)
        _sync(fd, system, path)
        state = State(NONE, tail_saved=True)
        record.note(0, state, system)
    offset = change.block_at
    for segment in change.segments:
        offset += write_segment(run, segment, fd, offset, path)
    if os.fstat(fd).st_size != change.size_with_block - change.room:
        raise AssertionError(f"{path}: {os.fstat(fd).st_size} bytes, planned with {change.size_with_block}")
    _sync(fd, system, path)
    data = header.build(run.hashes, run.source_hash.hexdigest())
    if len(data) != header.size_bytes:
        raise AssertionError(f"a header of {len(data)} bytes was planned with {header.size_bytes}")
    _check_named(path, fd)
    check_unused(path, fd)
    _make_unreadable(fd, system, path)
    if change.room:
        record.note(0, State(SHIFTING, state.tail_saved, os.fstat(fd).st_size, tuple(data_map(fd))), system)
        with explained(path, "insert room for the header"):
            system.insert_range(fd, 0, change.room)
        _sync(fd, system, path)
        record.note(0, State(FULL, state.tail_saved), system)
    _check_named(path, fd)
    _write_head(fd, data, system, path)
    run.advance(len(data))


def _check_planned(change: Change, fd: int) -> None:
    """Raise StorageError when the file is not the one that was planned with."""
    found = os.pread(fd, len(change.head), 0)
    if os.fstat(fd).st_size != change.size_bytes or found != change.head:
        raise StorageError(f"{change.path}: this file was changed by another program meanwhile; run it again.")


def _check_named(path: Path, fd: int) -> None:
    """Raise StorageError when another file has taken the name."""
    try:
        same = os.path.samestat(path.lstat(), os.fstat(fd))
    except OSError:
        same = False
    if not same:
        raise StorageError(
            f"{path}: this file was moved or replaced while it was changed; what was appended to it is taken off again."
        )


# -- back to the bare file -------------------------------------------------------------------------------------------


def restore(record: Journal, fds: Sequence[int], system: System) -> None:
    """Bring every file of a journal to what it is without its block. May be called again after any interruption.

    Raises StorageError, NoSpace.
    """
    files = record.files
    if len(files) > 1 and not _has_head(fds[-1], files[-1].head):  # engines enter a set by this file
        _make_unreadable(fds[-1], system, record.folder / files[-1].name)
    for index in range(len(files)):
        _restore(record, index, fds[index], system)


def _restore(record: Journal, index: int, fd: int, system: System) -> None:
    bare, path = record.files[index], record.folder / record.files[index].name
    _sync(fd, system, path)
    if record.states[index].room == FULL:
        _make_unreadable(fd, system, path)
        with explained(path, "empty the room for the header"):
            system.punch_hole(fd, 0, bare.room)
        _sync(fd, system, path)
        spans = tuple((start - bare.room, end - bare.room) for start, end in data_map(fd))
        if spans and spans[0][0] < 0:
            raise StorageError(f"{path}: the room at its start could not be emptied; is another program writing to it?")
        size = os.fstat(fd).st_size - bare.room
        record.note(index, State(SHIFTING, record.states[index].tail_saved, size, spans), system)
    if record.states[index].room == SHIFTING:
        _take_room_out(record.states[index], bare, fd, system, path)
        record.note(index, State(NONE, record.states[index].tail_saved), system)
    size, tail = os.fstat(fd).st_size, bare.tail
    if size < bare.size_bytes:
        raise StorageError(
            f"{path}: the file has {size:,} bytes, fewer than the {bare.size_bytes:,} of its journal: it was cut by "
            "another program, and is left as it is."
        )
    if not _has_head(fd, bare.head):
        _make_unreadable(fd, system, path)
    if tail is not None and record.states[index].tail_saved and size >= tail.block_at + tail.size_bytes:
        _copy(fd, tail.block_at, tail.bare_at, tail.size_bytes, system, path)
        _sync(fd, system, path)
    if size != bare.size_bytes:
        with explained(path, "cut it to its size"):
            system.truncate(fd, bare.size_bytes)
        _sync(fd, system, path)
    # Written even if it reads right: what was read may be what an earlier, failed fsync left in memory only.
    _write_head(fd, bare.head, system, path)


def _take_room_out(state: State, bare: Bare, fd: int, system: System, path: Path) -> None:
    """Move what has moved up down again, however far that had come."""
    size = os.fstat(fd).st_size
    if size == state.size_bytes:
        return
    at = where_shifted(state.spans, data_map(fd), bare.room)
    if size != state.size_bytes + bare.room or at is None:
        raise StorageError(
            f"{path}: its size and holes are not those that its journal leads to: another program has written to it, "
            "and it is left as it is."
        )
    with explained(path, "take the room for the header out"):
        if at >= state.size_bytes:
            system.truncate(fd, state.size_bytes)
        else:
            system.collapse_range(fd, at, bare.room)
    _sync(fd, system, path)


def _has_head(fd: int, head: bytes) -> bool:
    return os.pread(fd, len(head), 0) == head


def _make_unreadable(fd: int, system: System, path: Path) -> None:
    """From here on no engine loads the file."""
    if os.pread(fd, len(UNREADABLE), 0) != UNREADABLE:
        write_all(system, fd, UNREADABLE, 0, path)
    _sync(fd, system, path)


def _write_head(fd: int, data: bytes, system: System, path: Path) -> None:
    """The header, and only when it is on disk its first bytes."""
    write_all(system, fd, data[len(MAGIC) :], len(MAGIC), path)
    _sync(fd, system, path)
    write_all(system, fd, data[: len(MAGIC)], 0, path)
    _sync(fd, system, path)


def _sync(fd: int, system: System, path: Path) -> None:
    with explained(path, "write it to disk"):
        system.fsync(fd)


def _copy(fd: int, source: int, target: int, size: int, system: System, path: Path) -> None:
    """Bytes to another place in the same file, by the kernel; the ranges do not overlap."""
    end = source + size
    while source < end:
        n = 0
        with explained(path, "move the bytes after its tensors"):
            try:
                n = system.copy_range(fd, fd, min(COPY_BYTES, end - source), source, target)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
            if n == 0:  # a file system that cannot
                piece = os.pread(fd, min(1 << 20, end - source), source)
                if not piece:
                    raise OSError(errno.EIO, "the file ends too early")
                write_all(system, fd, piece, target, path)
                n = len(piece)
        source += n
        target += n


# -- what interrupted runs leave -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(paths: Sequence[Path], inodes: Sequence[int | None] | None = None) -> Iterator[list[int]]:
    """The files open for reading and writing, locked; with `inodes` they have to be these.

    Raises StorageError when another run holds one, and for what cannot be opened.
    """
    fds: list[int] = []
    try:
        for path, inode in zip(paths, inodes or [None] * len(paths), strict=True):
            with explained(path, "open it for writing"):
                fds.append(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
            if inode is not None and os.fstat(fds[-1]).st_ino != inode:
                raise StorageError(
                    f"{path}: this is not the file that the journal beside it was written for: it was replaced, and is "
                    "left as it is; if it is whole, remove the journal."
                )
            try:
                fcntl.flock(fds[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    f"{path}: another run of nextn is changing this file; wait until it is done."
                ) from None
            except OSError as error:
                raise InPlaceRefused(
                    f"{path}: its file system has no locks ({error.strerror}), so two runs could change it at once; "
                    "use --layout sidecar, shards or bundle."
                ) from error
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def unfinished(path: Path) -> list[Unfinished]:
    """The journals that a file (links followed) or a folder's files have beside them; nothing is changed.

    Journals that cannot be read are left out: nothing had begun.
    """
    real = path.resolve()
    folder, name = (real, None) if real.is_dir() else (real.parent, real.name)
    out = []
    try:
        found = journals.journals_in(folder)
    except OSError:
        return []
    for each in found:
        try:
            record = journals.open_journal(folder, each, write=False)
        except (TornJournal, OSError, StorageError):
            continue
        record.close()
        if name is None or any(bare.name == name for bare in record.files):
            files = tuple(folder / bare.name for bare in record.files)
            out.append(Unfinished(record.path, files, record.verb, _is_held(files[-1])))
    return out


def _is_held(path: Path) -> bool:
    """Whether a run holds the file's lock."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def recover(path: Path, *, system: System | None = None, dry_run: bool = False) -> list[Recovered]:
    """End what interrupted runs left of a file (links followed), or of all files in a folder.

    An interrupted attach is undone, an interrupted detach finished. Raises StorageError (also while the run is alive,
    and for a file that is not the journal's), InPlaceRefused for a file in use.
    """
    system = system or System()
    real = path.resolve()
    folder, name = (real, None) if real.is_dir() else (real.parent, real.name)
    with explained(folder, "look for journals"):
        found = journals.journals_in(folder)
        if found and not dry_run:
            clean(folder, system)
    out = []
    for each in found:
        try:
            record = journals.open_journal(folder, each, write=False)
        except FileNotFoundError:
            continue
        except TornJournal:
            if name is None or each == journals.journal_name(name):
                out += _drop_torn(folder, each, system, dry_run=dry_run)
            continue
        record.close()
        if name is None or any(bare.name == name for bare in record.files):
            out += _recover(folder, record, system, dry_run=dry_run)
    return out


def _recover(folder: Path, seen: Journal, system: System, *, dry_run: bool) -> list[Recovered]:
    paths = [folder / bare.name for bare in seen.files]
    what = "undone" if seen.verb == "attach" else "finished"
    with _locked(paths, [bare.inode for bare in seen.files]) as fds:
        try:
            record = journals.open_journal(folder, seen.name, write=not dry_run)
        except FileNotFoundError:  # its run was alive, and is done
            return []
        try:
            for path, fd in zip(paths, fds, strict=True):
                check_unused(path, fd)
            if not dry_run:
                restore(record, fds, system)
                journals.remove(record, system)
        finally:
            record.close()
    return [Recovered(seen.path, tuple(paths), seen.verb, what)]


def _drop_torn(folder: Path, name: str, system: System, *, dry_run: bool) -> list[Recovered]:
    """Remove a journal that is not whole. Raises StorageError when its file needs it.

    Journals get their names when they are whole, so only a disk that failed leaves a torn one.
    """
    path, file = folder / name, folder / name[1:].removesuffix(journals.SUFFIX)
    with explained(file, "read it"), file.open("rb") as data:
        if data.read(len(MAGIC)) != MAGIC:
            raise StorageError(
                f"{path}: this journal is damaged, and {file.name} cannot be loaded without it; nothing was changed: "
                "keep both files, and get the model again where it came from."
            )
    if not dry_run:
        with explained(path, "remove the journal"):
            system.unlink(path)
    return [Recovered(path, (), "", "removed")]
