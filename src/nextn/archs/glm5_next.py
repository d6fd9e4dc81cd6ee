"""GLM-5.3-Flash: linear attention interleaved with latent attention, whose indexer looks at pools of tokens.

The block is a layer of latent attention without RoPE; the hyper-connections around the trunk's layers leave it out.
`attention.indexer.types` counts trunk layers: it does not grow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import FormatError, UnsupportedFormat
from . import engines, headers, parts
from .base import Donor, Family, Lookup, Memory, Rule, Source, flags
from .headers import BOOL, I32
from .hparams import ARRAY, F32, U32, Config, HParams, Row

_INDEXER = f"{parts.L}self_attn.indexer."
_LINEAR = "linear_attention"


def _limit(donor: Donor, block: int) -> float | None:
    """The limit of gated units: one for all layers."""
    found = donor.config.get("swiglu_limit")
    if found is None:
        limits = donor.trunk("swiglu_clamp_exp")
        found = limits[-1] if isinstance(limits, list) and limits else None
    return None if found is None else float(found)


# ---- the header ---------------------------------------------------------------------------------------------------


def _heads(config: Config) -> list[int]:
    """0 for each layer with linear attention, 1 for those with latent attention; a block's is latent."""
    kinds = config.of_trunk("layer_types")
    return [int(kind != _LINEAR) for kind in kinds] + [1] * config.n_layer_nextn


def _linear(key: str, *, optional: bool = False) -> Callable[[Config], Any]:
    """A value of `linear_attn_config`. Raises FormatError, and UnsupportedFormat for two different head counts."""

    def value(config: Config) -> Any:
        found = config.need("linear_attn_config")
        if not isinstance(found, dict):
            raise FormatError("'linear_attn_config' is not a JSON object", path=config.path)
        if found.get("num_heads") != config.integer("num_attention_heads"):
            raise UnsupportedFormat(
                f"linear attention has {found.get('num_heads')!r} heads and latent attention "
                f"{config.integer('num_attention_heads')}, but engines only run equal numbers",
                path=config.path,
            )
        if found.get(key) is None and not optional:
            raise FormatError(f"'{key}' is missing from 'linear_attn_config', and engines need it", path=config.path)
        return found.get(key)

    return value


def _no_rope(config: Config) -> int:
    """0, the number of dimensions that RoPE rotates. Raises UnsupportedFormat for a model with any."""
    if not config.values.get("mla_use_nope") or config.integer("qk_rope_head_dim") != 0:
        raise UnsupportedFormat(
            "latent attention has RoPE ('mla_use_nope', 'qk_rope_head_dim'), but engines run it without",
            path=config.path,
        )
    return 0


def _limits(config: Config) -> list[Any] | None:
    """The limit for each layer, blocks included; None without one."""
    limit = config.values.get("swiglu_limit")
    return None if limit is None else [limit] * config.n_layer


def _types(config: Config) -> list[bool] | None:
    """Whether each layer of the trunk has an indexer of its own; None without the key."""
    found = config.values.get("indexer_types")
    return None if found is None else [kind == "full" for kind in config.of_trunk("indexer_types")]


_ROWS = headers.with_base(
    Row("attention.head_count_kv", ARRAY, _heads, I32),
    Row("rope.freq_base", F32, lambda config: config.rope.get("rope_theta")),  # nothing is rotated
    Row("vocab_size", U32, "vocab_size"),
    Row("attention.layer_norm_epsilon", F32, lambda config: 1e-6),
    Row("ssm.conv_kernel", U32, _linear("short_conv_kernel_size")),
    Row("kda.head_dim", U32, _linear("head_dim")),
    Row("kda.gate_lower_bound", F32, _linear("gate_lower_bound", optional=True)),
    *headers.LATENT,
    Row("rope.dimension_count", U32, _no_rope),
    Row("attention.value_length", U32, "kv_lora_rank"),
    *headers.indexer(),
    Row("attention.indexer.kpool", U32, "index_kpool"),
    Row(
        "attention.indexer.kpool_select_tail",
        BOOL,
        lambda config: config.values.get("index_kpool_always_select_tail", True),
    ),
    Row("attention.indexer.types", ARRAY, _types, BOOL),
    Row("hyper_connection.count", U32, "hc_mult"),
    Row("hyper_connection.sinkhorn_iterations", U32, "hc_sinkhorn_iters"),
    Row("hyper_connection.epsilon", F32, "hc_eps"),
    Row("leading_dense_block_count", U32, "first_k_dense_replace"),
    headers.MOE_WIDTH,
    Row("expert_shared_count", U32, "n_shared_experts"),
    Row("expert_weights_scale", F32, "routed_scaling_factor"),
    Row("expert_weights_norm", BOOL, "norm_topk_prob"),
    Row("swiglu_clamp_exp", ARRAY, _limits, F32),
    Row("swiglu_clamp_shexp", ARRAY, _limits, F32),
)


# ---- memory -------------------------------------------------------------------------------------------------------


def _recurrent(find: Lookup, n_trunk: int, n_all: int) -> list[bool]:
    """Layers without key heads."""
    heads = find("attention.head_count_kv")
    return [i < n_trunk and isinstance(heads, list) and i < len(heads) and not heads[i] for i in range(n_all)]


def _indexer(find: Lookup, n_trunk: int) -> list[bool]:
    """Layers of latent attention, as far as the header lists them as having an indexer of their own."""
    full = flags(find("attention.indexer.types"), n_trunk) or [True] * n_trunk
    return [has and not linear for has, linear in zip(full, _recurrent(find, n_trunk, n_trunk), strict=True)]


FAMILY = Family(
    arch="glm5-next",
    title="GLM-5.3-Flash",
    classes=("Glm5NextForConditionalGeneration",),
    **parts.AFTER_TRUNK,
    publishers=("zai-org",),
    **parts.ONE_BLOCK,
    splits=(parts.GLM4_SPLIT,),
    unpublished=None,
    rules=(
        *parts.nextn(),
        parts.SHARED_HEAD_NORM,
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("ffn_norm.weight", "post_attention_layernorm.weight"),
        *parts.mla(),
        *parts.indexer(optional=False),
        Rule("indexer_compressor_gate.weight", "E Di", (Source(f"{_INDEXER}index_kpool_compress_gate"),), f32=True),
        Rule("indexer_compressor_ape.weight", "Di Kp", (Source(f"{_INDEXER}index_kpool_compress_ape"),), f32=True),
        *parts.router("mlp.gate.e_score_correction_bias"),
        *parts.experts(),
        *parts.shared_experts(),
    ),
    **parts.USUAL_NAMES,
    qkv=None,
    header=HParams(rows=_ROWS, output_norm_plus_one=False, keeps_tied_head=False, rope_factors=None),
    trunk_arrays=("attention.indexer.types",),
    longer_arrays=(),
    id_lists=(),
    **parts.USUAL_SIDECAR,
    draft_head=True,
    head_needed=True,
    ignores_promise=False,
    memory=Memory(
        recurrent=_recurrent,
        rolls_back=True,
        window_period=None,
        indexer=_indexer,
        block_in_target=False,
        loaded_anyway=(),
        pool_rows=3,  # its key, the pool's weight and the pooled key
    ),
    root=parts.root(),
    array_tail={"attention.head_count_kv": 1, "swiglu_clamp_exp": _limit, "swiglu_clamp_shexp": _limit},
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.NOT_ON_OLD_IK,
)
