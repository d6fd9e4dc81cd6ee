"""Qwen3.5, 3.6 and 3.8, dense."""

from __future__ import annotations

from dataclasses import replace

from . import engines, parts, qwen
from .base import Family

FAMILY = Family(
    arch="qwen35",
    title="Qwen3.5 / 3.6 / 3.8 (dense)",
    classes=("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"),
    count_keys=("mtp_num_hidden_layers",),
    **qwen.SHARED,
    **parts.ONE_BLOCK,
    splits=(parts.QWEN35_SPLIT,),
    rules=qwen.COMMON + qwen.DENSE,
    **parts.USUAL_NAMES,
    qkv=parts.QKV_EITHER,
    header=qwen.header(moe=False, sections=qwen.sections_always),
    **parts.USUAL_ARRAYS,
    **parts.USUAL_SIDECAR,
    draft_head=True,
    head_needed=False,
    ignores_promise=False,
    memory=qwen.memory(rolls_back=True),
    root=qwen.ROOT,
    array_tail=qwen.ARRAY_TAIL,
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=replace(engines.IN_THE_MODEL_ON_IK, takes_heads=False, extra_head=True),
)
