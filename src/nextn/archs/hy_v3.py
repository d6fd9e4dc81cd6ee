"""Hunyuan V3: every block is a decoder layer; its router's bias has no suffix."""

from __future__ import annotations

from dataclasses import replace

from . import engines, headers, parts
from .base import Family
from .headers import BOOL
from .hparams import F32, U32, Config, HParams, Row


def _shared(config: Config) -> int:
    """Width of all shared experts."""
    return config.integer("moe_intermediate_size") * config.count("num_shared_experts", 1)


_ROWS = headers.with_base(
    headers.MOE_WIDTH,
    Row("expert_shared_feed_forward_length", U32, _shared),
    Row("expert_weights_norm", BOOL, lambda config: config.values.get("route_norm", True)),
    Row("expert_weights_scale", F32, lambda config: config.values.get("router_scaling_factor", 1.0)),
    headers.SIGMOID,
)


FAMILY = Family(
    arch="hy_v3",
    title="Hunyuan V3",
    classes=("HYV3ForCausalLM",),
    **parts.AFTER_TRUNK,
    publishers=("tencent",),
    n_blocks=1,
    splits=(),
    unpublished=None,
    rules=(
        *parts.nextn(),
        parts.norm("nextn.shared_head_norm.weight", "final_layernorm.weight", "shared_head.norm.weight", optional=True),
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("ffn_norm.weight", "post_attention_layernorm.weight"),
        *parts.attention(bias=True),
        *parts.qk_norms(),
        *parts.router(
            "mlp.expert_bias", target="exp_probs_b", gate="mlp.router.gate.weight", optional=True, form=parts.EXPERTS
        ),
        *parts.experts(form=parts.EXPERTS),
        parts.gate_up(form=parts.EXPERTS),
        *parts.shared_experts("mlp.shared_mlp.", optional=True, form=parts.EXPERTS),
        *parts.dense(form=parts.DENSE),
    ),
    **parts.USUAL_NAMES,
    qkv=parts.QKV_EITHER,
    header=HParams(rows=_ROWS, output_norm_plus_one=False, keeps_tied_head=True, rope_factors=None),
    **parts.USUAL_ARRAYS,
    **parts.USUAL_SIDECAR,
    draft_head=True,
    head_needed=False,
    ignores_promise=False,
    memory=replace(
        parts.PLAIN_CACHE,
        loaded_anyway=(
            "ffn_gate", "ffn_up", "ffn_down", "exp_probs_b", "nextn.embed_tokens", "nextn.shared_head",
        ),
    ),
    root=parts.root(),
    array_tail={},
    max_blocks=8,
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.NOT_ON_IK,
)
