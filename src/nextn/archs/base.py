"""What a model family is: names, shapes, transforms and metadata, as a table.

A rule gives the place of one GGUF tensor of a block in the checkpoint. Shapes are written in ggml's order
with the family's symbols, e.g. `"E 2*H*D"` is ne = (embedding_length, 2 * head_count * key_length).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from ..errors import FormatError
from ..gguf.kv import KVType
from .engines import IK, Support
from .hparams import HParams, fits


class Transform(Enum):
    """What happens to a checkpoint tensor on its way into the GGUF."""

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
    OTHER_ROWS = "rows after the first"
    BESIDE = "two matrices side by side"  # [E, a] and [E, b] -> [E, a + b]: a projection of a concatenation


@dataclass(frozen=True)
class Source:
    """One way a checkpoint may hold a tensor.

    `name` is the name inside the block: `{k}` stands for the block's number, `{x}` for the expert's.
    """

    name: str
    transform: Transform = Transform.COPY
    # config.json keys of counts, multiplied: heads (ROPE_PAIRS) or rows (FIRST_ROWS); parts of a head (KEY_HALF,
    # VALUE_HALF); query heads, key heads, key width, value width (RANKED_QKV)
    keys: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()  # RANKED_QKV: how many ranks may have written it; the first that fits is used
    beside: str = ""  # BESIDE: the name of the right matrix


@dataclass(frozen=True)
class Donor:
    """What a new layer's array entry may be derived from."""

    n_trunk: int
    config: Mapping[str, Any]  # a checkpoint's config.json, empty for GGUF donors
    trunk: Callable[[str], Any]  # the trunk's `{arch}.{suffix}`, or None

    def count(self, key: str, within: str = "") -> int | None:
        """An integer of config.json, or of the object `within` it; None where it is missing or null.

        Raises FormatError.
        """
        place = self.config.get(within) or {} if within else self.config
        if not isinstance(place, Mapping):
            raise FormatError(f"config.json: '{within}' is not a JSON object")
        value = place.get(key)
        if value is not None and not fits(value, KVType.UINT32):
            raise FormatError(f"config.json: '{key}' is {str(value)[:40]!r}, not a whole number")
        return value

    @property
    def n_layer(self) -> int:
        """Layers before the block as config.json counts them, of which a deeper trunk may have more."""
        found = self.config.get("num_hidden_layers")
        return found if isinstance(found, int) else self.n_trunk


# A per-layer array's value for a block's layer: a constant, or a function of donor and block number (None: unknown).
Tail: TypeAlias = "Any | Callable[[Donor, int], Any]"


@dataclass(frozen=True)
class Rule:
    """One tensor of the block."""

    target: str  # GGUF name after `blk.N.`
    ne: str  # symbolic shape, fastest axis first
    sources: tuple[Source, ...]
    f32: bool = False  # kept in F32 regardless of the requested type
    optional: bool = False
    as_source: bool = False  # kept in the checkpoint's floating-point type regardless of the requested type
    root: bool = False  # a root tensor of the sidecar: no `blk.N.` before its name
    form: str = ""  # `PART.FORM` for a part that comes in several forms: a block has the tensors of only one of them
    needed_by: str = ""  # engines look for it only where this key after `{arch}.` is present and not 0
    stops: str = ""  # why no engine drafts with a block that has it
    replaces: tuple[str, ...] = ()  # targets that a block with this one does without


Lookup: TypeAlias = "Callable[[str], Any]"  # a model's `{arch}.{suffix}`, or None


@dataclass(frozen=True, kw_only=True)
class Qkv:
    """How llama.cpp's drafting graph takes the queries, keys and values of attention."""

    fused: bool  # as one tensor
    split: bool  # as three
    refusal: str  # what it says when given three where it takes only one; empty where it takes three


