"""Tensors of existing files, chosen by their rows and cut into the files of a new set: columns, no object for each."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, groupby
from operator import add, getitem, sub

from ..gguf.files import GGUFFile
from ..gguf.header import FIXED_BYTES, pad_to
from ..gguf.kv_table import KVTable
from ..schemas.written import ByteRange
from ..sources.ranges import FileRange
from ..writing.plan import Copy, NewBytes, NewFile, Segment
from .parts import KeptTensors, KnownHeader, Parts, PlannedFile


class ChosenTensors:
    """Tensors of several files in an order of their own."""

    def __init__(self) -> None:
        self.files: list[GGUFFile] = []
        self.of_file = array("I")  # of each tensor, the place of its file in `files`
        self.rows = array("I")  # of each tensor, its row in its file's table
        self._numbers: dict[int, int] = {}  # id(file) -> its place

    @classmethod
    def all_of(cls, files: Iterable[GGUFFile]) -> ChosenTensors:
        """All tensors of some files."""
        chosen = cls()
        for file in files:
            chosen.add_all(file)
        return chosen

    def __len__(self) -> int:
        return len(self.rows)

    def _number(self, file: GGUFFile) -> int:
        number = self._numbers.setdefault(id(file), len(self.files))
        if number == len(self.files):
            self.files.append(file)
        return number

    def add(self, file: GGUFFile, row: int) -> None:
        """Append a tensor of a file."""
        self.of_file.append(self._number(file))
        self.rows.append(row)

    def add_all(self, file: GGUFFile) -> None:
        """Append all tensors of a file."""
        n = len(file.header.tensors)
        self.of_file += array("I", (self._number(file),)) * n
        self.rows += array("I", range(n))

    @cached_property
    def sizes(self) -> array[int]:
        """Stored bytes of each. Raises FormatError when a file ends before one of its tensors does."""
        return array("q", self._column([KeptTensors(file, file.header.tensors).sizes for file in self.files]))

    @cached_property
    def entry_sizes(self) -> array[int]:
        """Bytes of each one's entry in a header."""
        return array("I", self._column([file.header.tensors.entry_sizes for file in self.files]))

    def _column(self, of_files: list[Sequence[int]]) -> Iterator[int]:
        return map(getitem, map(of_files.__getitem__, self.of_file), self.rows)


@dataclass(frozen=True)
class Groups:
    """Chosen tensors as the files of a set: a file for each group, with its own pairs."""

    chosen: ChosenTensors
    ends: array[int]  # of each group, the place after its last tensor
    pairs: Callable[[int], KVTable]  # those of a group's file; from the second on they take the same bytes
    version: int
    alignment: int
    name: Callable[[int], str]  # of a group's file

    def __len__(self) -> int:
        return len(self.ends)

    def span(self, no: int) -> range:
        """The places of a group's tensors."""
        return range(self.ends[no - 1] if no else 0, self.ends[no])

    def existing(self, no: int) -> GGUFFile | None:
        """The existing file that holds exactly these tensors in this order, if there is one."""
        span, chosen = self.span(no), self.chosen
        if not span:
            return None
        number = chosen.of_file[span[0]]
        file = chosen.files[number]
        if len(file.header.tensors) != len(span):
            return None
        own = slice(span.start, span.stop)
        same = all(map(number.__eq__, chosen.of_file[own])) and chosen.rows[own] == array("I", range(len(span)))
        return file if same else None

    @cached_property
    def _columns(self) -> tuple[array[int], array[int], array[int]]:
        """Of each file: bytes of its header, of its tensors without padding, of all."""
        alignment, chosen = self.alignment, self.chosen
        sizes = chosen.sizes
        padded = (-(-size // alignment) * alignment for size in sizes)
        stored, filled, entries = (self._sums(column) for column in (sizes, padded, chosen.entry_sizes))
        pairs = (self.pairs(0).size_bytes, self.pairs(1).size_bytes if len(self) > 1 else 0)
        heads = array("Q", (pad_to(FIXED_BYTES + pairs[no > 0] + n, alignment) for no, n in enumerate(entries)))
        return heads, array("Q", stored), array("Q", map(add, heads, filled))

    def _sums(self, column: Iterable[int]) -> Iterator[int]:
        """The sum of each group's items."""
        sums = array("Q", accumulate(column, initial=0))
        ends = array("Q", map(sums.__getitem__, self.ends))
        return map(sub, ends, chain((0,), ends))

    def head_bytes(self, no: int) -> int:
        """Bytes of a file's header."""
        return self._columns[0][no]

    def read_bytes(self, no: int) -> int:
        """Bytes of a file's tensors, without padding."""
        return self._columns[1][no]

    def size_bytes(self, no: int) -> int:
        """Bytes of a file."""
        return self._columns[2][no]

    def segments(self, no: int) -> Iterator[Segment]:
        """A file's header and its tensors, each a range moved by the kernel."""
        chosen, span, alignment = self.chosen, self.span(no), self.alignment
        kept = []
        for number, places in groupby(span, key=chosen.of_file.__getitem__):
            file = chosen.files[number]
            kept.append(KeptTensors(file, file.header.tensors.rows(map(chosen.rows.__getitem__, places))))
        planned = PlannedFile(self.pairs(no), Parts(kept), self.version, alignment)
        yield KnownHeader(planned, self.head_bytes(no))
        for piece in kept:
            first = piece.file.header.data_offset
            for offset, size in zip(piece.table.offsets, piece.sizes, strict=True):
                yield Copy(FileRange.of(piece.file, first + offset, first + offset + size))
                if padding := pad_to(size, alignment) - size:
                    yield NewBytes(bytes(padding))


class NewShard(NewFile):
    """A file of a set. Its segments are made when they are asked for: a plan may never be carried out."""

    __slots__ = ("_groups", "_no")

    def __init__(self, groups: Groups, no: int) -> None:
        object.__setattr__(self, "_groups", groups)
        object.__setattr__(self, "_no", no)

    _groups: Groups
    _no: int

    @property
    def name(self) -> str:
        """The file's name."""
        return self._groups.name(self._no)

    def __repr__(self) -> str:
        return f"NewShard({self.name!r}, {self.size_bytes:,} bytes)"

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The header and the tensors, made anew each time."""
        return tuple(self._groups.segments(self._no))

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return self._groups.size_bytes(self._no)

    @property
    def read_bytes(self) -> int:
        """Bytes taken from inputs."""
        return self._groups.read_bytes(self._no)

    @property
    def held_bytes(self) -> int:
        """Bytes of the header and of padding."""
        return self.size_bytes - self.read_bytes

    @property
    def converts(self) -> bool:
        """Whether a tensor passes through memory."""
        return False

    @property
    def shown_ranges(self) -> list[ByteRange]:
        """The file from its first byte on, as shown in documents."""
        head = self._groups.head_bytes(self._no)
        out = [ByteRange("new", head)]
        return [*out, ByteRange("copied", self.size_bytes - head)] if self._groups.span(self._no) else out
