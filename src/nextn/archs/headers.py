"""The `{arch}.*` header pairs of each family's sidecar when it is made from a checkpoint alone: one table each.

Keys, types, values and order are those of llama.cpp's converter with `--mtp` (conversion/*.py at b11549); the tests
hold them against its output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..gguf.kv import KVType
from . import header_values as v
from .base import Transform
from .hparams import ARRAY, F32, U32, Config, HParams, Row

BOOL, I32 = KVType.BOOL, KVType.INT32


def _first(*keys: str) -> Callable[[Config], Any]:
    return lambda config: config.first(*keys)


def _need(*keys: str) -> Callable[[Config], Any]:
    return lambda config: config.one_of(*keys)


def _optional(suffix: str, kind: KVType, key: str) -> Row:
    return Row(suffix, kind, key, optional=True)


NEXTN = Row("nextn_predict_layers", U32, lambda config: config.n_layer_nextn)

# What the converter writes of any model, in its order.
_BASE = (
    Row("block_count", U32, v.block_count),
    Row("context_length", U32, "max_position_embeddings"),
    Row("embedding_length", U32, "hidden_size"),
    Row(
        "feed_forward_length",
        U32,
        _first("prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size"),
    ),
    Row("attention.head_count", U32, "num_attention_heads"),
    Row("attention.head_count_kv", U32, "num_key_value_heads"),
    *v.ROPE_SCALING,
    Row("rope.dimension_sections", ARRAY, v.sections, I32),
    Row("rope.freq_base", F32, v.theta),
    Row("rope.freq_base_swa", F32, lambda config: config.sliding_theta),
    Row("attention.layer_norm_rms_epsilon", F32, "rms_norm_eps"),
    Row("attention.layer_norm_epsilon", F32, _first("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")),
    Row("expert_count", U32, _need("num_local_experts", "num_experts", "n_routed_experts")),
    Row("expert_used_count", U32, _need("num_experts_per_tok", "num_experts_per_token", "top_k_experts")),
    _optional("expert_group_count", U32, "n_group"),
    _optional("expert_group_used_count", U32, "topk_group"),
    Row("expert_gating_func", U32, v.gating),
    _optional("attention.key_length", U32, "head_dim"),
    _optional("attention.value_length", U32, "head_dim"),
)


def _with(*rows: Row) -> tuple[Row, ...]:
    """The rows of any model with a family's own: in place of those of the same key, else behind them."""
    own = {row.suffix: row for row in rows}
    kept = tuple(own.pop(row.suffix, row) for row in _BASE)
    return (*kept, *own.values(), NEXTN)


def _indexer(n_heads: str = "index_n_heads", width: str = "index_head_dim", top: str = "index_topk") -> tuple[Row, ...]:
    return (
        Row("attention.indexer.head_count", U32, n_heads),
        Row("attention.indexer.key_length", U32, width),
        Row("attention.indexer.top_k", U32, top),
    )


_MOE_WIDTH = Row("expert_feed_forward_length", U32, "moe_intermediate_size")
_WEIGHTS = (
    _optional("expert_weights_scale", F32, "routed_scaling_factor"),
    _optional("expert_weights_norm", BOOL, "norm_topk_prob"),
)
_LATENT = (
    _optional("attention.q_lora_rank", U32, "q_lora_rank"),
    Row("attention.kv_lora_rank", U32, "kv_lora_rank"),
    Row("attention.key_length", U32, v.latent_width),
    Row("attention.key_length_mla", U32, v.mla_width),
    Row("attention.value_length_mla", U32, "v_head_dim"),
)

# -- DeepSeek's latent attention --------------------------------------------------------------------------------------


def _deepseek(*more: Row) -> tuple[Row, ...]:
    """V3 and what follows it: written as one head of keys."""
    return _with(
        Row("attention.head_count_kv", U32, lambda config: 1),
        Row("attention.layer_norm_rms_epsilon", F32, lambda config: config.values.get("rms_norm_eps", 1e-6)),
        Row("leading_dense_block_count", U32, lambda config: config.count("first_k_dense_replace", 0)),
        Row("vocab_size", U32, "vocab_size"),
        *_LATENT,
        Row("attention.value_length", U32, "kv_lora_rank"),
        Row("expert_feed_forward_length", U32, _first("moe_intermediate_size", "intermediate_size")),
        Row("expert_shared_count", U32, lambda config: config.values.get("n_shared_experts") or 0),
        _WEIGHTS[0],
        Row("expert_weights_norm", BOOL, lambda config: config.values.get("norm_topk_prob") or None),
        Row("rope.dimension_count", U32, "qk_rope_head_dim"),
        Row("rope.scaling.yarn_log_multiplier", F32, v.log_multiplier),
        *more,
    )


