"""Tensors as rows of float32, read in chunks: what a quantizer eats.

Every source yields arrays of shape (n_rows_of_chunk, n_per_row), C-contiguous float32, whose rows follow the
order of the GGUF tensor they become.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import UnsupportedFormat
from ..gguf.files import GGUFFile
from ..gguf.header import TensorInfo
from ..gguf.types import row_size
from .fp8 import BlockScale, e4m3_values
from .ranges import FileRange, Reader
from .safetensors import SourceTensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]

CHUNK_ELEMENTS = 2 << 20  # 8 MiB of float32
FLOAT_DTYPES = ("BF16", "F16", "F32")


class RowSource(Protocol):
    """A tensor that can be read as float32 rows."""

    @property
    def n_rows(self) -> int:
        """Rows in all."""

    @property
    def n_per_row(self) -> int:
        """Elements of a row."""

    @property
    def read_bytes(self) -> int:
        """Bytes that reading all rows takes from the source."""

    def chunks(self, reader: Reader, seen: Callable[[bytearray], None] | None = None) -> Iterator[Rows]:
        """All rows in order; `seen` is given every piece of source bytes (for a hash)."""


def to_float(data: bytearray, dtype: str, add: float = 0.0) -> Rows:
    """Source bytes as float32 with `add` added, rounded where the converter rounds.

    The converter lifts bfloat16 to float32 before it computes, but computes on float16 in float16.
    """
    import numpy as np

    if dtype == "F16":
        half = np.frombuffer(data, dtype="<f2")
        return (half + np.float16(add) if add else half).astype(np.float32)
    if dtype == "F32":
        values = np.frombuffer(data, dtype="<f4")
    else:  # bfloat16 is the upper half of a float32
        values = (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    return values + np.float32(add) if add else values


@dataclass(frozen=True)
class Span:
    """Rows `start` to `end` of a checkpoint tensor."""

    tensor: SourceTensor
    start: int
    end: int
    scale: BlockScale | None = None  # for FP8

    @property
    def read_bytes(self) -> int:
        """Bytes that reading it takes."""
        own = (self.end - self.start) * self.tensor.row_bytes
        return own + (self.scale.read_bytes(self) if self.scale is not None else 0)

    def floats(
        self, reader: Reader, start: int, end: int, seen: Callable[[bytearray], None] | None, add: float = 0.0
    ) -> Rows:
        """Rows `start` to `end` of the tensor as float32, one row each."""
        data = reader.read(self.tensor.rows(start, end))
        if seen is not None:
            seen(data)
        if self.scale is None:
            return to_float(data, self.tensor.dtype, add).reshape(end - start, self.tensor.row_length)
        import numpy as np

        codes = e4m3_values()[np.frombuffer(data, dtype=np.uint8)].reshape(end - start, self.tensor.row_length)
        rows: Rows = codes * self.scale.factors(self.tensor, reader, start, end, seen)
        return rows


@dataclass(frozen=True)
class CheckpointRows:
    """Rows of one or more checkpoint tensors, one behind the other, with a constant added.

    Experts that are stored one by one, or fused with others, are spans: no array of all of them is ever made.
    """

    spans: tuple[Span, ...]
    add: float = 0.0

    def __post_init__(self) -> None:
        for span in self.spans:
            if span.tensor.dtype not in FLOAT_DTYPES and span.scale is None:
                raise UnsupportedFormat(
                    f"tensor '{span.tensor.name}' is stored as {span.tensor.dtype}, and only "
                    f"{', '.join(FLOAT_DTYPES)} checkpoints are read; take the unquantized checkpoint",
                    path=span.tensor.where.path,
                    offset=span.tensor.where.start,
                )

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return sum(span.end - span.start for span in self.spans)

    @property
    def n_per_row(self) -> int:
        """Elements of a row."""
        return self.spans[0].tensor.row_length

    @property
    def read_bytes(self) -> int:
        """Bytes that reading all rows takes."""
        return sum(span.read_bytes for span in self.spans)

    def chunks(self, reader: Reader, seen: Callable[[bytearray], None] | None = None) -> Iterator[Rows]:
        """All rows in order."""
        step = max(1, CHUNK_ELEMENTS // max(1, self.n_per_row))
        for span in self.spans:
            for start in range(span.start, span.end, step):
                yield span.floats(reader, start, min(start + step, span.end), seen, self.add)


@dataclass(frozen=True)
class GGUFRows:
    """Rows of a GGUF tensor, decoded by ggml."""

    file: GGUFFile
    info: TensorInfo

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return self.info.n_elements // self.n_per_row

    @property
    def n_per_row(self) -> int:
        """Elements of a row."""
        return self.info.ne[0]

    @property
    def read_bytes(self) -> int:
        """Bytes that reading all rows takes."""
        return self.file.stored_size(self.info)

    def chunks(self, reader: Reader, seen: Callable[[bytearray], None] | None = None) -> Iterator[Rows]:
        """All rows in order. Raises QuantizeError for a type that ggml cannot decode."""
        from ..quantize import dequantize

        start, end = self.file.tensor_range(self.info)
        where = FileRange(self.file.path, start, end)
        kind = self.info.type
        assert kind is not None
        row_bytes = row_size(kind, self.n_per_row)
        step = max(1, CHUNK_ELEMENTS // self.n_per_row)
        for first in range(0, self.n_rows, step):
            last = min(first + step, self.n_rows)
            data = reader.read(where.part(first * row_bytes, last * row_bytes))
            if seen is not None:
                seen(data)
            yield dequantize(data, kind, self.n_per_row)
