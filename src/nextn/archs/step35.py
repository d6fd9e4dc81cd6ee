"""Step-3.5 and 3.7: three dense blocks, norms stored as one less than written, and heads of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..errors import FormatError, UnsupportedFormat
from . import engines, headers, parts
from . import header_values as v
from .base import Donor, Family, Tail
from .headers import BOOL, I32
from .hparams import ARRAY, F32, U32, Config, HParams, Row, fits


def _by_kind(full: str, sliding: str) -> Tail:
    """A count of heads that depends on whether the block's layer has a sliding window."""

    def value(donor: Donor, block: int) -> int | None:
        slides = _slides(donor, block)
        if slides is None:
            return None
        found = donor.count(sliding, "attention_other_setting") if slides else None
        return donor.count(full) if found is None else found

    return value


def _slides(donor: Donor, block: int) -> bool | None:
    """config.json lists the kinds of the blocks' layers after the trunk's; without an entry attention is full."""
    kinds = donor.config.get("layer_types")
    if not isinstance(kinds, list):
        return None
    at = donor.n_layer + block
    return at < len(kinds) and kinds[at] == "sliding_attention"


def _all_slide(config: Config) -> list[bool]:
    """Whether each layer has a sliding window; layers after the list's end have full attention.

    Raises FormatError, and UnsupportedFormat when RoPE rotates other shares of a head than in engines.
    """
    kinds, shares = (config.values.get(key) or [] for key in ("layer_types", "partial_rotary_factors"))
    for key, found in (("layer_types", kinds), ("partial_rotary_factors", shares)):
        if not isinstance(found, list):
            raise FormatError(f"'{key}' is {found!r}, not a list", path=config.path)
    sliding = [i < len(kinds) and kinds[i] == "sliding_attention" for i in range(config.n_layer)]
    shares = [*shares, *[0.5] * config.n_layer][: config.n_layer]
    if shares != [1.0 if each else 0.5 for each in sliding]:
        raise UnsupportedFormat(
            "'partial_rotary_factors' is not 1 for sliding-window layers and 0.5 for the others, and no engine "
            "runs that",
            path=config.path,
        )
    return sliding


def _thetas(config: Config) -> tuple[Any, Any]:
    """The RoPE bases of full and of sliding attention; of a list, the first two."""
    if isinstance(config.values.get("rope_theta"), list):
        full, sliding = config.numbers("rope_theta", 2)[:2]
        if full is None or sliding is None:
            raise FormatError("'rope_theta' has no base for one of the layer types", path=config.path)
        return full, sliding
    return v.theta(config), config.sliding_theta


def _heads(key: str) -> Callable[[Config], list[int]]:
    """Head counts of each layer, which differ between full and sliding attention."""

    def value(config: Config) -> list[int]:
        full = config.integer(key)
        other = config.values.get("attention_other_setting") or {}
        if not isinstance(other, dict):
            raise FormatError("'attention_other_setting' is not a JSON object", path=config.path)
        return [other.get(key, full) if sliding else full for sliding in _all_slide(config)]

    return value


def _first_moe_layer(config: Config) -> int:
    """The first layer with experts, from a list written as text."""
    text = config.values.get("moe_layers_enum")
    if not isinstance(text, str) or not text.strip():
        return 0
    try:
        return max(0, min(int(number) for number in text.split(",")))
    except ValueError:
        raise FormatError(f"'moe_layers_enum' is {text!r}, not a list of numbers", path=config.path) from None


_ROWS = headers.with_base(
    headers.DENSE_FEED_FORWARD_LENGTH,
    Row("attention.key_length", U32, "head_dim"),
    Row("attention.value_length", U32, "head_dim"),
    Row("attention.head_count", ARRAY, _heads("num_attention_heads"), I32),
    Row("attention.head_count_kv", ARRAY, _heads("num_attention_groups"), I32),
    Row("attention.layer_norm_rms_epsilon", F32, lambda config: config.values.get("rms_norm_eps", 1e-5)),
    Row("attention.sliding_window", U32, "sliding_window"),
    Row("attention.sliding_window_pattern", ARRAY, _all_slide, BOOL),
    Row("rope.freq_base", F32, lambda config: _thetas(config)[0]),
    Row("rope.freq_base_swa", F32, lambda config: _thetas(config)[1]),
    Row("expert_count", U32, "moe_num_experts"),
    Row("expert_used_count", U32, "moe_top_k"),
    headers.MOE_WIDTH,
    Row("expert_shared_feed_forward_length", U32, "share_expert_dim"),
    headers.optional("expert_weights_scale", F32, "moe_router_scaling_factor"),
    headers.optional("expert_weights_norm", BOOL, "norm_expert_weight"),
    Row("leading_dense_block_count", U32, _first_moe_layer),
    Row("moe_every_n_layers", U32, lambda config: config.values.get("moe_every_n_layer", 1)),
    Row("swiglu_clamp_exp", ARRAY, v.padded("swiglu_limits"), F32),
    Row("swiglu_clamp_shexp", ARRAY, v.padded("swiglu_limits_shared"), F32),
)


