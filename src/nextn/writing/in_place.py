"""Change a file in place: the only way in which an input is ever written to, and therefore with a journal.

Protocol of an attach. Lock the file. Write the journal (the file as it is: size, header), sync it and its folder. Save
what follows the last tensor, append the block, sync. Make the header unreadable, sync: from here on no engine loads
the file. Insert room at the start if the header needs it, sync. Write the header except its first four bytes, sync;
write those, sync. Remove the journal, sync the folder: that is the commit. A detach takes the same path as every
recovery: `restore` brings the file to what its journal calls bare. So a stopped attach leaves the old file and a
stopped detach the new one, both without the block, and only one way back has to be right.

Guarantees: whatever stops a run (an error, Ctrl-C, SIGKILL, power loss, a full disk), the file is byte for byte what it
was or what it was to become, at once or after `recover`; until then either the old header describes it or no engine
loads it.
Limits: a disk that lies about fsync; other programs that write to the file meanwhile; engines of other users that
/proc does not show.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from .. import oscalls
from ..errors import ChangeUnfinished, NextnError, NoSpace, StorageError
from ..progress import Progress
from ..sources.ranges import Meter, Reader
from . import journal as journals
from .execute import SLACK_BYTES, Outcome, WritingRun, write_segment
from .guards import check_unused
from .journal import FULL, NONE, SHIFTING, Bare, Journal, State, Verb
from .plan import Change, Plan
from .ranges import data_map
from .recover import locked, unfinished_of
from .restore import copy, make_unreadable, restore, sync, write_head
from .system import System, explained, free_bytes


def check_changes(plan: Plan) -> None:
    """Check everything that can be known before a file is changed. Raises NoSpace, ChangeUnfinished, StorageError."""
    for found in unfinished_of([change.path for change in plan.changes]):
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
    be kept for `recover`.
    """
    started = time.perf_counter()
    system = system or System()
    check_changes(plan)
    meter = Meter()
    with Reader(meter) as reader, locked([change.path for change in plan.changes]) as fds:
        run = WritingRun(plan, reader, system, progress, plan.bytes_written)
        for change, fd in zip(plan.changes, fds, strict=True):
            _check_planned(change, fd)
            check_unused(change.path, fd)
        attaches = plan.changes[-1].header is not None
        files = [Bare.of(change, os.fstat(fd).st_ino) for change, fd in zip(plan.changes, fds, strict=True)]
        states = [_first_state(change) for change in plan.changes]
        verb: Verb = "attach" if attaches else "detach"
        record = journals.create(plan.changes[-1].path.parent, verb, files, states, system)
        try:
            if attaches:
                _attach(run, plan.changes[-1], record, fds[-1])
            else:
                restore(record, fds, system)
                run.advance(plan.bytes_written)
            journals.remove(record.path, system)
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
    """After `error`: bring the files to what the journal calls bare; returns whether the change is complete anyway.

    Raises ChangeUnfinished when that fails as well.
    """
    if not os.path.lexists(record.path):  # the commit had already been made
        return isinstance(error, KeyboardInterrupt)
    try:
        restore(record, fds, system)
        journals.remove(record.path, system)
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


def _attach(run: WritingRun, change: Change, record: Journal, fd: int) -> None:
    system, path, header = run.system, change.path, change.header
    assert header is not None
    state = record.states[-1]
    if change.tail is not None:
        copy(fd, change.tail.bare_at, change.tail.block_at, change.tail.size_bytes, system, path)
        sync(fd, system, path)
        state = State(NONE, tail_saved=True)
        record.note(0, state, system)
    offset = change.block_at
    for segment in change.segments:
        offset += write_segment(run, segment, fd, offset, path)
    if os.fstat(fd).st_size != change.size_with_block - change.room:
        raise AssertionError(f"{path}: {os.fstat(fd).st_size} bytes, planned with {change.size_with_block}")
    sync(fd, system, path)
    data = run.header(header)
    if len(data) != header.size_bytes:
        raise AssertionError(f"a header of {len(data)} bytes was planned with {header.size_bytes}")
    _check_named(path, fd)
    check_unused(path, fd)
    make_unreadable(fd, system, path)
    if change.room:
        record.note(0, State(SHIFTING, state.tail_saved, os.fstat(fd).st_size, tuple(data_map(fd))), system)
        with explained(path, "insert space for the header"):
            system.insert_range(fd, 0, change.room)
        sync(fd, system, path)
        record.note(0, State(FULL, state.tail_saved), system)
    _check_named(path, fd)
    write_head(fd, data, system, path)
    run.advance(len(data))


def _check_planned(change: Change, fd: int) -> None:
    """Raise StorageError when the file is not the one that the plan was made for."""
    found = oscalls.pread(fd, len(change.head), 0)
    if os.fstat(fd).st_size != change.size_bytes or found != change.head:
        raise StorageError(f"{change.path}: this file was changed by another program in the meantime; run it again.")


def _check_named(path: Path, fd: int) -> None:
    """Raise StorageError when another file has taken the name."""
    try:
        same = os.path.samestat(path.lstat(), os.fstat(fd))
    except OSError:
        same = False
    if not same:
        raise StorageError(
            f"{path}: this file was moved or replaced while it was changed; what was appended to it is removed again."
        )
