"""MiMo-V2-Flash, V2.5: three dense blocks with sliding windows, q, k and v fused. config.json has no count."""

from __future__ import annotations

from . import engines, parts
from .base import Donor, Family, Rule, Source, Transform


def _kv_heads(donor: Donor, block: int) -> int | None:
    """A block's layer is like the trunk's layers with a sliding window."""
    found = donor.config.get("swa_num_key_value_heads")
    if found is not None:
        return int(found)
    pattern, heads = donor.trunk("attention.sliding_window_pattern"), donor.trunk("attention.head_count_kv")
    return next((n for n, slides in zip(heads or (), pattern or (), strict=False) if slides), None)


FAMILY = Family(
    arch="mimo2",
    title="MiMo-V2-Flash / V2.5",
    classes=("MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM"),
    count_keys=(),
    prefixes=("model.mtp.",),
    rules=(
        *parts.nextn(),
        parts.SHARED_HEAD_NORM,
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("ffn_norm.weight", "pre_mlp_layernorm.weight", "post_attention_layernorm.weight"),
        # The draft graph asserts fused q, k and v; with other head counts than the trunk's full layers.
        Rule("attn_qkv.weight", "E Q", (Source(parts.L + "self_attn.qkv_proj.weight", Transform.RANKED_QKV),)),
        parts.tensor("attn_output.weight", "H*Dv E", "self_attn.o_proj.weight"),
        parts.norm("attn_sinks.weight", "self_attn.attention_sink_bias", ne="H", optional=True),
        *parts.dense(),
        parts.norm("layer_output_norm.weight", "final_layernorm.weight", optional=True),
    ),
    root=parts.root(),
    array_tail={"attention.head_count_kv": _kv_heads, "attention.sliding_window_pattern": 1},
    max_blocks=3,
    head_needed=True,
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.TRUNK_ON_IK,
)
