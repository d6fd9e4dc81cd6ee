"""Architectures that are no family: what is known of them, so that each can be told by name.

Sources: the tensor names and config.json of the published checkpoints as llama.cpp's converter (b11434, conversion/)
and transformers 5.23 (`_keys_to_ignore_on_load_unexpected`, which names the blocks that it drops) know them. A model
counts as published without a block only when neither knows one.
"""

from __future__ import annotations

# Architectures that only load a block's tensors, and what to say of them.
LOADS_ONLY = {
    "glm5-next": "GLM-5.3-Flash",
    "bailingmoe2": "Ling 2.0",
    "exaone-moe": "EXAONE MoE",
    "exaone4": "EXAONE 4.5",
    "glm4": "GLM-OCR",
    "dots3note": "dots3.note",
}
# Per-layer arrays of theirs that the loader wants one entry a layer of, blocks included, beside the generic ones.
LOADS_ONLY_ARRAYS = {"glm5-next": ("swiglu_clamp_exp", "swiglu_clamp_shexp")}
# Arrays of theirs that count trunk layers only.
LOADS_ONLY_TRUNK_ARRAYS = {"glm5-next": ("attention.indexer.types",)}
# Starts of their names in config.json's `architectures`.
LOADS_ONLY_CLASSES = {
    "Glm5NextFor": "glm5-next", "BailingMoeV2For": "bailingmoe2", "ExaoneMoEFor": "exaone-moe",
    "ExaoneMoeFor": "exaone-moe", "Exaone4_5_For": "exaone4", "GlmOcrFor": "glm4", "Dots3Note": "dots3note",
}  # fmt: skip
# Wrappers whose own class decides, whatever class their text model names.
TOP_DECIDES = (
    "StepVLForConditionalGeneration", "Sarashina2VisionForCausalLM", "Exaone4_5_ForConditionalGeneration",
    "Step3p7ForConditionalGeneration", "KimiK3ForConditionalGeneration",
)  # fmt: skip
# Drafts that are sidecars by nature -> the architecture of the models that they draft for.
ASSISTANTS = {"gemma4-assistant": "gemma4", "gemma4_mtp": "gemma4"}  # the second as ik_llama.cpp's converter names it
# Architectures that use the key for something else.
OTHER_USE = dict.fromkeys(("graniteswitch", "granite-switch"), "a router layer")  # llama.cpp spells it as one word
# Models that are drafts themselves: all their layers are counted by the key, or there is no such key.
DRAFTS = {
    "gemma4-assistant": "a draft for Gemma 4, loaded beside it with -md",
    "gemma4_mtp": "a draft for Gemma 4 as ik_llama.cpp's converter names it, loaded beside it with -md",
    "eagle3": "an EAGLE-3 draft: pass it with -md DRAFT --spec-type draft-eagle3",
    "dflash": "a DFlash draft: pass it with -md DRAFT --spec-type draft-dflash",
}
# general.architecture -> the models. None of these was published with an MTP block.
NONE_PUBLISHED = {
    "llama": "Llama 1 to 3, Mistral 7B and Mixtral, and what is built like them",
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
# Published with a block, or with a key for one, whose weights were not released or which the converter leaves out.
NOT_RELEASED = {
    "ernie4_5-moe": "ERNIE 4.5 MoE: llama.cpp's converter drops its block, and no graph drafts with it",
    "minimax-m3": "MiniMax M3: llama.cpp's converter drops its block, and no graph drafts with it",
    "mellum": "Mellum: llama.cpp's converter drops its block, and no graph drafts with it",
    "hy_v4": "Hunyuan V4: llama.cpp's converter drops its block, and no graph drafts with it",
}
# The same for checkpoints, by the beginning of a name in config.json's `architectures`.
CLASS_STARTS = (
    ("LlamaFor", "llama"), ("Llama4For", "llama4"), ("MistralFor", "llama"), ("MixtralFor", "llama"),
    ("Mistral3For", "mistral3"), ("Qwen2For", "qwen2"), ("Qwen2MoeFor", "qwen2moe"), ("Qwen2VLFor", "qwen2vl"),
    ("Qwen2_5_VLFor", "qwen2vl"), ("Qwen3For", "qwen3"), ("Qwen3MoeFor", "qwen3moe"), ("Qwen3VLFor", "qwen3vl"),
    ("Qwen3VLMoeFor", "qwen3vlmoe"), ("GemmaFor", "gemma"), ("Gemma2For", "gemma2"), ("Gemma3For", "gemma3"),
    ("Gemma3nFor", "gemma3n"), ("Phi3For", "phi3"), ("PhiMoEFor", "phimoe"), ("GptOssFor", "gpt-oss"),
    ("CohereFor", "command-r"), ("Cohere2For", "cohere2"), ("Olmo2For", "olmo2"), ("FalconFor", "falcon"),
    ("GraniteFor", "granite"), ("SmolLM3For", "smollm3"), ("SeedOssFor", "seed_oss"), ("MiniMaxM2For", "minimax-m2"),
    ("KimiLinearFor", "kimi-linear"), ("Ernie4_5_MoeFor", "ernie4_5-moe"), ("MellumFor", "mellum"),
)  # fmt: skip


def every_name() -> set[str]:
    """All architectures, and starts of model classes, that these tables hold."""
    archs = {*LOADS_ONLY, *ASSISTANTS, *ASSISTANTS.values(), *OTHER_USE, *DRAFTS, *NONE_PUBLISHED, *NOT_RELEASED}
    return archs | {*LOADS_ONLY_CLASSES} | {start for start, _ in CLASS_STARTS}
