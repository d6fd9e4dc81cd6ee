"""The journal of a change in place: what a file was, or is to be, without its block, and how far the change has got.

It is kept beside the file as `.NAME.nextn-journal`, is written and synced before the file is touched, and is removed
when the change is complete: that is the commit. A journal that exists while no run holds the file's lock is *hot*.

Format: the eight bytes of MAGIC, then records of u64 length, payload and the payload's SHA-256. The first record
holds JSON (preceded by its u64 length) and the bare headers that it refers to by position; each later one is the JSON
of one file's `State`. Reading ends at the first incomplete record: it was being written when the run died, and what it
would have announced had not begun. Space for later records is written in advance, so that a full disk cannot block the
way back.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from .. import oscalls
from ..errors import StorageError
from ..gguf.header import MAGIC as GGUF
from ..gguf.parser import MAX_HEADER_BYTES
from ..workfile import At, Folder
from .durable import write_file
from .plan import Change, Tail
from .ranges import Span
from .system import System, explained, sync_open_folder, write_all

SUFFIX = ".nextn-journal"
MAGIC = b"NXTNJRN1"
MAX_BYTES = 2 * MAX_HEADER_BYTES + (64 << 20)  # headers, table and states; a longer journal is not one of ours
MAX_TABLE_BYTES = 1 << 20  # of the first record's JSON, which names one or two files
SPARE_BYTES = 64 << 10  # written in advance for records of states
Verb: TypeAlias = Literal["attach", "detach"]
NONE, SHIFTING, FULL = "none", "shifting", "full"
_PIECE_BYTES = 1 << 20
# What reading a record of another version, or one that somebody made up, ends with.
_STRANGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, struct.error)


class TornJournal(Exception):
    """The first record is incomplete: nothing had been changed yet."""


@dataclass(frozen=True)
class Bare:
    """One file as it is without its block."""

    name: str  # in the journal's folder
    inode: int
    size_bytes: int
    head: bytes = field(repr=False)
    room: int  # bytes inserted at the start of the file for as long as it has the block
    tail: Tail | None

    @classmethod
    def of(cls, change: Change, inode: int) -> Bare:
        """What a change falls back to, or produces."""
        return cls(change.path.name, inode, change.bare_size, change.bare_head, change.room, change.tail)


@dataclass(frozen=True)
class State:
    """How far the change of one file has got. Each state is on disk before what it announces begins."""

    room: str  # none; shifting: being inserted or removed, still empty; full: inserted, and maybe written to
    tail_saved: bool  # the tail is complete at its place after the block, and maybe no longer at its bare place
    size_bytes: int = 0  # shifting: size of the file without room
    spans: tuple[Span, ...] = ()  # shifting: its data, room not counted (see `ranges.data_map`)

    def to_json(self) -> dict[str, Any]:
        """As it is stored in a record."""
        return {"room": self.room, "tail_saved": self.tail_saved, "size_bytes": self.size_bytes, "spans": self.spans}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> State:
        """The state in a record. Raises ValueError, TypeError and KeyError for what no run has written."""
        spans = tuple((_size(start), _size(end)) for start, end in data["spans"])
        at = 0
        for start, end in spans:
            if not at <= start < end:
                raise ValueError("spans")
            at = end
        if data["room"] not in (NONE, SHIFTING, FULL) or type(data["tail_saved"]) is not bool:
            raise ValueError("state")
        return cls(data["room"], data["tail_saved"], _size(data["size_bytes"]), spans)


@dataclass
class Journal:
    """An open journal. Its states are the latest ones on disk."""

    folder: Path
    name: str
    fd: int
    verb: Verb
    files: tuple[Bare, ...]
    states: list[State]
    end: int  # where the next record goes

    @property
    def path(self) -> Path:
        """The journal's path."""
        return self.folder / self.name

    def note(self, index: int, state: State, system: System) -> None:
        """Put a file's new state on disk. Raises NoSpace, StorageError."""
        payload = json.dumps({"file": index, **state.to_json()}, separators=(",", ":")).encode()
        data = _record(payload)
        write_all(system, self.fd, data, self.end, self.path)
        with explained(self.path, "write it to disk"):
            system.fsync(self.fd)
        self.end += len(data)
        self.states[index] = state

    def close(self) -> None:
        """Close it; the file stays."""
        os.close(self.fd)