_DEEPSEEK4 = _with(
    Row("rope.dimension_count", U32, "qk_rope_head_dim"),
    Row("attention.q_lora_rank", U32, "q_lora_rank"),
    Row("attention.sliding_window", U32, "sliding_window"),
    _MOE_WIDTH,
    Row("expert_shared_count", U32, "n_shared_experts"),
    Row("expert_weights_scale", F32, "routed_scaling_factor"),
    Row("expert_weights_norm", BOOL, "norm_topk_prob"),
    Row("swiglu_clamp_exp", ARRAY, v.every_layer("swiglu_limit"), F32),
    Row("swiglu_clamp_shexp", ARRAY, v.every_layer("swiglu_limit"), F32),
    *_indexer(),
    Row("attention.output_group_count", U32, "o_groups"),
    Row("attention.output_lora_rank", U32, "o_lora_rank"),
    Row("attention.compress_ratios", ARRAY, "compress_ratios", I32),
    Row("attention.compress_rope_freq_base", F32, "compress_rope_theta"),
    Row("hyper_connection.count", U32, "hc_mult"),
    Row("hyper_connection.sinkhorn_iterations", U32, "hc_sinkhorn_iters"),
    Row("hyper_connection.epsilon", F32, "hc_eps"),
    Row("hash_layer_count", U32, "num_hash_layers"),
    Row("embedding_length_out", U32, v.streams_width),
)

# -- one table a family -----------------------------------------------------------------------------------------------

_GLM4_MOE = _with(
    Row("rope.dimension_count", U32, v.rotary(0.5)),
    _MOE_WIDTH,
    _optional("expert_shared_count", U32, "n_shared_experts"),
    _optional("leading_dense_block_count", U32, "first_k_dense_replace"),
    Row("expert_gating_func", U32, lambda config: v.SIGMOID),
    *_WEIGHTS,
)

_GLM_DSA = _deepseek(
    Row("rope.dimension_count", U32, v.rotary(1.0, lambda config: config.integer("qk_rope_head_dim"))),
    *_indexer(),
    Row("attention.indexer.types", ARRAY, v.indexer_types, BOOL),
)

_GLM5_NEXT = _with(
    Row("attention.head_count_kv", ARRAY, v.full_layers, I32),
    Row("rope.freq_base", F32, lambda config: config.rope.get("rope_theta")),  # nothing is turned
    Row("vocab_size", U32, "vocab_size"),
    Row("attention.layer_norm_epsilon", F32, lambda config: 1e-6),
    Row("ssm.conv_kernel", U32, v.linear_attention("short_conv_kernel_size")),
    Row("kda.head_dim", U32, v.linear_attention("head_dim")),
    Row("kda.gate_lower_bound", F32, v.linear_attention("gate_lower_bound", optional=True)),
    *_LATENT,
    Row("rope.dimension_count", U32, v.no_rope),
    Row("attention.value_length", U32, "kv_lora_rank"),
    *_indexer(),
    Row("attention.indexer.kpool", U32, "index_kpool"),
    Row(
        "attention.indexer.kpool_select_tail",
        BOOL,
        lambda config: config.values.get("index_kpool_always_select_tail", True),
    ),
    Row("attention.indexer.types", ARRAY, v.indexer_types, BOOL),
    Row("hyper_connection.count", U32, "hc_mult"),
    Row("hyper_connection.sinkhorn_iterations", U32, "hc_sinkhorn_iters"),
    Row("hyper_connection.epsilon", F32, "hc_eps"),
    Row("leading_dense_block_count", U32, "first_k_dense_replace"),
    _MOE_WIDTH,
    Row("expert_shared_count", U32, "n_shared_experts"),
    Row("expert_weights_scale", F32, "routed_scaling_factor"),
    Row("expert_weights_norm", BOOL, "norm_topk_prob"),
    Row("swiglu_clamp_exp", ARRAY, v.every_layer("swiglu_limit", optional=True), F32),
    Row("swiglu_clamp_shexp", ARRAY, v.every_layer("swiglu_limit", optional=True), F32),
)

_MIMO2 = _with(
    Row("attention.head_count_kv", ARRAY, v.hybrid_heads, I32),
    Row("attention.sliding_window", U32, "sliding_window"),
    Row("attention.sliding_window_pattern", ARRAY, v.hybrid_pattern, I32),
    Row("attention.value_length", U32, "v_head_dim"),
    _MOE_WIDTH,
    Row("rope.dimension_count", U32, v.rotary(1.0)),
    Row("attention.layer_norm_rms_epsilon", F32, lambda config: config.values.get("layernorm_epsilon", 1e-5)),
    _optional("attention.value_scale", F32, "attention_value_scale"),
)

