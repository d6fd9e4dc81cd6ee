"""Zero-centred norms whose +1 is missing or was added twice.

Checkpoints of these families store w and compute with 1 + w; GGUF stores 1 + w. Two signs are read. The *grid*: w was
bfloat16, so of v, v - 1 and v - 2 only the one that is w lies on bfloat16's coarse grid throughout; that is close to
proof. The *mean*: compared with that of the trunk's norms of the same name. A norm is reported only if both agree, or,
where the grid shows nothing (F32 checkpoints, merges), when every norm of the block that has counterparts in the
trunk is off by the same 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING

from ..archs.base import Transform
from ..block.anatomy import Anatomy
from ..errors import FormatError
from ..gguf.files import GGUFFile, Model
from ..gguf.tensors import TensorInfo
from ..gguf.types import parse_type_name
from ..sources.ranges import FileRange, Reader
from ..writing.plan import NewBytes
from .commands import doctor_command
from .finding import Finding
from .patient import Patient

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

F32 = parse_type_name("f32").id
_GRID_SHARE = 0.98  # share of values that must lie on the grid (allows for a fine-tune's few odd ones)
_LEAST_VALUES = 16  # fewer prove nothing
_OFF = (0.6, 1.4)  # how far apart means are when 1 was added once too often or too seldom
_MOST_TRUNK_LAYERS = 8  # read of the trunk; the last ones are most like the block


@dataclass(frozen=True)
class Norm:
    """One norm of the block."""

    name: str
    mean: float
    grid: frozenset[int]  # those of 0, 1, 2 for which v minus it lies on bfloat16's grid
    fellows: float | None  # median mean of the trunk's norms of that name

    @property
    def by_mean(self) -> int:
        """The excess by the mean only: -1, 0 or 1."""
        off = self.mean - (self.fellows if self.fellows is not None else 1.0)
        return -1 if -_OFF[1] < off < -_OFF[0] else 1 if _OFF[0] < off < _OFF[1] else 0

    @property
    def shift(self) -> int | None:
        """The excess: -1 (the +1 is missing), 1 (added twice), 0; None: the signs disagree."""
        if len(self.grid) == 1:
            by_grid = next(iter(self.grid)) - 1
            return by_grid if by_grid in (0, self.by_mean) else None
        return 0 if self.by_mean == 0 else None


def zero_centred(seen: Anatomy) -> set[str]:
    """Names after `blk.N.` of the norms that are stored with a +1."""
    rules = seen.family.rules if seen.family else ()
    return {rule.target for rule in rules if any(src.transform is Transform.PLUS_ONE for src in rule.sources)}


def check_norms(seen: Anatomy, reader: Reader) -> Iterator[Finding]:
    """One finding for all norms that miss it, one for all that have it twice. Reads a few vectors."""
    wanted = zero_centred(seen)
    if not wanted or not seen.blocks:
        return
    norms = list(_norms(seen, wanted, reader))
    shifts = {norm.name: norm.shift for norm in norms}
    with_fellows = [norm for norm in norms if norm.fellows is not None]
    if None in shifts.values() and len(with_fellows) >= 2:
        agreed = {norm.by_mean for norm in with_fellows}
        if len(agreed) == 1 and agreed != {0}:  # all off by the same 1: the grid showed nothing
            common = agreed.pop()
            shifts |= {norm.name: common for norm in norms if norm.shift is None and norm.by_mean == common}
    sure = [shift for shift in shifts.values() if shift is not None]
    if len(sure) > 1 and len(set(sure)) == 1 and sure[0]:  # the same for the norms that the grid leaves open
        shifts |= {
            norm.name: sure[0]
            for norm in norms
            if shifts[norm.name] is None and norm.by_mean == sure[0] and (not norm.grid or sure[0] + 1 in norm.grid)
        }
    for shift, ident, how in (
        (-1, "norm-plus-one-missing", "lack the +1 that GGUF stores"),
        (1, "norm-plus-one-doubled", "have the +1 twice"),
    ):
        sick = [norm for norm in norms if shifts[norm.name] == shift]
        if not sick:
            continue
        means = f"{min(norm.mean for norm in sick):.2f} to {max(norm.mean for norm in sick):.2f}"
        yield Finding(
            ident,
            "error" if shift < 0 else "warning",
            f"{len(sick)} of the block's {len(norms)} norms {how}: their means are {means}, and zero-centred norms "
            "have means of about 1 in GGUF.",
            ", ".join(norm.name for norm in sick[:4]) + (", ..." if len(sick) > 4 else ""),
            "engines load it and the text stays correct, but "
            + ("hardly any draft is accepted" if shift < 0 else "drafts may be accepted less often"),
            doctor_command(seen),
            partial(_shifted, names=[norm.name for norm in sick], by=-shift),
        )


def _norms(seen: Anatomy, wanted: set[str], reader: Reader) -> Iterator[Norm]:
    model = seen.model
    for layer in seen.blocks[: seen.family.max_blocks if seen.family else 1]:  # more are a finding of their own
        names = seen.layers[layer]
        for suffix in sorted(name for name in wanted if name in names):
            values = _values(model, f"blk.{layer}.{suffix}", reader)
            if values is None or values.size < _LEAST_VALUES:
                continue
            yield Norm(
                f"blk.{layer}.{suffix}", float(values.mean()), _grid(values), _fellows(seen, suffix, reader)
            )


def _fellows(seen: Anatomy, suffix: str, reader: Reader) -> float | None:
    """The median mean of the trunk's norms of that name; of shared_head_norm the output norm's."""
    names: Iterator[str] = (f"blk.{layer}.{suffix}" for layer in sorted(seen.trunk, reverse=True))
    if suffix == "nextn.shared_head_norm.weight":
        names = iter(["output_norm.weight"])
    there = islice((name for name in names if name in seen.model.tensors), _MOST_TRUNK_LAYERS)
    found = [values for name in there if (values := _values(seen.model, name, reader)) is not None]
    return median(float(values.mean()) for values in found) if found else None


def _values(model: Model, name: str, reader: Reader) -> NDArray[np.float32] | None:
    """An F32 vector, or None when it is something else, not there, or past the end of its file."""
    import numpy as np

    found = model.tensors.get(name)
    if found is None or found[1].type_id != F32 or len([n for n in found[1].ne if n > 1]) > 1:
        return None
    where = _place(*found)
    if where is None or where.size_bytes > 4 << 20:
        return None
    values = np.frombuffer(reader.read(where), dtype="<f4")
    return values if values.size and bool(np.isfinite(values).all()) else None


def _place(file: GGUFFile, info: TensorInfo) -> FileRange | None:
    try:
        return FileRange.of(file, *file.tensor_range(info))
    except FormatError:
        return None


def _grid(values: NDArray[np.float32]) -> frozenset[int]:
    """Which of v, v - 1, v - 2 lie on bfloat16's grid, tested by converting there and back."""
    import numpy as np

    out = []
    for less in (0, 1, 2):
        back = _rounded(values - np.float32(less))
        if less:
            back = back + np.float32(1)
        if less == 2:
            back = back + np.float32(1)  # as it was added: once, and once more
        if float(np.mean(back == values)) >= _GRID_SHARE:
            out.append(less)
    return frozenset(out)


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """To bfloat16, ties to even, and back."""
    import numpy as np

    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) & np.uint32(0xFFFF0000)).view(np.float32)


def _shifted(patient: Patient, names: list[str], by: int) -> Patient:
    """The norms with `by` added. Where the grid determines w, the result is exactly 1 + w."""
    import numpy as np

    with Reader() as reader:
        for name in names:
            values = _values(patient.model, name, reader)
            if values is None:
                continue
            if by < 0:  # the second sum lost w's last bits, and bfloat16's grid has them
                on_grid = 2 in _grid(values)
                fresh = _rounded(values - np.float32(2)) + np.float32(1) if on_grid else values - np.float32(1)
            else:
                fresh = values + np.float32(1)
            patient = patient.with_bytes(name, [NewBytes(fresh.astype("<f4").tobytes())])
    return patient