@dataclass(frozen=True)
class TextSplit:
    """A tokenizer's way of splitting text before its merges."""

    pre: str  # `tokenizer.ggml.pre`
    patterns: tuple[str, ...]  # of the Split steps in tokenizer.json, in their order
    # kind of special token -> its text, whatever the files call it: all of them must match
    roles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What llama.cpp keeps in memory for a family beside its tensors, where the sizes in the header do not say it."""

    # [n_all] of (lookup, trunk layers, all layers): which have a recurrent state, no cache; None: none do, or unknown
    recurrent: Callable[[Lookup, int, int], list[bool]] | None
    rolls_back: bool  # keeps one recurrent state for each drafted token
    window_period: int | None  # the period of full-attention layers, for a header without a window pattern
    # [n_trunk] of (lookup, trunk layers): which layers cache an indexer's keys; None: none does
    indexer: Callable[[Lookup, int], list[bool]] | None
    block_in_target: bool  # the target's own context keeps a cache for the block's layer too
    loaded_anyway: tuple[str, ...]  # prefixes of the block's tensors that are allocated even with MTP off
    pool_rows: int  # keys that an indexer over pools caches per token, blocks included; 0: one, and none in blocks


@dataclass(frozen=True)
class Portrait:
    """What distinguishes models of one architecture, taken from a GGUF or a config.json."""

    names: tuple[str, ...]  # the model's, its file's or its class's
    pre: str  # `tokenizer.ggml.pre`, empty when it is not known
    n_trunk: int  # 0: not known
    n_expert: int
    q_lora_rank: int


@dataclass(frozen=True)
class Unpublished:
    """What is true of a model of a family that has no block to attach."""

    words: str  # a sentence without its full stop
    donor_layer: int | None = None  # layer of a third party's block; None: nobody publishes one


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family with whose block some engine drafts: everything that nextn knows of it.

    No field has a default: what a family's file forgets is an error when it is imported. Raises ValueError for facts
    that contradict one another.
    """

    arch: str  # general.architecture
    title: str

    classes: tuple[str, ...]  # names in config.json's `architectures`
    publishers: tuple[str, ...]  # who publishes the checkpoints on the Hub
    count_keys: tuple[str, ...]  # config.json keys that may hold the number of blocks
    prefixes: tuple[str, ...]  # prefix of the block's names in a checkpoint, not counting a wrapper's
    behind_trunk: bool  # blocks are `{prefix}layers.N`, `N+1`, ... after the trunk's layers
    layer_mark: str  # what precedes a layer's number in the block's names
    n_source_layers: int  # layers of the checkpoint that make one block
    n_blocks: int  # blocks of the published models
    max_blocks: int  # blocks that the engine's graph can use
    splits: tuple[TextSplit, ...]  # how its tokenizers split text, as far as it is known
    unpublished: Callable[[Portrait], Unpublished | None] | None  # models without a block; None: all have one

    rules: tuple[Rule, ...]
    symbols: Callable[[Lookup, Mapping[str, int]], Mapping[str, int]] | None  # of shapes, beside `dimensions`
    qkv: Qkv | None  # None: attention has no q, k and v
    not_blocks: tuple[tuple[str, str], ...]  # part of a name among the block's tensors -> what the model has instead
    root: Mapping[str, tuple[str, ...]]  # root tensor -> checkpoint names, for runnable sidecars

    header: HParams | None  # for a sidecar made from a checkpoint; None: no engine takes one
    array_tail: Mapping[str, Tail]  # per-layer array (after `{arch}.`) -> value of a block's layer
    trunk_arrays: tuple[str, ...]  # arrays that count trunk layers only
    longer_arrays: tuple[str, ...]  # per-layer arrays that engines take when they are too long
    id_lists: tuple[tuple[str, str], ...]  # (list of layer numbers, list of their values) after `{arch}.`
    sidecar_drops: tuple[str, ...]  # starts of keys after `{arch}.` that describe only the trunk

    draft_head: bool  # whether the loader takes nextn.shared_head_head
    head_needed: bool  # the loader wants output.weight in a sidecar even with a draft head in the block
    only_sidecar: str  # why the block cannot be in one file with its trunk; empty: it can
    sidecar_extra: tuple[str, ...]  # further root tensors that a sidecar carries when the trunk has them
    ignores_promise: bool  # the loader takes a trunk as it is, whatever block count its key declares
    memory: Memory

    llama_cpp: Support
    ik: Support

    def __post_init__(self) -> None:
        """Raises ValueError for facts that contradict one another."""
        targets = [rule.target for rule in self.rules]
        plain = "attn_qkv.weight" in targets or {f"attn_{x}.weight" for x in "qkv"} <= set(targets)
        for wrong, what in (
            (len(set(targets)) < len(targets), "two rules make one tensor"),
            (plain != (self.qkv is not None), "'qkv' and the rules disagree"),
            (not self.llama_cpp.drafts and not self.ik.drafts, "no engine drafts with it"),
            (self.takes_sidecar != (self.header is not None), "'header' is only for families that have sidecars"),
            (not 0 < self.n_blocks <= self.max_blocks, "'n_blocks' is more than 'max_blocks'"),
        ):
            if wrong:
                raise ValueError(f"{self.arch}: {what}")

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


