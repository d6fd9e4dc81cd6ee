"""How stored codes become values: what a quantized checkpoint tensor has besides its codes.

Codes and values have the same rows in the same order, so a tensor can be read in pieces of any number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..errors import FormatError
from ..gguf.types import TensorType
from .ranges import FileRange, Reader
from .safetensors import SourceTensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]

Seen = Callable[[bytearray], None]


class Decoder(Protocol):
    """Turns pieces of one tensor's rows into values, in order; keeps what neighbouring pieces share."""

    def floats(self, data: bytearray, start: int, end: int) -> Rows:
        """Rows `start` to `end`, stored as `data`, as float32 [end - start, n_per_row]."""

    def blocks(self, data: bytearray, start: int, end: int) -> NDArray[np.uint8]:
        """The same rows as blocks of the scale's `block_type`; only if it has one."""


class Scale(Protocol):
    """The companions of a stored tensor."""

    @property
    def block_type(self) -> TensorType | None:
        """ggml's type that holds the same bits in another order, or None."""

    def shape(self, stored: SourceTensor) -> tuple[int, ...]:
        """The shape of the values, slowest axis first."""

    def ranges(self, stored: SourceTensor, start: int, end: int) -> list[FileRange]:
        """What is read of the companions for rows `start` to `end`, however they are split into pieces."""

    def decoder(self, stored: SourceTensor, reader: Reader, seen: Seen | None) -> Decoder:
        """A decoder; `seen` receives every piece of the companions' bytes."""


@dataclass
class RowWindow:
    """Rows of a companion, read forward, each once; the last ones are kept, since the next piece may share them."""

    tensor: SourceTensor
    reader: Reader
    seen: Seen | None
    _first: int = 0
    _last: int = 0
    _data: bytearray = field(default_factory=bytearray)

    def read(self, first: int, last: int) -> bytearray:
        """Bytes of rows `first` to `last`; `first` never goes back."""
        width = self.tensor.row_bytes
        if first >= self._last:
            self._first = self._last = first
            self._data = bytearray()
        else:
            del self._data[: (first - self._first) * width]
            self._first = first
        if last > self._last:
            new = self.reader.read(self.tensor.rows(self._last, last))
            if self.seen is not None:
                self.seen(new)
            self._data += new
            self._last = last
        return self._data[: (last - first) * width]


def misfit(what: str, tensor: SourceTensor, wanted: object, found: object | None = None) -> FormatError:
    """The error for a companion that does not belong to its weight."""
    return FormatError(
        what,
        path=tensor.where.path,
        offset=tensor.where.start,
        expected=str(wanted),
        found=f"{list(tensor.shape)} as {tensor.dtype}" if found is None else str(found),
    )
