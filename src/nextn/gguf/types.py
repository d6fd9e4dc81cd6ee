"""Every tensor type a GGUF file can hold: number, name, layout, and the engines that read it.

Sources: `enum ggml_type` and `type_traits` of llama.cpp b11549 and of ik_llama.cpp; for `general.file_type`
`enum llama_ftype` of both. Only the standard library is used.

Blocks run along ne[0] and never cross a row. A row of n elements takes
`row_meta_bytes + n / block_size * type_size` bytes.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import QuantizeError, UsageError

Engine = Literal["both", "mainline", "ik"]


@dataclass(frozen=True, slots=True)
class TensorType:
    """One tensor type."""

    id: int  # number in the file's tensor table
    name: str  # as llama.cpp prints it, `q4_K`
    label: str  # upper case, as in file names, `Q4_K`
    block_size: int | None  # elements per block; None when the layout is not known
    type_size: int | None  # bytes per block; None when the layout is not known
    row_meta_bytes: int  # bytes before the blocks of every row
    row_group: int  # rows interleaved with each other; a tensor with more than 1 is only ever copied as a unit
    engine: Engine  # who reads it: llama.cpp (`mainline`), ik_llama.cpp (`ik`), or both
    file_type: int | None  # `general.file_type` of a file that is mainly this type; None when it has no number

    @property
    def bits_per_weight(self) -> float | None:
        """Bits per element in a long row; None when the layout is not known."""
        if self.block_size is None or self.type_size is None:
            return None
        return 8 * self.type_size / self.block_size


def _mainline(
    id: int,
    name: str,
    block_size: int,
    type_size: int,
    file_type: int | None,
    engine: Engine = "both",
) -> TensorType:
    return TensorType(id, name, name.upper(), block_size, type_size, 0, 1, engine, file_type)


def _ik(
    id: int,
    name: str,
    block_size: int | None,
    type_size: int | None,
    row_meta_bytes: int,
    row_group: int,
    file_type: int | None,
    label: str | None = None,
) -> TensorType:
    label = name.upper() if label is None else label
    return TensorType(id, name, label, block_size, type_size, row_meta_bytes, row_group, "ik", file_type)


# The file types are those of an unmixed file, so Q4_K has the number of Q4_K_S.
# fmt: off
TENSOR_TYPES: tuple[TensorType, ...] = (
    # id, name, block_size, type_size, file_type
    _mainline(0, "f32", 1, 4, 0),
    _mainline(1, "f16", 1, 2, 1),
    _mainline(2, "q4_0", 32, 18, 2),
    _mainline(3, "q4_1", 32, 20, 3),
    _mainline(6, "q5_0", 32, 22, 8),
    _mainline(7, "q5_1", 32, 24, 9),
    _mainline(8, "q8_0", 32, 34, 7),
    _mainline(9, "q8_1", 32, 36, None),  # for activations; gguf-py says 40, both engines 36
    _mainline(10, "q2_K", 256, 84, 10),
    _mainline(11, "q3_K", 256, 110, 11),
    _mainline(12, "q4_K", 256, 144, 14),
    _mainline(13, "q5_K", 256, 176, 16),
    _mainline(14, "q6_K", 256, 210, 18),
    _mainline(15, "q8_K", 256, 292, None, "mainline"),  # for activations; 296 bytes in ik_llama.cpp
    _mainline(16, "iq2_xxs", 256, 66, 19),
    _mainline(17, "iq2_xs", 256, 74, 20),
    _mainline(18, "iq3_xxs", 256, 98, 23),
    _mainline(19, "iq1_s", 256, 50, 24),
    _mainline(20, "iq4_nl", 32, 18, 25),
    _mainline(21, "iq3_s", 256, 110, 26),
    _mainline(22, "iq2_s", 256, 82, 28),
    _mainline(23, "iq4_xs", 256, 136, 30),
    _mainline(24, "i8", 1, 1, None),
    _mainline(25, "i16", 1, 2, None),
    _mainline(26, "i32", 1, 4, None),
    _mainline(27, "i64", 1, 8, None),
    _mainline(28, "f64", 1, 8, None),
    _mainline(29, "iq1_m", 256, 56, 31),
    _mainline(30, "bf16", 1, 2, 32),
    _mainline(34, "tq1_0", 256, 54, 36, "mainline"),
    _mainline(35, "tq2_0", 256, 66, 37, "mainline"),
    _mainline(39, "mxfp4", 32, 17, 38),
    _mainline(40, "nvfp4", 64, 36, 39, "mainline"),
    _mainline(41, "q1_0", 128, 18, 40),  # q1_0_g128 in ik_llama.cpp, same layout
    _mainline(42, "q2_0", 64, 18, 41, "mainline"),
    # id, name, block_size, type_size, row_meta_bytes, row_group, file_type
    _ik(31, "q4_0_4x4", 32, 18, 0, 4, 33, "Q4_0_4_4"),  # gone from llama.cpp, like the next two
    _ik(32, "q4_0_4x8", 32, 18, 0, 4, 34, "Q4_0_4_8"),
    _ik(33, "q4_0_8x8", 32, 18, 0, 8, 35, "Q4_0_8_8"),
    _ik(36, "i2_s", None, None, 0, 1, None),  # one scale per tensor
    _ik(97, "q8_0_x4", 32, 34, 0, 1, None),  # for activations, like q8_1_x4, q8_2_x4 and q8_K16 to q8_K128
    _ik(98, "q8_1_x4", 32, 36, 0, 1, None),
    _ik(99, "q8_2_x4", 32, 36, 0, 1, None),
    _ik(133, "q6_0", 32, 26, 0, 1, 135),
    _ik(134, "iq1_bn", 64, 13, 2, 1, 136),
    _ik(135, "iq2_bn", 64, 16, 4, 1, 137),
    _ik(136, "q8_K64", 64, 68, 0, 1, None),
    _ik(137, "iq2_k", 256, 76, 0, 1, 138),
    _ik(138, "iq3_k", 256, 110, 0, 1, 139),
    _ik(139, "iq4_k", 256, 144, 0, 1, 140),
    _ik(140, "iq5_k", 256, 176, 0, 1, 141),
    _ik(141, "iq6_k", 256, 212, 0, 1, 142),
    _ik(144, "iq4_ks", 256, 136, 4, 1, 145),
    _ik(145, "iq2_ks", 256, 70, 2, 1, 147),
    _ik(146, "iq4_kss", 256, 128, 4, 1, 148),
    _ik(147, "q8_K16", 64, 64, 20, 1, None),
    _ik(148, "q8_K32", 256, 296, 0, 1, None),
    _ik(149, "q8_KR8", 256, 296, 0, 1, None),
    _ik(150, "q8_K128", 128, 140, 0, 1, None),
    _ik(151, "q8_KV", 32, 32, 8, 1, 149),
    _ik(152, "iq5_ks", 256, 168, 4, 1, 150),
    _ik(153, "iq2_kt", 256, 68, 4, 1, 151),
    _ik(154, "iq3_kt", 256, 100, 4, 1, 152),
    _ik(155, "iq4_kt", 256, 128, 4, 1, 153),
    _ik(156, "iq3_ks", 256, 102, 2, 1, 154),
    _ik(157, "iq2_kl", 256, 86, 2, 1, 155),
    _ik(158, "iq1_kt", 256, 56, 4, 1, 156),
    _ik(202, "q4_0_r8", 32, 18, 0, 8, 202),
    _ik(206, "q5_0_r4", 32, 22, 0, 4, 208),
    _ik(208, "q8_0_r8", 32, 34, 0, 8, 207),
    _ik(210, "q2_k_r4", 256, 84, 0, 4, 210),
    _ik(211, "q3_k_r4", 256, 110, 0, 4, 211),
    _ik(212, "q4_k_r4", 256, 144, 0, 4, 214),
    _ik(213, "q5_k_r4", 256, 176, 0, 4, 216),
    _ik(214, "q6_k_r4", 256, 210, 0, 4, 218),
    _ik(216, "iq2_xxs_r4", 256, 66, 0, 4, 219),
    _ik(217, "iq2_xs_r4", 256, 74, 0, 4, 220),
    _ik(218, "iq3_xxs_r4", 256, 98, 0, 4, 223),
    _ik(219, "iq1_s_r4", 32, 6, 2, 4, 224),
    _ik(220, "iq4_nl_r4", 32, 18, 0, 4, 225),
    _ik(221, "iq3_s_r4", 256, 110, 0, 4, 226),
    _ik(222, "iq2_s_r4", 256, 82, 0, 4, 229),
    _ik(223, "iq4_xs_r8", 256, 136, 0, 8, 230),
    _ik(229, "iq1_m_r4", 32, 7, 2, 4, 231),
    _ik(230, "bf16_r16", 1, 2, 0, 16, 232),
    _ik(233, "q6_0_r4", 32, 26, 0, 4, 335),
    _ik(335, "iq2_bn_r4", 64, 16, 4, 4, 337),
    _ik(337, "iq2_k_r4", 256, 76, 0, 4, 338),
    _ik(338, "iq3_k_r4", 256, 110, 0, 4, 339),
    _ik(339, "iq4_k_r4", 256, 144, 0, 4, 340),
    _ik(340, "iq5_k_r4", 256, 176, 0, 4, 341),
    _ik(344, "iq4_ks_r4", 256, 136, 4, 4, 345),
    _ik(352, "iq5_ks_r4", 256, 168, 4, 4, 350),
    _ik(397, "q8_k_r16", 256, 258, 0, 16, None),
    _ik(398, "q8_KV_r8", 32, 32, 4, 8, 398),
    _ik(399, "q8_k_r8", 256, 258, 0, 8, 399),
)
# fmt: on

_BY_ID = {type.id: type for type in TENSOR_TYPES}
_BY_NAME = {name.upper(): type for type in TENSOR_TYPES for name in (type.name, type.label)}

F32 = _BY_NAME["F32"]
F16 = _BY_NAME["F16"]
BF16 = _BY_NAME["BF16"]


def tensor_type(id: int) -> TensorType | None:
    """The type with this number, or None when no engine known here has one."""
    return _BY_ID.get(id)


def parse_type_name(name: str) -> TensorType:
    """The type called `name`, in any case (`q4_K`, `Q4_K`); UsageError when none is."""
    wanted = name.strip().upper()
    found = _BY_NAME.get(wanted)
    if found is not None:
        return found
    base, _, mix = wanted.rpartition("_")
    if mix in ("S", "M", "L", "XL") and base in _BY_NAME:
        raise UsageError(
            f"{name} is a mix of tensor types, not one type; use a single type such as {_BY_NAME[base].name}"
        )
    near = _near(wanted)
    if near:
        raise UsageError(f"{name!r} is not a tensor type; did you mean {near}?")
    names = ", ".join(type.name for type in TENSOR_TYPES if type.engine != "ik")
    raise UsageError(
        f"{name!r} is not a tensor type; types are {names}, and those of ik_llama.cpp such as iq4_ks"
    )


# What other formats and programs call a type.
_ELSEWHERE = {"INT8": "Q80", "8BIT": "Q80", "FP16": "F16", "FLOAT16": "F16", "HALF": "F16", "FP32": "F32",
              "FLOAT32": "F32", "BFLOAT16": "BF16", "INT4": "Q40", "4BIT": "Q40", "FP4": "MXFP4"}  # fmt: skip


def _near(wanted: str) -> str:
    """Types whose names are like the one wanted, the likeliest first; empty: none is."""
    squeezed = _ELSEWHERE.get(re.sub(r"[^A-Z0-9]", "", wanted), re.sub(r"[^A-Z0-9]", "", wanted))
    found = [name for name in _BY_NAME if name.replace("_", "") == squeezed]
    found += [name for name in (f"{wanted}_0", f"{wanted}_K") if name in _BY_NAME]
    found = found or difflib.get_close_matches(wanted, _BY_NAME, 3, 0.8)
    return " or ".join(dict.fromkeys(_BY_NAME[name].name for name in found))


def row_size(type: TensorType, n: int) -> int:
    """Bytes of one row of `n` elements.

    QuantizeError when `n` is not a multiple of the block, or the layout of the type is not known.
    """
    if type.block_size is None or type.type_size is None:
        raise QuantizeError(f"the layout of {type.name} is not known, so the size of its rows cannot be computed")
    if n < 0 or n % type.block_size:
        raise QuantizeError(
            f"a row of {n} values cannot be stored as {type.name}, which packs {type.block_size} at a time"
        )
    return type.row_meta_bytes + n // type.block_size * type.type_size


def tensor_size(type: TensorType | int, ne: Sequence[int]) -> int | None:
    """Bytes of tensor data (without padding) of a tensor of shape `ne`, fastest axis first.

    None when it cannot be computed: type number or layout unknown, or rows that are not a multiple of the block.
    """
    known = _BY_ID.get(type) if isinstance(type, int) else type
    if known is None or known.block_size is None or known.type_size is None:
        return None
    n_per_row = ne[0] if ne else 1
    if n_per_row % known.block_size:
        return None
    return row_size(known, n_per_row) * math.prod(ne[1:])


def file_type_for(type: TensorType) -> int | None:
    """The `general.file_type` of a file that is mainly `type`, as `llama_ftype` numbers it."""
    return type.file_type
