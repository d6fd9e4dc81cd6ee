"""GLM-5, 5.1, 5.2: DeepSeek-V3.2's attention. `attention.indexer.types` counts trunk layers: it does not grow."""

from __future__ import annotations

from . import engines, parts
from .base import Family

FAMILY = Family(
    arch="glm-dsa",
    title="GLM-5 / 5.1 / 5.2",
    classes=("GlmMoeDsaForCausalLM",),
    count_keys=("num_nextn_predict_layers",),
    prefixes=parts.BEHIND,
    behind_trunk=True,
    rules=(
        *parts.nextn(),
        parts.SHARED_HEAD_NORM,
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("ffn_norm.weight", "post_attention_layernorm.weight"),
        *parts.mla(),
        *parts.indexer(optional=True),
        *parts.router("mlp.gate.e_score_correction_bias"),
        *parts.experts(),
        *parts.shared_experts(),
    ),
    root=parts.root(),
    array_tail={},
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.IN_THE_MODEL_ON_IK,
)