_HY_V3 = _with(
    _MOE_WIDTH,
    Row("expert_shared_feed_forward_length", U32, v.hunyuan_shared),
    Row("expert_weights_norm", BOOL, lambda config: config.values.get("route_norm", True)),
    Row("expert_weights_scale", F32, lambda config: config.values.get("router_scaling_factor", 1.0)),
    Row("expert_gating_func", U32, lambda config: v.SIGMOID),
)

_STEP35 = _with(
    Row("attention.head_count", ARRAY, v.step_heads("num_attention_heads"), I32),
    Row("attention.head_count_kv", ARRAY, v.step_heads("num_attention_groups"), I32),
    Row("attention.layer_norm_rms_epsilon", F32, lambda config: config.values.get("rms_norm_eps", 1e-5)),
    Row("attention.sliding_window", U32, "sliding_window"),
    Row("attention.sliding_window_pattern", ARRAY, v.slides, BOOL),
    Row("rope.freq_base", F32, lambda config: v.step_thetas(config)[0]),
    Row("rope.freq_base_swa", F32, lambda config: v.step_thetas(config)[1]),
    Row("expert_count", U32, "moe_num_experts"),
    Row("expert_used_count", U32, "moe_top_k"),
    _MOE_WIDTH,
    Row("expert_shared_feed_forward_length", U32, "share_expert_dim"),
    _optional("expert_weights_scale", F32, "moe_router_scaling_factor"),
    _optional("expert_weights_norm", BOOL, "norm_expert_weight"),
    Row("leading_dense_block_count", U32, v.first_moe_layer),
    Row("moe_every_n_layers", U32, lambda config: config.values.get("moe_every_n_layer", 1)),
    Row("swiglu_clamp_exp", ARRAY, v.padded("swiglu_limits"), F32),
    Row("swiglu_clamp_shexp", ARRAY, v.padded("swiglu_limits_shared"), F32),
)

_ATTENTION = v.nemotron_layers("*", "attention", "full_attention")
_EXPERTS = v.nemotron_layers("E", "moe")
_NEMOTRON_H_MOE = _with(
    Row("context_length", U32, lambda config: 1 << 20),  # the model has no RoPE, and so no length
    Row("feed_forward_length", ARRAY, v.of_layers(_EXPERTS, "moe_intermediate_size"), I32),
    Row("attention.head_count_kv", ARRAY, v.of_layers(_ATTENTION, "num_key_value_heads"), I32),
    Row("attention.layer_norm_rms_epsilon", F32, _first("rms_norm_eps", "norm_eps")),
    Row("vocab_size", U32, "vocab_size"),
    Row("rope.freq_base", F32, lambda config: config.rope.get("rope_theta")),
    Row("rope.dimension_count", U32, v.granite_rotary),
    Row("ssm.conv_kernel", U32, "conv_kernel"),
    Row("ssm.state_size", U32, "ssm_state_size"),
    Row("ssm.group_count", U32, "n_groups"),
    Row("ssm.inner_size", U32, v.mamba_size),
    Row("ssm.time_step_rank", U32, "mamba_num_heads"),
    Row("rope.scaling.finetuned", BOOL, lambda config: False),
    Row("attention.key_length", U32, _need("head_dim", "attention_head_dim")),
    Row("attention.value_length", U32, _need("head_dim", "attention_head_dim")),
    _MOE_WIDTH,
    Row("expert_shared_feed_forward_length", U32, "moe_shared_expert_intermediate_size"),
    Row("expert_count", U32, "n_routed_experts"),
    Row("expert_shared_count", U32, "n_shared_experts"),
    Row("expert_weights_norm", BOOL, "norm_topk_prob"),
    Row("expert_weights_scale", F32, "routed_scaling_factor"),
    _optional("moe_latent_size", U32, "moe_latent_size"),
)

_BAILINGMOE3 = _with(
    Row("attention.head_count_kv", ARRAY, v.ling_heads, I32),
    Row("rope.dimension_sections", ARRAY, v.ling_sections, I32),
    Row("vocab_size", U32, "vocab_size"),
    Row("ssm.conv_kernel", U32, "short_conv_kernel_size"),
    Row("kda.head_dim", U32, "head_dim"),
    Row("kda.safe_gate", BOOL, v.ling_safe_gate),
    Row("kda.gate_lower_bound", F32, "kda_lower_bound"),
    *_LATENT,
    Row("rope.dimension_count", U32, "qk_rope_head_dim"),
    _MOE_WIDTH,
    Row("expert_shared_feed_forward_length", U32, "moe_shared_expert_intermediate_size"),
    Row("expert_shared_count", U32, lambda config: config.values.get("num_shared_experts", 1)),
    Row("leading_dense_block_count", U32, "first_k_dense_replace"),
    Row("expert_weights_scale", F32, "routed_scaling_factor"),
    Row("expert_weights_norm", BOOL, "norm_topk_prob"),
    Row("swiglu_clamp_exp", ARRAY, v.padded("expert_swiglu_limit_list"), F32),
    Row("swiglu_clamp_shexp", ARRAY, v.padded("share_expert_swiglu_limit_list"), F32),
)

