"""Partially present files: the note beside each says which bytes are here, and no hole is ever read as zeros.

A note `.NAME.nextn-extents` has one line that identifies remote file `NAME` (origin, size, validator), then one line
per range with the checksum of its bytes. A range counts as present only when its line is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .errors import StorageError
from .workfile import read_beside

NOTE_SUFFIX = ".nextn-extents"
MAX_NOTE_BYTES = 256 << 20  # of one file's note: a 45-byte line per MiB, enough for 5 TiB

Range = tuple[int, int]  # start, end (exclusive)


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Sorted, disjoint ranges; those that touch become one."""
    out: list[Range] = []
    for start, end in sorted(ranges):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        elif end > start:
            out.append((start, end))
    return out


def gaps(there: list[Range], start: int, end: int) -> list[Range]:
    """The parts of `start, end` that the merged ranges `there` do not cover."""
    out: list[Range] = []
    at = max(0, bisect_right(there, (start, start)) - 1)
    for low, high in there[at:]:
        if low >= end:
            break
        if low > start:
            out.append((start, low))
        start = max(start, high)
    if start < end:
        out.append((start, end))
    return out


@dataclass(frozen=True)
class Identity:
    """What distinguishes a version of a remote file from all others: bytes of another identity are never used."""

    origin: str  # hf:ORG/NAME@COMMIT:FILE, or an address without its query
    size_bytes: int
    etag: str  # the server's validator; may be empty


@dataclass(frozen=True)
class Piece:
    """A range that is present."""

    start: int
    end: int
    crc: int  # crc32 of its bytes

    def line(self) -> str:
        """Its line in the note, closed by a checksum of the line itself."""
        text = f"{self.start} {self.end} {self.crc:08x}"
        return f"{text} {zlib.crc32(text.encode()):08x}\n"


def note_name(name: str) -> str:
    """The name of a partial file's note."""
    return f".{name}{NOTE_SUFFIX}"


def note_of(path: Path) -> Path:
    """Where the note of a partial file is."""
    return path.with_name(note_name(path.name))


def read_note(data: bytes) -> tuple[Identity | None, list[Piece]]:
    """Identity and complete lines; torn lines are skipped."""
    identity: Identity | None = None
    pieces: list[Piece] = []
    for line in data.split(b"\n"):
        body, _, check = line.rpartition(b" ")
        with contextlib.suppress(ValueError, TypeError):
            if not body or int(check, 16) != zlib.crc32(body):
                continue
            if identity is None:
                identity = Identity(**json.loads(body))
            else:
                start, end, crc = body.split()
                pieces.append(Piece(int(start), int(end), int(crc, 16)))
    return identity, pieces


# Partial files that this process can fill: real path -> function that fetches a range.
_fillers: dict[Path, Callable[[int, int], None]] = {}


@dataclass
class Guard:
    """Keeps holes from being read as zeros: fetches them while the source is open, refuses them otherwise."""

    path: Path
    _there: list[Range] = field(default_factory=list)

    def check(self, start: int, end: int) -> None:
        """Make sure the range is present. Raises StorageError when a byte is a hole, RemoteError if fetching fails."""
        if not gaps(self._there, start, end):
            return
        if fill := _fillers.get(self.path):
            fill(start, end)
        self._there = _noted(self.path)
        if holes := gaps(self._there, start, end):
            raise StorageError(
                f"{self.path}: bytes {holes[0][0]:,} to {holes[0][1]:,} were never fetched: this is an incomplete "
                "copy of a remote file, for nextn's own use; name the remote file, or a complete copy of it."
            )


def _noted(real: Path) -> list[Range]:
    """The ranges that the note beside a partial file lists as present. Raises StorageError."""
    try:
        _, pieces = read_note(read_beside(note_of(real), MAX_NOTE_BYTES))
    except OSError as error:
        raise StorageError(f"{note_of(real)}: cannot read it: {error.strerror or error}.") from error
    return merged((piece.start, piece.end) for piece in pieces)


def guard_of(path: Path) -> Guard | None:
    """The guard of a partial file (links are followed), or None for any other file."""
    real = path.resolve()
    return Guard(real) if _has_note(real) else None


def _has_note(real: Path) -> bool:
    return os.path.lexists(note_of(real))


def refuse_partial(path: Path) -> None:
    """Raise StorageError when `path` is a partial file: for verbs that link a file or pass it to an engine."""
    real = path.resolve()
    if _has_note(real) and gaps(_noted(real), 0, real.stat().st_size):
        raise StorageError(
            f"{path}: this holds only parts of a remote file, for nextn's own use; name a complete copy "
            "of it."
        )


def fill_with(path: Path, fill: Callable[[int, int], None] | None) -> None:
    """From now on, holes in this partial file are filled by `fill`; None ends that."""
    if fill is None:
        _fillers.pop(path.resolve(), None)
    else:
        _fillers[path.resolve()] = fill
