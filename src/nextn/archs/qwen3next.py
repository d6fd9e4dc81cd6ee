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
    **qwen.SHARED,
    **parts.ONE_BLOCK,
    splits=(parts.QWEN2_SPLIT,),
    rules=qwen.COMMON + qwen.MOE,
    **parts.USUAL_NAMES,
    qkv=parts.QKV_EITHER,
    header=qwen.header(moe=True, sections=v.sections),
    **parts.USUAL_ARRAYS,
    **parts.USUAL_SIDECAR,
    draft_head=True,
    head_needed=False,
    ignores_promise=False,
    memory=qwen.memory(rolls_back=False),
    root=qwen.ROOT,
    array_tail=qwen.ARRAY_TAIL,
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.TRUNK_ON_IK,
)
