"""The plan: what will be read, written and linked, before anything is touched.

A plan is an ordered list of outputs; a new file is an ordered list of segments. Totals follow from the
segments, so `--dry-run` prints exactly what a run does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from ..brief import Brief
from ..gguf.types import TensorType
from ..schemas.written import ByteRange, Kind, WrittenFile
from ..sources.ranges import CHUNK_BYTES, FileRange
from ..sources.rows import CHUNK_ELEMENTS, RowSource
from ..workfile import Stamp

# Python, numpy and ggml when loaded: measured 36 to 40 MB, doubled (benchmarks/memory.py).
BASE_MEMORY_BYTES = 72 << 20
JSON_MEMORY_FACTOR = 8  # memory to read a tokenizer.json, per byte of it (measured: 4 to attach, 7 to extract)

Hashes: TypeAlias = Mapping[str, str]  # tensor name -> sha256 of its stored bytes, in hex


@dataclass(frozen=True)
class NewBytes:
    """Bytes that the plan itself holds: padding, a header that needs no hashes."""

    data: bytes

    def __repr__(self) -> str:
        return f"NewBytes({len(self.data):,} bytes)"

    @property
    def size_bytes(self) -> int:
        """Length in the file."""
        return len(self.data)

    read_bytes = 0


class _Stored:
    """A range of an existing file, as it is."""

    where: FileRange

    @property
    def size_bytes(self) -> int:
        """Length in the file."""
        return self.where.size_bytes

    @property
    def read_bytes(self) -> int:
        """Bytes taken from the source."""
        return self.where.size_bytes


@dataclass(frozen=True)
class Copy(_Stored):
    """A range of an existing file, moved by the kernel (reflinked where possible), never through Python."""

    where: FileRange


@dataclass(frozen=True)
class Carry(_Stored):
    """A tensor of the block carried byte for byte and hashed on the way."""

    name: str
    where: FileRange
    of_block: bool = True  # counts toward the hash of the block's source


@dataclass(frozen=True)
class Convert:
    """A tensor converted row by row to `type` and hashed on the way."""

    name: str
    rows: RowSource
    type: TensorType
    size_bytes: int
    of_block: bool = True  # counts toward the hash of the block's source

    @property
    def read_bytes(self) -> int:
        """Bytes taken from the source."""
        return self.rows.read_bytes


@dataclass(frozen=True)
class Repack(Convert):
    """A tensor whose stored codes are only rearranged into the layout of `type`: `rows.block_type` is `type`."""


@dataclass(frozen=True)
class LateHeader:
    """A header whose length is known but whose content needs hashes that only the run can provide.

    `build(hashes, source_hash)` must return exactly `size_bytes` bytes.
    """

    size_bytes: int
    build: Callable[[Hashes, str], bytes] = field(compare=False)

    read_bytes = 0


Segment: TypeAlias = "NewBytes | Copy | Carry | Convert | LateHeader"


@dataclass(frozen=True)
class NewFile(Brief):
    """A file to be written."""

    name: str
    segments: tuple[Segment, ...]
    group: str = ""  # files of one group record the hashes of each other's tensors: names repeat from model to model

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return sum(segment.size_bytes for segment in self.segments)

    @property
    def read_bytes(self) -> int:
        """Bytes taken from inputs."""
        return sum(segment.read_bytes for segment in self.segments)

    @property
    def held_bytes(self) -> int:
        """Bytes that are made in memory: headers and padding."""
        return _held_bytes(self.segments)

    @property
    def converts(self) -> bool:
        """Whether a tensor passes through memory."""
        return _converts(self.segments)

    @property
    def shown_ranges(self) -> list[ByteRange]:
        """The file from its first byte on, as shown in documents; neighbours of the same kind are joined."""
        return _joined(self.segments)


class LinkMode(Enum):
    """How a file that is reused unchanged gets its new name."""

    AUTO = "auto"  # hard link, or symlink where a hard link is impossible
    HARD = "hard"
    SYMLINK = "symlink"


@dataclass(frozen=True)
class Link:
    """An existing file under a new name: no data is read or written."""

    name: str
    source: Path
    size_bytes: int
    mode: LinkMode = LinkMode.AUTO
    stamp: Stamp | None = field(default=None, compare=False, repr=False)  # of the file that was examined
    staged: bool = False  # our own file on the folder's file system: renamed where there are no hard links
    twin_of: str | None = None  # the earlier output of this plan that `source` will be


@dataclass(frozen=True)
class Tail:
    """Bytes after the block that stay in the file: a range, and where it is while the file has a block."""

    bare_at: int  # offset in the bare file
    size_bytes: int
    block_at: int  # offset in the file with its block, without room; never overlaps the range at `bare_at`


@dataclass(frozen=True)
class Change:
    """An existing file that gains or loses a block in place.

    Both directions are described from the *bare* file, the one without the block: what a stopped attach falls back to,
    and what a detach produces. Offsets are the bare file's; `room` bytes at the start of the file are added to them
    while it has a block.
    """

    path: Path  # the file itself, links followed
    size_bytes: int  # as it is
    head: bytes = field(repr=False)  # the current header, up to the data
    bare_size: int
    bare_head: bytes = field(repr=False)
    room: int  # bytes inserted at the start of the file for a longer header; 0: it fits
    tail: Tail | None
    block_at: int = 0  # attach: where the block's data goes
    segments: tuple[Segment, ...] = ()  # attach: the block's data
    header: LateHeader | None = None  # attach: the new header; None for a detach

    @property
    def size_with_block(self) -> int:
        """Bytes of the file while it has its block."""
        if self.header is None:
            return self.size_bytes
        end = self.block_at + sum(segment.size_bytes for segment in self.segments)
        if self.tail is not None:
            end = max(end, self.tail.block_at + self.tail.size_bytes)
        return end + self.room

    @property
    def size_after(self) -> int:
        """Bytes of the file after the change."""
        return self.bare_size if self.header is None else self.size_with_block

    @property
    def written_bytes(self) -> int:
        """Bytes written into the file: header, block, moved tail."""
        head = len(self.bare_head) if self.header is None else self.header.size_bytes
        tail = 0 if self.tail is None else self.tail.size_bytes
        return head + tail + sum(segment.size_bytes for segment in self.segments)


@dataclass(frozen=True)
class Plan(Brief):
    """Everything that will happen on disk, in order; the entry's file is the last to appear."""

    verb: str
    layout: str
    folder: Path
    outputs: tuple[NewFile | Link, ...]
    entry: Path  # the path to load afterwards
    sidecar: Path | None
    header_bytes: int  # bytes of headers that planning has read
    notes: tuple[str, ...] = ()
    json_bytes: int = 0  # the part of `header_bytes` that is JSON
    changes: tuple[Change, ...] = ()  # existing files, changed in place; the entry's is the last to be complete
    change_steps: tuple[str, ...] = ()  # what is done to them, in order, for display

    @property
    def bytes_read(self) -> int:
        """Total bytes read from inputs: headers, converted and carried tensors, copied ranges."""
        return (
            self.header_bytes
            + sum(out.read_bytes for out in self._new_files)
            + sum(segment.read_bytes for change in self.changes for segment in change.segments)
            + sum(change.tail.size_bytes for change in self.changes if change.tail is not None)
        )

    @property
    def _new_files(self) -> Iterator[NewFile]:
        return (out for out in self.outputs if isinstance(out, NewFile))

    @property
    def ranges(self) -> tuple[FileRange, ...]:
        """What a run reads from inputs after their headers, in order."""
        out: list[FileRange] = []
        of_changes = (change.segments for change in self.changes)
        for segment in chain.from_iterable((*(file.segments for file in self._new_files), *of_changes)):
            if isinstance(segment, Copy | Carry):
                out.append(segment.where)
            elif isinstance(segment, Convert):
                out += segment.rows.ranges
        return tuple(out)

    def noted(self, notes: Sequence[str]) -> Plan:
        """The plan with these notes in front of its own."""
        return replace(self, notes=(*notes, *self.notes))

    @property
    def bytes_written(self) -> int:
        """Bytes of new files, and bytes written into files that are changed in place."""
        new = sum(out.size_bytes for out in self._new_files)
        return new + sum(change.written_bytes for change in self.changes)

    @property
    def bytes_linked(self) -> int:
        """Bytes of existing files that get a new name only."""
        return sum(out.size_bytes for out in self.outputs if isinstance(out, Link))

    @property
    def peak_memory_bytes(self) -> int:
        """An upper estimate of the process's memory: libraries loaded once, headers, one chunk of a tensor."""
        headers = sum(out.held_bytes for out in self._new_files)
        converts = any(out.converts for out in self._new_files)
        for change in self.changes:
            headers += len(change.head) + len(change.bare_head) + (change.header.size_bytes if change.header else 0)
            headers += _held_bytes(change.segments)
            converts |= _converts(change.segments)
        # A chunk exists as float32 and as the result while the next one is source bytes and float32 (twice while a
        # constant is added).
        chunk = max(CHUNK_BYTES, 5 * 4 * CHUNK_ELEMENTS) if converts else 0
        parsed = 2 * (self.header_bytes - self.json_bytes) + JSON_MEMORY_FACTOR * self.json_bytes
        return BASE_MEMORY_BYTES + parsed + 2 * headers + chunk

    @property
    def written_files(self) -> list[WrittenFile]:
        """The outputs as shown in documents."""
        new = [
            WrittenFile(
                path=str(self.folder / out.name),
                size_bytes=out.size_bytes,
                how="link" if isinstance(out, Link) else "write",
                source=str(out.source) if isinstance(out, Link) else None,
                ranges=[ByteRange("linked", out.size_bytes)] if isinstance(out, Link) else out.shown_ranges,
            )
            for out in self.outputs
        ]
        return new + [
            WrittenFile(
                path=str(change.path), size_bytes=change.size_after, how="change", source=None,
                ranges=_changed_ranges(change),
            )
            for change in self.changes
        ]  # fmt: skip