def _llama3_factors(config: Config) -> list[float] | None:
    """By how much llama3's scaling slows each frequency of RoPE, [head_dim / 2]; None without such scaling.

    Only full attention's share of a head is scaled; the rest is 1, which leaves sliding attention unchanged. Computed
    in float32 as in conversion/step3.py. Raises FormatError.
    """
    import numpy as np

    rope = config.rope
    if str(rope.get("rope_type") or "").lower() != v.LLAMA3:
        return None
    kinds, shares = config.numbers("layer_types"), config.numbers("partial_rotary_factors")
    share = next((x for kind, x in zip(kinds, shares, strict=False) if kind == "full_attention"), None)
    told = [_thetas(config)[0], share]
    told += [rope.get(key, usual) for key, usual in _LLAMA3.items()]
    if not all(fits(x, F32) and x > 0 for x in told):
        raise FormatError(
            "the position scaling ('rope_scaling', 'partial_rotary_factors') is damaged", path=config.path
        )
    base, part, factor, low, high, length = map(float, told)
    n_half, n_turned = v.head_size(config) // 2, int(v.head_size(config) * part)
    exponents = np.arange(0, n_turned, 2, dtype=np.float32) / np.float32(n_turned)
    frequencies = np.float32(1) / np.power(np.float32(base), exponents, dtype=np.float32)
    found = []
    for frequency in frequencies.tolist():
        wavelength = 2 * math.pi / frequency
        if wavelength < length / high:
            found.append(1.0)
        elif wavelength > length / low:
            found.append(factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return found + [1.0] * (n_half - len(found))


_LLAMA3 = {
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip


_EXPERTS = (("gate", "E Fx X"), ("up", "E Fx X"), ("down", "Fx E X"))

FAMILY = Family(
    arch="step35",
    title="Step-3.5 / 3.7",
    classes=("Step3p5ForCausalLM", "Step3p7ForConditionalGeneration"),
    **parts.AFTER_TRUNK,
    publishers=("stepfun-ai",),
    n_blocks=3,
    splits=(),
    unpublished=None,
    rules=(
        *parts.nextn(norms=parts.norm_plus_one),
        parts.norm_plus_one(
            "nextn.shared_head_norm.weight",
            "shared_head.norm.weight",
            "transformer.shared_head.norm.weight",
            optional=True,
        ),
        parts.norm_plus_one("attn_norm.weight", "input_layernorm.weight"),
        parts.norm_plus_one("ffn_norm.weight", "post_attention_layernorm.weight"),
        *parts.attention(bias=True),
        parts.norm_plus_one("attn_q_norm.weight", "self_attn.q_norm.weight", ne="D", optional=True),
        parts.norm_plus_one("attn_k_norm.weight", "self_attn.k_norm.weight", ne="D", optional=True),
        parts.tensor("attn_gate.weight", "E H", "self_attn.g_proj.weight", optional=True),
        *parts.dense(form=parts.DENSE),
        *parts.router("moe.router_bias", gate="moe.gate.weight", optional=True, form=parts.EXPERTS),
        *(parts.tensor(f"ffn_{x}_exps.weight", ne, f"moe.{x}_proj.weight", form=parts.EXPERTS) for x, ne in _EXPERTS),
        *parts.shared_experts("share_expert.", optional=True, form=parts.EXPERTS),
    ),
    **parts.USUAL_NAMES,
    qkv=parts.QKV_EITHER,
    header=HParams(rows=_ROWS, output_norm_plus_one=True, keeps_tied_head=True, rope_factors=_llama3_factors),
    **parts.USUAL_ARRAYS,
    sidecar_drops=(),
    draft_head=True,
    head_needed=False,
    only_sidecar="",
    ignores_promise=False,
    memory=replace(
        parts.PLAIN_CACHE,
        loaded_anyway=(
            "attn_q_norm", "attn_k_norm", "attn_gate", "ffn_gate", "ffn_up", "ffn_down", "nextn.embed_tokens",
            "nextn.shared_head",
        ),
    ),
    root=parts.root(),
    array_tail={
        "attention.head_count": _by_kind("num_attention_heads", "num_attention_heads"),
        "attention.head_count_kv": _by_kind("num_attention_groups", "num_attention_groups"),
        "attention.sliding_window_pattern": _slides,
        "swiglu_clamp_exp": parts.limits("swiglu_limits"),
        "swiglu_clamp_shexp": parts.limits("swiglu_limits_shared"),
    },
    max_blocks=3,
    sidecar_extra=("rope_freqs.weight",),
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.ON_IK,
)
