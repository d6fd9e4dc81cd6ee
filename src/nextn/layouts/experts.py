"""The experts' gate and up as one tensor, moved as rows into the two that most loaders take: nothing is requantized.

In the one tensor, [X, 2F, E] as numpy counts axes, an expert's F rows of gate come before its F rows of up (ggml of
b11549, src/llama-graph.cpp, build_moe_ffn). A row of a quantized tensor is a whole number of ggml blocks, so each of
the two is made of X ranges of rows, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..archs.base import Family
from ..block.model import Block, BlockTensor
from ..errors import FormatError, QuantizeError
from ..sources.rows import GGUFRows, JoinedRows, RowSource
from ..sources.scaled_rows import ScaledRows
from .factors import SIDES

BOTH = "ffn_gate_up_exps"
HALVES = ("ffn_gate_exps", "ffn_up_exps")
NOTE = "the block's experts have their gate and up as one tensor, which is split into the two that the loader takes"


def takes_both(family: Family) -> bool:
    """Whether llama.cpp's loader takes gate and up as one tensor."""
    return any(rule.target == f"{BOTH}.weight" for rule in family.rules)


def has_both(block: Block) -> bool:
    """Whether the block has gate and up as one tensor."""
    return block.find(f"{BOTH}.weight") is not None


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


def _tensors(block: Block, by_name: Mapping[tuple[int, str], BlockTensor]) -> Iterator[BlockTensor]:
    for tensor in block.tensors:
        if tensor.suffix == f"{BOTH}.weight":
            yield from _halves(block, tensor, by_name.get((tensor.layer, f"{BOTH}.scale")))
        elif (tensor.layer, tensor.suffix) not in by_name:
            yield tensor


def _halves(block: Block, tensor: BlockTensor, scale: BlockTensor | None) -> Iterator[BlockTensor]:
    rows = tensor.rows
    if not isinstance(rows, GGUFRows) or len(tensor.ne) != 3 or tensor.ne[1] % 2:
        shape = " x ".join(f"{n:,}" for n in tensor.ne)
        raise FormatError(f"'{tensor.suffix}' is {shape}, which is not gate and up of experts", path=block.origin)
    width, each, n_expert = tensor.ne[0], tensor.ne[1] // 2, tensor.ne[2]
    kind = rows.info.type
    if kind is None or kind.block_size is None or each % kind.row_group:
        raise QuantizeError(
            f"{block.origin}: '{tensor.suffix}' is stored as {rows.info.type_name}, whose rows nextn cannot separate "
            "into gate and up; use the checkpoint as the donor."
        )
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
