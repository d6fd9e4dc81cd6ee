"""Ling 3.0: latent attention with a gate per head in the block, linear attention in most of the trunk."""

from __future__ import annotations

from dataclasses import replace

from . import engines, parts
from .base import Family

FAMILY = Family(
    arch="bailingmoe3",
    title="Ling 3.0",
    classes=("BailingMoeV3ForCausalLM", "BailingMoeV3VLForConditionalGeneration"),
    count_keys=("num_nextn_predict_layers",),
    prefixes=parts.BEHIND,
    behind_trunk=True,
    rules=(
        *parts.nextn(own_embeddings=False),
        parts.norm("layer_output_norm.weight", "final_layernorm.weight"),  # applied before the head
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("ffn_norm.weight", "post_attention_layernorm.weight"),
        *parts.mla("attention.", "dense"),
        parts.tensor("attn_gate.weight", "E H", "attention.g_proj.weight"),
        *parts.router("mlp.gate.expert_bias"),
        *parts.experts(),
        *parts.shared_experts(),
    ),
    root=parts.root(embeddings="word_embeddings"),
    array_tail={"attention.head_count_kv": 1, "swiglu_clamp_exp": 0.0, "swiglu_clamp_shexp": 0.0},
    draft_head=False,
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=replace(engines.TRUNK_ON_IK, bundle=engines.Does.LOADS, shards=engines.Does.LOADS),
)
