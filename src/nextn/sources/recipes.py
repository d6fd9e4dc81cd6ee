"""Tensors that are more than rows in their order: parts of a matrix that engines want apart or turned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .ranges import Reader
from .rows import CheckpointRows, Span

if TYPE_CHECKING:
    from .rows import Rows


@dataclass(frozen=True)
class TransposedParts:
    """Each span read whole and transposed: [rows, columns] of a head become [columns, rows].

    One span at a time is in memory. All spans have the same shape.
    """

    rows: CheckpointRows

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return self.rows.n_per_row * len(self.rows.spans)

    @property
    def n_per_row(self) -> int:
        """Elements of a row."""
        return self.rows.spans[0].end - self.rows.spans[0].start

    @property
    def read_bytes(self) -> int:
        """Bytes that reading all rows takes."""
        return self.rows.read_bytes

    def chunks(self, reader: Reader, seen: Callable[[bytearray], None] | None = None) -> Iterator[Rows]:
        """All rows in order."""
        import numpy as np

        for span in self.rows.spans:
            yield np.ascontiguousarray(span.floats(reader, span.start, span.end, seen).T)


def head_parts(whole: Span, n_head: int, start: int, end: int) -> tuple[Span, ...]:
    """Rows `start` to `end` of each head of a matrix whose rows are the heads' rows, one head behind the other."""
    size = whole.tensor.n_rows // n_head
    return tuple(
        Span(whole.tensor, head * size + start, head * size + end, whole.scale) for head in range(n_head)
    )
