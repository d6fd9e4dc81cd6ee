"""One byte per value (FP8 or INT8), and one factor per block of rows and columns.

Entire rows and entire tensors are blocks too: one factor per channel, or one for all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from .ranges import FileRange, Reader
from .safetensors import SourceTensor
from .scales import RowWindow, Seen, misfit
from .small_floats import FLOAT_DTYPES, to_float

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]
    T = TypeVar("T", int, NDArray[np.int64])

FACTOR_DTYPES = (*FLOAT_DTYPES, "F8_E8M0")


@dataclass(frozen=True)
class BlockScale:
    """Factors [matrices * ceil(matrix_rows / block_rows), ceil(columns / block_columns)].

    A tensor is one matrix or several, one after the other; blocks never cross from one into the next.
    """

    tensor: SourceTensor
    block_rows: int
    block_columns: int
    matrix_rows: int

    block_type = None  # ggml has no one-byte type with such blocks

    def shape(self, stored: SourceTensor) -> tuple[int, ...]:
        """The shape of the values: that of the codes."""
        return stored.shape

    def factor_rows(self, rows: T) -> T:
        """The row of factors for a row of codes; for one row, or for an array of them."""
        matrix, inner = rows // self.matrix_rows, rows % self.matrix_rows
        return matrix * -(-self.matrix_rows // self.block_rows) + inner // self.block_rows

    def ranges(self, stored: SourceTensor, start: int, end: int) -> list[FileRange]:
        """The rows of factors that rows `start` to `end` need."""
        return [self.tensor.rows(self.factor_rows(start), self.factor_rows(end - 1) + 1)]

    def decoder(self, stored: SourceTensor, reader: Reader, seen: Seen | None) -> _BlockDecoder:
        """A decoder of `stored`."""
        return _BlockDecoder(self, stored, RowWindow(self.tensor, reader, seen))


@dataclass
class _BlockDecoder:
    scale: BlockScale
    stored: SourceTensor
    window: RowWindow

    def floats(self, data: bytearray, start: int, end: int) -> Rows:
        """Codes times factors, in float32."""
        import numpy as np

        scale, columns = self.scale, self.stored.row_length
        chosen = scale.factor_rows(np.arange(start, end))
        first, last = int(chosen[0]), int(chosen[-1]) + 1
        factors = to_float(self.window.read(first, last), scale.tensor.dtype)
        factors = factors.reshape(last - first, scale.tensor.row_length)[chosen - first]
        rows: Rows = to_float(data, self.stored.dtype).reshape(end - start, columns)
        width = scale.block_columns
        whole = columns // width  # blocks of full width; multiplied in place, without expanding to one factor per value
        inner = rows[:, : whole * width].reshape(end - start, whole, width)
        inner *= factors[:, :whole, None]
        rows[:, whole * width :] *= factors[:, whole:]
        return rows

    def blocks(self, data: bytearray, start: int, end: int) -> NDArray[np.uint8]:
        """Never called: `block_type` is None."""
        raise NotImplementedError


def block_scale(
    weight: SourceTensor, factors: SourceTensor, size: tuple[int, int] | None, *, ranked: bool = False
) -> BlockScale:
    """The factors of `weight`: one for all, one per row, or blocks of `size` (None: not known).

    `ranked` leaves the number of rows of factors to `matrix_parts.ranked_qkv`. Raises FormatError when they do not fit.
    """
    what = f"the factors '{factors.name}' do not fit their weight '{weight.name}' {list(weight.shape)}"
    if factors.dtype not in FACTOR_DTYPES:
        raise misfit(what, factors, f"factors as {', '.join(FACTOR_DTYPES)}")
    rows, columns = weight.n_rows, weight.row_length
    if all(n == 1 for n in factors.shape):
        return BlockScale(replace(factors, shape=(1, 1)), rows, columns, rows)
    matrix_rows = weight.shape[-2]
    if factors.shape in (weight.shape[:-1], (*weight.shape[:-1], 1)):
        return BlockScale(replace(factors, shape=(rows, 1)), 1, columns, matrix_rows)
    if size is None:
        raise misfit(what, factors, f"{list(weight.shape[:-1])} or a block size in config.json")
    wanted = (*weight.shape[:-2], -(-matrix_rows // size[0]), -(-columns // size[1]))
    if factors.shape != wanted and not (ranked and len(factors.shape) == 2 and factors.shape[1] == wanted[1]):
        raise misfit(what, factors, list(wanted))
    return BlockScale(factors, *size, matrix_rows)
