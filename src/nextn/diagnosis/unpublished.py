"""Models that have no MTP block to attach, said plainly: what is known of whom, and what there is instead.

Sources: the tensor names and config.json of the published checkpoints as llama.cpp's converter (b11549, conversion/)
and transformers 5.23 (`_keys_to_ignore_on_load_unexpected`, which names the blocks that it drops) know them. A family
stands here only when neither knows an MTP block of it, or when they know that its weights were never released.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..archs import BY_CLASS, FAMILIES, loads_only_of
from ..archs.base import LOADS_ONLY, OTHER_USE
from ..compat.graphs import graphs
from .anatomy import DRAFTS, Anatomy
from .finding import Finding
from .patient import quoted


def other_drafts(arch: str) -> str:
    """What is true of drafts of another kind: without taps in the target's graph they end the process."""
    known = graphs()
    has = known.has_taps(arch)
    if has:  # options: common/arg.cpp, common/speculative.cpp at b11549
        return (
            "an EAGLE-3 or DFlash draft is another mechanism, a model of its own: llama-server -m MODEL -md DRAFT.gguf "
            "--spec-type draft-eagle3 (or draft-dflash)"
        )
    if has is None:
        return f"whether llama.cpp {known.build} takes an EAGLE-3 or DFlash draft beside it was not measured"
    return (
        f"an EAGLE-3 or DFlash draft does not help either: llama.cpp up to {known.build} aborts with one, because the "
        f"graph of '{arch}' hands it no layer inputs"
    )


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
_CLASS_ARCH = (
    ("LlamaFor", "llama"), ("Llama4For", "llama4"), ("MistralFor", "llama"), ("MixtralFor", "llama"),
    ("Mistral3For", "mistral3"), ("Qwen2For", "qwen2"), ("Qwen2MoeFor", "qwen2moe"), ("Qwen2VLFor", "qwen2vl"),
    ("Qwen2_5_VLFor", "qwen2vl"), ("Qwen3For", "qwen3"), ("Qwen3MoeFor", "qwen3moe"), ("Qwen3VLFor", "qwen3vl"),
    ("Qwen3VLMoeFor", "qwen3vlmoe"), ("GemmaFor", "gemma"), ("Gemma2For", "gemma2"), ("Gemma3For", "gemma3"),
    ("Gemma3nFor", "gemma3n"), ("Phi3For", "phi3"), ("PhiMoEFor", "phimoe"), ("GptOssFor", "gpt-oss"),
    ("CohereFor", "command-r"), ("Cohere2For", "cohere2"), ("Olmo2For", "olmo2"), ("FalconFor", "falcon"),
    ("GraniteFor", "granite"), ("SmolLM3For", "smollm3"), ("SeedOssFor", "seed_oss"), ("MiniMaxM2For", "minimax-m2"),
    ("KimiLinearFor", "kimi-linear"), ("Ernie4_5_MoeFor", "ernie4_5-moe"), ("MellumFor", "mellum"),
)  # fmt: skip
# deepseek2 is the architecture of several models. Trunk layers -> those that were published without a block.
_DEEPSEEK2_NONE = {26: "DeepSeek-V2-Lite", 27: "DeepSeek-V2-Lite, Moonlight, Kimi-VL", 60: "DeepSeek-V2 and V2.5"}
_KIMI_LAYERS, _KIMI_EXPERTS = 61, 384
_KIMI = re.compile(r"kimi[-_ .]?k2", re.IGNORECASE)


def is_kimi_k2(seen: Anatomy) -> bool:
    """Kimi-K2, K2.5, K2.6: DeepSeek-V3's architecture with 384 experts, and a tokenizer of its own."""
    header = seen.model.header
    if seen.arch != "deepseek2":
        return False
    names = (header.get(key) for key in ("general.name", "general.basename", "general.base_model.0.name"))
    named = any(isinstance(name, str) and _KIMI.search(name) for name in (*names, seen.model.base_name))
    return (
        named
        or header.get("tokenizer.ggml.pre") == "kimi-k2"
        or (seen.n_trunk == _KIMI_LAYERS and seen.model.arch_int("expert_count") == _KIMI_EXPERTS)
    )


