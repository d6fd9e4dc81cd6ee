"""DeepSeek-V3, R1, V3.1, Kimi-K2 shapes, and GLM-4.7-Flash: latent attention, experts with shared ones.

llama.cpp's converter drops the block for DeepSeek's classes and keeps it for GLM-4.7-Flash; the graph is the same.
"""

from __future__ import annotations

import re

from . import engines, headers, parts
from .base import Family, Portrait, Unpublished
from .hparams import HParams

# Trunk layers of the models of this architecture that were published without a block.
_WITHOUT = {27: "DeepSeek-V2-Lite, Moonlight, Kimi-VL", 60: "DeepSeek-V2 and V2.5"}
_GIGACHAT_LAYERS = 26
_KIMI_LAYERS, _KIMI_EXPERTS = 61, 384
_KIMI = re.compile(r"kimi[-_ .]?k2", re.IGNORECASE)


def _unpublished(seen: Portrait) -> Unpublished | None:
    """Kimi-K2, K2.5, K2.6 have DeepSeek-V3's architecture with 384 experts, and a tokenizer of their own."""
    n = seen.n_trunk
    if (
        any(_KIMI.search(name) for name in seen.names)
        or seen.pre == "kimi-k2"
        or (n == _KIMI_LAYERS and seen.n_expert == _KIMI_EXPERTS)
    ):
        n = n or _KIMI_LAYERS
        return Unpublished(
            f"Kimi-K2, K2.5 and K2.6 were published without an MTP block: the checkpoints end at layer {n - 1}, "
            f"whatever config.json says. Third parties publish native blocks (layer {n}; for example, "
            "k-l-lambda/Kimi-K2.5-MTP), which can be attached",
            n,
        )
    if n == _GIGACHAT_LAYERS and not seen.q_lora_rank:
        return Unpublished(
            "GigaChat3-10B-A1.8B was published with an MTP block, but llama.cpp (b11549) cannot draft with it: its "
            "graph needs low-rank queries, and this model's are a single matrix"
        )
    if n in _WITHOUT:
        return Unpublished(f"{_WITHOUT[n]} were published without an MTP block")
    return None


FAMILY = Family(
    arch="deepseek2",
    title="DeepSeek-V3 / R1, GLM-4.7-Flash",
    classes=("DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM", "KimiK25ForConditionalGeneration"),
    **parts.AFTER_TRUNK,
    publishers=("deepseek-ai",),
    **parts.ONE_BLOCK,
    splits=(parts.DEEPSEEK3_SPLIT, parts.GLM4_SPLIT),
    unpublished=_unpublished,
    rules=(
        *parts.nextn(),
        parts.SHARED_HEAD_NORM,
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("ffn_norm.weight", "post_attention_layernorm.weight"),
        *parts.mla(),
        *parts.router("mlp.gate.e_score_correction_bias", optional=True),
        *parts.experts(),
        parts.gate_up(),
        *parts.shared_experts(needed_by="expert_shared_count"),
    ),
    **parts.USUAL_NAMES,
    qkv=None,
    header=HParams(rows=headers.deepseek(), output_norm_plus_one=False, keeps_tied_head=False, rope_factors=None),
    **parts.USUAL_ARRAYS,
    **parts.USUAL_SIDECAR,
    draft_head=True,
    head_needed=False,
    ignores_promise=False,
    memory=parts.PLAIN_CACHE,
    root=parts.root(),
    array_tail={},
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.TRUNK_ON_IK,
)
