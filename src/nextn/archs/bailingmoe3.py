"""Ling 3.0: latent attention with a gate per head in the block, linear attention in most of the trunk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import FormatError, UnsupportedFormat
from . import engines, headers, parts
from . import header_values as v
from .base import Family, Lookup, Memory
from .headers import BOOL, I32
from .hparams import ARRAY, F32, U32, Config, HParams, Row


def _heads(config: Config) -> list[int]:
    """1 for each layer with full attention, 0 for those with linear attention; a block's is full."""
    n_trunk, every = config.integer("num_hidden_layers"), config.integer("layer_group_size")
    if every < 1:
        raise FormatError(f"'layer_group_size' is {every}", path=config.path)
    return [
        int(i >= n_trunk // every * every or (i + 1) % every == 0 or i >= n_trunk) for i in range(config.n_layer)
    ]


def _safe_gate(config: Config) -> bool:
    """True. Raises UnsupportedFormat for what the converter knows but no engine runs."""
    for key, runs in _RUNS.items():
        if config.values.get(key) != runs:
            found = config.values.get(key)
            raise UnsupportedFormat(f"'{key}' is {found!r}, but engines only run {runs!r}", path=config.path)
    return True


_RUNS = {"no_kda_lora": True, "kda_safe_gate": True, "gated_attention_proj_granularity_type": "head_wise"}


def _sections(config: Config) -> list[Any] | None:
    """With vision: the parts of multimodal RoPE beside the text model's values; None without them."""
    if config.values.get("mrope_section") is None:
        return v.sections(config)
    return [*config.numbers("mrope_section", 3)[:3], 0]


_ROWS = headers.with_base(
    Row("expert_gating_func", U32, v.needed_gating),
    Row("attention.head_count_kv", ARRAY, _heads, I32),
    Row("rope.dimension_sections", ARRAY, _sections, I32),
    Row("vocab_size", U32, "vocab_size"),
    Row("ssm.conv_kernel", U32, "short_conv_kernel_size"),
    Row("kda.head_dim", U32, "head_dim"),
    Row("kda.safe_gate", BOOL, _safe_gate),
    Row("kda.gate_lower_bound", F32, "kda_lower_bound"),
    *headers.LATENT,
    Row("rope.dimension_count", U32, "qk_rope_head_dim"),
    headers.MOE_WIDTH,
    Row("expert_shared_feed_forward_length", U32, "moe_shared_expert_intermediate_size"),
    Row("expert_shared_count", U32, lambda config: config.values.get("num_shared_experts", 1)),
    Row("leading_dense_block_count", U32, "first_k_dense_replace"),
    Row("expert_weights_scale", F32, "routed_scaling_factor"),
    Row("expert_weights_norm", BOOL, "norm_topk_prob"),
    Row("swiglu_clamp_exp", ARRAY, v.padded("expert_swiglu_limit_list"), F32),
    Row("swiglu_clamp_shexp", ARRAY, v.padded("share_expert_swiglu_limit_list"), F32),
)


def _recurrent(find: Lookup, n_trunk: int, n_all: int) -> list[bool]:
    """Layers without key heads."""
    heads = find("attention.head_count_kv")
    return [i < n_trunk and isinstance(heads, list) and i < len(heads) and not heads[i] for i in range(n_all)]


FAMILY = Family(
    arch="bailingmoe3",
    title="Ling 3.0",
    classes=("BailingMoeV3ForCausalLM", "BailingMoeV3VLForConditionalGeneration"),
    **parts.AFTER_TRUNK,
    publishers=("inclusionAI",),
    **parts.ONE_BLOCK,
    splits=(),
    unpublished=None,
    rules=(
        *parts.nextn(own_embeddings=False),
        parts.norm("layer_output_norm.weight", "final_layernorm.weight"),  # applied before the head
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("ffn_norm.weight", "post_attention_layernorm.weight"),
        *parts.mla("attention.", "dense", plain=True),
        parts.tensor("attn_gate.weight", "E H", "attention.g_proj.weight"),
        *parts.router("mlp.gate.expert_bias"),
        *parts.experts(),
        *parts.shared_experts(),
    ),
    **parts.USUAL_NAMES,
    qkv=None,
    header=HParams(rows=_ROWS, output_norm_plus_one=False, keeps_tied_head=True, rope_factors=None),
    **parts.USUAL_ARRAYS,
    **parts.USUAL_SIDECAR,
    head_needed=False,
    ignores_promise=False,
    memory=Memory(
        recurrent=_recurrent,
        rolls_back=True,
        window_period=None,
        indexer=None,
        block_in_target=True,  # the hybrid cache is not told to leave it out
        loaded_anyway=(),
        pool_rows=0,
    ),
    root=parts.root(embeddings="word_embeddings"),
    array_tail={
        "attention.head_count_kv": 1,
        "swiglu_clamp_exp": parts.limits("expert_swiglu_limit_list"),
        "swiglu_clamp_shexp": parts.limits("share_expert_swiglu_limit_list"),
    },
    draft_head=False,
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=replace(engines.TRUNK_ON_IK, bundle=engines.Does.LOADS, shards=engines.Does.LOADS),
)
