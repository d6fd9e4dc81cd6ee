"""Tensors that are not simply rows in order: parts of a matrix that engines want split or transposed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import FormatError
from .fp8 import BlockScale
from .packed import Fp4, tensor_factor
from .ranges import FileRange, Reader
from .rows import CheckpointRows, Rearranged, Span
from .safetensors import SourceTensor
from .scales import Seen

if TYPE_CHECKING:
    from .rows import Blocks, Rows


@dataclass(frozen=True)
class TransposedParts(Rearranged):
    """Each span read completely and transposed: [rows, columns] of a head become [columns, rows].

    Only one span is in memory at a time. All spans have the same shape.
    """

    rows: CheckpointRows

    @property
    def n_rows(self) -> int:
        """Total number of rows."""
        return self.rows.n_per_row * len(self.rows.spans)

    @property
    def n_per_row(self) -> int:
        """Elements per row."""
        return self.rows.spans[0].n_rows

    @property
    def spans(self) -> tuple[Span, ...]:
        """The rows of checkpoint tensors that it is made of."""
        return self.rows.spans

    def chunks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Rows]:
        """All rows in order."""
        import numpy as np

        for span in self.rows.spans:
            for rows in span.floats(reader, seen):
                yield np.ascontiguousarray(rows.T)


@dataclass(frozen=True)
class Factors:
    """One number from each of several tensors, or its reciprocal; None stands for 1. One row."""

    tensors: tuple[SourceTensor | None, ...]
    reciprocal: bool

    spans = ()  # numbers, not rows of a tensor
    block_type = None
    n_rows = 1

    @property
    def n_per_row(self) -> int:
        """Elements in the row."""
        return len(self.tensors)

    @property
    def read_bytes(self) -> int:
        """Bytes that reading takes."""
        return sum(where.size_bytes for where in self.ranges)

    @property
    def ranges(self) -> list[FileRange]:
        """Where those bytes are."""
        return [tensor.where for tensor in self.tensors if tensor is not None]

    def chunks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Rows]:
        """The row."""
        import numpy as np

        one = np.float32(1.0)
        yield np.array(
            [[one if x is None else tensor_factor(x, self.reciprocal, reader, seen) for x in self.tensors]], np.float32
        )

    def blocks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Blocks]:
        """Never called: `block_type` is None."""
        raise NotImplementedError


def side_factors(rows: CheckpointRows) -> dict[str, Factors]:
    """What accompanies the blocks of NVFP4 tensors, by name suffix; one number per span (expert).

    `scale` is multiplied with the result of the matrix product, `input_scale` is for quantizing its input. Numbers
    of 1 are written too; the converter leaves them out, and engines take both.
    """
    scales = [span.scale for span in rows.spans]
    out = {}
    for ending, name in (("scale", "whole"), ("input_scale", "input")):
        found = tuple(getattr(scale, name) if isinstance(scale, Fp4) else None for scale in scales)
        if any(tensor is not None for tensor in found):
            out[ending] = Factors(found, any(isinstance(scale, Fp4) and scale.reciprocal for scale in scales))
    return out


def head_parts(whole: Span, n_head: int, start: int, end: int) -> tuple[Span, ...]:
    """Rows `start` to `end` of each head of a matrix whose rows are the heads' rows, one head after the other."""
    size = whole.tensor.n_rows // n_head
    return tuple(whole.part(head * size + start, head * size + end) for head in range(n_head))


def ranked_qkv(whole: Span, sizes: tuple[int, int, int], ranks: tuple[int, ...]) -> tuple[Span, ...]:
    """All rows of q, then of k, then of v, from a matrix of `sizes` rows of them.

    Unquantized, it is stored that way. In FP8 it is stored as a tensor-parallel run's ranks wrote it: each rank's q, k
    and v, with blocks of factors that restart at each rank; which of `ranks` applies follows from the rows of factors.
    Source: MiMo-V2.5's checkpoints as llama.cpp's converter reads them. Raises FormatError when nothing fits.
    """
    scale, n_rows = whole.scale, whole.tensor.n_rows
    if n_rows != sum(sizes):
        raise FormatError(
            f"'{whole.tensor.name}' does not have the rows of q, k and v that config.json says",
            path=whole.tensor.where.path,
            offset=whole.tensor.where.start,
            expected=" + ".join(f"{n:,}" for n in sizes),
            found=f"{n_rows:,}",
        )
    if not isinstance(scale, BlockScale) or scale.block_rows in (1, n_rows):
        return (whole,)
    n_factors = scale.tensor.n_rows
    for n_ranks in ranks:
        rows = n_rows // n_ranks
        if any(n % n_ranks for n in sizes) or n_factors != n_ranks * -(-rows // scale.block_rows):
            continue
        ranked = replace(whole, scale=replace(scale, matrix_rows=rows))
        out = []
        first = 0
        for n in sizes:
            size = n // n_ranks
            out += [ranked.part(rank * rows + first, rank * rows + first + size) for rank in range(n_ranks)]
            first += size
        return tuple(out)
    if n_factors == -(-n_rows // scale.block_rows):
        return (whole,)
    raise FormatError(
        f"the factors '{scale.tensor.name}' fit '{whole.tensor.name}' neither whole nor split by "
        f"{' or '.join(map(str, sorted(ranks)))} ranks",
        path=scale.tensor.where.path,
        offset=scale.tensor.where.start,
        expected=f"{-(-n_rows // scale.block_rows)} rows",
        found=f"{n_factors}",
    )
