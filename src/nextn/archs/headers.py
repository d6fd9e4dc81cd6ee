"""Rows of `{arch}.*` header pairs that several families' sidecars share when they are made from a checkpoint alone.

Keys, types, values and order are those of llama.cpp's converter with `--mtp` (conversion/*.py at b11549); the tests
compare them with its output.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..gguf.kv import KVType
from . import header_values as v
from .hparams import ARRAY, F32, U32, Config, Row

BOOL, I32 = KVType.BOOL, KVType.INT32


def optional(suffix: str, kind: KVType, key: str) -> Row:
    """A pair that is left out where config.json lacks its key."""
    return Row(suffix, kind, key, optional=True)


NEXTN = Row("nextn_predict_layers", U32, lambda config: config.n_layer_nextn)

# Sizes of any model, under every name that config.json may use for them.
CONTEXT_LENGTH = Row(
    "context_length",
    U32,
    (
        "max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length", "model_max_length"
    ),
)
EMBEDDING_LENGTH = Row("embedding_length", U32, ("hidden_size", "n_embd", "dim"))
_WIDTHS = ("prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size", "n_inner", "hidden_dim")
FEED_FORWARD_LENGTH = Row("feed_forward_length", U32, _WIDTHS, optional=True)
DENSE_FEED_FORWARD_LENGTH = Row("feed_forward_length", U32, _WIDTHS)  # without experts engines need it
HEAD_COUNT = Row("attention.head_count", U32, ("num_attention_heads", "n_head", "n_heads"))
HEAD_COUNT_KV = Row("attention.head_count_kv", U32, ("num_key_value_heads", "n_kv_heads"), optional=True)
RMS_EPSILON = Row("attention.layer_norm_rms_epsilon", F32, ("rms_norm_eps", "norm_eps"))
EXPERT_COUNT = Row("expert_count", U32, ("num_local_experts", "num_experts", "n_routed_experts"))
EXPERTS_USED = Row(
    "expert_used_count", U32, ("num_experts_per_tok", "num_experts_per_token", "top_k_experts")
)
KEY_LENGTHS = (
    optional("attention.key_length", U32, "head_dim"),
    optional("attention.value_length", U32, "head_dim"),
)

# What the converter writes for any model, in its order.
_BASE = (
    Row("block_count", U32, v.block_count),
    CONTEXT_LENGTH,
    EMBEDDING_LENGTH,
    FEED_FORWARD_LENGTH,
    HEAD_COUNT,
    HEAD_COUNT_KV,
    *v.ROPE_SCALING,
    Row("rope.dimension_sections", ARRAY, v.sections, I32),
    Row("rope.freq_base", F32, v.theta),
    Row("rope.freq_base_swa", F32, lambda config: config.sliding_theta),
    RMS_EPSILON,
    Row("attention.layer_norm_epsilon", F32, ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"), optional=True),
    EXPERT_COUNT,
    EXPERTS_USED,
    optional("expert_group_count", U32, "n_group"),
    optional("expert_group_used_count", U32, "topk_group"),
    Row("expert_gating_func", U32, v.gating),
    *KEY_LENGTHS,
)


def width_of_experts(config: Config) -> Any:
    """Width of one expert; if not given, engines derive it from the dense width. Raises FormatError for neither."""
    found = config.first("moe_intermediate_size")
    return config.need("moe_intermediate_size") if found is None and config.first(*_WIDTHS) is None else found


def with_base(*rows: Row) -> tuple[Row, ...]:
    """The rows of any model plus a family's own, which replace those of the same key or else follow them."""
    own = {row.suffix: row for row in rows}
    kept = tuple(own.pop(row.suffix, row) for row in _BASE)
    return (*kept, *own.values(), NEXTN)


def drafts_own(*rows: Row) -> tuple[Row, ...]:
    """The same for a draft that is a model of its own: no count of blocks, and experts are only written if given."""
    experts = tuple(replace(row, optional=True) for row in (EXPERT_COUNT, EXPERTS_USED))
    return tuple(row for row in with_base(*experts, *rows) if row is not NEXTN)


def indexer(n_heads: str = "index_n_heads", width: str = "index_head_dim", top: str = "index_topk") -> tuple[Row, ...]:
    """Sizes of the indexer of sparse attention, by their keys in config.json."""
    return (
        Row("attention.indexer.head_count", U32, n_heads),
        Row("attention.indexer.key_length", U32, width),
        Row("attention.indexer.top_k", U32, top),
    )


MOE_WIDTH = Row("expert_feed_forward_length", U32, "moe_intermediate_size")
WEIGHTS = (
    optional("expert_weights_scale", F32, "routed_scaling_factor"),
    optional("expert_weights_norm", BOOL, "norm_topk_prob"),
)
SIGMOID = Row("expert_gating_func", U32, lambda config: v.SIGMOID)
LATENT = (
    optional("attention.q_lora_rank", U32, "q_lora_rank"),
    Row("attention.kv_lora_rank", U32, "kv_lora_rank"),
    Row("attention.key_length", U32, v.latent_width),
    Row("attention.key_length_mla", U32, v.mla_width),
    Row("attention.value_length_mla", U32, "v_head_dim"),
)


def deepseek(*more: Row) -> tuple[Row, ...]:
    """DeepSeek-V3 and its successors: latent attention, written as one head of keys."""
    return with_base(
        Row("attention.head_count_kv", U32, lambda config: 1),
        Row("attention.layer_norm_rms_epsilon", F32, lambda config: config.values.get("rms_norm_eps", 1e-6)),
        Row("leading_dense_block_count", U32, lambda config: config.count("first_k_dense_replace", 0)),
        Row("vocab_size", U32, "vocab_size"),
        *LATENT,
        Row("attention.value_length", U32, "kv_lora_rank"),
        Row("expert_feed_forward_length", U32, ("moe_intermediate_size", "intermediate_size"), optional=True),
        Row("expert_shared_count", U32, lambda config: config.values.get("n_shared_experts") or 0),
        WEIGHTS[0],
        Row("expert_weights_norm", BOOL, lambda config: config.values.get("norm_topk_prob") or None),
        Row("rope.dimension_count", U32, "qk_rope_head_dim"),
        Row("rope.scaling.yarn_log_multiplier", F32, v.log_multiplier),
        *more,
    )
