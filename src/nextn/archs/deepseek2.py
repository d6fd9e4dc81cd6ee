"""DeepSeek-V3, R1, V3.1, Kimi-K2 shapes, and GLM-4.7-Flash: latent attention, experts with shared ones.

llama.cpp's converter drops the block of DeepSeek's classes and keeps that of GLM-4.7-Flash; the graph is the same.
"""

from __future__ import annotations

from . import engines, parts
from .base import Family

FAMILY = Family(
    arch="deepseek2",
    title="DeepSeek-V3 / R1, GLM-4.7-Flash",
    classes=("DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM", "KimiK25ForConditionalGeneration"),
    count_keys=("num_nextn_predict_layers",),
    prefixes=parts.BEHIND,
    behind_trunk=True,
    rules=(
        *parts.nextn(),
        parts.SHARED_HEAD_NORM,
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("ffn_norm.weight", "post_attention_layernorm.weight"),
        *parts.mla(),
        *parts.router("mlp.gate.e_score_correction_bias"),
        *parts.experts(),
        *parts.shared_experts(),
    ),
    root=parts.root(),
    array_tail={},
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.TRUNK_ON_IK,
)
