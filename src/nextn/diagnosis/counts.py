"""Keys, counts and layer numbers checked against the tensors in the file. Fixed by a new header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..block.anatomy import KEY, Anatomy
from ..block.model import Block
from ..gguf.files import Model
from ..gguf.kv import INTEGER_TYPES, KV, KVType
from ..units import counted
from .advice import Advice
from .arrays import told_trunk
from .commands import attach_command, doctor_command, donor_hint, header_change
from .finding import Change, Finding
from .patient import Patient
from .promise import unkept

# What the key is called elsewhere: checkpoints and forks.
_NAMES = (KEY, "num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", "n_layer_nextn")
WRONG_NUMBER = "llama.cpp refuses to load it: 'wrong number of tensors; expected ..., got ...'"


def check_counts(seen: Anatomy, donor: Block | None = None, trunk: Model | None = None) -> Iterator[Finding]:
    """Findings about the key, `block_count` and the position of the block."""
    if seen.is_empty:
        yield _empty(seen)
        return
    if not seen.is_language_model or seen.is_donor:
        return
    if seen.lost_layers:
        n = len(seen.lost_layers)
        lost = ("at least " if n >= 100 else "") + counted(n, "trunk layer has", "trunk layers have")
        yield _lost(seen, f"{lost} no tensors (the first is {seen.lost_layers[0]})")
        return
    if seen.unmarked:
        yield from _types(seen)  # the header may well be right: see `check_blocks`
        return
    if seen.blocks:
        yield from _with_block(seen, donor, trunk)
    else:
        yield from _without_block(seen, donor)
    yield from _types(seen)


def _empty(seen: Anatomy) -> Finding:
    again = attach_command("TRUNK", *donor_hint(seen), "--layout", "sidecar")
    return Finding(
        "trunk-layers-lost",
        "error",
        f"the header says {seen.block_count} layers, but none has a tensor: the file holds neither trunk nor block.",
        seen.model.entry.name,
        "llama.cpp refuses to load it, 'missing tensor' or 'tensor ... not found', or crashes when it loads it",
        Advice.of("get the model again from its source", "; if it is a sidecar: ", again)
        if seen.promised
        else "get the model again from its source",
    )


def _lost(seen: Anatomy, what: str) -> Finding:
    return Finding(
        "trunk-layers-lost",
        "error",
        f"{what}: the trunk is incomplete.",
        seen.model.entry.name,
        "llama.cpp refuses to load it, 'missing tensor' or 'tensor ... not found', or crashes when it loads it",
        "get the model again from its source",
    )


# -- models with a block ----------------------------------------------------------------------------------------------


def _with_block(seen: Anatomy, donor: Block | None, trunk: Model | None) -> Iterator[Finding]:
    n, key = len(seen.all_blocks), f"{seen.arch}.{KEY}"
    place, mixed = _place(seen, donor, trunk)
    if mixed is not None:
        yield mixed
        return
    change = header_change(seen, n, place)
    if seen.all_blocks != tuple(range(place, place + n)):
        to = dict(zip(seen.all_blocks, range(place, place + n), strict=True))
        yield Finding(
            "block-at-wrong-index",
            "error",
            f"the MTP block is in layer {_layers(seen.all_blocks)}, but belongs in {_layers(tuple(to.values()))}, "
            f"right after the trunk's last layer, {place - 1}.",
            f"blk.{seen.blocks[0]}.*",
            f"{WRONG_NUMBER}, or does not find the tensors of the layers in between",
            doctor_command(seen),
            lambda patient: change(patient.moved(to)),
        )
    elif seen.block_count != place + n:
        yield Finding(
            "wrong-block-count",
            "error",
            f"'{seen.arch}.block_count' is {_shown(seen.block_count)}, but the file has "
            f"{counted(place, 'trunk layer')} and {counted(n, 'MTP block')}: it must be {place + n}.",
            f"{seen.arch}.block_count",
            f"{WRONG_NUMBER}, or 'wrong array length' where there are per-layer arrays; it aborts at absurd counts",
            doctor_command(seen),
            change,
        )
    if seen.promised == n:
        return
    stray = _stray_keys(seen)
    if stray and not seen.promised:
        yield Finding(
            "wrong-namespace",
            "error",
            f"the block's key is called '{stray[0]}', but engines look only for '{key}'.",
            stray[0],
            f"{WRONG_NUMBER}; a build that skips the check drafts uselessly",
            doctor_command(seen),
            header_change(seen, n, place, stray),
        )
    elif not seen.promised:
        yield Finding(
            "block-without-key",
            "error",
            f"the file has an MTP block (layer {_layers(seen.blocks)}), but '{key}' is missing or 0.",
            key,
            WRONG_NUMBER,
            doctor_command(seen),
            change,
        )
    else:
        yield Finding(
            "wrong-number-of-blocks",
            "error",
            f"'{key}' is {seen.promised}, but the file has {counted(n, 'MTP block')}.",
            key,
            f"{WRONG_NUMBER}, does not find the tensors of the missing block, or aborts when it loads it",
            doctor_command(seen),
            change,
        )


def _place(seen: Anatomy, donor: Block | None, trunk: Model | None) -> tuple[int, Finding | None]:
    """Where the block belongs, or the finding that this cannot be determined."""
    first, n = seen.all_blocks[0], len(seen.all_blocks)
    said = None if seen.block_count is None else seen.block_count - n
    if not seen.has_trunk:  # a sidecar: its own number counts, unless it was numbered from 0
        told = told_trunk(seen, donor, trunk)
        if first == 0:
            known = told or said
            if not known or known < 1:
                return 0, _lost_number(seen)
            return known, None
        return told or seen.agreed_trunk or first, None
    behind = seen.n_trunk
    if first < behind:
        return behind, Finding(
            "block-at-wrong-index",
            "error",
            f"the MTP block is in layer {first}, in the middle of the trunk's {behind} layers.",
            f"blk.{first}.*",
            f"{WRONG_NUMBER}, or does not find tensors",
            "get the model again, or remove the block by hand: nothing shows which layer is which",
        )
    agreed = donor is not None and donor.n_layer_trunk == behind
    by_arrays = said is None and first + n in seen.array_lengths
    if first > behind and (said == first or by_arrays) and not agreed and not seen.array_lengths & {behind, behind + n}:
        return behind, _lost(seen, f"the header and the block agree that the trunk has {first} layers, but "
                                   f"the file has {behind}")  # fmt: skip
    return behind, None


def _lost_number(seen: Anatomy) -> Finding:
    return Finding(
        "block-at-wrong-index",
        "error",
        "the sidecar's block is in layer 0, and nothing in the header says after how many trunk layers it belongs.",
        "blk.0.*",
        "llama.cpp takes it for a trunk and does not find its tensors: 'tensor 'blk.0....' not found'",
        "name a model that has the block in the right layer with --from, or its own model with --trunk",
    )


# -- models without one -----------------------------------------------------------------------------------------------


def _without_block(seen: Anatomy, donor: Block | None) -> Iterator[Finding]:
    there, count = seen.n_trunk, seen.block_count
    if count is None:
        yield _wrong_count(seen, "is missing", header_change(seen, 0, there) if not seen.promised else None)
        return
    if seen.promised:
        if seen.key_is_stale or count - seen.promised == there:
            yield unkept(seen, donor)
        elif count - seen.promised > there:
            yield _lost(seen, f"the header says {count - seen.promised:,} trunk layers, but the file has {there:,}")
        else:
            yield _wrong_count(seen, f"is {count:,} with {counted(seen.promised, 'MTP block')} promised", None)
    elif count > there:
        n_more = count - there
        family = seen.family
        stripped = there in seen.array_lengths or (family is not None and n_more == family.max_blocks)
        if stripped:
            yield _wrong_count(seen, f"is {count:,}", header_change(seen, 0, there))
        else:
            yield _lost(seen, f"'{seen.arch}.block_count' is {count:,}, but the file has {there:,} layers")
    elif count < there:
        yield _wrong_count(seen, f"is {count:,}", None)


def _wrong_count(seen: Anatomy, how: str, change: Change | None) -> Finding:
    what = f"'{seen.arch}.block_count' {how}, and the file has {seen.n_trunk} layers."
    return Finding(
        "wrong-block-count",
        "error",
        what,
        f"{seen.arch}.block_count",
        "llama.cpp refuses to load it: 'missing tensor', 'tensor ... not found' or 'wrong number of tensors'",
        doctor_command(seen) if change else "get the model again: nothing shows which of the two is right",
        change,
    )


# -- both -------------------------------------------------------------------------------------------------------------


def _types(seen: Anatomy) -> Iterator[Finding]:
    """Engines refuse a count of another type."""
    for suffix in ("block_count", KEY):
        kv = seen.model.header.by_key.get(f"{seen.arch}.{suffix}")
        if kv is None or kv.type not in (*INTEGER_TYPES, KVType.BOOL) or kv.type is KVType.UINT32:
            continue
        value = int(kv.value)
        if not 0 <= value < 1 << 32:
            continue
        fresh = KV.make(kv.key, KVType.UINT32, value)
        yield Finding(
            "wrong-key-type",
            "error",
            f"'{kv.key}' is stored as {kv.type.name.lower()}, but engines accept only uint32.",
            kv.key,
            f"llama.cpp refuses to load it: 'key {kv.key} has wrong type ... but expected type u32'",
            doctor_command(seen),
            _retyped(fresh),
        )


def _retyped(fresh: KV) -> Change:
    def change(patient: Patient) -> Patient:
        now = patient.model.header.by_key.get(fresh.key)
        if now is None or now.type is KVType.UINT32:
            return patient  # another finding has fixed it
        return patient.with_kvs([fresh])

    return change


def _stray_keys(seen: Anatomy) -> list[str]:
    """Keys that stand for the block's key under another name."""
    own = f"{seen.arch}.{KEY}"
    return [
        kv.key
        for kv in seen.model.kvs
        if kv.key != own and kv.key.rpartition(".")[2] in _NAMES and kv.type in INTEGER_TYPES and kv.value
    ]


def _layers(layers: Sequence[int]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"


def _shown(count: int | None) -> str:
    return "missing" if count is None else str(count)
