"""The experts' gate and up as one tensor, moved as rows into the two that most loaders take: nothing is requantized.

In the one tensor, [X, 2F, E] as numpy counts axes, an expert's F rows of gate come before its F rows of up (ggml of
b11549, src/llama-graph.cpp, build_moe_ffn). A row of a quantized tensor is a whole number of ggml blocks, so each of
the two is made of X ranges of rows, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..archs.base import Family
from ..archs.engines import IK_SPLITS_EXPERTS
from ..block.anatomy import Anatomy
from ..block.model import Block, BlockTensor, split_name
from ..errors import FormatError, QuantizeError, UnsupportedModel
from ..gguf.files import Model
from ..gguf.tensors import TensorInfo
from ..gguf.types import TensorType
from ..shell import shell
from ..sources.ranges import FileRange
from ..sources.rows import GGUFRows, JoinedRows, RowSource
from ..sources.scaled_rows import ScaledRows
from ..writing.plan import Copy
from .factors import SIDES
from .parts import Part

BOTH = "ffn_gate_up_exps"
_MOST_LAYERS = 4096
HALVES = ("ffn_gate_exps", "ffn_up_exps")
NOTE = "the block's experts have their gate and up as one tensor, which is split into the two that the loader takes"


def takes_both(family: Family) -> bool:
    """Whether llama.cpp's loader takes gate and up as one tensor."""
    return any(rule.target == f"{BOTH}.weight" for rule in family.rules)


def has_both(block: Block) -> bool:
    """Whether the block has gate and up as one tensor."""
    return block.find(f"{BOTH}.weight") is not None


def fused_layers(seen: Anatomy) -> list[int]:
    """The trunk's layers that have gate and up as one tensor; a model has fewer layers than `_MOST_LAYERS`."""
    if len(seen.trunk) > _MOST_LAYERS:
        return []
    names = seen.model.table.names_ending_with(f".{BOTH}.weight")
    layers = (layer for layer, suffix in map(split_name, names) if suffix == f"{BOTH}.weight")
    return sorted(layer for layer in layers if layer is not None and layer in seen.trunk)


def trunk_note(trunk: Model, family: Family, for_engine: str | None) -> str | None:
    """What is to be said of a trunk whose form llama.cpp refuses; None: nothing.

    Raises UnsupportedModel where the file has to work in an engine that refuses it.
    """
    if takes_both(family) or not fused_layers(Anatomy.of(trunk)):
        return None
    ik_too = family.arch in IK_SPLITS_EXPERTS
    if for_engine == "ik" and not ik_too:
        return None
    mended = shell("nextn", "doctor", trunk.entry, "--fix")
    engines = "engines refuse" if ik_too else "llama.cpp refuses"
    words = f"the trunk's experts have their gate and up as one tensor, which {engines}"
    if for_engine is not None:
        raise UnsupportedModel(f"{trunk.entry}: {words}; split it first ({mended}).")
    return f"{words}: split it with '{mended}'"


def split_experts(block: Block) -> Block:
    """`block` with the experts' gate and up as two tensors; the same object where it has them so already.

    Raises FormatError for a tensor of another shape than [X, 2F, E], QuantizeError for a type whose rows cannot be
    moved as they are.
    """
    if not has_both(block):
        return block
    names = {f"{BOTH}.{ending}" for ending in ("weight", *SIDES)}
    by_name = {(tensor.layer, tensor.suffix): tensor for tensor in block.tensors if tensor.suffix in names}
    return replace(block, tensors=tuple(_tensors(block, by_name)))


def split_stored(model: Model, layer: int) -> list[Part]:
    """The two tensors that replace the one in a layer of a trunk, as copies of its bytes.

    Raises FormatError and QuantizeError as `split_experts` does, the second also for a tensor with factors beside it.
    """
    stem = f"blk.{layer}.{BOTH}."
    file, info = model.tensors[f"{stem}weight"]
    beside = next((f"{stem}{side}" for side in SIDES if f"{stem}{side}" in model.tensors), None)
    if beside is not None:
        raise QuantizeError(f"{model.entry}: '{beside}' is a factor of gate and up together.")
    n_rows = _rows_of_half(info.ne, info.type, info.name, info.type_name, model.entry)
    start, end = file.tensor_range(info)
    size = (end - start) // (2 * info.ne[2])
    made = []
    for half, name in enumerate(HALVES):
        starts = (start + (2 * expert + half) * size for expert in range(info.ne[2]))
        first, *more = (Copy(FileRange.of(file, at, at + size)) for at in starts)
        new = TensorInfo(f"blk.{layer}.{name}.weight", (info.ne[0], n_rows, info.ne[2]), info.type_id, 0)
        made.append(Part(new, size * info.ne[2], first, tuple(more)))
    return made


def _rows_of_half(ne: Sequence[int], kind: TensorType | None, name: str, stored: str, where: Path) -> int:
    """Rows of an expert's gate. Raises FormatError, QuantizeError."""
    if len(ne) != 3 or ne[1] % 2:
        shape = " x ".join(f"{n:,}" for n in ne)
        raise FormatError(f"'{name}' is {shape}, which is not gate and up of experts", path=where)
    each: int = ne[1] // 2
    if kind is None or kind.block_size is None or each % kind.row_group:
        raise QuantizeError(
            f"{where}: '{name}' is stored as {stored}, whose rows nextn cannot separate into gate and up; use the "
            "checkpoint as the donor."
        )
    return each


def _tensors(block: Block, by_name: Mapping[tuple[int, str], BlockTensor]) -> Iterator[BlockTensor]:
    for tensor in block.tensors:
        if tensor.suffix == f"{BOTH}.weight":
            yield from _halves(block, tensor, by_name.get((tensor.layer, f"{BOTH}.scale")))
        elif (tensor.layer, tensor.suffix) not in by_name:
            yield tensor


def _halves(block: Block, tensor: BlockTensor, scale: BlockTensor | None) -> Iterator[BlockTensor]:
    rows = tensor.rows
    assert isinstance(rows, GGUFRows)  # a checkpoint's are split as they are read
    each = _rows_of_half(tensor.ne, rows.info.type, tensor.suffix, rows.info.type_name, block.origin)
    width, _, n_expert = tensor.ne
    for half, name in enumerate(HALVES):
        starts = [(2 * expert + half) * each for expert in range(n_expert)]
        parts: list[RowSource] = [replace(rows, start=start, end=start + each) for start in starts]
        if scale is not None:
            parts = [_scaled(part, scale, expert) for expert, part in enumerate(parts)]
        ne = (width, each, n_expert)
        yield BlockTensor(tensor.layer, f"{name}.weight", ne, JoinedRows(tuple(parts)), f32=tensor.f32)


def _scaled(part: RowSource, scale: BlockTensor, expert: int) -> RowSource:
    """An expert's rows times its factor, or times the one that all experts share."""
    factors = scale.rows
    assert isinstance(part, GGUFRows) and isinstance(factors, GGUFRows)
    n = factors.info.n_elements
    upright = GGUFRows(factors.file, replace(factors.info, ne=(1, n)))  # a factor a row
    return ScaledRows(part, upright if n == 1 else replace(upright, start=expert, end=expert + 1))
