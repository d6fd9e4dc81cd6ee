"""GLM-5.3-Flash: linear attention with latent attention in between, whose indexer looks at pools of tokens.

The block is a layer of latent attention without RoPE; the hyper-connections around the trunk's layers leave it out.
`attention.indexer.types` counts trunk layers: it does not grow.
"""

from __future__ import annotations

from . import engines, parts
from .base import Donor, Family, Rule, Source

_INDEXER = f"{parts.L}self_attn.indexer."


def _limit(donor: Donor, block: int) -> float | None:
    """The limit of gated units: one for all layers."""
    found = donor.config.get("swiglu_limit")
    if found is None:
        limits = donor.trunk("swiglu_clamp_exp")
        found = limits[-1] if isinstance(limits, list) and limits else None
    return None if found is None else float(found)


FAMILY = Family(
    arch="glm5-next",
    title="GLM-5.3-Flash",
    classes=("Glm5NextForConditionalGeneration",),
    count_keys=("num_nextn_predict_layers",),
    prefixes=parts.BEHIND,
    behind_trunk=True,
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
    root=parts.root(),
    array_tail={"attention.head_count_kv": 1, "swiglu_clamp_exp": _limit, "swiglu_clamp_shexp": _limit},
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.NOT_ON_OLD_IK,
)
