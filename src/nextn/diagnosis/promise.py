"""A key that promises a missing block, and how an engine reacts to it.

Statements about llama.cpp were measured with xllamacpp 2026.10.11549 on the trunks of all families: where `block_count`
counts the promised block, the model runs as it should; where it counts the trunk's layers only, the engine takes the
last of them for the block and leaves them out.
"""

from __future__ import annotations

from ..archs import per_layer_arrays
from ..archs.base import flags
from ..block.anatomy import KEY, Anatomy
from ..block.model import Block
from ..gguf.kv import KVType
from ..units import counted
from .advice import Advice, Help
from .commands import attach_command, doctor_command, donor_hint, donor_words, header_change, is_guess
from .finding import Finding

_DRAFTING = "asked to draft by itself, it aborts or refuses: 'MTP block missing nextn.eh_proj'"


def unkept(seen: Anatomy, donor: Block | None) -> Finding:
    """The finding. `--fix` drops the key; with a donor it attaches the block."""
    key, count = f"{seen.arch}.{KEY}", f"{seen.arch}.block_count"
    more = attach_command(seen.model.entry, *donor_hint(seen), "--layout", "bundle")
    only_beside = seen.family is not None and seen.family.only_sidecar
    by = ", by that guess" if is_guess(seen) else ""
    get: Help = Advice.of(f"to get the block{by}: ", more)
    if seen.only_loads:
        get = "no engine would draft with it"
    elif only_beside:
        beside = attach_command("FIXED.gguf", *donor_hint(seen), "--layout", "sidecar")
        get = Advice.of(f"then, to get the block{by}: ", beside)
    advice: Help = Advice.of(
        doctor_command(seen), " drops the key, which leaves a valid model without a block; ", get
    )
    if donor is not None and not only_beside:
        advice = doctor_command(seen, "--from", donor.origin)
    harmless = seen.key_is_stale and not seen.promise_counts
    lost = "none is present"
    if seen.key_is_stale:
        lost = f"none is present, and '{count}' does not count it"
        if seen.could_be_blocks:
            lost += f" (unless layer {seen.could_be_blocks[0]} is one that lost its 'nextn.*' tensors: name its donor)"
    return Finding(
        "key-without-block",
        "warning" if harmless else "error",
        f"'{key}' promises {counted(seen.promised, 'MTP block')}, but {lost}: fine-tuning and merging tools lose it, "
        f"and {donor_words(seen)}.",
        key,
        effect(seen),
        advice,
        header_change(seen, 0, seen.n_trunk),
        attaches=not only_beside,
    )


def effect(seen: Anatomy) -> str:
    """What llama.cpp does with a model whose key promises a missing block."""
    count, promised = seen.block_count or 0, seen.promised
    if seen.key_is_stale and not seen.promise_counts:
        return (
            "llama.cpp ignores the key and runs the model; builds of ik_llama.cpp before its pull request 2256 "
            "do not find the block's tensors"
        )
    if not seen.promise_counts:
        return f"llama.cpp refuses to load it: 'tensor 'blk.{seen.n_trunk}.attn_norm.weight' not found'"
    if not seen.key_is_stale:
        return f"llama.cpp loads it and runs it correctly, also beside a sidecar; {_DRAFTING}"
    if promised > count:
        return "llama.cpp aborts when it loads it: 'GGML_ASSERT(hparams.n_layer_nextn <= hparams.n_layer_all) failed'"
    left = count - promised
    of_trunk = seen.family.trunk_arrays if seen.family else ()
    for suffix in (*of_trunk, *per_layer_arrays(seen.arch)):
        kv, expected = seen.model.header.by_key.get(f"{seen.arch}.{suffix}"), left if suffix in of_trunk else count
        if kv is not None and kv.type is KVType.ARRAY and kv.n_items != expected:
            wrong = f"key {kv.key} has wrong array length; expected {expected}, got {kv.n_items}"
            return f"llama.cpp refuses to load it: '{wrong}'"
    if not _has_cache(seen, left):
        return "llama.cpp aborts when it loads it: 'GGML_ASSERT(buffer) failed' (no layer with attention is left)"
    layers = f"layer {left}" if promised == 1 else f"layers {left} to {count - 1}"
    return (
        f"llama.cpp loads it without a warning but leaves out {layers} of the trunk, taking it for the block, so the "
        f"text changes; {_DRAFTING}"
    )


def _has_cache(seen: Anatomy, n: int) -> bool:
    """Whether one of the first `n` layers caches attention keys and values."""
    find = seen.model.arch_value
    found = seen.family.memory.recurrent if seen.family else None
    recurrent = found(find, n, n) if found else flags(find("attention.recurrent_layers"), n)
    if recurrent is not None:
        return not all(recurrent[:n])
    heads = find("attention.head_count_kv")
    return any(heads[:n]) if isinstance(heads, list) else True
