"""Cohere 2 MoE: attention and experts side by side behind one norm; the block's attention is full."""

from __future__ import annotations

from . import engines, parts
from .base import Family

FAMILY = Family(
    arch="cohere2moe",
    title="Cohere 2 MoE",
    classes=("Cohere2MoeForCausalLM",),
    count_keys=("num_nextn_predict_layers",),
    prefixes=parts.BEHIND,
    behind_trunk=True,
    rules=(
        *parts.nextn(),
        parts.SHARED_HEAD_NORM,
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        *parts.attention(),
        *parts.router(None),
        *parts.experts(),
        *parts.shared_experts(optional=True),
    ),
    root=parts.root(),
    array_tail={},
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.NOT_ON_IK,
)
