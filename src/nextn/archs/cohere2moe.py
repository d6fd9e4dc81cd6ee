"""Cohere 2 MoE: attention and experts in parallel after one norm; the block's attention is full."""

from __future__ import annotations

from dataclasses import replace

from ..errors import UnsupportedFormat
from ..gguf.kv import KVType
from . import engines, headers, parts
from .base import Family
from .headers import BOOL
from .hparams import ARRAY, F32, U32, Config, HParams, Row


def _shared(config: Config) -> int | None:
    """Width of all shared experts, or None without any. Raises UnsupportedFormat."""
    width = config.integer("intermediate_size") * config.count("num_shared_experts", 0)
    how = config.values.get("shared_expert_combination_strategy", "average")
    if width and how != "average":
        raise UnsupportedFormat(f"shared experts are combined with '{how}', which no engine supports", path=config.path)
    return width or None


def _slides(config: Config) -> list[bool]:
    """Only the trunk's layers; engines count a block's as full attention."""
    return [kind == "sliding_attention" for kind in config.of_trunk("layer_types")]


def _dense(config: Config) -> int:
    """How many leading layers have no experts."""
    kinds = config.values.get("mlp_layer_types")
    if isinstance(kinds, list):
        return next((i for i, kind in enumerate(kinds) if kind != "dense"), len(kinds))
    return config.count("first_k_dense_replace", 0)


_ROWS = headers.with_base(
    Row("attention.layer_norm_rms_epsilon", F32, ("rms_norm_eps", "norm_eps"), optional=True),
    Row("rope.scaling.type", KVType.STRING, lambda config: "none"),
    Row("logit_scale", F32, "logit_scale"),
    Row("attention.sliding_window", U32, "sliding_window"),
    Row("attention.sliding_window_pattern", ARRAY, _slides, BOOL),
    Row("vocab_size", U32, "vocab_size"),
    Row("expert_feed_forward_length", U32, "intermediate_size"),
    Row("leading_dense_block_count", U32, _dense),
    Row("expert_weights_norm", BOOL, lambda config: config.values.get("norm_topk_prob", False)),
    Row("expert_shared_count", U32, lambda config: config.values.get("num_shared_experts") or None),
    Row("expert_shared_feed_forward_length", U32, _shared),
    Row("rope.dimension_count", U32, "head_dim"),
)


FAMILY = Family(
    arch="cohere2moe",
    title="Cohere 2 MoE",
    classes=("Cohere2MoeForCausalLM",),
    **parts.AFTER_TRUNK,
    publishers=("CohereLabs",),
    **parts.ONE_BLOCK,
    splits=(),
    unpublished=None,
    rules=(
        *parts.nextn(),
        parts.SHARED_HEAD_NORM,
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        *parts.attention(),
        *parts.router(None),
        *parts.experts(),
        parts.gate_up(),
        *parts.shared_experts(optional=True, needed_by="expert_shared_count"),
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
        parts.PLAIN_CACHE, window_period=4, loaded_anyway=("nextn.embed_tokens", "nextn.shared_head")
    ),
    root=parts.root(),
    array_tail={},
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.NOT_ON_IK,
)