def journal_name(name: str) -> str:
    """The name of the journal for a file."""
    short = os.fsdecode(os.fsencode(name)[-200:])  # room for what is added: most file systems allow 255 bytes
    return f".{short}{SUFFIX}"


def file_name(journal: str) -> str:
    """The name of the file that a journal of this name is for, if it has at most 200 bytes."""
    return journal[1:].removesuffix(SUFFIX)


def _record(payload: bytes) -> bytes:
    return struct.pack("<Q", len(payload)) + payload + hashlib.sha256(payload).digest()


def first_bytes(verb: Verb, files: Sequence[Bare], states: Sequence[State]) -> bytes:
    """A journal as it is before anything is changed, without spare room."""
    place, table = 0, []
    for bare, state in zip(files, states, strict=True):
        tail = bare.tail
        table.append({
            "name": os.fsencode(bare.name).decode("latin-1"),
            "inode": bare.inode,
            "size_bytes": bare.size_bytes,
            "head": [place, place + len(bare.head)],
            "room": bare.room,
            "tail": None if tail is None else [tail.bare_at, tail.size_bytes, tail.block_at],
            "state": state.to_json(),
        })  # fmt: skip
        place += len(bare.head)
    text = json.dumps({"version": 1, "verb": verb, "files": table}, separators=(",", ":")).encode()
    return MAGIC + _record(b"".join([struct.pack("<Q", len(text)), text, *(bare.head for bare in files)]))


def create(folder: Path, verb: Verb, files: Sequence[Bare], states: Sequence[State], system: System) -> Journal:
    """A new journal; it is complete and on disk when it appears. Raises OutputExists, NoSpace, StorageError."""
    name = journal_name(files[-1].name)
    write_file(folder / name, first_bytes(verb, files, states) + bytes(SPARE_BYTES), system)
    return open_journal(folder, name, write=True)


def remove(path: Path, system: System) -> None:
    """Remove a journal for good: the change is done, or undone. Raises StorageError."""
    with explained(path, "remove the journal"), Folder.chosen(path.parent) as folder:
        system.unlink(At(folder, path.name))
        sync_open_folder(folder, system)


def journals_in(path: Path) -> list[str]:
    """Names of the journals in a folder, sorted. Raises OSError."""
    with Folder.chosen(path) as folder:
        return [name for name in folder.names() if name.startswith(".") and name.endswith(SUFFIX)]