def chosen_forms(rules: Iterable[Rule], there: Collection[str]) -> set[str]:
    """For each part that comes in several forms, the one that most of `there` belongs to, else the first."""
    forms: dict[str, dict[str, int]] = {}
    for rule in rules:
        if rule.form:
            counts = forms.setdefault(rule.form.partition(".")[0], {})
            counts[rule.form] = counts.get(rule.form, 0) + (rule.target in there)
    return {max(counts, key=lambda form: counts[form]) for counts in forms.values()}


# Optional in some families, but each useless without the rest: loaders tolerate that, and no model is published so.
TOGETHER = (
    ("ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight"),
    ("attn_q.bias", "attn_k.bias", "attn_v.bias"),
    ("attn_q_norm.weight", "attn_k_norm.weight"),
    ("ffn_latent_down.weight", "ffn_latent_up.weight"),
    ("indexer.k_norm.weight", "indexer.k_norm.bias", "indexer.proj.weight", "indexer.attn_k.weight",
     "indexer.attn_q_b.weight"),
)  # fmt: skip


def missing(rules: Sequence[Rule], there: Set[str], find: Lookup) -> list[str]:
    """Targets that a block with the tensors `there` needs and lacks; `find` is its model's `{arch}.*`."""
    chosen = chosen_forms(rules, there)
    torn = {target for group in TOGETHER if not there.isdisjoint(group) for target in group}
    replaced = {target for rule in rules if rule.target in there for target in rule.replaces}

    def needed(rule: Rule) -> bool:
        if rule.target in torn or (rule.needed_by and find(rule.needed_by)):
            return True
        return not rule.optional and (not rule.form or rule.form in chosen)

    absent = (rule for rule in rules if rule.target not in there and rule.target not in replaced)
    return [rule.target for rule in absent if needed(rule)]


def surplus(rules: Sequence[Rule], there: Collection[str], find: Lookup) -> list[str]:
    """Tensors of `there` that engines do not look for, since the key that announces them is 0 or missing."""
    return [rule.target for rule in rules if rule.target in there and rule.needed_by and not find(rule.needed_by)]


def stops(family: Family, there: Collection[str]) -> str:
    """Why no engine drafts with a block of these tensors; empty: engines do."""
    return next((rule.stops for rule in family.rules if rule.stops and rule.target in there), "")


def listed(value: Any) -> list[Any]:
    """A per-layer array; empty for anything else."""
    return value if isinstance(value, list) else []


def flags(value: Any, n: int) -> list[bool] | None:
    """A per-layer array of booleans as a list of `n`; None for anything else. Layers after its end are False."""
    if not isinstance(value, list):
        return None
    return [bool(v) for v in value[:n]] + [False] * (n - len(value))


def dimensions(arch_value: Any, n_vocab: int | None) -> dict[str, int]:
    """The symbols of shapes from a trunk's KV; `arch_value(suffix)` gives `{arch}.{suffix}` or None.

    Symbols without a value are left out.
    """

    def integer(suffix: str, plus: int | None = 0) -> int | None:
        value = arch_value(suffix)
        if isinstance(value, list):  # per layer: recurrent layers have 0; where the others differ, nothing is known
            different = {v for v in value if isinstance(v, int) and v}
            value = different.pop() if len(different) == 1 else None
        if not isinstance(value, int) or isinstance(value, bool) or plus is None:
            return None
        return value + plus

    hidden, heads = integer("embedding_length"), integer("attention.head_count")
    head_dim = integer("attention.key_length") or (hidden // heads if hidden and heads else None)
    dense, used = integer("feed_forward_length"), integer("expert_used_count")
    width, shared = integer("expert_feed_forward_length"), integer("expert_shared_count")
    streams = integer("hyper_connection.count")
    groups, rank = integer("attention.output_group_count"), integer("attention.output_lora_rank")
    mla, rope = integer("attention.key_length_mla"), integer("rope.dimension_count")
    found = {
        "E": hidden,
        "H": heads,
        "K": heads if arch_value("attention.head_count_kv") is None else integer("attention.head_count_kv"),
        "D": head_dim,
        "Dv": integer("attention.value_length") or head_dim,
        "F": dense,
        "X": integer("expert_count"),
        "Fx": width or (dense // used if dense and used else None),
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
