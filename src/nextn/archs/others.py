"""Architectures that are not families: what is known of them, so that messages can name each.

Sources: the tensor names and config.json of the published checkpoints as llama.cpp's converter (b11549, conversion/)
and transformers 5.23 (`_keys_to_ignore_on_load_unexpected`, which names the blocks that it drops) know them. A model
counts as published without a block only when neither knows one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..compat.graphs import graphs
from .engines import LLAMA_CPP_UP_TO

# Architectures that only load a block's tensors, and what to say about them.
LOADS_ONLY = {
    "bailingmoe2": "Ling 2.0",
    "exaone-moe": "EXAONE MoE",
    "exaone4": "EXAONE 4.5",
    "glm4": "GLM-OCR",
    "dots3note": "dots3.note",
}
# Their per-layer arrays, beside the generic ones, for which the loader wants one entry per layer, blocks included.
LOADS_ONLY_ARRAYS: dict[str, tuple[str, ...]] = {}
# Their arrays that count trunk layers only.
LOADS_ONLY_TRUNK_ARRAYS: dict[str, tuple[str, ...]] = {}
# Starts of their names in config.json's `architectures`.
LOADS_ONLY_CLASSES = {
    "BailingMoeV2For": "bailingmoe2", "ExaoneMoEFor": "exaone-moe",
    "ExaoneMoeFor": "exaone-moe", "Exaone4_5_For": "exaone4", "GlmOcrFor": "glm4", "Dots3Note": "dots3note",
}  # fmt: skip
# Wrappers whose own class decides, whatever class their text model names.
TOP_DECIDES = (
    "StepVLForConditionalGeneration", "Sarashina2VisionForCausalLM", "Exaone4_5_ForConditionalGeneration",
    "Step3p7ForConditionalGeneration", "KimiK3ForConditionalGeneration",
)  # fmt: skip
# Drafts that are necessarily sidecars -> the architecture of the models for which they draft.
ASSISTANTS = {"gemma4-assistant": "gemma4", "gemma4_mtp": "gemma4"}  # the second as ik_llama.cpp's converter names it
# Architectures that use the key for something else.
OTHER_USE = dict.fromkeys(("graniteswitch", "granite-switch"), "a router layer")  # llama.cpp spells it as one word
# Models that are drafts themselves: the key counts all their layers, or is missing.
DRAFTS = {
    "gemma4-assistant": "a draft for Gemma 4, loaded beside it with -md",
    "gemma4_mtp": "a draft for Gemma 4 as ik_llama.cpp's converter names it, loaded beside it with -md",
    "eagle3": "an EAGLE-3 draft: pass it with -md DRAFT --spec-type draft-eagle3",
    "dflash": "a DFlash or DSpark draft: pass it with -md DRAFT --spec-type draft-dflash (DSpark: draft-dspark)",
}
# general.architecture -> the models. None of these was published with an MTP block.
NONE_PUBLISHED = {
    "llama": "Llama 1 to 3, Mistral 7B and Mixtral, and models built like them",
    "llama4": "Llama 4",
    "mistral3": "Mistral 3",
    "mistral4": "Mistral 4",
    "qwen": "Qwen",
    "qwen2": "Qwen2 and 2.5",
    "qwen2moe": "Qwen2 MoE",
    "qwen2vl": "Qwen2-VL and 2.5-VL",
    "qwen3": "Qwen3, dense",
    "qwen3moe": "Qwen3 MoE",
    "qwen3vl": "Qwen3-VL",
    "qwen3vlmoe": "Qwen3-VL MoE",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3",
    "gemma3n": "Gemma 3n",
    "phi2": "Phi-2",
    "phi3": "Phi-3 and 4",
    "phimoe": "Phi-3.5 MoE",
    "gpt-oss": "gpt-oss",
    "command-r": "Command R",
    "cohere2": "Command A and R7B",
    "deepseek": "DeepSeek MoE",
    "olmo2": "OLMo 2",
    "olmoe": "OLMoE",
    "falcon": "Falcon",
    "falcon-h1": "Falcon-H1",
    "granite": "Granite",
    "granitemoe": "Granite MoE",
    "granitehybrid": "Granite 4",
    "internlm2": "InternLM 2",
    "starcoder2": "StarCoder 2",
    "stablelm": "StableLM",
    "smollm3": "SmolLM3",
    "seed_oss": "Seed-OSS",
    "lfm2": "LFM2",
    "lfm2moe": "LFM2 MoE",
    "nemotron": "Nemotron",
    "mamba": "Mamba",
    "mamba2": "Mamba 2",
    "rwkv6": "RWKV 6",
    "rwkv7": "RWKV 7",
    "hunyuan-dense": "Hunyuan, dense",
    "hunyuan-moe": "Hunyuan A13B",
    "dots1": "dots.llm1",
    "kimi-linear": "Kimi Linear",
    "minimax-m2": "MiniMax M2",
}
# Models whose MTP other engines run, and what llama.cpp does with them.
_DROPS = "llama.cpp's converter (b11549) drops its MTP block, and no graph drafts with it"
_RUNS = "llama.cpp (b11549) runs it without MTP and has no graph that drafts with it"
_NO_WEIGHTS = "no MTP weights were released for it, and llama.cpp (b11549) has no graph that drafts with it"
_UNKNOWN = "llama.cpp (b11549) does not know the model, so no engine here drafts with its MTP block"
_PUZZLE = "llama.cpp's converter (b11549) drops its MTP block, which is laid out unlike Nemotron 3's"
# Gemma 4's assistant as a checkpoint: what it is, and what to do.
ASSISTANT_FOLDER = (
    "Gemma 4's assistant: it is a draft for Gemma 4, not a block",
    "convert it with llama.cpp's convert_hf_to_gguf.py, and name that GGUF with --from",
)
_WRAPPER = "it wraps a text model, and its config.json names no class for that one that nextn knows"
NOT_RELEASED = {
    "ernie4_5-moe": f"ERNIE 4.5 MoE: {_DROPS}",
    "minimax-m3": f"MiniMax-M3: {_NO_WEIGHTS}",
    "mellum": f"Mellum: {_DROPS}",
    "hy_v4": f"Hunyuan V4: {_DROPS}",
    "kimi-k3": f"Kimi-K3: {_RUNS}",
}
# The same of checkpoints: starts of a class or of `model_type`, in lower-case letters and digits only.
_NAMED = (
    (("minimaxm3",), f"MiniMax-M3: {_NO_WEIGHTS}"),
    (("kimik3",), f"Kimi-K3: {_RUNS}"),
    (("hyv4", "hunyuanv4"), f"Hunyuan V4: {_DROPS}"),
    (("inkling",), f"Inkling: {_UNKNOWN}"),
    (("longcat",), f"LongCat-Flash: {_UNKNOWN}"),
    (("panguultra",), f"Pangu Ultra: {_UNKNOWN}"),
    (("mimofor", "mimo7b"), f"MiMo-7B: {_UNKNOWN}"),
    (("ernie45",), f"ERNIE 4.5: {_DROPS}"),
    (("bailingmoev25", "bailingmoelinear"), f"Ling 2.5: {_UNKNOWN}"),
    (("interns2",), f"Intern-S2: {_WRAPPER}"),
    (("nemotronhpuzzle",), f"Nemotron Puzzle: {_PUZZLE}"),
    (("gigachat35",), f"GigaChat 3.5: {_UNKNOWN}"),
    (("deepseekv41",), f"DeepSeek-V4.1: {_UNKNOWN}"),
    (("gemma4assistant", "gemma4unifiedassistant"), ": ".join(ASSISTANT_FOLDER)),
)
# The same for checkpoints, by the beginning of a name in config.json's `architectures`.
CLASS_STARTS = (
    ("LlamaFor", "llama"), ("Llama4For", "llama4"), ("MistralFor", "llama"), ("MixtralFor", "llama"),
    ("Mistral3For", "mistral3"), ("Qwen2For", "qwen2"), ("Qwen2MoeFor", "qwen2moe"), ("Qwen2VLFor", "qwen2vl"),
    ("Qwen2_5_VLFor", "qwen2vl"), ("Qwen3For", "qwen3"), ("Qwen3MoeFor", "qwen3moe"), ("Qwen3VLFor", "qwen3vl"),
    ("Qwen3VLMoeFor", "qwen3vlmoe"), ("GemmaFor", "gemma"), ("Gemma2For", "gemma2"), ("Gemma3For", "gemma3"),
    ("Gemma3nFor", "gemma3n"), ("Phi3For", "phi3"), ("PhiMoEFor", "phimoe"), ("GptOssFor", "gpt-oss"),
    ("CohereFor", "command-r"), ("Cohere2For", "cohere2"), ("Olmo2For", "olmo2"), ("FalconFor", "falcon"),
    ("GraniteFor", "granite"), ("SmolLM3For", "smollm3"), ("SeedOssFor", "seed_oss"), ("MiniMaxM2For", "minimax-m2"),
    ("KimiLinearFor", "kimi-linear"), ("MellumFor", "mellum"),
)  # fmt: skip


def words_of(arch: str) -> str:
    """What is known of an architecture that is not a family, as a clause: the same for every verb."""
    draft = next((name for name, target in ASSISTANTS.items() if target == arch), None)
    if draft is not None:
        return f"the draft for '{arch}' is a separate model ('{draft}'); name its GGUF with --from"
    if arch in DRAFTS:
        return f"'{arch}' is {DRAFTS[arch]}; there is no block to attach"
    if arch in LOADS_ONLY:
        return f"no engine drafts with '{arch}' ({LOADS_ONLY[arch]}; {LLAMA_CPP_UP_TO}): a block would only cost memory"
    if arch in OTHER_USE:
        return f"'{arch}' uses the key for {OTHER_USE[arch]}, not for MTP; there is no block to attach"
    if arch in NONE_PUBLISHED:
        return f"no MTP block was ever published for {NONE_PUBLISHED[arch]} ('{arch}')"
    unknown = f"nextn knows of no MTP block for '{arch}', and of no engine that drafts with one"
    return NOT_RELEASED.get(arch, unknown)


def other_drafts(arch: str) -> str:
    """What to say about other kinds of drafts: without taps in the target's graph they end the process."""
    known = graphs()
    has = known.has_taps(arch)
    if has:  # options: common/arg.cpp, common/speculative.cpp at b11549
        return (
            "a small model of its own can draft instead: 'nextn train MODEL' makes one (EAGLE-3), and one that was "
            "published runs with llama-server -m MODEL -md DRAFT.gguf --spec-type draft-eagle3 (or draft-dflash)"
        )
    if has is None:
        return f"whether llama.cpp {known.build} accepts an EAGLE-3 or DFlash draft for it was not measured"
    return (
        f"an EAGLE-3 or DFlash draft does not help either: llama.cpp up to {known.build} aborts with one, because the "
        f"graph of '{arch}' gives it no layer inputs"
    )


def without_block(arch: str) -> str:
    """What is known of a model of such an architecture, and what else could draft for it, as a clause."""
    plain = arch in LOADS_ONLY or arch in OTHER_USE or arch in DRAFTS or arch in ASSISTANTS.values()
    return words_of(arch) if plain else f"{words_of(arch)}; {other_drafts(arch)}"


def words_of_classes(classes: Iterable[str], model_type: object) -> str | None:
    """What is known of a checkpoint whose class belongs to no family, as a clause; None: nothing."""
    classes = tuple(classes)
    for start, arch in (*LOADS_ONLY_CLASSES.items(), *CLASS_STARTS):
        if any(name.startswith(start) for name in classes):
            return words_of(arch)
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in (*classes, str(model_type))]
    return next((words for starts, words in _NAMED if any(name.startswith(starts) for name in plain)), None)


def every_name() -> set[str]:
    """All architectures, and starts of model classes, that these tables hold."""
    archs = {*LOADS_ONLY, *ASSISTANTS, *ASSISTANTS.values(), *OTHER_USE, *DRAFTS, *NONE_PUBLISHED, *NOT_RELEASED}
    return archs | {*LOADS_ONLY_CLASSES} | {start for start, _ in CLASS_STARTS}
