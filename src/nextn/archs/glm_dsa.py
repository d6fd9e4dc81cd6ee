"""GLM-5, 5.1, 5.2: DeepSeek-V3.2's attention. `attention.indexer.types` counts trunk layers: it does not grow."""

from __future__ import annotations

from dataclasses import replace

from . import engines, headers, parts
from . import header_values as v
from .base import Family, Lookup, flags
from .headers import BOOL
from .hparams import ARRAY, U32, Config, HParams, Row


def _indexer_types(config: Config) -> list[bool] | None:
    """Whether each layer of the trunk has an indexer of its own; None without the key. Raises FormatError."""
    if config.values.get("indexer_types") is None:
        return None
    return [kind == "full" for kind in config.of_trunk("indexer_types")]


_ROWS = headers.deepseek(
    Row("rope.dimension_count", U32, v.rotary(1.0, lambda config: config.integer("qk_rope_head_dim"))),
    *headers.indexer(),
    Row("attention.indexer.types", ARRAY, _indexer_types, BOOL),
)


_SHARED_N_CTX = 1 << 20  # from this trained context length up (GLM-5.2), files without a list share indexers


def _indexer(find: Lookup, n_trunk: int) -> list[bool]:
    """As the header lists them, else every layer's, or every fourth after the first."""
    n_ctx = find("context_length")
    shared = isinstance(n_ctx, int) and n_ctx >= _SHARED_N_CTX
    usual = [not shared or i < 2 or (i - 2) % 4 == 0 for i in range(n_trunk)]
    return flags(find("attention.indexer.types"), n_trunk) or usual


FAMILY = Family(
    arch="glm-dsa",
    title="GLM-5 / 5.1 / 5.2",
    classes=("GlmMoeDsaForCausalLM",),
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
        *parts.indexer(optional=True),
        *parts.router("mlp.gate.e_score_correction_bias", optional=True),
        *parts.experts(),
        *parts.shared_experts(needed_by="expert_shared_count"),
    ),
    **parts.USUAL_NAMES,
    qkv=None,
    header=HParams(rows=_ROWS, output_norm_plus_one=False, keeps_tied_head=False, rope_factors=None),
    trunk_arrays=("attention.indexer.types",),
    longer_arrays=(),
    id_lists=(),
    **parts.USUAL_SIDECAR,
    draft_head=True,
    head_needed=False,
    ignores_promise=False,
    memory=replace(parts.PLAIN_CACHE, indexer=_indexer, loaded_anyway=("exp_probs_b",)),
    root=parts.root(),
    array_tail={},
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=replace(engines.IN_THE_MODEL_ON_IK, needs_head_norm=True),
)
