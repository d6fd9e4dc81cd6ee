"""Which of a checkpoint's tensors are quantized, how, and with which companions.

What counts is each tensor's own dtype and companions: config.json gives block and group sizes, but its lists of
excluded modules are not consulted. Sources: the formats as llama.cpp's converter (b11549) and the
compressed-tensors and ModelOpt writers define them; OCP MX 1.0 for E8M0 and E2M1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import FormatError, UnsupportedFormat
from .checkpoint import CONFIG, Checkpoint
from .fp8 import block_scale
from .packed import WORD_BITS, fp4, packed_ints
from .rows import Span
from .safetensors import SourceTensor
from .scales import Scale
from .small_floats import BYTE_DTYPES, FLOAT_DTYPES

PACKED = "_packed"
# Companions appended to a weight's full name, and in place of its `weight`.
_BEHIND = ("_scale_inv", "_scale", "_scale_2", PACKED, "_shape", "_zero_point", "_global_scale")
_BESIDE = ("scale", "input_scale", "input_global_scale")
# What describes activations or the attention cache: no weight depends on it.
_ACTIVATIONS = re.compile(
    r"(^|[._])(input_scale|input_global_scale|input_zero_point|output_scale|output_zero_point|activation_scale|"
    r"(?:[qkv]|kv)_scale|[kv]_zero_point)$"
)
DEEPSEEK_V4_BLOCK = (128, 128)  # of weights whose E8M0 factors are called `scale`

# Name endings of tensors in formats that are not read, and the format's name.
_FOREIGN = (
    (re.compile(r"\.weight_g_idx$"), "compressed-tensors with activation ordering"),
    (re.compile(r"\.(qweight|qzeros|g_idx|scales)$"), "AWQ or GPTQ"),
    (re.compile(r"\.weight\.(absmax|nested_absmax|quant_map|nested_quant_map|quant_state\..+)$"), "bitsandbytes"),
    (re.compile(r"\.SCB$"), "bitsandbytes"),
    (re.compile(r"\.(trellis|suh|svh)$"), "EXL3"),
    (re.compile(r"\.(q_weight|q_invperm|q_scale_max)$"), "EXL2"),
    (re.compile(r"\.W_q$"), "HQQ"),
    (re.compile(r"\.(codes|codebooks|Qidxs)$"), "AQLM or QuIP#"),
    (re.compile(r"\.weight\._(data|scale|shift)$"), "quanto"),
    (re.compile(r"_(blocks|scales)$"), "MXFP4 as blocks and scales"),
    (re.compile(r"\.qscale_weight$"), "Mistral's FP8"),
)
_TITLES = {"awq": "AWQ", "gptq": "GPTQ", "bitsandbytes": "bitsandbytes", "bitnet": "BitNet", "hqq": "HQQ",
           "aqlm": "AQLM", "auto-round": "AutoRound", "quanto": "quanto", "exl2": "EXL2", "exl3": "EXL3",
           "torchao": "torchao", "quark": "Quark", "eetq": "EETQ", "vptq": "VPTQ", "spqr": "SpQR"}  # fmt: skip
ADVICE = "use the checkpoint that it was quantized from, or a GGUF that has the block, as the donor"


def quantization_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """`quantization_config` of config.json, empty without one."""
    for config in (checkpoint.text_config, checkpoint.config):
        found = config.get("quantization_config") or config.get("compression_config")
        if isinstance(found, dict):
            return found
    return {}


def method_title(checkpoint: Checkpoint) -> str | None:
    """What config.json calls the quantization, in its usual spelling."""
    config = quantization_config(checkpoint)
    name = config.get("quant_method")
    if not isinstance(name, str) or not name:
        return None
    kind = config.get("format")
    title = _TITLES.get(name.lower(), name)
    return f"{title} ({kind})" if isinstance(kind, str) and name == "compressed-tensors" else title


def _quantized_as(checkpoint: Checkpoint) -> str:
    title = method_title(checkpoint)
    return f", quantized as {title}" if title else ""


def logical_names(names: Mapping[str, str]) -> dict[str, str]:
    """`names` (inside the block -> full) plus the weights that are stored only under other names."""
    packed = {name: full for name, full in names.items() if name.endswith("weight" + PACKED)}
    return {**{name.removesuffix(PACKED): full.removesuffix(PACKED) for name, full in packed.items()}, **names}


def companions(weight: str, names: Iterable[str]) -> set[str]:
    """Those of `names` that belong to `weight`: factors, shapes, zero points."""
    wanted = {weight + ending for ending in _BEHIND}
    if weight.endswith("weight"):
        wanted |= {weight.removesuffix("weight") + name for name in _BESIDE}
    return wanted & set(names)


def describes_activations(name: str) -> bool:
    """Whether a tensor describes how activations or the attention cache are quantized, and not a weight."""
    return _ACTIVATIONS.search(name) is not None


def refuse_foreign(checkpoint: Checkpoint, names: Mapping[str, str]) -> None:
    """Raises UnsupportedFormat, naming format and tensor, for a block in a format that is not read."""
    for name in sorted(names):
        for pattern, title in _FOREIGN:
            if pattern.search("." + name) and not describes_activations(name):
                known = _TITLES.get(str(quantization_config(checkpoint).get("quant_method")).lower())
                raise UnsupportedFormat(
                    f"the block is quantized as {known or title} ('{names[name]}'), which is not read; {ADVICE}",
                    path=checkpoint.folder,
                )


def first_whole(checkpoint: Checkpoint, names: Sequence[str]) -> Span | None:
    """All rows of the first of `names`, as spelled in `plain_names`, or None. Raises what `whole` raises."""
    there = checkpoint.plain_names
    for name in names:
        if name in there:
            return whole(checkpoint, there[name])
        if name + PACKED in there:
            return whole(checkpoint, there[name + PACKED].removesuffix(PACKED))
    return None


def whole(checkpoint: Checkpoint, name: str, *, ranked: bool = False) -> Span:
    """All rows of the weight `name`, however it is stored.

    `ranked`: see `block_scale`. Raises FormatError when companions are missing or do not fit, UnsupportedFormat for
    a format that is not read; both name the tensor.
    """
    there = checkpoint.weight_map
    beside = name.removesuffix("weight") if name.endswith("weight") else None
    if name not in there and name + PACKED in there:
        stored = checkpoint.tensor(name + PACKED)
        scale = _packed_scale(checkpoint, name, stored)
        return Span(stored, 0, stored.n_rows, scale)
    stored = checkpoint.tensor(name)
    endings = [name + "_scale_inv", name + "_scale", *([beside + "scale"] if beside is not None else [])]
    factors = next((checkpoint.tensor(one) for one in endings if one in there), None)
    if stored.dtype in FLOAT_DTYPES:
        if factors is not None:
            raise FormatError(
                f"'{name}' is stored as {stored.dtype} but has factors ('{factors.name}') as well: which of them "
                f"is right cannot be determined; {ADVICE}",
                path=stored.where.path,
                offset=stored.where.start,
            )
        return Span(stored, 0, stored.n_rows)
    if factors is None:
        raise UnsupportedFormat(
            f"'{name}' is stored as {stored.dtype}{_quantized_as(checkpoint)}, without factors that nextn knows; "
            f"{ADVICE}",
            path=stored.where.path,
            offset=stored.where.start,
        )
    if stored.dtype in ("U8", "I8") and _is_fp4(stored, factors):
        return Span(stored, 0, stored.n_rows, _fp4(checkpoint, name, stored, factors))
    if stored.dtype not in BYTE_DTYPES or len(stored.shape) < 2:
        raise UnsupportedFormat(
            f"'{name}' is stored as {stored.dtype} {list(stored.shape)}{_quantized_as(checkpoint)}, which is not read; "
            f"{ADVICE}",
            path=stored.where.path,
            offset=stored.where.start,
        )
    if name + "_zero_point" in there:
        raise UnsupportedFormat(
            f"'{name}' is stored as {stored.dtype} with zero points ('{name}_zero_point'), which are read only "
            f"for packed integers; {ADVICE}",
            path=stored.where.path,
            offset=stored.where.start,
        )
    size = _block_size(checkpoint, name, factors)
    return Span(stored, 0, stored.n_rows, block_scale(stored, factors, size, ranked=ranked))


def _is_fp4(stored: SourceTensor, factors: SourceTensor) -> bool:
    """Whether bytes are pairs of 4-bit floats: their factors are one-byte floats, in groups along a row."""
    grouped = len(factors.shape) == len(stored.shape) and factors.row_length > 1
    return factors.dtype in ("F8_E4M3", "F8_E8M0", "U8") and (grouped or 2 * stored.row_length <= 32)


def _fp4(checkpoint: Checkpoint, name: str, stored: SourceTensor, factors: SourceTensor) -> Scale:
    def one(*endings: str) -> SourceTensor | None:
        found = next((full for full in endings if full in checkpoint.weight_map), None)
        return None if found is None else checkpoint.tensor(found)

    if factors.dtype != "F8_E4M3":
        return fp4(stored, factors)
    base = name.removesuffix("weight")
    reciprocal = name + "_global_scale" in checkpoint.weight_map
    if reciprocal:
        return fp4(stored, factors, one(name + "_global_scale"), one(base + "input_global_scale"), True)
    return fp4(stored, factors, one(name + "_scale_2"), one(base + "input_scale"))


def _packed_scale(checkpoint: Checkpoint, name: str, stored: SourceTensor) -> Scale:
    def need(ending: str, what: str) -> SourceTensor:
        if name + ending not in checkpoint.weight_map:
            raise FormatError(
                f"'{stored.name}' is packed, and {what} '{name}{ending}' is missing; download the checkpoint again",
                path=stored.where.path,
                offset=stored.where.start,
            )
        return checkpoint.tensor(name + ending)

    factors = need("_scale", "its factors")
    if stored.dtype == "U8" and factors.dtype in ("F8_E4M3", "F8_E8M0", "U8"):
        return _fp4(checkpoint, name, stored, factors)
    if stored.dtype != "I32":
        raise UnsupportedFormat(
            f"'{stored.name}' is packed as {stored.dtype}{_quantized_as(checkpoint)}, which is not read; {ADVICE}",
            path=stored.where.path,
            offset=stored.where.start,
        )
    weights = _weights_config(checkpoint, name)
    bits, group_size = weights.get("num_bits"), weights.get("group_size")
    per_row = group_size in (None, -1) and weights.get("strategy") == "channel"
    if (
        not isinstance(bits, int) or isinstance(bits, bool) or not 0 < bits <= 8 or weights.get("type", "int") != "int"
        or not (per_row or (isinstance(group_size, int) and not isinstance(group_size, bool) and group_size > 0))
    ):  # fmt: skip
        raise FormatError(
            f"'{stored.name}' is packed, and 'quantization_config' does not say how: num_bits {bits}, group_size "
            f"{group_size}, type {weights.get('type')} (1 to {min(8, WORD_BITS)} bits, groups along a row, integers)",
            path=checkpoint.folder / CONFIG,
        )
    zeros = checkpoint.tensor(name + "_zero_point") if name + "_zero_point" in checkpoint.weight_map else None
    check = need("_shape", "its shape")
    return packed_ints(stored, factors, check, zeros, bits, None if per_row else group_size)


def _weights_config(checkpoint: Checkpoint, name: str) -> Mapping[str, Any]:
    """`weights` of the config group that applies to the module of `name`."""
    groups = quantization_config(checkpoint).get("config_groups")
    found = [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    module = name.removesuffix(".weight")
    if len(found) > 1:

        def named(group: Mapping[str, Any]) -> bool:
            targets = group.get("targets")
            return isinstance(targets, list) and any(_targets(str(target), module) for target in targets)

        found = [group for group in found if named(group)] or [
            group for group in found if "Linear" in (group.get("targets") or ())
        ]
    weights = found[0].get("weights") if found else None
    return weights if isinstance(weights, dict) else {}


def _targets(target: str, module: str) -> bool:
    if not target.startswith("re:"):
        return target == module
    try:
        return re.match(target.removeprefix("re:"), module) is not None
    except re.error:
        return False


def _block_size(checkpoint: Checkpoint, name: str, factors: SourceTensor) -> tuple[int, int] | None:
    """Rows and columns per factor, as given by config.json; None if it gives none."""
    config = quantization_config(checkpoint)
    size = config.get("weight_block_size") or _weights_config(checkpoint, name).get("block_structure")
    if size is None:
        return DEEPSEEK_V4_BLOCK if factors.name.endswith(".scale") else None
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)):
        raise FormatError(
            f"the block size of the factors '{factors.name}' should be a pair of counts and is {size!r}",
            path=checkpoint.folder / CONFIG,
        )
    return size[0], size[1]
