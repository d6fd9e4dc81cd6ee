"""DeepSeek-V3.2: as V3, with an indexer."""

from __future__ import annotations

from . import engines, parts
from .base import Family

FAMILY = Family(
    arch="deepseek32",
    title="DeepSeek-V3.2",
    classes=("DeepseekV32ForCausalLM",),
    count_keys=("num_nextn_predict_layers",),
    prefixes=parts.BEHIND,
    behind_trunk=True,
    rules=(
        *parts.nextn(),
        parts.SHARED_HEAD_NORM,
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("ffn_norm.weight", "post_attention_layernorm.weight"),
        *parts.mla(),
        *parts.indexer(optional=False),  # the loader wants it, the draft does not use it
        *parts.router("mlp.gate.e_score_correction_bias"),
        *parts.experts(),
        *parts.shared_experts(),
    ),
    root=parts.root(),
    array_tail={},
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.NOT_ON_IK,
)
