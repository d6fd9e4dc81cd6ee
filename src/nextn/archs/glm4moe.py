"""GLM-4.5, 4.5-Air, 4.6 and 4.5V: attention with biases, experts with one shared."""

from __future__ import annotations

from . import engines, headers, parts
from . import header_values as v
from .base import Family
from .hparams import U32, HParams, Row

_ROWS = headers.with_base(
    Row("rope.dimension_count", U32, v.rotary(0.5)),
    headers.MOE_WIDTH,
    headers.optional("expert_shared_count", U32, "n_shared_experts"),
    headers.optional("leading_dense_block_count", U32, "first_k_dense_replace"),
    headers.SIGMOID,
    *headers.WEIGHTS,
)


FAMILY = Family(
    arch="glm4moe",
    title="GLM-4.5 / 4.6",
    classes=("Glm4MoeForCausalLM", "Glm4vMoeForConditionalGeneration"),
    **parts.AFTER_TRUNK,
    publishers=("zai-org",),
    **parts.ONE_BLOCK,
    splits=(parts.GLM4_SPLIT,),
    unpublished=None,
    rules=(
        *parts.nextn(),
        parts.SHARED_HEAD_NORM,
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("post_attention_norm.weight", "post_attention_layernorm.weight"),
        *parts.attention(bias=True),
        *parts.qk_norms(optional=True),  # the 355B models have them
        *parts.router("mlp.gate.e_score_correction_bias"),
        *parts.experts(),
        *parts.shared_experts(optional=True, needed_by="expert_shared_count"),
    ),
    **parts.USUAL_NAMES,
    qkv=parts.QKV_EITHER,
    header=HParams(rows=_ROWS, output_norm_plus_one=False, keeps_tied_head=True, rope_factors=None),
    **parts.USUAL_ARRAYS,
    **parts.USUAL_SIDECAR,
    draft_head=True,
    head_needed=False,
    ignores_promise=False,
    memory=parts.PLAIN_CACHE,
    root=parts.root(),
    array_tail={},
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.IN_THE_MODEL_ON_IK,
)
