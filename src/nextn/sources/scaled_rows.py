"""Rows of a GGUF tensor times the factors that are stored beside it, as beside NVFP4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import FormatError
from .ranges import FileRange, Reader
from .rows import GGUFRows
from .scales import Seen

if TYPE_CHECKING:
    from .rows import Blocks, Rows


@dataclass(frozen=True)
class ScaledRows:
    """Rows of a GGUF tensor times a factor: one for all rows, or one for each of equal runs of them (experts)."""

    rows: GGUFRows
    factors: GGUFRows

    spans = ()
    block_type = None

    @property
    def n_rows(self) -> int:
        """Total number of rows."""
        return self.rows.n_rows

    @property
    def n_per_row(self) -> int:
        """Elements per row."""
        return self.rows.n_per_row

    @property
    def read_bytes(self) -> int:
        """Bytes that reading all rows takes."""
        return self.rows.read_bytes + self.factors.read_bytes

    @property
    def ranges(self) -> list[FileRange]:
        """Where those bytes are."""
        return [*self.rows.ranges, *self.factors.ranges]

    def chunks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Rows]:
        """All rows in order. Raises FormatError when there is not one factor for each of equal runs of rows."""
        import numpy as np

        factors = np.concatenate([chunk.reshape(-1) for chunk in self.factors.chunks(reader, seen)])
        if not len(factors) or self.n_rows % len(factors):
            raise FormatError(
                f"'{self.factors.info.name}' has {len(factors):,} factors for {self.n_rows:,} rows",
                path=self.factors.file.path,
            )
        each = self.n_rows // len(factors)
        first = 0
        for rows in self.rows.chunks(reader, seen):
            at = np.arange(first, first + len(rows)) // each
            yield rows * factors[at, np.newaxis]
            first += len(rows)

    def blocks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Blocks]:
        """Never called: `block_type` is None."""
        raise NotImplementedError
