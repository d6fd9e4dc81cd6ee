"""Per-layer arrays: engines require one entry per layer, MTP blocks included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..archs import longer_arrays, per_layer_arrays, trunk_arrays
from ..archs.base import Donor
from ..block.anatomy import Anatomy
from ..block.model import Block
from ..gguf.files import Model
from ..gguf.kv import KV, KVType
from .advice import Advice
from .finding import Change, Finding
from .patient import fix_command


def _arrays(model: Model) -> Iterator[tuple[KV, Any]]:
    for suffix, tail in per_layer_arrays(model.architecture).items():
        kv = model.header.by_key.get(f"{model.architecture}.{suffix}")
        if kv is not None and kv.type is KVType.ARRAY:
            yield kv, tail


def _entry(model: Model, kv: KV, tail: Any, n_trunk: int, block: int, donor: Block | None) -> Any:
    """The value for a block's layer, or None if it cannot be determined."""
    own = donor.model.arch_value(kv.key.removeprefix(f"{model.architecture}.")) if donor and donor.model else None
    if isinstance(own, list) and donor is not None and len(own) == n_trunk + donor.n_layer_nextn:
        return own[n_trunk + block] if n_trunk + block < len(own) else None
    if callable(tail):
        config = donor.checkpoint.stated if donor is not None and donor.checkpoint else {}
        return tail(Donor(n_trunk, config, model.arch_value), block)
    if tail is not None:
        return tail
    values = kv.value
    return next((value for value in reversed(values) if value), values[-1])


def _fixed(model: Model, kv: KV, tail: Any, n_trunk: int, n_nextn: int, donor: Block | None) -> KV | None:
    """The array with the right length, or None if its values cannot be determined."""
    values = kv.value
    if kv.item_type is KVType.ARRAY or len(values) < max(1, n_trunk):
        return None
    new = list(values[: n_trunk + n_nextn])
    for block in range(len(new) - n_trunk, n_nextn):
        value = _entry(model, kv, tail, n_trunk, block, donor)
        if value is None:
            return None
        new.append(bool(value) if kv.item_type is KVType.BOOL else value)
    return kv.with_value(new)


def fixed_arrays(model: Model, n_trunk: int, n_nextn: int, donor: Block | None = None) -> list[KV]:
    """All arrays whose length differs from the number of layers and whose values can be determined."""
    out = []
    for kv, tail in _arrays(model):
        if kv.n_items != n_trunk + n_nextn:
            fresh = _fixed(model, kv, tail, n_trunk, n_nextn, donor)
            if fresh is not None:
                out.append(fresh)
    return out


def told_trunk(seen: Anatomy, donor: Block | None, trunk: Model | None) -> int | None:
    """How many trunk layers precede a sidecar's block, if a donor or its model shows it.

    A sidecar whose header agrees with its block is left as it is: engines draft with one made for another depth.
    """
    if seen.has_trunk or not seen.blocks or seen.unmarked or _agrees(seen):
        return None
    if donor is not None and donor.n_layer_trunk:
        return donor.n_layer_trunk
    if trunk is None or trunk.architecture != seen.arch:
        return None
    same = trunk.arch_int("embedding_length") == seen.model.arch_int("embedding_length")
    return (Anatomy.of(trunk).n_trunk or None) if same else None


def _agrees(seen: Anatomy) -> bool:
    """Whether a sidecar's layer numbers, count and arrays agree."""
    n, first = len(seen.all_blocks), seen.all_blocks[0]
    if first == 0 or seen.block_count != first + n or seen.gone:
        return False
    longer = longer_arrays(seen.arch)
    return all(
        kv.n_items == first + n or (kv.key.removeprefix(f"{seen.arch}.") in longer and (kv.n_items or 0) > first + n)
        for kv, _ in _arrays(seen.model)
    )


def check_arrays(seen: Anatomy, donor: Block | None = None, trunk: Model | None = None) -> Iterator[Finding]:
    """Arrays of the wrong length; those that match the header's wrong count are left to that finding."""
    if not seen.is_language_model or seen.is_donor or seen.lost_layers:
        return
    told = told_trunk(seen, donor, trunk)
    n_trunk, n_nextn = told or seen.agreed_trunk or seen.n_trunk, len(seen.all_blocks)
    if seen.unmarked:
        n_trunk, n_nextn = n_trunk - len(seen.unmarked), n_nextn + len(seen.unmarked)
    if not told and seen.blocks and not seen.has_trunk and seen.blocks[0] == 0 and seen.block_count:
        n_trunk = seen.block_count - n_nextn  # numbered from 0: that is another finding
    right = {n_trunk + n_nextn}
    if not seen.blocks:
        right |= {n_trunk + seen.promised}
        if seen.block_count is not None and seen.block_count > n_trunk:
            right.add(seen.block_count)
    longer = longer_arrays(seen.arch)
    for kv, tail in _arrays(seen.model):
        if kv.n_items in right or (kv.key.removeprefix(f"{seen.arch}.") in longer and (kv.n_items or 0) > max(right)):
            continue
        fresh = _fixed(seen.model, kv, tail, n_trunk, n_nextn, donor)
        yield Finding(
            "wrong-array-length",
            "error",
            f"'{kv.key}' has {kv.n_items:,} entries, but the model has {n_trunk + n_nextn} layers, MTP blocks "
            "included.",
            kv.key,
            f"llama.cpp refuses to load it: 'key {kv.key} has wrong array length'",
            fix_command(seen.model.entry)
            if fresh is not None
            else Advice.of(
                fix_command(seen.model.entry, "--from", "DONOR"),
                ", a checkpoint or a bundled GGUF of the same model: nothing in this file determines the entries",
            ),
            None if fresh is None else _putting(fresh),
        )
    for suffix in trunk_arrays(seen.arch):
        listed = seen.model.header.by_key.get(f"{seen.arch}.{suffix}")
        if listed is None or listed.type is not KVType.ARRAY or listed.n_items == n_trunk:
            continue
        cut = listed.with_value(listed.value[:n_trunk]) if (listed.n_items or 0) > n_trunk else None
        yield Finding(
            "wrong-array-length",
            "error",
            f"'{listed.key}' has {listed.n_items:,} entries, but must have {n_trunk}: it covers only trunk layers.",
            listed.key,
            "llama.cpp refuses to load it: the length must be the number of trunk layers",
            fix_command(seen.model.entry) if cut else "get the model again",
            None if cut is None else _putting(cut),
        )


def _putting(kv: KV) -> Change:
    return lambda patient: patient.with_kvs([kv])