def open_journal(path: Path, name: str, *, write: bool) -> Journal:
    """Open and read the journal `name` in the folder `path`.

    Raises TornJournal, StorageError (for one of another version; NotOurs for a link, a file of another user, or what
    is not a regular file), OSError.
    """
    fd = _open(path, name, os.O_RDWR if write else os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        data = bytearray()
        while piece := oscalls.pread(fd, size - len(data), len(data)):
            data += piece
        verb, files, states, end = _parse(bytes(data), path / name)
        return Journal(path, name, fd, verb, files, states, end)
    except BaseException:
        os.close(fd)
        raise


def _open(path: Path, name: str, flags: int) -> int:
    """The journal, open, if it may be one by its kind, owner and size."""
    with Folder.chosen(path) as folder:  # a run killed while naming the journal leaves it with two names
        fd = folder.open(name, flags, one_name=False)
    size = os.fstat(fd).st_size
    if size > MAX_BYTES:
        os.close(fd)
        raise StorageError(f"{path / name}: this has {size:,} bytes and is not a nextn journal; remove it.")
    return fd


@dataclass(frozen=True)
class Seen:
    """What a journal is about, without the headers and states that only `restore` needs."""

    name: str
    verb: Verb
    files: tuple[tuple[str, int], ...]  # name and inode


def look(path: Path, name: str, belongs: Callable[[str], bool]) -> Seen | None:
    """What the journal `name` in the folder `path` is about; None if none of its files is one that `belongs` accepts.

    Anyone may have put it there: little of it is ever in memory, and only one that belongs is read to its end.
    Raises TornJournal, StorageError (as `open_journal` does), OSError.
    """
    fd = _open(path, name, os.O_RDONLY)
    try:
        start = len(MAGIC) + 8
        front = oscalls.pread(fd, start + 8 + MAX_TABLE_BYTES, 0)
        if front[: len(MAGIC)] != MAGIC or len(front) < start:
            raise TornJournal
        (length,) = struct.unpack_from("<Q", front, len(MAGIC))
        if not length or start + length + 32 > os.fstat(fd).st_size:
            raise TornJournal
        try:
            verb, found = _first(front[start : start + length], length)
        except _STRANGE as error:
            if not belongs(file_name(name)):
                return None
            _check_record(fd, start, length)
            raise _of_another_version(path / name) from error
        seen = Seen(name, verb, tuple((bare.name, bare.inode) for bare, _, _ in found))
        if journal_name(seen.files[-1][0]) != name or not any(belongs(each) for each, _ in seen.files):
            return None
        _check_record(fd, start, length)
        return seen
    finally:
        os.close(fd)


def _check_record(fd: int, start: int, length: int) -> None:
    """Raise TornJournal unless the record's checksum is right."""
    digest, at, end = hashlib.sha256(), start, start + length
    while at < end and (piece := oscalls.pread(fd, min(_PIECE_BYTES, end - at), at)):
        digest.update(piece)
        at += len(piece)
    if digest.digest() != oscalls.pread(fd, 32, end):
        raise TornJournal


def _of_another_version(path: Path) -> StorageError:
    return StorageError(
        f"{path}: this journal was written by another version of nextn; recover the file with that version."
    )


def _first(payload: bytes, length: int) -> tuple[Verb, list[tuple[Bare, Span, State]]]:
    """What the first record says: files without their headers, where in the payload these are, and states.

    `payload` may lack its end; `length` is that of all of it. Raises one of `_STRANGE` for what no run has written.
    """
    (n_text,) = struct.unpack_from("<Q", payload)
    if n_text > MAX_TABLE_BYTES:
        raise ValueError("table")
    table = json.loads(payload[8 : 8 + n_text])
    if table["version"] != 1 or table["verb"] not in get_args(Verb) or not 0 < len(table["files"]) <= 2:
        raise ValueError("version, verb or files")
    found = [(*_bare(entry, 8 + n_text), State.from_json(entry["state"])) for entry in table["files"]]
    if length != 8 + n_text + sum(stop - start for _, (start, stop), _ in found):
        raise ValueError("heads")
    return table["verb"], found


def _parse(data: bytes, path: Path) -> tuple[Verb, tuple[Bare, ...], list[State], int]:
    if data[: len(MAGIC)] != MAGIC or (first := _payload(data, len(MAGIC))) is None:
        raise TornJournal
    payload, end = first
    try:
        verb, found = _first(payload, len(payload))
        files = tuple(replace(bare, head=payload[start:stop]) for bare, (start, stop), _ in found)
        if not all(bare.head.startswith(GGUF) for bare in files):
            raise ValueError("head")
        states = [state for _, _, state in found]
        while (record := _payload(data, end)) is not None:
            note = json.loads(record[0])
            states[_size(note["file"])] = State.from_json(note)
            end = record[1]
    except _STRANGE as error:
        raise _of_another_version(path) from error
    return verb, files, states, end


def _bare(entry: dict[str, Any], first: int) -> tuple[Bare, Span]:
    """A file's entry, without the header, and where that is in the payload, whose headers start at `first`.

    Raises one of `_STRANGE` when it describes no file.
    """
    name = os.fsdecode(entry["name"].encode("latin-1"))
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        raise ValueError("name")
    start, stop = (first + _size(place) for place in entry["head"])
    size, n_head, tail = _size(entry["size_bytes"]), stop - start, None
    if not 0 < n_head <= min(size, MAX_HEADER_BYTES):
        raise ValueError("head")
    if entry["tail"] is not None:
        tail = Tail(*map(_size, entry["tail"]))
        if not n_head <= tail.bare_at <= tail.bare_at + tail.size_bytes == size <= tail.block_at:
            raise ValueError("tail")
    inode = entry["inode"]
    if type(inode) is not int:
        raise ValueError("inode")
    return Bare(name, inode, size, b"", _size(entry["room"]), tail), (start, stop)


def _size(value: Any) -> int:
    """A size or an offset. Raises ValueError."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("size")
    return value


def _payload(data: bytes, at: int) -> tuple[bytes, int] | None:
    """The record at `at` and where the next one starts, or None when it is incomplete."""
    if at + 8 > len(data):
        return None
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length + 32
    if not length or end > len(data):
        return None
    payload = data[at + 8 : end - 32]
    return (payload, end) if hashlib.sha256(payload).digest() == data[end - 32 : end] else None
