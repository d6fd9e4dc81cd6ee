"""eh_proj with its halves swapped: the embedding's columns where the hidden state's belong.

Both halves are trained matrices of one size, and no statistic of the file by itself reliably distinguishes them; a
donor does at once, and so does an engine: see `nextn.measure.swapped_halves`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..block.anatomy import Anatomy
from ..block.model import EH_PROJ, Block
from ..gguf.files import GGUFFile
from ..gguf.tensors import TensorInfo
from ..sources.ranges import FileRange, Reader
from ..sources.rows import GGUFRows, RowSource
from ..writing.plan import Copy, Segment
from .commands import doctor_command
from .finding import Finding
from .patient import Patient

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SAME = 0.9  # cosine of two matrices that are the same except for quantization
_OTHER = 0.5
_MOST_ROWS = 64


def swapped_finding(seen: Anatomy, layer: int, how: str, *more: object) -> Finding:
    """The finding; `how` says what showed it, and `more` is what the command needs to find it again."""
    name = f"blk.{layer}.{EH_PROJ}"
    file, info = seen.model.tensors[name]
    segments = swapped_segments(file, info)
    return Finding(
        "eh-proj-swapped",
        "error",
        f"the halves of '{name}' are swapped: {how}.",
        name,
        "engines load it and the text stays correct, but hardly any draft is accepted",
        doctor_command(seen, *more)
        if segments
        else "attach the block again from its checkpoint: in this type the halves cannot be swapped without loss",
        None if segments is None else partial(_swapped, name=name, segments=tuple(segments)),
    )


def check_halves(seen: Anatomy, donor: Block, reader: Reader) -> Iterator[Finding]:
    """Against a donor's eh_proj, as it is and with its halves swapped. Reads a few rows of each."""
    for number, layer in enumerate(seen.blocks):
        mine = seen.model.tensors.get(f"blk.{layer}.{EH_PROJ}")
        theirs = next((t for t in donor.tensors if t.layer == number and t.suffix == EH_PROJ), None)
        if mine is None or theirs is None or mine[1].ne != theirs.ne or mine[1].type is None:
            continue
        left, right = _first_rows(GGUFRows(*mine), reader), _first_rows(theirs.rows, reader)
        if left is None or right is None:
            continue
        half = left.shape[1] // 2
        straight = _cosine(left, right)
        crossed = max(
            _cosine(left[:, half:], right[:, :half]), 0.0
        ) * max(_cosine(left[:, :half], right[:, half:]), 0.0)
        if crossed > _SAME * _SAME and straight < _OTHER:
            yield swapped_finding(seen, layer, f"each matches the other half in {donor.donor_name}")


def _first_rows(rows: RowSource, reader: Reader) -> NDArray[np.float32] | None:
    from ..errors import NextnError

    try:
        return next(rows.chunks(reader))[:_MOST_ROWS]
    except (NextnError, StopIteration):
        return None


def _cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    import numpy as np

    n = min(len(left), len(right))
    a, b = left[:n].astype(np.float64).ravel(), right[:n].astype(np.float64).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0


def swapped_segments(file: GGUFFile, info: TensorInfo) -> list[Segment] | None:
    """The tensor's bytes with the halves of every row swapped; None when no quantization block ends between them."""
    kind = info.type
    if kind is None or not kind.block_size or not kind.type_size or kind.row_meta_bytes or len(info.ne) != 2:
        return None
    half, odd = divmod(info.ne[0], 2)
    if odd or half % kind.block_size:
        return None
    size = half // kind.block_size * kind.type_size
    start, end = file.tensor_range(info)
    out: list[Segment] = []
    for row in range(start, end, 2 * size):
        out += [
            Copy(FileRange.of(file, row + size, row + 2 * size)),
            Copy(FileRange.of(file, row, row + size)),
        ]
    return out


def _swapped(patient: Patient, name: str, segments: tuple[Segment, ...]) -> Patient:
    now = next((new for new, old in patient.origin.items() if old == name), name)
    return patient.with_bytes(now, segments)
