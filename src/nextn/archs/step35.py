"""Step-3.5 and 3.7: three dense blocks, norms one less than written, heads of their own."""

from __future__ import annotations

from . import engines, parts
from .base import Donor, Family, Tail


def _by_kind(full: str, sliding: str) -> Tail:
    """A count of heads that depends on whether the block's layer has a sliding window."""

    def value(donor: Donor, block: int) -> int | None:
        slides = _slides(donor, block)
        if slides is None:
            return None
        other = donor.config.get("attention_other_setting") or {}
        found = other.get(sliding, donor.config.get(full)) if slides else donor.config.get(full)
        return None if found is None else int(found)

    return value


def _slides(donor: Donor, block: int) -> bool | None:
    """config.json lists the kinds of the blocks' layers behind the trunk's; without an entry attention is full."""
    kinds = donor.config.get("layer_types")
    if not isinstance(kinds, list):
        return None
    at = donor.n_trunk + block
    return at < len(kinds) and kinds[at] == "sliding_attention"


FAMILY = Family(
    arch="step35",
    title="Step-3.5 / 3.7",
    classes=("Step3p5ForCausalLM", "Step3p7ForConditionalGeneration"),
    count_keys=("num_nextn_predict_layers",),
    prefixes=parts.BEHIND,
    behind_trunk=True,
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
        *parts.attention(),
        parts.norm_plus_one("attn_q_norm.weight", "self_attn.q_norm.weight", ne="D", optional=True),
        parts.norm_plus_one("attn_k_norm.weight", "self_attn.k_norm.weight", ne="D", optional=True),
        parts.tensor("attn_gate.weight", "E H", "self_attn.g_proj.weight", optional=True),
        *parts.dense(),
    ),
    root=parts.root(),
    array_tail={
        "attention.head_count": _by_kind("num_attention_heads", "num_attention_heads"),
        "attention.head_count_kv": _by_kind("num_attention_groups", "num_attention_groups"),
        "attention.sliding_window_pattern": _slides,
        "swiglu_clamp_exp": 0.0,
        "swiglu_clamp_shexp": 0.0,
    },
    max_blocks=3,
    sidecar_extra=("rope_freqs.weight",),
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.ON_IK,
)
