"""What the keys that nextn reads have to be: the one place where a header's values are checked.

A key that nextn reads and that has a value of the wrong kind is a misfit: `Header.by_key` does not hold it, doctor and
inspect name it, and whatever writes, plans or serves refuses the file (`open_sound`). So no other code finds a string
where it expects a count.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from ..printable import printable
from .kv import INTEGER_TYPES, KV, KVType
from .kv_table import KVTable
from .names import OnDemand

_MAX_LAYER_ITEMS = 1 << 16  # engines take at most 512 layers
_MAX_TEXT = 1 << 16
_MAX_LONG = 1 << 24
_MOST_NOTES = 20  # how many wrong ones are named
_NUMBERS = INTEGER_TYPES | {KVType.BOOL, KVType.FLOAT32, KVType.FLOAT64}


class Kind(Enum):
    """What a value has to be, in words."""

    NAME = f"a string of 1 to {_MAX_TEXT:,} bytes"
    TEXT = f"a string of at most {_MAX_TEXT:,} bytes"
    LONG = f"a string of at most {_MAX_LONG:,} bytes"
    TEXTS = "an array of strings"
    COUNT = "a whole number that is not negative"
    COUNTS = f"a whole number that is not negative, or an array of at most {_MAX_LAYER_ITEMS:,}"
    NUMBERS = f"a number, or an array of at most {_MAX_LAYER_ITEMS:,}"
    INTEGERS = "an array of whole numbers"


ARCHITECTURE = "general.architecture"
# Keys that engines read too: they refuse a file in which one has the wrong type.
_READ_BY_ENGINES = {
    ARCHITECTURE: Kind.NAME,
    "general.name": Kind.TEXT,
    "general.file_type": Kind.COUNT,
    "split.no": Kind.COUNT,
    "split.count": Kind.COUNT,
    "split.tensors.count": Kind.COUNT,
    "tokenizer.ggml.model": Kind.TEXT,
    "tokenizer.ggml.pre": Kind.TEXT,
    "tokenizer.ggml.tokens": Kind.TEXTS,
    "tokenizer.ggml.token_type": Kind.INTEGERS,
}
# Keys that say where a model comes from, and nextn's own. No engine reads them.
_NOTES = {
    "nextn.undo": Kind.LONG,
    "nextn.tensor_names": Kind.TEXTS,
    "nextn.tensor_sha256": Kind.TEXTS,
    "nextn.vocab_size": Kind.COUNT,
    **dict.fromkeys(
        (
            "general.basename", "general.organization", "general.finetune", "general.size_label", "general.version",
            "general.url", "general.repo_url", "general.source.url", "general.source.repo_url",
            "general.source.huggingface.repository", "general.license.link", "general.type", "nextn.donor",
            "nextn.donor_revision", "nextn.donor_sha256", "nextn.shape", "nextn.tokenizer_sha256", "nextn.tool_version",
        ),
        Kind.TEXT,
    ),
}  # fmt: skip
_BASE_MODEL = "general.base_model."
_BASE_MODEL_COUNT = "general.base_model.count"
# After `{architecture}.`: sizes, and values given once or once per layer.
_SIZES = dict.fromkeys(
    (
        "block_count", "nextn_predict_layers", "embedding_length", "context_length", "vocab_size",
        "full_attention_interval", "attention.indexer.head_count", "attention.indexer.key_length",
        "attention.key_length_mla", "attention.value_length_mla", "attention.kv_lora_rank", "attention.q_lora_rank",
        "attention.output_group_count", "attention.output_lora_rank", "hyper_connection.count",
        "hyper_connection.low_rank", "ssm.conv_kernel", "ssm.group_count", "ssm.inner_size", "ssm.state_size",
        "kda.head_dim", "mhc_num_stream", "param_sink_number", "moe_latent_size", "rope.dimension_count",
        "attention.sliding_window", "expert_count", "expert_shared_count", "expert_shared_feed_forward_length",
        "leading_dense_block_count",
    ),
    Kind.COUNT,
) | dict.fromkeys(
    (
        "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
        "attention.key_length_swa", "attention.value_length_swa", "feed_forward_length",
        "expert_feed_forward_length", "expert_used_count", "attention.sliding_window_pattern",
        "attention.recurrent_layers", "attention.compress_ratios", "attention.indexer.types", "swa_layers",
        "sliding_window_list",
    ),
    Kind.COUNTS,
) | dict.fromkeys(("swiglu_clamp_exp", "swiglu_clamp_shexp"), Kind.NUMBERS)  # fmt: skip


@dataclass(frozen=True)
class Misfit:
    """A key that is not what it has to be."""

    kv: KV
    what: str  # a sentence without its full stop
    for_engines: bool  # engines read it, and refuse the file


@dataclass(frozen=True)
class Reading:
    """A header's pairs, with the misfits separated."""

    by_key: Mapping[str, KV]  # all but the misfits
    misfits: tuple[Misfit, ...]  # all of those that engines read, and the first few of the notes
    n_misfits: int