def _held_bytes(segments: Sequence[Segment]) -> int:
    return sum(segment.size_bytes for segment in segments if isinstance(segment, NewBytes | LateHeader))


def _converts(segments: Sequence[Segment]) -> bool:
    return any(isinstance(segment, Convert | Carry) for segment in segments)


def _joined(segments: Sequence[Segment]) -> list[ByteRange]:
    found: list[ByteRange] = []
    for segment in segments:
        of_block = isinstance(segment, Carry | Convert)
        kind: Kind = "copied" if isinstance(segment, Copy) else "block" if of_block else "new"
        size = segment.size_bytes
        if found and isinstance(segment, NewBytes) and not segment.data.strip(b"\0"):
            kind = found[-1].what  # padding counts as part of what it pads
        if found and found[-1].what == kind:
            found[-1] = ByteRange(kind, found[-1].size_bytes + size)
        else:
            found.append(ByteRange(kind, size))
    return found


def _changed_ranges(change: Change) -> list[ByteRange]:
    """The changed file's byte ranges in order."""
    header = change.header
    head = len(change.bare_head) if header is None else header.size_bytes
    if header is None:
        found = [ByteRange("new", head), ByteRange("kept", change.bare_size - head)]
    else:
        block = sum(segment.size_bytes for segment in change.segments)
        kept = change.block_at + change.room - head
        rest = change.size_after - head - kept - block
        found = [ByteRange("new", head), ByteRange("kept", kept), ByteRange("block", block), ByteRange("kept", rest)]
    return [each for each in found if each.size_bytes]
