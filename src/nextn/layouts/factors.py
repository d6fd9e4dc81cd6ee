"""NVFP4's factors: numbers beside a matrix that engines multiply its result by.

llama.cpp (b11549, the end of llama_model::load_tensors) looks for a block's factors only where it has loaded the
matrix. So it takes a sidecar with them, and a model loaded with MTP; loaded without MTP, it counts tensors that nobody
asked for and refuses the model. A block that becomes part of a model therefore has its factors multiplied into the
matrices, unless `--type nvfp4` keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..block.model import Block, BlockTensor
from ..gguf.types import TensorType
from ..sources.rows import GGUFRows
from ..sources.scaled_rows import ScaledRows

SIDES = ("scale", "input_scale")  # of the result, and for quantizing what the matrix is multiplied with
# Matrices for which llama.cpp looks for a factor.
SLOTS = re.compile(r"(attn_(q|k|v|qkv|output|gate)|ffn_(gate|up|down)(_shexp|_exps)?|"
                   r"nextn\.(eh_proj|shared_head_head))\.weight")  # fmt: skip
REFUSED = "llama.cpp refuses a model whose block has NVFP4 factors when it is loaded without MTP"
_KEPT = "nvfp4"


def is_factor(suffix: str) -> bool:
    """Whether a tensor has the name of a factor, after `blk.N.`."""
    return suffix.rpartition(".")[2] in SIDES


def matrix_of(suffix: str) -> str:
    """The matrix that a factor belongs to."""
    return f"{suffix.rpartition('.')[0]}.weight"


def becomes_q8_0(*, in_model: bool) -> str:
    """The note on NVFP4 that is not kept."""
    return "the block's NVFP4 becomes q8_0; --type nvfp4 keeps it" + (f", but {REFUSED}" if in_model else "")


@dataclass(frozen=True)
class _Matrix:
    """A matrix of a GGUF's block with its factors by ending."""

    tensor: BlockTensor
    sides: Mapping[str, BlockTensor]

    def is_kept(self, wanted: TensorType | None, *, in_model: bool) -> bool:
        """Whether matrix and factors are written as they are."""
        if not SLOTS.fullmatch(self.tensor.suffix):
            return False
        return not in_model if wanted is None else wanted.name == _KEPT and self.tensor.type_id == wanted.id

    @property
    def multiplied(self) -> BlockTensor:
        """The matrix times its factor; there is none where the converter left out a factor of 1."""
        scale = self.sides.get("scale")
        rows = self.tensor.rows
        if scale is not None and isinstance(rows, GGUFRows) and isinstance(scale.rows, GGUFRows):
            rows = ScaledRows(rows, scale.rows)
        return replace(self.tensor, rows=rows, stored=None, type_id=None)


def _matrices(block: Block) -> Iterator[_Matrix]:
    by_name = {(tensor.layer, tensor.suffix): tensor for tensor in block.tensors if tensor.stored is not None}
    for (layer, suffix), tensor in by_name.items():
        stem = suffix.removesuffix("weight")
        sides = {end: by_name[layer, stem + end] for end in SIDES if (layer, stem + end) in by_name}
        if suffix.endswith(".weight") and sides:
            yield _Matrix(tensor, sides)


def without_factors(block: Block, wanted: TensorType | None, notes: list[str], *, in_model: bool) -> Block:
    """A GGUF's block to write as `wanted`, with factors multiplied into their matrices unless they can be kept.

    `in_model`: the block becomes part of a model, rather than a sidecar or a donor file.
    """
    new: dict[int, BlockTensor] = {}
    gone: set[int] = set()
    kept = 0
    for matrix in _matrices(block):
        if matrix.is_kept(wanted, in_model=in_model):
            kept += 1
            continue
        new[id(matrix.tensor)] = matrix.multiplied
        gone |= {id(side) for side in matrix.sides.values()}
    if kept and in_model:
        notes.append(REFUSED)
    elif new and wanted is None:
        notes.append(becomes_q8_0(in_model=in_model))
    if not new:
        return block
    tensors = tuple(new.get(id(tensor), tensor) for tensor in block.tensors if id(tensor) not in gone)
    return replace(block, tensors=tensors)
