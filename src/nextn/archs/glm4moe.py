"""GLM-4.5, 4.5-Air, 4.6 and 4.5V: attention with biases, experts with one shared."""

from __future__ import annotations

from . import engines, parts
from .base import Family

FAMILY = Family(
    arch="glm4moe",
    title="GLM-4.5 / 4.6",
    classes=("Glm4MoeForCausalLM", "Glm4vMoeForConditionalGeneration"),
    count_keys=("num_nextn_predict_layers",),
    prefixes=parts.BEHIND,
    behind_trunk=True,
    rules=(
        *parts.nextn(),
        parts.SHARED_HEAD_NORM,
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("post_attention_norm.weight", "post_attention_layernorm.weight"),
        *parts.attention(bias=True),
        *parts.qk_norms(optional=True),  # the 355B models have them
        *parts.router("mlp.gate.e_score_correction_bias"),
        *parts.experts(),
        *parts.shared_experts(optional=True),
    ),
    root=parts.root(),
    array_tail={},
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.IN_THE_MODEL_ON_IK,
)
