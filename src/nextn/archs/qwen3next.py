"""Qwen3-Next: config.json has no key for the block, only its tensors tell."""

from __future__ import annotations

from . import engines, qwen
from .base import Family

FAMILY = Family(
    arch="qwen3next",
    title="Qwen3-Next",
    classes=("Qwen3NextForCausalLM",),
    count_keys=(),
    prefixes=qwen.PREFIXES,
    rules=qwen.COMMON + qwen.MOE,
    root=qwen.ROOT,
    array_tail=qwen.ARRAY_TAIL,
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.TRUNK_ON_IK,
)
