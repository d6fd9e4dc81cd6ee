"""The tensors of a new file in order: a model's own as rows of its tables, all others one by one."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TypeAlias

from ..gguf.files import GGUFFile
from ..gguf.header import FIXED_BYTES, header_of, pad_to, place
from ..gguf.kv_table import KVTable
from ..gguf.tensors import TensorInfo, TensorTable
from ..sources.ranges import FileRange
from ..writing.plan import Copy, LateHeader, NewBytes, Segment


@dataclass(frozen=True)
class Part:
    """A tensor of a new file: its info without an offset, its size, and the segments that supply its bytes."""

    info: TensorInfo
    size_bytes: int
    segment: Segment
    more: tuple[Copy, ...] = ()  # further pieces, directly after the first


@dataclass(frozen=True)
class KeptTensors:
    """Existing tensors of a file, in the order of their data, to be moved by the kernel."""

    file: GGUFFile
    table: TensorTable

    def __iter__(self) -> Iterator[Part]:
        for info, start, end in self.file.ranges(self.table):
            yield Part(info, end - start, Copy(FileRange.of(self.file, start, end)))

    @property
    def sizes(self) -> Sequence[int]:
        """Stored bytes of each. Raises FormatError when the file ends before one of them does."""
        table = self.table
        if table.is_within(self.file.size_bytes - self.file.header.data_offset):
            return table.sizes
        return array("q", (end - start for _, start, end in self.file.ranges(table)))


Piece: TypeAlias = "KeptTensors | Sequence[Part] | Callable[[], Iterator[Part]]"


class Parts(Iterable[Part]):
    """Parts in order, made anew by each pass over them: a model may have more tensors than fit into memory as parts."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        """A piece is part of a table, or a list, or made by a function."""
        self.pieces = tuple(pieces)

    @classmethod
    def of(cls, parts: Parts | Sequence[Part]) -> Parts:
        """The same for a list."""
        return parts if isinstance(parts, Parts) else cls((parts,))

    def __iter__(self) -> Iterator[Part]:
        for piece in self.pieces:
            yield from piece() if callable(piece) else piece

    def then(self, more: Sequence[Part]) -> Parts:
        """These, then others."""
        return Parts((*self.pieces, more))

    @property
    def tables_bytes(self) -> int:
        """Bytes that the tensors take in a header."""
        return sum(
            piece.table.size_bytes
            if isinstance(piece, KeptTensors)
            else sum(len(part.info.encode()) for part in (piece() if callable(piece) else piece))
            for piece in self.pieces
        )

    def tables(self, alignment: int) -> list[TensorTable]:
        """The tensors with contiguous offsets, a table for each piece."""
        out, end = [], 0
        for piece in self.pieces:
            if isinstance(piece, KeptTensors):
                ends = accumulate((-(-size // alignment) * alignment for size in piece.sizes), initial=end)
                offsets = array("Q", ends)
                end = offsets.pop()
                out.append(piece.table.moved(offsets))
            else:
                infos = ((part.info, part.size_bytes) for part in (piece() if callable(piece) else piece))
                table, end = place(infos, alignment, end)
                out.append(table)
        return out


def trunk_parts(files: Sequence[GGUFFile], kept: Callable[[GGUFFile], TensorTable] | None = None) -> Parts:
    """Existing tensors in the order of their data, to be moved by the kernel: those of `kept`, or all."""
    return Parts(KeptTensors(file, (file.header.tensors if kept is None else kept(file)).by_offset()) for file in files)


@dataclass(frozen=True)
class PlannedFile:
    """What a new file's header will say, apart from hashes."""

    kvs: KVTable  # hashes are zeros
    parts: Parts
    version: int
    alignment: int


@dataclass(frozen=True)
class PlannedHeader(LateHeader):
    """A header that waits for hashes, and what it will say."""

    planned: PlannedFile = field(compare=False, repr=False)


class KnownHeader(NewBytes):
    """A header that needs no hashes. Its bytes are made when they are asked for: a plan may never be carried out."""

    def __init__(self, planned: PlannedFile, size_bytes: int) -> None:
        object.__setattr__(self, "planned", planned)
        object.__setattr__(self, "_size_bytes", size_bytes)

    planned: PlannedFile
    _size_bytes: int

    def __repr__(self) -> str:
        return f"KnownHeader({self.size_bytes:,} bytes)"

    @property
    def data(self) -> bytes:
        """The bytes, made anew each time."""
        planned = self.planned
        tables = planned.parts.tables(planned.alignment)
        return header_of(planned.kvs, tables, version=planned.version, alignment=planned.alignment)

    @property
    def size_bytes(self) -> int:
        """Their number."""
        return self._size_bytes


def new_header(kvs: KVTable, parts: Parts | Sequence[Part], version: int, alignment: int) -> KnownHeader:
    """The header for the parts in their order."""
    parts = Parts.of(parts)
    size = pad_to(FIXED_BYTES + kvs.size_bytes + parts.tables_bytes, alignment)
    return KnownHeader(PlannedFile(kvs, parts, version, alignment), size)


class _Segments:
    """Segments in order; adjacent copies become one, including the padding between them."""

    def __init__(self, alignment: int) -> None:
        self.out: list[Segment] = []
        self.alignment = alignment
        self._run: FileRange | None = None  # copies that were joined so far, from here
        self._end = 0  # to here

    def close(self) -> None:
        """The run ends here."""
        if self._run is not None:
            self.out.append(Copy(replace(self._run, end=self._end)))
            self._run = None

    def add(self, segment: Segment) -> None:
        """Another one."""
        if not isinstance(segment, Copy):
            self.close()
            self.out.append(segment)
            return
        if self._run is not None and (self._run.path != segment.where.path or self._end != segment.where.start):
            self.close()
        self._run, self._end = self._run or segment.where, segment.where.end

    def pad(self, size: int, file: GGUFFile | None) -> None:
        """Padding after a tensor of `size` bytes: what lies after it in `file`, if that is as long, else zeros."""
        padding = -size % self.alignment
        if not padding:
            return
        if file is not None and self._run is not None:
            header = file.header
            offset = self._end - size - header.data_offset
            if padding <= header.room(offset, file.size_bytes) - size:
                self._end += padding
                return
        self.close()
        self.out.append(NewBytes(bytes(padding)))

    def keep(self, kept: KeptTensors) -> None:
        """Tensors of a file."""
        file, first, alignment = kept.file, kept.file.header.data_offset, self.alignment
        if self._run is not None and self._run.path != file.path:
            self.close()
        offsets, sizes = kept.table.offsets, kept.sizes
        for begin, end in kept.table.runs(alignment):
            start, last = first + offsets[begin], end - 1
            if self._end != start or self._run is None:
                self.close()
                self._run = FileRange.of(file, start, start)
            self._end = first + offsets[last] + sizes[last]
            if sizes[last] % alignment:
                self.pad(sizes[last], file)


def data_segments(parts: Parts | Sequence[Part], alignment: int, files: Sequence[GGUFFile]) -> list[Segment]:
    """All parts with padding between them; adjacent copies become one, including the padding between them."""
    by_path = {file.path: file for file in files}
    out = _Segments(alignment)
    for piece in Parts.of(parts).pieces:
        if isinstance(piece, KeptTensors):
            out.keep(piece)
            continue
        for part in piece() if callable(piece) else piece:
            for segment in (part.segment, *part.more):
                out.add(segment)
            own = part.segment
            source = by_path[own.where.path] if isinstance(own, Copy) and not part.more else None
            out.pad(part.size_bytes, source)
    out.close()
    return out.out
