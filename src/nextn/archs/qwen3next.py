"""Qwen3-Next: config.json has no key for the block, only its tensors tell."""

from __future__ import annotations

from . import qwen
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
    runs_on={
        "llama.cpp": "bundled, shards, sidecar",
        "ik_llama.cpp": "does not read the block and refuses files that have one",
    },
)
