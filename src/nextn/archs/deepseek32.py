"""DeepSeek-V3.2: as V3, with an indexer."""

from __future__ import annotations

from dataclasses import replace

from . import engines, headers, parts
from . import header_values as v
from .base import Family, Lookup
from .hparams import U32, HParams, Row


def _indexer(find: Lookup, n_trunk: int) -> list[bool]:
    return [True] * n_trunk


FAMILY = Family(
    arch="deepseek32",
    title="DeepSeek-V3.2",
    classes=("DeepseekV32ForCausalLM",),
    **parts.AFTER_TRUNK,
    publishers=("deepseek-ai",),
    **parts.ONE_BLOCK,
    splits=(parts.DEEPSEEK3_SPLIT,),
    unpublished=None,
    rules=(
        *parts.nextn(),
        parts.SHARED_HEAD_NORM,
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("ffn_norm.weight", "post_attention_layernorm.weight"),
        *parts.mla(),
        *parts.indexer(optional=False),  # the loader wants it, the draft does not use it
        *parts.router("mlp.gate.e_score_correction_bias", optional=True),
        *parts.experts(),
        *parts.shared_experts(needed_by="expert_shared_count"),
    ),
    **parts.USUAL_NAMES,
    qkv=None,
    header=HParams(
        rows=headers.deepseek(Row("expert_gating_func", U32, v.needed_gating), *headers.indexer()),
        output_norm_plus_one=False,
        keeps_tied_head=False,
        rope_factors=None,
    ),
    **parts.USUAL_ARRAYS,
    **parts.USUAL_SIDECAR,
    draft_head=True,
    head_needed=False,
    ignores_promise=False,
    memory=replace(parts.PLAIN_CACHE, indexer=_indexer, loaded_anyway=("exp_probs_b",)),
    root=parts.root(),
    array_tail={},
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.NOT_ON_IK,
)
