"""The block's own embeddings and head where they duplicate the model's, as in DeepSeek-V3 and GLM-4.5 checkpoints.

DeepSeek-V3's technical report (2.2) says that the block shares both with the model; its checkpoints hold them twice
nevertheless. Engines draft with the trunk's where the block has none, so a copy only wastes disk and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..archs import FAMILIES
from ..errors import UsageError
from ..sources.quantized import first_whole
from ..sources.ranges import FileRange, Reader
from ..sources.rows import CheckpointRows, GGUFRows, RowSource
from .model import DRAFT_HEAD, EMBED_TOKENS, Block, BlockTensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KEEP, DROP = "keep", "drop"
CHOICES = (KEEP, DROP)
_EMBEDDINGS, _HEAD = "token_embd.weight", "output.weight"
_TWINS = {EMBED_TOKENS: (_EMBEDDINGS,), DRAFT_HEAD: (_HEAD, _EMBEDDINGS)}  # a tied model's head is its embeddings
N_ROWS = 64  # rows compared per matrix, spread evenly
ALIKE = 0.97  # least mean cosine of rows when one side is quantized; 2-bit types stay above it

Fetch = Callable[[Sequence[FileRange]], object]  # downloads ranges of remote files


def check_choice(choice: str) -> None:
    """Raise UsageError for an unknown choice."""
    if choice not in CHOICES:
        raise UsageError(f"'{choice}' is not a choice for duplicates; choose one of {', '.join(CHOICES)}.")


def without_duplicates(block: Block, fetch: Fetch | None = None) -> tuple[Block, list[str]]:
    """The block without embeddings and heads that duplicate its model's, and a note on each one found.

    `N_ROWS` rows are compared: value by value where both sides are stored as floating point, else by direction. What
    differs, or has no counterpart to compare with, stays. Raises what reading raises.
    """
    notes: list[str] = []
    left_out = []
    found = [tensor for tensor in block.tensors if tensor.suffix in _TWINS]
    for tensor in found:
        name = tensor.name(block.n_layer_trunk or 0)
        twin = _twin(block, tensor)
        if twin is None:
            notes.append(f"{name} is kept: the donor has nothing to compare it with")
        elif _same(tensor, twin, fetch):
            left_out.append(tensor)
            notes.append(
                f"{name} is left out ({tensor.rows.read_bytes:,} bytes of the donor): it equals the model's in the "
                f"{min(N_ROWS, twin.n_rows)} rows that were compared, and engines draft with the trunk's"
            )
        else:
            notes.append(f"{name} is kept: it differs from the model's")
    if not found:
        notes.append("the block has no embeddings or head of its own")
    return replace(block, tensors=tuple(x for x in block.tensors if x not in left_out)), notes


def _twin(block: Block, tensor: BlockTensor) -> RowSource | None:
    """The matrix that serves the same purpose in the donor's model; None where it has none."""
    for root in _TWINS[tensor.suffix]:
        found = _root(block, root)
        if found is not None:
            same_shape = (found.n_rows, found.n_per_row) == (tensor.rows.n_rows, tensor.rows.n_per_row)
            return found if same_shape else None
    return None


def _root(block: Block, root: str) -> RowSource | None:
    if block.model is not None:
        entry = block.model.tensors.get(root)
        return None if entry is None else GGUFRows(*entry)
    assert block.checkpoint is not None
    span = first_whole(block.checkpoint, FAMILIES[block.architecture].root.get(root, ()))
    return None if span is None else CheckpointRows((span,))


def _some(rows: RowSource) -> list[RowSource]:
    """`N_ROWS` single rows, spread evenly from the first to the last."""
    n = min(N_ROWS, rows.n_rows)
    numbers = sorted({i * (rows.n_rows - 1) // max(1, n - 1) for i in range(n)})
    if isinstance(rows, GGUFRows):
        return [GGUFRows(rows.file, rows.info, i, i + 1) for i in numbers]
    return [CheckpointRows((rows.spans[0].part(i, i + 1),)) for i in numbers]


def _same(tensor: BlockTensor, twin: RowSource, fetch: Fetch | None) -> bool:
    import numpy as np

    mine, theirs = _some(tensor.rows), _some(twin)
    if fetch is not None:
        fetch([where for row in (*mine, *theirs) for where in row.ranges])
    exact = _is_float(tensor.rows) and _is_float(twin)
    cosines = []
    with Reader() as reader:
        for left, right in zip(_values(mine, reader), _values(theirs, reader), strict=True):
            if exact and not np.array_equal(left, right):
                return False
            length = float(np.linalg.norm(left) * np.linalg.norm(right))
            if length:  # padding rows are zeros
                cosines.append(float(left @ right) / length)
    return exact or (bool(cosines) and float(np.mean(cosines)) >= ALIKE)


def _values(rows: Sequence[RowSource], reader: Reader) -> Iterator[NDArray[np.float32]]:
    for row in rows:
        for chunk in row.chunks(reader):
            yield chunk[0]


def _is_float(rows: RowSource) -> bool:
    if isinstance(rows, GGUFRows):
        return rows.info.type is not None and rows.info.type.block_size == 1
    return all(span.scale is None for span in rows.spans)
