"""Hunyuan V3: every block a decoder layer; its router's bias has no suffix."""

from __future__ import annotations

from . import engines, parts
from .base import Family

FAMILY = Family(
    arch="hy_v3",
    title="Hunyuan V3",
    classes=("HYV3ForCausalLM",),
    count_keys=("num_nextn_predict_layers",),
    prefixes=parts.BEHIND,
    behind_trunk=True,
    rules=(
        *parts.nextn(),
        parts.norm("nextn.shared_head_norm.weight", "final_layernorm.weight", "shared_head.norm.weight", optional=True),
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("ffn_norm.weight", "post_attention_layernorm.weight"),
        *parts.attention(),
        *parts.qk_norms(),
        *parts.router("mlp.expert_bias", target="exp_probs_b", gate="mlp.router.gate.weight"),
        *parts.experts(),
        *parts.shared_experts("mlp.shared_mlp."),
    ),
    root=parts.root(),
    array_tail={},
    max_blocks=8,
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.NOT_ON_IK,
)
