"""Qwen3.5, 3.6 and 3.8, mixture of experts."""

from __future__ import annotations

from . import qwen
from .base import Family, OnIk

FAMILY = Family(
    arch="qwen35moe",
    title="Qwen3.5 / 3.6 / 3.8 (MoE)",
    classes=("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"),
    count_keys=("mtp_num_hidden_layers",),
    prefixes=qwen.PREFIXES,
    rules=qwen.COMMON + qwen.MOE,
    root=qwen.ROOT,
    array_tail=qwen.ARRAY_TAIL,
    runs_on={
        "llama.cpp": "bundled, shards, sidecar",
        "ik_llama.cpp": "bundled, shards; no sidecar, no draft head in the file",
    },
    ik=OnIk(takes_heads=False, extra_head=True),
)
