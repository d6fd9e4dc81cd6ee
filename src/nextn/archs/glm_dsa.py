"""GLM-5, 5.1, 5.2: DeepSeek-V3.2's attention. `attention.indexer.types` counts trunk layers: it does not grow."""

from __future__ import annotations

from . import parts
from .base import Family, OnIk

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
    runs_on={"llama.cpp": parts.ENGINE_SINGLE, "ik_llama.cpp": "bundled, shards; no sidecar"},
    ik=OnIk(),
)
