"""A renamed architecture: keys and tensors are a known family's, and the name is almost that family's."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import SequenceMatcher
from functools import partial

from ..archs import FAMILIES
from ..archs.base import Family, missing
from ..archs.drafts import OTHER_NAMES
from ..archs.others import every_name
from ..block.anatomy import Anatomy
from ..block.model import MARK, split_name
from ..gguf.files import Model
from ..gguf.known import ARCHITECTURE
from ..gguf.kv import KV, KVType
from .advice import Advice
from .finding import Finding
from .patient import Patient, fix_command

_MOST = 0.6  # share of the block's other tensors: where blocks differ from the trunk, not all are present
_ALIKE = 0.6  # minimum similarity of names: excludes a model of another family that happens to have the same keys


def find_renamed(model: Model) -> Finding | None:
    """The finding, or None. Raises FormatError for a file without an architecture."""
    arch = model.architecture
    if arch in FAMILIES or arch in every_name():
        return None
    if arch in OTHER_NAMES:
        return _finding(model, arch, OTHER_NAMES[arch])
    keys, by_prefix = _keys_of(model, arch), ""
    if "block_count" not in keys:  # only the architecture's own name was changed
        by_prefix = next((name for name in FAMILIES if f"{name}.block_count" in model.header.by_key), "")
        keys = _keys_of(model, by_prefix) if by_prefix else {}
    found = [(by_prefix, 1.0)] if by_prefix else _candidates(model, arch, keys)
    if not found:
        return None
    return _finding(model, arch, max(found, key=lambda pair: pair[1])[0])


def _finding(model: Model, arch: str, real: str) -> Finding:
    return Finding(
        "architecture-renamed",
        "error",
        f"'{ARCHITECTURE}' is '{arch}', which no engine knows; its keys and tensors are those of '{real}'.",
        ARCHITECTURE,
        f"llama.cpp refuses to load it: 'unknown model architecture: '{arch}''",
        Advice.of(fix_command(model.entry), f" restores the name '{real}'"),
        partial(_named, arch=arch, real=real),
    )


def _keys_of(model: Model, arch: str) -> dict[str, KV]:
    start = f"{arch}."
    return {kv.key.removeprefix(start): kv for kv in model.kvs if kv.key.startswith(start)}


def _candidates(model: Model, arch: str, keys: Mapping[str, KV]) -> list[tuple[str, float]]:
    """Families that match in header and tensors and have a similar name, with the similarity."""
    alike = ((name, SequenceMatcher(None, arch, name).ratio()) for name in FAMILIES)
    near = [(name, ratio) for name, ratio in alike if ratio >= _ALIKE and _has_keys(FAMILIES[name], keys)]
    seen = Anatomy.of(model) if near else None
    return [(name, ratio) for name, ratio in near if seen is not None and _has_tensors(FAMILIES[name], seen, keys)]


def _has_keys(family: Family, keys: Mapping[str, KV]) -> bool:
    """Whether the header has everything that the family's must have."""
    rows = family.header.rows if family.header else ()
    return bool(rows) and all(row.suffix in keys for row in rows if not row.optional and isinstance(row.where, str))


def _has_tensors(family: Family, seen: Anatomy, keys: Mapping[str, KV]) -> bool:
    """Whether the block has everything that the family's needs; without a block, whether the trunk has most of it."""

    def find(suffix: str) -> object:
        return keys[suffix].value if suffix in keys else None

    if seen.blocks:
        return all(name.startswith(MARK) for name in missing(family.rules, seen.layers[seen.blocks[0]], find))
    wanted = {rule.target for rule in family.rules if not rule.optional and not rule.target.startswith(MARK)}
    names = map(split_name, seen.model.tensors)
    there = {suffix for layer, suffix in names if layer is not None and suffix in wanted}
    return len(there) >= _MOST * len(wanted)


def _named(patient: Patient, arch: str, real: str) -> Patient:
    put = [KV.make(ARCHITECTURE, KVType.STRING, real)]
    old = _keys_of(patient.model, arch)
    put += [KV.make(f"{real}.{suffix}", kv.type, kv.value, kv.item_type) for suffix, kv in old.items()]
    return patient.with_kvs(put, [kv.key for kv in old.values()])
