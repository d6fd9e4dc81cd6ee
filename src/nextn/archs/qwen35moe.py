"""Qwen3.5, 3.6 and 3.8, mixture of experts."""

from __future__ import annotations

from dataclasses import replace

from . import engines, parts, qwen
from .base import Family

FAMILY = Family(
    arch="qwen35moe",
    title="Qwen3.5 / 3.6 / 3.8 (MoE)",
    classes=("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"),
    count_keys=("mtp_num_hidden_layers",),
    prefixes=qwen.PREFIXES,
    publishers=("Qwen",),
    behind_trunk=False,
    layer_mark="layers.",
    n_source_layers=1,
    n_blocks=1,
    max_blocks=1,
    splits=(parts.QWEN35_SPLIT,),
    unpublished=None,
    rules=qwen.COMMON + qwen.MOE,
    symbols=None,
    not_blocks=(),
    qkv=parts.QKV_EITHER,
    header=qwen.header(moe=True, sections=qwen.sections_always),
    trunk_arrays=(),
    longer_arrays=(),
    id_lists=(),
    sidecar_drops=(),
    draft_head=True,
    head_needed=False,
    only_sidecar="",
    sidecar_extra=(),
    ignores_promise=False,
    memory=qwen.memory(rolls_back=True),
    root=qwen.ROOT,
    array_tail=qwen.ARRAY_TAIL,
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=replace(engines.IN_THE_MODEL_ON_IK, takes_heads=False, extra_head=True),
)
