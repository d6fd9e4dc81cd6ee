"""FP8 checkpoints: one byte a value (E4M3), and one factor for each block of rows and columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from ..errors import FormatError
from .ranges import Reader
from .safetensors import SourceTensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .rows import Span

FP8_DTYPE = "F8_E4M3"
SCALE_SUFFIX = "_scale_inv"  # behind the weight's name, as DeepSeek publishes it


@cache
def e4m3_values() -> NDArray[np.float32]:
    """The value of each byte: sign, four bits of exponent (bias 7), three of mantissa; no infinities, two NaNs."""
    import numpy as np

    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    size = np.where(exponent == 0, np.ldexp(mantissa / 8.0, -6), np.ldexp(1 + mantissa / 8.0, exponent - 7))
    size[(code & 127) == 127] = np.nan
    return np.where(code & 128, -size, size).astype(np.float32)


@dataclass(frozen=True)
class BlockScale:
    """Factors [ceil(rows / block_rows), ceil(columns / block_columns)], for each matrix of a tensor."""

    tensor: SourceTensor
    block_rows: int
    block_columns: int

    def check(self, weight: SourceTensor) -> BlockScale:
        """Itself. Raises FormatError when it does not fit `weight`."""
        rows, columns = -(-weight.shape[-2] // self.block_rows), -(-weight.shape[-1] // self.block_columns)
        wanted = (*weight.shape[:-2], rows, columns)
        if self.tensor.shape != wanted or self.tensor.dtype not in ("BF16", "F16", "F32"):
            raise FormatError(
                f"the factors '{self.tensor.name}' do not fit their weight",
                path=self.tensor.where.path,
                offset=self.tensor.where.start,
                expected=str(list(wanted)),
                found=f"{list(self.tensor.shape)} as {self.tensor.dtype}",
            )
        return self

    def _range(self, weight: SourceTensor, start: int, end: int) -> tuple[int, int]:
        """The rows of factors that rows `start` to `end` of the weight need."""
        n_rows, n_scales = weight.shape[-2], self.tensor.shape[-2]

        def row(i: int) -> int:
            return i // n_rows * n_scales + i % n_rows // self.block_rows

        return row(start), row(end - 1) + 1

    def read_bytes(self, span: Span) -> int:
        """Bytes of factors that the rows of `span` need, if read in one piece."""
        first, last = self._range(span.tensor, span.start, span.end)
        return (last - first) * self.tensor.row_bytes

    def factors(
        self,
        weight: SourceTensor,
        reader: Reader,
        start: int,
        end: int,
        seen: Callable[[bytearray], None] | None,
    ) -> NDArray[np.float32]:
        """One factor for each value of rows `start` to `end`."""
        import numpy as np

        from .rows import to_float

        first, last = self._range(weight, start, end)
        data = reader.read(self.tensor.rows(first, last))
        if seen is not None:
            seen(data)
        scales = to_float(data, self.tensor.dtype).reshape(last - first, self.tensor.row_length)
        i = np.arange(start, end)
        n_rows, n_scales = weight.shape[-2], self.tensor.shape[-2]
        chosen = scales[i // n_rows * n_scales + i % n_rows // self.block_rows - first]
        return np.repeat(chosen, self.block_columns, axis=1)[:, : weight.row_length]
