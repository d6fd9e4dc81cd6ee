"""Tensors whose rows or columns are put in another order: pairs of halves for RoPE, two matrices side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .ranges import Reader
from .rows import CHUNK_ELEMENTS, CheckpointRows, Span

if TYPE_CHECKING:
    from .rows import Rows


@dataclass(frozen=True)
class InterleavedHalves:
    """Each span's first and second half of rows alternately: row 0, row n/2, row 1, row n/2 + 1, ...

    A span is one head; llama.cpp's converter orders q and k so for families that share LLaMA's code. One span at
    a time is in memory.
    """

    rows: CheckpointRows

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return self.rows.n_rows

    @property
    def n_per_row(self) -> int:
        """Elements of a row."""
        return self.rows.n_per_row

    @property
    def read_bytes(self) -> int:
        """Bytes that reading all rows takes."""
        return self.rows.read_bytes

    def chunks(self, reader: Reader, seen: Callable[[bytearray], None] | None = None) -> Iterator[Rows]:
        """All rows in order, one head at a time."""
        import numpy as np

        for span in self.rows.spans:
            head = span.floats(reader, span.start, span.end, seen)
            half = len(head) // 2
            yield np.ascontiguousarray(head.reshape(2, half, -1).swapaxes(0, 1)).reshape(2 * half, -1)


@dataclass(frozen=True)
class SideBySide:
    """Two matrices of as many rows: each row is the left one's, then the right one's."""

    left: Span
    right: Span

    @property
    def spans(self) -> tuple[Span, Span]:
        """What is read."""
        return self.left, self.right

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return self.left.end - self.left.start

    @property
    def n_per_row(self) -> int:
        """Elements of a row."""
        return self.left.tensor.row_length + self.right.tensor.row_length

    @property
    def read_bytes(self) -> int:
        """Bytes that reading all rows takes."""
        return self.left.read_bytes + self.right.read_bytes

    def chunks(self, reader: Reader, seen: Callable[[bytearray], None] | None = None) -> Iterator[Rows]:
        """All rows in order."""
        import numpy as np

        step = max(1, CHUNK_ELEMENTS // self.n_per_row)
        for first in range(0, self.n_rows, step):
            last = min(first + step, self.n_rows)
            yield np.concatenate(
                [
                    span.floats(reader, span.start + first, span.start + last, seen)
                    for span in (self.left, self.right)
                ],
                axis=1,
            )
