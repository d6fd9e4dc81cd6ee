"""Tensors whose rows or columns are put in another order: pairs of halves for RoPE, two matrices side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .ranges import Reader
from .rows import CHUNK_ELEMENTS, CheckpointRows, Rearranged, Span
from .scales import Seen

if TYPE_CHECKING:
    from .rows import Rows


@dataclass(frozen=True)
class InterleavedHalves(Rearranged):
    """The first and second half of each span's rows, interleaved: row 0, row n/2, row 1, row n/2 + 1, ...

    A span is one head; llama.cpp's converter orders q and k this way for families that share LLaMA's code. One span at
    a time is in memory.
    """

    rows: CheckpointRows

    @property
    def spans(self) -> tuple[Span, ...]:
        """The rows of checkpoint tensors that it is made of."""
        return self.rows.spans

    def chunks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Rows]:
        """All rows in order, one head at a time."""
        import numpy as np

        for span in self.rows.spans:
            for head in span.floats(reader, seen):
                half = len(head) // 2
                yield np.ascontiguousarray(head.reshape(2, half, -1).swapaxes(0, 1)).reshape(2 * half, -1)


@dataclass(frozen=True)
class SideBySide(Rearranged):
    """Two matrices with equal row counts: each row is the left one's, then the right one's."""

    left: Span
    right: Span

    @property
    def n_rows(self) -> int:
        """Total number of rows."""
        return self.left.n_rows

    @property
    def n_per_row(self) -> int:
        """Elements per row."""
        return self.left.n_per_row + self.right.n_per_row

    @property
    def spans(self) -> tuple[Span, ...]:
        """The rows of checkpoint tensors that it is made of."""
        return self.left, self.right

    def chunks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Rows]:
        """All rows in order."""
        import numpy as np

        step = max(1, CHUNK_ELEMENTS // self.n_per_row)
        halves = (span.floats(reader, seen, step=step) for span in self.spans)
        for left, right in zip(*halves, strict=True):
            yield np.concatenate([left, right], axis=1)