def read_known(kvs: Iterable[KV]) -> Reading:
    """Separate the misfits from the rest."""
    table = KVTable.of(kvs)
    found = table.find(ARCHITECTURE)
    arch = str(found.value) if found is not None and _is(found, Kind.NAME) else None
    known = {**_READ_BY_ENGINES, **_NOTES}
    if arch is not None:
        known |= {f"{arch}.{suffix}": kind for suffix, kind in _SIZES.items()}
    places: Mapping[str, int | None]
    if len(table) < len(known):  # such as a later shard with its three keys
        keys_in_order = [*enumerate(table.keys())]
        places = {key: at for at, key in reversed(keys_in_order) if key in known}  # the first of several
    else:
        places = {key: table.position(key) for key in known}
    wrong = {key: at for key, at in places.items() if at is not None and not _is(table[at], known[key])}
    for_engines = [at for key, at in wrong.items() if key not in _NOTES]
    notes = [at for key, at in wrong.items() if key in _NOTES]
    n_notes = len(notes)
    n_misfits = len(wrong)
    count = table.position(_BASE_MODEL_COUNT)
    if count is not None and not _is(table[count], Kind.COUNT):
        n_misfits += 1
        notes.append(count)
    for at in table.not_texts(array("I", table.starting_with(_BASE_MODEL)), _MAX_TEXT):
        n_misfits += at != count
        if at != count and len(notes) - n_notes < _MOST_NOTES:
            notes.append(at)

    def fits(kv: KV) -> bool:
        return kv.key not in wrong and (not kv.key.startswith(_BASE_MODEL) or _is(kv, _of_base_model(kv.key)))

    def find(key: str) -> KV | None:
        kv = table.find(key)
        return kv if kv is not None and fits(kv) else None

    def keys() -> Iterator[str]:
        return (kv.key for kv in filter(fits, table)) if n_misfits else table.keys()

    shown = sorted([*for_engines, *sorted(notes)[:_MOST_NOTES]])
    misfits = tuple(
        Misfit(kv, f"'{printable(kv.key)}' is {_shown(kv)}, but must be {kind.value}", at in for_engines)
        for at, kv, kind in ((at, table[at], known.get(table[at].key) or _of_base_model(table[at].key)) for at in shown)
    )
    by_key = OnDemand(len(table) - n_misfits, keys, find, lambda: filter(fits, table))
    return Reading(by_key, misfits, n_misfits)


def _of_base_model(key: str) -> Kind:
    return Kind.COUNT if key == _BASE_MODEL_COUNT else Kind.TEXT


def _is(kv: KV, kind: Kind) -> bool:
    if kind in (Kind.NAME, Kind.TEXT, Kind.LONG):
        size = kv.end - kv.value_start - 8
        most = _MAX_LONG if kind is Kind.LONG else _MAX_TEXT
        return kv.type is KVType.STRING and size <= most and (size > 0 or kind is not Kind.NAME)
    if kv.type is not KVType.ARRAY:
        if kind is Kind.NUMBERS:
            return kv.type in _NUMBERS
        return kind in (Kind.COUNT, Kind.COUNTS) and _counts(kv)
    if kind is Kind.TEXTS:
        return kv.item_type is KVType.STRING
    if kind is Kind.INTEGERS:
        return kv.item_type in INTEGER_TYPES
    if (kv.n_items or 0) > _MAX_LAYER_ITEMS:
        return False
    if kind is Kind.NUMBERS:
        return kv.item_type in _NUMBERS
    return kind is Kind.COUNTS and _counts(kv)


def _counts(kv: KV) -> bool:
    """Whether a number, or each number of an array, is one that an engine could use as a count."""
    kv_type = kv.item_type if kv.type is KVType.ARRAY else kv.type
    if kv_type is KVType.BOOL:
        return True
    if kv_type not in INTEGER_TYPES:
        return False
    values = kv.value if kv.type is KVType.ARRAY else [kv.value]
    return not values or min(values) >= 0


def _shown(kv: KV) -> str:
    """A value's type, and the value where it is a number."""
    if kv.type is KVType.ARRAY:
        assert kv.item_type is not None
        of = {KVType.ARRAY: "arrays", KVType.STRING: "strings"}.get(kv.item_type, kv.item_type.name.lower())
        return f"an array of {kv.n_items:,} {of}"
    if kv.type is KVType.STRING:
        (length,) = struct.unpack_from("<Q", kv.buffer, kv.value_start)
        return f"a string of {length:,} bytes"
    return f"{kv.value} ({kv.type.name.lower()})"
