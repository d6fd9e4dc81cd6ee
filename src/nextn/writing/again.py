"""Outputs of a plan that its folder has already, byte for byte: written by a run that stopped before it was done."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import OutputExists
from ..progress import Say
from ..sources.ranges import CHUNK_BYTES, FileRange, Reader
from .execute import Recorded, WritingRun, stream
from .plan import Copy, LateHeader, Link, NewBytes, NewFile, Plan
from .system import System


@dataclass(frozen=True)
class Before:
    """What the folder of a plan has already."""

    present: Sequence[NewFile | Link] = ()  # outputs with the bytes that the plan would give them
    bytes_read: int = 0  # to compare them
    recorded: Mapping[str, Recorded] = field(default_factory=dict)  # by group; empty: nothing was compared


def written_before(plan: Plan, say: Say, *, compare: bool) -> Before:
    """The outputs that are in the plan's folder with the bytes that the plan would give them.

    Conversions are repeated to be compared, as often as the plan has them: headers may hold hashes of all of them.
    Unless `compare`, sizes decide. Raises OutputExists for other bytes, StorageError, FormatError, QuantizeError.
    """
    there = [out for out in plan.outputs if _size_of(plan.folder / out.name) == out.size_bytes]
    if not there or not compare:
        return Before(there)
    if all(isinstance(out, Link) and _is_one_file(out.source, plan.folder / out.name) for out in there):
        return Before(there)
    say(f"comparing {', '.join(out.name for out in there)} with what would be written")
    with Reader() as reader:
        run = WritingRun(plan, reader, System(), None, 0)
        comparing = _Comparing(run, {out.name for out in there})
        alike = [out for out in plan.outputs if comparing.is_same(out)]
        found = [out for out in alike if comparing.has_its_headers(out)]
        same = {out.name for out in found}
        for out in there:
            if out.name not in same:
                raise OutputExists(
                    f"{plan.folder / out.name}: this file already exists, and its bytes are not those that would be "
                    "written; nextn never overwrites: move it away, or choose another -o."
                )
        return Before(found, reader.meter.bytes_read, run.recorded)


def _size_of(path: Path) -> int:
    """Of the regular file that the path leads to; -1: there is none."""
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def _is_one_file(left: Path, right: Path) -> bool:
    try:
        return os.path.samefile(left, right)  # noqa: PTH121 - links are followed
    except OSError:
        return False


def _used_up(made: Iterable[object]) -> bool:
    for _ in made:
        pass
    return False


class _Comparing:
    """One pass over the plan's outputs, in its order, in which nothing is written."""

    def __init__(self, run: WritingRun, there: set[str]) -> None:
        self._run, self._there = run, there
        self._late: dict[str, list[tuple[LateHeader, FileRange]]] = {}

    def is_same(self, out: NewFile | Link) -> bool:
        """Whether the output is there and, apart from headers that wait for hashes, has its bytes."""
        path, is_there = self._run.plan.folder / out.name, out.name in self._there
        if isinstance(out, Link):
            return is_there and self._is_file(out, path)
        self._run.group = out.group
        offset, same = 0, is_there
        for segment in out.segments:
            where = FileRange(path, offset, offset + segment.size_bytes)
            offset = where.end
            if isinstance(segment, LateHeader):
                self._late.setdefault(out.name, []).append((segment, where))
            elif isinstance(segment, NewBytes | Copy):
                same = same and self._equal(self._made(segment), where)
            else:  # all of it is made, even where something else differed: its hashes count
                with contextlib.closing(stream(self._run, segment)) as made:
                    same = self._equal(made, where, to_the_end=True) if same else _used_up(made)
        return same

    def has_its_headers(self, out: NewFile | Link) -> bool:
        """Whether the headers that wait for hashes are the same; to be called when all outputs were gone through."""
        run = self._run
        run.group = out.group if isinstance(out, NewFile) else ""
        return all(
            self._equal(iter([run.header(header)]), where)
            for header, where in self._late.get(out.name, ())
        )

    def _is_file(self, out: Link, path: Path) -> bool:
        if _is_one_file(out.source, path):
            return True
        if not out.source.is_file():  # an output that is not there yet
            return False
        pieces = self._run.reader.pieces(FileRange(out.source, 0, out.size_bytes))
        return self._equal(pieces, FileRange(path, 0, out.size_bytes))

    def _made(self, segment: NewBytes | Copy) -> Iterator[bytes | bytearray]:
        return iter([segment.data]) if isinstance(segment, NewBytes) else self._run.reader.pieces(segment.where)

    def _equal(
        self, made: Iterable[bytes | bytearray | memoryview], where: FileRange, *, to_the_end: bool = False
    ) -> bool:
        """Whether a range of a file has these bytes; `to_the_end`: all are made, since their hashes count."""
        offset, same = where.start, True
        for data in made:
            for at in range(0, len(data), CHUNK_BYTES):
                piece = data[at : at + CHUNK_BYTES]
                same = same and self._run.reader.read(FileRange(where.path, offset, offset + len(piece))) == piece
                offset += len(piece)
            if not same and not to_the_end:
                return False
        return same and offset == where.end