_COHERE2MOE = _with(
    Row("attention.layer_norm_rms_epsilon", F32, _first("rms_norm_eps", "norm_eps")),
    Row("rope.scaling.type", KVType.STRING, lambda config: "none"),
    Row("logit_scale", F32, "logit_scale"),
    Row("attention.sliding_window", U32, "sliding_window"),
    Row("attention.sliding_window_pattern", ARRAY, v.cohere_slides, BOOL),
    Row("vocab_size", U32, "vocab_size"),
    Row("expert_feed_forward_length", U32, "intermediate_size"),
    Row("leading_dense_block_count", U32, v.cohere_dense),
    Row("expert_weights_norm", BOOL, lambda config: config.values.get("norm_topk_prob", False)),
    Row("expert_shared_count", U32, lambda config: config.values.get("num_shared_experts") or None),
    Row("expert_shared_feed_forward_length", U32, v.cohere_shared),
    Row("rope.dimension_count", U32, "head_dim"),
)

# -- Qwen -------------------------------------------------------------------------------------------------------------


def _qwen(*, moe: bool, sections: Callable[[Config], Any]) -> tuple[Row, ...]:
    """Qwen3-Next and its descendants: gated linear attention with full attention in between."""
    expert_counts = (
        Row("expert_count", U32, "num_experts"),
        Row("expert_used_count", U32, "num_experts_per_tok"),
    )
    expert_sizes = (
        Row("expert_feed_forward_length", U32, "moe_intermediate_size"),
        Row("expert_shared_feed_forward_length", U32, "shared_expert_intermediate_size"),
    )
    return (
        Row("block_count", U32, v.block_count),
        Row("context_length", U32, "max_position_embeddings"),
        Row("embedding_length", U32, "hidden_size"),
        Row("feed_forward_length", U32, "intermediate_size", optional=moe),
        Row("attention.head_count", U32, "num_attention_heads"),
        Row("attention.head_count_kv", U32, "num_key_value_heads"),
        *v.ROPE_SCALING,
        Row("rope.dimension_sections", ARRAY, sections, I32),
        Row("rope.freq_base", F32, v.theta),
        Row("attention.layer_norm_rms_epsilon", F32, "rms_norm_eps"),
        *(expert_counts if moe else ()),
        Row("attention.key_length", U32, "head_dim"),
        Row("attention.value_length", U32, "head_dim"),
        *(expert_sizes if moe else ()),
        NEXTN,
        Row("ssm.conv_kernel", U32, "linear_conv_kernel_dim"),
        Row("ssm.state_size", U32, "linear_key_head_dim"),
        Row("ssm.group_count", U32, "linear_num_key_heads"),
        Row("ssm.time_step_rank", U32, "linear_num_value_heads"),
        Row("ssm.inner_size", U32, v.inner_size),
        Row("attention.recurrent_layers", ARRAY, v.recurrent_layers, BOOL),
        Row("full_attention_interval", U32, v.interval),
        Row("rope.dimension_count", U32, v.rotary(0.25)),
    )


_QWEN4EXP = (
    *_qwen(moe=True, sections=v.sections_always),
    Row("hyper_connection.count", U32, "hc_count"),
    Row("hyper_connection.low_rank", U32, "hc_lowrank"),
    *_indexer("indexer_n_heads", "indexer_head_dim", "indexer_budget"),
    Row("attention.compress_ratios", ARRAY, v.compress_ratios, I32),
)

HPARAMS: dict[str, HParams] = {
    "qwen3next": HParams(_qwen(moe=True, sections=v.sections), Transform.PLUS_ONE),
    "qwen35": HParams(_qwen(moe=False, sections=v.sections_always), Transform.PLUS_ONE),
    "qwen35moe": HParams(_qwen(moe=True, sections=v.sections_always), Transform.PLUS_ONE),
    "qwen4exp": HParams(_QWEN4EXP, Transform.PLUS_ONE),
    "glm4moe": HParams(_GLM4_MOE),
    "deepseek2": HParams(_deepseek()),
    "deepseek32": HParams(_deepseek(*_indexer())),
    "deepseek4": HParams(_DEEPSEEK4),
    "glm-dsa": HParams(_GLM_DSA),
    "glm5-next": HParams(_GLM5_NEXT),
    "mimo2": HParams(_MIMO2),
    "hy_v3": HParams(_HY_V3),
    "step35": HParams(_STEP35, Transform.PLUS_ONE, rope_factors=True),
    "nemotron_h_moe": HParams(_NEMOTRON_H_MOE),
    "bailingmoe3": HParams(_BAILINGMOE3),
    "cohere2moe": HParams(_COHERE2MOE),
}