def kimi_words(last: int) -> str:
    """What is true of Kimi-K2, K2.5 and K2.6."""
    return (
        f"Kimi-K2, K2.5 and K2.6 were published without an MTP block: the checkpoints end at layer {last}, whatever "
        f"config.json says. Third parties publish native blocks (layer {last + 1}; k-l-lambda/Kimi-K2.5-MTP for K2.5, "
        f"say), which can be attached; {other_drafts('deepseek2')}."
    )


def check_unpublished(seen: Anatomy) -> Iterator[Finding]:
    """A note for a model without a block when none was published; and of a block that no engine drafts with."""
    if seen.blocks and seen.is_language_model:
        if seen.arch not in FAMILIES:
            yield _useless(seen)
        return
    if not (seen.trunk or seen.blocks or seen.arch in DRAFTS):
        return
    entry = seen.model.entry
    words = mend = None
    if is_kimi_k2(seen):
        words = kimi_words(max(seen.n_trunk - 1, 0))
        mend = f"nextn attach {quoted(entry)} --from DONOR, where DONOR holds a native block in layer {seen.n_trunk}"
    elif seen.arch == "deepseek2" and seen.n_trunk in _DEEPSEEK2_NONE:
        words = f"{_DEEPSEEK2_NONE[seen.n_trunk]} had no MTP block when it was published; {other_drafts(seen.arch)}."
    elif seen.arch in DRAFTS:
        words = f"'{seen.arch}' is {DRAFTS[seen.arch]}; there is no block to attach."
    else:
        words = _of_arch(seen.arch)
    if words is not None:
        ident = "draft-model" if seen.arch in DRAFTS else "no-block-published"
        yield Finding(ident, "note", words, entry.name, "", mend or "nothing to do: the model is whole as it is")


def _useless(seen: Anatomy) -> Finding:
    """A block in a model whose loader takes it in vain, or not at all."""
    arch, entry = seen.arch, seen.model.entry
    if arch in NONE_PUBLISHED:
        return Finding(
            "block-without-engine", "error",
            f"an MTP block is there (layer {seen.blocks[0]}), and no loader of '{arch}' knows one.",
            f"blk.{seen.blocks[0]}.*", "llama.cpp refuses to load it: 'wrong number of tensors'",
            f"nextn detach {quoted(entry)} takes it off",
        )  # fmt: skip
    why = LOADS_ONLY.get(arch)
    what = f"no engine drafts with '{arch}' ({why})" if why else f"nextn knows of no engine that drafts with '{arch}'"
    return Finding(
        "block-without-engine", "note", f"{what}: the block only costs memory.", entry.name, "",
        f"nextn detach {quoted(entry)} takes it off",
    )  # fmt: skip


def _of_arch(arch: str) -> str | None:
    if arch in FAMILIES:
        return None
    if arch in LOADS_ONLY:
        return f"no engine drafts with '{arch}' ({LOADS_ONLY[arch]}): a block would only cost memory."
    if arch in OTHER_USE:
        return f"'{arch}' uses the key for {OTHER_USE[arch]}, not for MTP; there is no block to attach."
    if arch in NONE_PUBLISHED:
        return f"no MTP block was ever published for {NONE_PUBLISHED[arch]} ('{arch}'); {other_drafts(arch)}."
    if arch in NOT_RELEASED:
        return f"{NOT_RELEASED[arch]}; {other_drafts(arch)}."
    return f"nextn knows of no MTP block for '{arch}', and of no engine that drafts with one; {other_drafts(arch)}."


def words_of_class(classes: tuple[str, ...], config: Mapping[str, Any]) -> str | None:
    """What is known of a checkpoint's class, None when blocks of it are published."""
    if any("Kimi" in name and "Linear" not in name for name in classes) or str(config.get("model_type")) == "kimi_k2":
        n = config.get("num_hidden_layers")
        return kimi_words(n - 1 if isinstance(n, int) and n > 0 else _KIMI_LAYERS - 1)
    if any(name in BY_CLASS for name in classes):
        return None
    if (arch := loads_only_of(classes)) is not None:
        return _of_arch(arch)
    for name in classes:
        arch = next((arch for start, arch in _CLASS_ARCH if name.startswith(start)), None)
        if arch is not None:
            return _of_arch(arch)
    return f"nextn knows of no MTP block for {', '.join(classes) or 'a model without a class'}."
