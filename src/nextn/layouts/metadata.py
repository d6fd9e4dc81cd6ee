"""KV edits: what an attach must change, what tells where the block came from, and how to undo it.

Value types are kept exactly: engines refuse a count that changed from u32 to i32.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..archs import FAMILIES
from ..archs.base import GENERIC_LAYER_ARRAYS
from ..errors import FormatError
from ..gguf.files import SPLIT_COUNT, SPLIT_KEYS, SPLIT_NO, SPLIT_TENSORS_COUNT, Model
from ..gguf.kv import INTEGER_TYPES, KV, KVType, edit
from ..gguf.parser import HeaderParser
from .plan import Hashes

PREFIX = "nextn."
PADDING = "nextn.padding"
UNDO = "nextn.undo"
SHAPE = "nextn.shape"


def count_kv(model: Model, suffix: str, value: int) -> KV:
    """`{arch}.{suffix}` = value, in the type that the model has it in, else u32."""
    key = f"{model.architecture}.{suffix}"
    old = model.header.by_key.get(key)
    if old is not None and old.type in INTEGER_TYPES:
        return old.with_value(value)
    return KV.make(key, KVType.UINT32, value)


def _layer_arrays(model: Model) -> dict[str, Any]:
    """Known per-layer arrays behind `{arch}.` -> value of a block's layer (None: repeat the last used one)."""
    tails: dict[str, Any] = dict.fromkeys(GENERIC_LAYER_ARRAYS)
    family = FAMILIES.get(model.architecture)
    if family is not None:
        tails.update(family.array_tail)
    return tails


def _grown(model: Model, n_trunk: int, n_nextn: int) -> list[KV]:
    """Per-layer arrays with the block's layers added: engines demand one entry per layer."""
    out = []
    for suffix, tail in _layer_arrays(model).items():
        kv = model.header.by_key.get(f"{model.architecture}.{suffix}")
        if kv is None or kv.type is not KVType.ARRAY:
            continue
        if kv.n_items == n_trunk + n_nextn:
            continue
        if kv.n_items != n_trunk:
            raise FormatError(
                f"'{kv.key}' has the wrong length",
                path=model.entry,
                offset=kv.start,
                expected=f"{n_trunk} (one per layer)",
                found=str(kv.n_items),
            )
        values = kv.value
        last = tail if tail is not None else next((v for v in reversed(values) if v), values[-1])
        out.append(kv.with_value([*values, *[last] * n_nextn]))
    return out


def attached_kvs(trunk: Model, n_trunk: int, n_nextn: int) -> list[KV]:
    """The trunk's KV as a model with a block needs them; split keys are kept."""
    put = [
        count_kv(trunk, "block_count", n_trunk + n_nextn),
        count_kv(trunk, "nextn_predict_layers", n_nextn),
        *_grown(trunk, n_trunk, n_nextn),
    ]
    old = trunk.header.by_key
    replaced = {
        kv.key: base64.b64encode(bytes(old[kv.key].raw)).decode() for kv in put if kv.key in old
    }
    added = [kv.key for kv in put if kv.key not in old]
    undo = json.dumps({"version": 1, "replaced": replaced, "added": added}, separators=(",", ":"))
    return edit(trunk.kvs, put=[*put, KV.make(UNDO, KVType.STRING, undo)])


def detached_kvs(model: Model, n_trunk: int) -> list[KV]:
    """The KV of the model without its block: what an attach noted down is put back byte for byte."""
    undo = _read_undo(model)
    drop = {kv.key for kv in model.kvs if kv.key.startswith(PREFIX)}
    if undo is not None:
        put, added = undo
        return edit(model.kvs, put=put, drop=drop | set(added))
    put = [count_kv(model, "block_count", n_trunk)]
    drop.add(f"{model.architecture}.nextn_predict_layers")
    n_all = model.arch_int("block_count")
    for suffix in _layer_arrays(model):
        kv = model.header.by_key.get(f"{model.architecture}.{suffix}")
        if kv is not None and kv.type is KVType.ARRAY and kv.n_items == n_all > n_trunk:
            put.append(kv.with_value(kv.value[:n_trunk]))
    return edit(model.kvs, put=put, drop=drop)


def _read_undo(model: Model) -> tuple[list[KV], list[str]] | None:
    """The pairs to put back and the keys to drop, or None when there is no valid note."""
    text = model.header.get(UNDO)
    if not isinstance(text, str):
        return None
    try:
        note = json.loads(text)
        raws = {str(key): base64.b64decode(raw) for key, raw in note["replaced"].items()}
        added = [str(key) for key in note["added"]]
        put = [parse_kv(raw) for raw in raws.values()]
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, FormatError):
        return None
    if [kv.key for kv in put] != list(raws):
        return None
    return put, added


def parse_kv(raw: bytes) -> KV:
    """One stored pair from its bytes."""
    head = b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + (1).to_bytes(8, "little")
    header = HeaderParser(len(head) + len(raw)).feed(head + raw)
    if header is None or header.header_end != len(head) + len(raw):
        raise FormatError("a stored pair is damaged")
    return header.kvs[0]


def provenance_kvs(donor: str, revision: str | None, hashes: Hashes, source_hash: str) -> list[KV]:
    """Where the block came from. Both engines ignore these keys.

    `nextn.donor_sha256` is over the source bytes of the block's tensors in the order of the file.
    """
    names = list(hashes)
    out = [
        KV.make("nextn.tool_version", KVType.STRING, __version__),
        KV.make("nextn.donor", KVType.STRING, donor),
        KV.make("nextn.donor_sha256", KVType.STRING, source_hash),
        KV.make("nextn.tensor_names", KVType.ARRAY, names, KVType.STRING),
        KV.make("nextn.tensor_sha256", KVType.ARRAY, [hashes[name] for name in names], KVType.STRING),
    ]
    if revision is not None:
        out.insert(2, KV.make("nextn.donor_revision", KVType.STRING, revision))
    return out


def recorded_hashes(model: Model) -> dict[str, str]:
    """Tensor name -> sha256 as an attach recorded them; empty when it did not."""
    names, hashes = model.header.get("nextn.tensor_names"), model.header.get("nextn.tensor_sha256")
    if not isinstance(names, list) or not isinstance(hashes, list) or len(names) != len(hashes):
        return {}
    return dict(zip(map(str, names), map(str, hashes), strict=True))


def split_kvs(no: int, count: int, n_tensors: int, like: Model | None = None) -> list[KV]:
    """The three split keys with the types that engines want (u16, u16, i32), or those the set has."""
    wanted = (
        (SPLIT_NO, KVType.UINT16, no),
        (SPLIT_COUNT, KVType.UINT16, count),
        (SPLIT_TENSORS_COUNT, KVType.INT32, n_tensors),
    )
    old = like.header.by_key if like is not None else {}
    return [old[key].with_value(n) if key in old else KV.make(key, kv_type, n) for key, kv_type, n in wanted]


def without_split(kvs: Sequence[KV]) -> list[KV]:
    """The pairs without the split keys."""
    return edit(kvs, drop=SPLIT_KEYS)


def padding_kv(size_bytes: int) -> KV:
    """A pair of exactly `size_bytes` that readers skip; STRING, since arrays of bytes are slow to skip for some."""
    return KV.make(PADDING, KVType.STRING, " " * (size_bytes - padding_least()))


def padding_least() -> int:
    """The size of an empty padding pair."""
    return KV.make(PADDING, KVType.STRING, "").size_bytes
