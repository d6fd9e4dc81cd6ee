"""Qwen3-Next: config.json has no key for the block, only its tensors show it."""

from __future__ import annotations

from . import engines, parts, qwen
from . import header_values as v
from .base import Family

FAMILY = Family(
    arch="qwen3next",
    title="Qwen3-Next",
    classes=("Qwen3NextForCausalLM",),
    count_keys=(),
    prefixes=qwen.PREFIXES,
    publishers=("Qwen",),
    behind_trunk=False,
    layer_mark="layers.",
    n_source_layers=1,
    n_blocks=1,
    max_blocks=1,
    splits=(parts.QWEN2_SPLIT,),
    unpublished=None,
    rules=qwen.COMMON + qwen.MOE,
    symbols=None,
    not_blocks=(),
    qkv=parts.QKV_EITHER,
    header=qwen.header(moe=True, sections=v.sections),
    trunk_arrays=(),
    longer_arrays=(),
    id_lists=(),
    sidecar_drops=(),
    draft_head=True,
    head_needed=False,
    only_sidecar="",
    sidecar_extra=(),
    ignores_promise=False,
    memory=qwen.memory(rolls_back=False),
    root=qwen.ROOT,
    array_tail=qwen.ARRAY_TAIL,
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.TRUNK_ON_IK,
)
