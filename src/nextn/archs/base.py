"""What a model family is: names, shapes, transforms and metadata, as a table.

A rule gives the place of one GGUF tensor of a block in the checkpoint. Shapes are written in ggml's order
with the family's symbols, e.g. `"E 2*H*D"` is ne = (embedding_length, 2 * head_count * key_length).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from .engines import IK, Support


class Transform(Enum):
    """What happens to a checkpoint tensor on its way."""

    COPY = "copy"
    PLUS_ONE = "plus one"  # zero-centred norms: the checkpoint stores w, engines multiply by w as stored
    STACK_EXPERTS = "stack experts"  # n_expert matrices [rows, n] become one [n_expert, rows, n]
    GATE_HALF = "first half of gate_up"  # [n_expert, 2*F, E] -> [n_expert, F, E]: the gate comes first
    UP_HALF = "second half of gate_up"
    KEY_HALF = "keys of kv_b, transposed"  # [H*(nope+v), lora] -> [H, lora, nope]: MLA with absorbed keys
    VALUE_HALF = "values of kv_b"  # [H*(nope+v), lora] -> [H, v, lora]
    RANKED_QKV = "q, k and v, each of all ranks"  # FP8 as MiMo's ranks wrote it; otherwise as it is
    ROPE_PAIRS = "halves of each head interleaved"  # [H*D, E] -> row 0, row D/2, row 1, ... of each head
    FIRST_ROWS = "first rows"  # as many as the product of `Source.keys` in config.json
    OTHER_ROWS = "rows behind the first"
    BESIDE = "two matrices side by side"  # [E, a] and [E, b] -> [E, a + b]: a projection of a concatenation


@dataclass(frozen=True)
class Source:
    """One way a checkpoint may hold a tensor.

    `name` is the name inside the block: `{k}` stands for the block's number, `{x}` for the expert's.
    """

    name: str
    transform: Transform = Transform.COPY
    keys: tuple[str, ...] = ()  # config.json keys of counts, multiplied: heads (ROPE_PAIRS) or rows (FIRST_ROWS)
    beside: str = ""  # BESIDE: the name of the right matrix


@dataclass(frozen=True)
class Donor:
    """What the value of a new layer's array entry may be read from."""

    n_trunk: int
    config: Mapping[str, Any]  # a checkpoint's config.json, empty for GGUF donors
    trunk: Callable[[str], Any]  # the trunk's `{arch}.{suffix}`, or None


# A per-layer array's value for a block's layer: a constant, or a function of donor and block number (None: unknown).
Tail: TypeAlias = "Any | Callable[[Donor, int], Any]"


@dataclass(frozen=True)
class Rule:
    """One tensor of the block."""

    target: str  # GGUF name behind `blk.N.`
    ne: str  # symbolic shape, fastest axis first
    sources: tuple[Source, ...]
    f32: bool = False  # kept in F32 whatever type is asked for
    optional: bool = False
    as_source: bool = False  # kept in the checkpoint's floating-point type whatever type is asked for
    root: bool = False  # a root tensor of the sidecar: no `blk.N.` before its name


@dataclass(frozen=True)
class Family:
    """A model family whose block some engine drafts with."""

    arch: str  # general.architecture
    title: str
    classes: tuple[str, ...]  # names in config.json's `architectures`
    count_keys: tuple[str, ...]  # config.json keys that may hold the number of blocks
    prefixes: tuple[str, ...]  # what stands before the block's names in a checkpoint
    rules: tuple[Rule, ...]
    root: Mapping[str, tuple[str, ...]]  # root tensor -> checkpoint names, for runnable sidecars
    array_tail: Mapping[str, Tail]  # per-layer array (behind `{arch}.`) -> value of a block's layer
    llama_cpp: Support
    ik: Support
    id_lists: tuple[tuple[str, str], ...] = ()  # (list of layer numbers, list of their values) behind `{arch}.`
    max_blocks: int = 1  # how many blocks the engine's graph takes
    draft_head: bool = True  # whether the loader takes nextn.shared_head_head
    n_source_layers: int = 1  # layers of the checkpoint that make one block
    behind_trunk: bool = False  # blocks are `{prefix}layers.N`, `N+1`, ... behind the trunk's layers
    layer_mark: str = "layers."  # what stands before a layer's number in the block's names
    longer_arrays: tuple[str, ...] = ()  # per-layer arrays that engines take when they are too long
    only_sidecar: str = ""  # why the block cannot be in one model with its trunk; empty: it can
    sidecar_drops: tuple[str, ...] = ()  # starts of keys behind `{arch}.` that describe the trunk alone
    sidecar_extra: tuple[str, ...] = ()  # further root tensors that a sidecar carries when the trunk has them
    head_needed: bool = False  # the loader wants output.weight in a sidecar even with a draft head in the block
    head_dims: tuple[str, str] = ("qk_nope_head_dim", "v_head_dim")  # config.json keys: parts of a head in kv_b

    @property
    def takes_sidecar(self) -> bool:
        """Whether any engine takes the block in a file of its own."""
        return self.llama_cpp.drafts_with("sidecar") or self.ik.drafts_with("sidecar")

    def on(self, engine: str) -> Support:
        """What "llama.cpp" or "ik_llama.cpp" does with it."""
        return self.ik if engine == IK else self.llama_cpp


