"""What a token costs in bytes of weights: the output head's share, and a draft's cost where there is no draft."""

from __future__ import annotations

from ..archs.drafts import D2T
from ..block.anatomy import Anatomy
from ..block.draft import Draft
from ..block.model import DRAFT_ROOTS, layer_of
from ..gguf.files import Model
from ..gguf.tensors import TensorInfo
from ..gguf.types import parse_type_name
from .worth_formula import DraftCost

_FEATURES = ("fc.weight", "enc.output_norm.weight")  # of a draft of its own: what takes up the trunk's states
_EMBEDDINGS, _HEAD = "token_embd.weight", "output.weight"
_EXPERTS = "_exps."  # in the names of tensors that hold all experts
_DRAFT_HEAD_TYPE = "q4_0"  # of the head in a sidecar, unless the user wants another one


def head_of(model: Model) -> TensorInfo | None:
    """The output head: `output.weight`, or the embeddings where they are tied; None where neither is there."""
    found = model.tensors.get(_HEAD) or model.tensors.get(_EMBEDDINGS)
    return None if found is None else found[1]


def body_bytes(model: Model) -> float:
    """Bytes of the trunk's layers that one token reads: of experts, only as many as are used."""
    seen = Anatomy.of(model)
    used, count = model.arch_int("expert_used_count"), model.arch_int("expert_count")
    share = used / count if used and count else 1.0
    sizes = (
        (file.stored_size(info) if info.computed_size_bytes is None else info.computed_size_bytes, info.name)
        for file, info in model.items()
        if layer_of(info.name) is not None and not seen.of_block(info.name) and info.name not in DRAFT_ROOTS
    )
    return sum(size * (share if _EXPERTS in name else 1.0) for size, name in sizes)


def head_share(model: Model) -> float:
    """The output head's share of the bytes that one token reads."""
    head = head_of(model)
    size = 0 if head is None else head.computed_size_bytes or 0
    body = body_bytes(model)
    return size / (size + body) if size + body else 0.0


def estimated_draft(model: Model, block_type: str | None = None, draft: Model | None = None) -> DraftCost:
    """The cost of a block of one layer of this trunk with a low-bit head of its own, by bytes.

    A batch of one token reads all weights once, so a drafted token costs its bytes by those of the trunk; in each step
    the block also reads the verified tokens, without its head (llama.cpp b11549, `common/speculative.cpp`).
    `block_type`: the layer is in this type where that is smaller; None: in the trunk's own types. `draft`: the draft of
    its own that is used in place of a block; its own bytes count then, and DFlash's all at once in each step.
    """
    head, body = head_of(model), body_bytes(model)
    if head is None or not body:
        return DraftCost("estimated", 0.0)
    if draft is not None:
        return _of_draft(draft, head.computed_size_bytes or 0, body)
    layer = body / max(1, Anatomy.of(model).n_layer_trunk)
    if block_type is not None:
        layer *= min(1.0, _bits(block_type) / _trunk_bits(model))
    low_bit = min(head.computed_size_bytes or 0, head.n_elements * _bits(_DRAFT_HEAD_TYPE) / 8)
    token = body + (head.computed_size_bytes or 0)
    return DraftCost("estimated", (layer + low_bit) / token, 0.0, layer / token)


def _of_draft(draft: Model, head: int, body: float) -> DraftCost:
    """The cost of a model of its own, by bytes. `head`, `body`: those of the trunk."""
    kind, own = Draft.of(draft), draft.tensors.get(_HEAD)
    sizes = {info.name: file.stored_size(info) for file, info in draft.items()}
    features = sum(sizes.get(name, 0) for name in _FEATURES)  # read for the verified tokens, not for drafted ones
    left_out = {_EMBEDDINGS, _HEAD, D2T, *_FEATURES}
    layers = sum(size for name, size in sizes.items() if name not in left_out)
    once = layers + (head if own is None else sizes[_HEAD])
    token = body + head
    if kind is not None and kind.block_size is not None:
        return DraftCost("estimated", 0.0, once / token, features / token)
    return DraftCost("estimated", once / token, 0.0, (layers + features) / token)


def _bits(name: str) -> float:
    return parse_type_name(name).bits_per_weight or 0.0


def _trunk_bits(model: Model) -> float:
    """Bits per element of the trunk's layers."""
    sized = [
        (8 * (info.computed_size_bytes or 0), info.n_elements)
        for info in (info for _, info in model.items())
        if layer_of(info.name) is not None
    ]
    return sum(bits for bits, _ in sized) / max(1, sum(n for _, n in sized))
