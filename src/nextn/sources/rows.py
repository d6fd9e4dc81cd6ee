"""Tensors as rows of float32, read in chunks: the input of a quantizer.

Every source yields arrays of shape (n_rows_of_chunk, n_per_row), C-contiguous float32, whose rows follow the
order of the GGUF tensor they become.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import QuantizeError, UnsupportedFormat
from ..gguf.files import GGUFFile
from ..gguf.tensors import TensorInfo
from ..gguf.types import TensorType, row_size
from .ranges import FileRange, Reader
from .safetensors import SourceTensor
from .scales import Scale, Seen
from .small_floats import FLOAT_DTYPES, to_float

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]
    Blocks = NDArray[np.uint8]

CHUNK_ELEMENTS = 1 << 20  # 4 MiB of float32


class RowSource(Protocol):
    """A tensor that can be read as float32 rows."""

    @property
    def n_rows(self) -> int:
        """Total number of rows."""

    @property
    def n_per_row(self) -> int:
        """Elements per row."""

    @property
    def read_bytes(self) -> int:
        """Bytes that reading all rows takes from the source."""

    @property
    def ranges(self) -> list[FileRange]:
        """Where those bytes are."""

    @property
    def spans(self) -> tuple[Span, ...]:
        """The rows of checkpoint tensors that it is made of; empty if it comes from elsewhere."""

    @property
    def block_type(self) -> TensorType | None:
        """The type in which `blocks` yields the stored values losslessly, or None."""

    def chunks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Rows]:
        """All rows in order; `seen` receives every piece of source bytes (for a hash)."""

    def blocks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Blocks]:
        """All rows in order as [rows of the chunk, bytes per row] of `block_type`; only if there is one."""


@dataclass(frozen=True)
class Span:
    """Rows `start` to `end` of a checkpoint tensor."""

    tensor: SourceTensor  # as it is stored
    start: int
    end: int
    scale: Scale | None = None  # for quantized tensors

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the full tensor's values, slowest axis first."""
        return self.tensor.shape if self.scale is None else self.scale.shape(self.tensor)

    @property
    def n_per_row(self) -> int:
        """Elements per row."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        """Number of rows in the span."""
        return self.end - self.start

    @property
    def block_type(self) -> TensorType | None:
        """The type that holds the same values losslessly, or None."""
        return self.scale.block_type if self.scale is not None else None

    @property
    def ranges(self) -> list[FileRange]:
        """The byte ranges needed to read it."""
        own = [self.tensor.rows(self.start, self.end)]
        return own + (self.scale.ranges(self.tensor, self.start, self.end) if self.scale is not None else [])

    @property
    def read_bytes(self) -> int:
        """Bytes that reading it takes."""
        return sum(where.size_bytes for where in self.ranges)

    def part(self, start: int, end: int) -> Span:
        """Rows `start` to `end` of this span."""
        return Span(self.tensor, self.start + start, self.start + end, self.scale)

    def floats(
        self, reader: Reader, seen: Seen | None = None, add: float = 0.0, step: int | None = None
    ) -> Iterator[Rows]:
        """The rows as float32 in pieces of `step` rows, or in one."""
        decoder = self.scale.decoder(self.tensor, reader, seen) if self.scale is not None else None
        for start, end, data in self._pieces(reader, seen, step):
            if decoder is None:
                yield to_float(data, self.tensor.dtype, add).reshape(end - start, self.tensor.row_length)
            else:
                rows = decoder.floats(data, start, end)
                if add:
                    rows += add
                yield rows

    def blocks(self, reader: Reader, seen: Seen | None, step: int) -> Iterator[Blocks]:
        """The rows as blocks of `block_type` in pieces of `step` rows."""
        assert self.scale is not None and self.scale.block_type is not None
        decoder = self.scale.decoder(self.tensor, reader, seen)
        for start, end, data in self._pieces(reader, seen, step):
            yield decoder.blocks(data, start, end)

    def _pieces(self, reader: Reader, seen: Seen | None, step: int | None) -> Iterator[tuple[int, int, bytearray]]:
        step = step or self.end - self.start
        for start in range(self.start, self.end, step):
            end = min(start + step, self.end)
            data = reader.read(self.tensor.rows(start, end))
            if seen is not None:
                seen(data)
            yield start, end, data


class Several:
    """Rows of several sources."""

    @property
    def _sources(self) -> Sequence[Span | RowSource]:
        raise NotImplementedError

    @property
    def n_rows(self) -> int:
        """Total number of rows."""
        return sum(source.n_rows for source in self._sources)

    @property
    def n_per_row(self) -> int:
        """Elements per row, the same in all."""
        return self._sources[0].n_per_row

    @property
    def read_bytes(self) -> int:
        """Bytes that reading all rows takes."""
        return sum(source.read_bytes for source in self._sources)

    @property
    def ranges(self) -> list[FileRange]:
        """Where those bytes are."""
        return [where for source in self._sources for where in source.ranges]

    @property
    def block_type(self) -> TensorType | None:
        """The type that holds the values of all sources losslessly, or None."""
        kinds = {source.block_type for source in self._sources}
        return kinds.pop() if len(kinds) == 1 else None


class Rearranged(Several):
    """Rows of checkpoint tensors whose values are rearranged: stored blocks, which run along rows, cannot be kept."""

    @property
    def block_type(self) -> None:
        """None: no type holds them losslessly."""

    @property
    def spans(self) -> tuple[Span, ...]:
        """The rows of checkpoint tensors that it is made of."""
        raise NotImplementedError

    @property
    def _sources(self) -> tuple[Span, ...]:
        return self.spans

    def blocks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Blocks]:
        """Never called: `block_type` is None."""
        raise NotImplementedError


@dataclass(frozen=True)
class CheckpointRows(Several):
    """Rows of one or more checkpoint tensors, one after the other, with a constant added.

    Experts that are stored one by one, or fused with others, are spans: no array of all of them is ever made.
    """

    spans: tuple[Span, ...]
    add: float = 0.0

    def __post_init__(self) -> None:
        for span in self.spans:
            if span.tensor.dtype not in FLOAT_DTYPES and span.scale is None:
                raise UnsupportedFormat(
                    f"tensor '{span.tensor.name}' is stored as {span.tensor.dtype} without factors that nextn knows; "
                    "use the unquantized checkpoint",
                    path=span.tensor.where.path,
                    offset=span.tensor.where.start,
                )

    @property
    def _sources(self) -> tuple[Span, ...]:
        return self.spans

    @property
    def block_type(self) -> TensorType | None:
        """The type that holds the values of all spans losslessly, or None."""
        return None if self.add else super().block_type

    @property
    def _step(self) -> int:
        return max(1, CHUNK_ELEMENTS // max(1, self.n_per_row))

    def chunks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Rows]:
        """All rows in order."""
        for span in self.spans:
            yield from span.floats(reader, seen, self.add, self._step)

    def blocks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Blocks]:
        """All rows in order, in `block_type`."""
        for span in self.spans:
            yield from span.blocks(reader, seen, self._step)


@dataclass(frozen=True)
class GGUFRows:
    """Rows of a GGUF tensor, decoded by ggml: all of them, or `start` to `end`."""

    file: GGUFFile
    info: TensorInfo
    start: int = 0
    end: int | None = None

    spans = ()

    @property
    def n_rows(self) -> int:
        """Total number of rows."""
        end = self.info.n_elements // max(1, self.n_per_row) if self.end is None else self.end
        return end - self.start

    @property
    def n_per_row(self) -> int:
        """Elements per row."""
        return self.info.ne[0] if self.info.ne else 1

    @property
    def where(self) -> FileRange:
        """The bytes of the rows. Raises QuantizeError for a part of a tensor whose rows have no known size."""
        start, end = self.file.tensor_range(self.info)
        whole = FileRange.of(self.file, start, end)
        if self.start == 0 and self.end is None:
            return whole
        width = self._row_bytes()
        return whole.part(self.start * width, (self.start + self.n_rows) * width)

    def _row_bytes(self) -> int:
        return row_size(self._known_type(), self.n_per_row)

    def _known_type(self) -> TensorType:
        if self.info.type is None:
            raise QuantizeError(
                f"{self.file.path}: the type {self.info.type_id} of '{self.info.name}' is not known, so its values "
                "cannot be read; take the tensor from another file."
            )
        return self.info.type

    @property
    def read_bytes(self) -> int:
        """Bytes that reading all rows takes."""
        return self.where.size_bytes

    @property
    def ranges(self) -> list[FileRange]:
        """Where those bytes are."""
        return [self.where]

    @property
    def block_type(self) -> TensorType | None:
        """The type it is stored in, if known."""
        return self.info.type

    def chunks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Rows]:
        """All rows in order. Raises QuantizeError for a type that ggml cannot decode."""
        from ..ggml.quantize import dequantize

        kind = self._known_type()
        for data in self._pieces(reader, seen):
            yield dequantize(data, kind, self.n_per_row)

    def blocks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Blocks]:
        """All rows in order as they are stored."""
        import numpy as np

        for data in self._pieces(reader, seen):
            yield np.frombuffer(data, np.uint8).reshape(-1, self._row_bytes())

    def _pieces(self, reader: Reader, seen: Seen | None) -> Iterator[bytearray]:
        where, width = self.where, self._row_bytes()
        step = max(1, CHUNK_ELEMENTS // self.n_per_row)
        for first in range(0, self.n_rows, step):
            data = reader.read(where.part(first * width, min(first + step, self.n_rows) * width))
            if seen is not None:
                seen(data)
            yield data


@dataclass(frozen=True)
class JoinedRows(Several):
    """Rows of several tensors, one after the other; all rows have the same length."""

    parts: tuple[RowSource, ...]

    @property
    def spans(self) -> tuple[Span, ...]:
        """The rows of checkpoint tensors that it is made of."""
        return tuple(span for part in self.parts for span in part.spans)

    @property
    def _sources(self) -> tuple[RowSource, ...]:
        return self.parts

    def chunks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Rows]:
        """All rows in order."""
        for part in self.parts:
            yield from part.chunks(reader, seen)

    def blocks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Blocks]:
        """All rows in order, in `block_type`."""
        for part in self.parts:
            yield from part.blocks(reader, seen)