# Arrays that engines read per layer for any architecture: a block's layer repeats the last used value.
GENERIC_LAYER_ARRAYS = (
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "expert_used_count",
    "expert_feed_forward_length",
)

# Architectures that only load a block's tensors, and what to say of them.
LOADS_ONLY = {
    "bailingmoe2": "Ling 2.0",
    "exaone-moe": "EXAONE MoE",
    "exaone4": "EXAONE 4.5",
    "glm4": "GLM-OCR",
    "dots3note": "dots3.note",
}
# Per-layer arrays of theirs that the loader wants one entry a layer of, blocks included, beside the generic ones.
LOADS_ONLY_ARRAYS: dict[str, tuple[str, ...]] = {}
# Starts of their names in config.json's `architectures`.
LOADS_ONLY_CLASSES = {
    "BailingMoeV2For": "bailingmoe2", "ExaoneMoEFor": "exaone-moe",
    "ExaoneMoeFor": "exaone-moe", "Exaone4_5_For": "exaone4", "GlmOcrFor": "glm4", "Dots3Note": "dots3note",
}  # fmt: skip
# Drafts that are sidecars by nature -> the architecture of the models that they draft for.
ASSISTANTS = {"gemma4-assistant": "gemma4", "gemma4_mtp": "gemma4"}  # the second as ik_llama.cpp's converter names it
# Architectures that use the key for something else.
OTHER_USE = dict.fromkeys(("graniteswitch", "granite-switch"), "a router layer")  # llama.cpp spells it as one word


def dimensions(arch_value: Any, n_vocab: int | None) -> dict[str, int]:
    """The symbols of shapes from a trunk's KV; `arch_value(suffix)` gives `{arch}.{suffix}` or None.

    Symbols without a value are left out.
    """

    def integer(suffix: str, plus: int | None = 0) -> int | None:
        value = arch_value(suffix)
        if isinstance(value, list):  # per layer: recurrent layers say 0; where others differ nothing is known
            different = {v for v in value if isinstance(v, int) and v}
            value = different.pop() if len(different) == 1 else None
        if not isinstance(value, int) or isinstance(value, bool) or plus is None:
            return None
        return value + plus

    hidden, heads = integer("embedding_length"), integer("attention.head_count")
    head_dim = integer("attention.key_length") or (hidden // heads if hidden and heads else None)
    width, shared = integer("expert_feed_forward_length"), integer("expert_shared_count")
    streams = integer("hyper_connection.count")
    groups, rank = integer("attention.output_group_count"), integer("attention.output_lora_rank")
    mla, rope = integer("attention.key_length_mla"), integer("rope.dimension_count")
    found = {
        "E": hidden,
        "H": heads,
        "K": integer("attention.head_count_kv"),
        "D": head_dim,
        "Dv": integer("attention.value_length") or head_dim,
        "F": integer("feed_forward_length"),
        "X": integer("expert_count"),
        "Fx": width,
        "Fs": integer("expert_shared_feed_forward_length") or (width * shared if width and shared else None),
        "M": integer("moe_latent_size") or hidden,
        "Lq": integer("attention.q_lora_rank"),
        "Lkv": integer("attention.kv_lora_rank"),
        "Lr": integer("attention.kv_lora_rank", plus=rope),
        "Dm": mla,
        "Dn": mla - rope if mla and rope is not None else None,
        "Dw": integer("attention.value_length_mla"),
        "I": integer("attention.indexer.head_count"),
        "Di": integer("attention.indexer.key_length"),
        "Kp": integer("attention.indexer.kpool"),
        "Hc": streams,
        "Lhc": integer("hyper_connection.low_rank"),
        "Hm": (streams + 2) * streams if streams else None,
        "Og": heads * head_dim // groups if heads and head_dim and groups else None,
        "Oa": groups * rank if groups and rank else None,
        "R": rope,
        "Dp": head_dim - rope if head_dim and rope and head_dim > rope else None,
        "Ps": integer("param_sink_number"),
        "Sm": integer("mhc_num_stream"),
        "V": n_vocab,
    }
    return {symbol: value for symbol, value in found.items() if value}


def resolve_shape(ne: str, symbols: Mapping[str, int]) -> tuple[int, ...] | None:
    """A symbolic shape in numbers, or None when a symbol has no value."""
    shape = []
    for axis in ne.split():
        factors = []
        for factor in axis.split("*"):
            value = int(factor) if factor.isdigit() else symbols.get(factor)
            if value is None:
                return None
            factors.append(value)
        shape.append(math.prod(factors))
    return tuple(shape)


def same_shape(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    """Equality up to trailing axes of length 1, as engines compare."""

    def trimmed(ne: tuple[int, ...]) -> tuple[int, ...]:
        while len(ne) > 1 and ne[-1] == 1:
            ne = ne[:-1]
        return ne

    return trimmed(left) == trimmed(right)
