"""KV edits: what an attach must change, what records where the block came from, and how to undo it.

Value types are kept exactly: engines refuse a count that changed from u32 to i32.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from operator import index
from typing import Any

from ..archs import FAMILIES, longer_arrays, per_layer_arrays
from ..archs.base import Donor
from ..block.anatomy import SHAPE
from ..block.model import Block
from ..bounded import parse_json
from ..errors import DonorMismatch, FormatError
from ..gguf.files import Model
from ..gguf.known import ARCHITECTURE, read_known
from ..gguf.kv import INTEGER_TYPES, KV, KVType
from ..gguf.kv_table import KVTable, edit
from ..gguf.parser import HeaderParser
from ..gguf.sets import SPLIT_COUNT, SPLIT_KEYS, SPLIT_NO, SPLIT_TENSORS_COUNT
from ..version import __version__
from ..writing.plan import Hashes

PREFIX = "nextn."
PADDING = "nextn.padding"
UNDO = "nextn.undo"
PROVENANCE = tuple(
    f"nextn.{name}"
    for name in ("tool_version", "donor", "donor_revision", "donor_sha256", "tensor_names", "tensor_sha256")
)
TRAINED = tuple(
    f"nextn.trained.{name}"
    for name in (
        "start", "trunk", "trunk_sha256", "text", "n_tokens", "seed", "n_steps", "n_tokens_seen", "engine", "n_prompts",
        "accepted_at_1", "accepted_at_3", "accepted_per_step", "accepted_per_step_before", "accepted_shuffled",
        "same_text",
    )
)  # fmt: skip
"""How a block was trained, and what the engine accepted of its drafts; whoever carries the block carries these."""
# Keys that nextn writes; other `nextn.*` keys are carried.
OWN_KEYS = frozenset((PADDING, UNDO, SHAPE, *PROVENANCE, *TRAINED))


def count_kv(model: Model, suffix: str, value: int) -> KV:
    """`{arch}.{suffix}` = value, with the type it has in the model, else u32."""
    key = f"{model.architecture}.{suffix}"
    old = model.header.by_key.get(key)
    if old is not None and old.type in INTEGER_TYPES:
        return old.with_value(value)
    return KV.make(key, KVType.UINT32, value)


def growing_arrays(model: Model, n_trunk: int, n_nextn: int) -> list[tuple[str, Any, KV]]:
    """(name after `{arch}.`, value for a block's layer, pair) of every array that has to grow.

    Raises FormatError for one that has neither the trunk's length nor the new one.
    """
    out = []
    longer = longer_arrays(model.architecture)
    for suffix, tail in per_layer_arrays(model.architecture).items():
        kv = model.header.by_key.get(f"{model.architecture}.{suffix}")
        if kv is None or kv.type is not KVType.ARRAY or kv.n_items == n_trunk + n_nextn:
            continue
        if (kv.n_items or 0) > n_trunk + n_nextn and suffix in longer:
            continue
        if kv.n_items != n_trunk:
            raise FormatError(
                f"'{kv.key}' has the wrong length",
                path=model.entry,
                offset=kv.start,
                expected=f"{n_trunk} (one per layer)",
                found=str(kv.n_items),
            )
        out.append((suffix, tail, kv))
    return out


def _grown(model: Model, n_trunk: int, block: Block) -> list[KV]:
    """Per-layer arrays with the block's layers added: engines demand one entry per layer.

    Arrays that already count them get the donor's entries: those of a promised block may be made up.
    """
    out = []
    for suffix, tail, kv in growing_arrays(model, n_trunk, block.n_layer_nextn):
        new = _entries(model, n_trunk, block, suffix, tail)
        if new is None:
            new = [next((v for v in reversed(kv.value) if v), kv.value[-1])] * block.n_layer_nextn
        if any(value is None for value in new):
            raise DonorMismatch(
                f"{block.origin}: nothing determines the block's value of '{kv.key}'; use the checkpoint, or a bundled "
                "GGUF, as the donor."
            )
        out.append(_with_entries(kv, n_trunk, new))
    for suffix, tail in per_layer_arrays(model.architecture).items():
        found = model.header.by_key.get(f"{model.architecture}.{suffix}")
        if found is None or found.type is not KVType.ARRAY or found.n_items != n_trunk + block.n_layer_nextn:
            continue
        new = _entries(model, n_trunk, block, suffix, tail)
        if new is not None and None not in new and (fresh := _with_entries(found, n_trunk, new)).value != found.value:
            out.append(fresh)
    return out


def _entries(model: Model, n_trunk: int, block: Block, suffix: str, tail: Any) -> list[Any] | None:
    """An array's values for the block's layers (None: not known); None where it is to repeat the trunk's last one."""
    n_nextn = block.n_layer_nextn
    own = block.model.arch_value(suffix) if block.model is not None else None
    at = n_trunk if block.n_layer_trunk is None else block.n_layer_trunk
    if isinstance(own, list) and len(own) == at + n_nextn:  # a GGUF donor has the values
        return own[at:]
    if not callable(tail):
        return None if tail is None else [tail] * n_nextn
    donor = Donor(n_trunk, block.checkpoint.stated if block.checkpoint else {}, model.arch_value)
    return [tail(donor, k) for k in range(n_nextn)]


def _with_entries(kv: KV, n_trunk: int, new: list[Any]) -> KV:
    values = [bool(value) for value in new] if kv.item_type is KVType.BOOL else new
    return kv.with_value([*kv.value[:n_trunk], *values])


def _id_lists(model: Model) -> list[tuple[KV, KV]]:
    """Lists of layer numbers with the lists of their values, of equal length."""
    family = FAMILIES.get(model.architecture)
    out = []
    for names in family.id_lists if family is not None else ():
        ids, values = (model.header.by_key.get(f"{model.architecture}.{name}") for name in names)
        if ids is not None and values is not None and ids.n_items == values.n_items:
            out.append((ids, values))
    return out


def _listed(model: Model, n_trunk: int, block: Block) -> list[KV]:
    """Those lists with the block's layers added. Raises DonorMismatch when their values cannot be determined."""
    out = []
    for ids, values in _id_lists(model):
        lacking = [n for n in range(n_trunk, n_trunk + block.n_layer_nextn) if n not in ids.value]
        if not lacking:
            continue
        names = [kv.key.removeprefix(f"{model.architecture}.") for kv in (ids, values)]
        read = block.model.arch_value if block.model is not None else block.checkpoint.text_config.get  # type: ignore[union-attr]
        shift = 0 if block.n_layer_trunk is None else n_trunk - block.n_layer_trunk
        theirs = {n + shift: value for n, value in zip(*(read(name) or () for name in names), strict=False)}
        if not set(lacking) <= theirs.keys():
            raise DonorMismatch(
                f"{block.origin}: nothing determines the block's entries in '{values.key}'; use the checkpoint, or a "
                "bundled GGUF, as the donor."
            )
        out += [
            ids.with_value([*ids.value, *lacking]),
            values.with_value([*values.value, *(theirs[n] for n in lacking)]),
        ]
    return out


def _unlisted(model: Model, n_trunk: int) -> list[KV]:
    """Those lists without the block's layers, which engines refuse in a model without a block."""
    out = []
    for ids, values in _id_lists(model):
        kept = [(n, value) for n, value in zip(ids.value, values.value, strict=True) if n < n_trunk]
        if len(kept) < len(ids.value):
            out += [ids.with_value([n for n, _ in kept]), values.with_value([value for _, value in kept])]
    return out


def attached_kvs(trunk: Model, n_trunk: int, block: Block) -> KVTable:
    """The trunk's KV pairs as a model with a block needs them; split keys are kept.

    Raises DonorMismatch when a per-layer array's value for the block cannot be determined.
    """
    put = [
        count_kv(trunk, "block_count", n_trunk + block.n_layer_nextn),
        count_kv(trunk, "nextn_predict_layers", block.n_layer_nextn),
        *_grown(trunk, n_trunk, block),
        *_listed(trunk, n_trunk, block),
    ]
    old = trunk.header.by_key
    note: dict[str, Any] = {
        "version": 1,
        "replaced": {kv.key: _text(old[kv.key]) for kv in put if kv.key in old},
        "added": [kv.key for kv in put if kv.key not in old],
    }
    if len(trunk.files) == 1:  # gguf-split leaves its keys in merged files as well
        split = [[i, _text(trunk.kvs[i])] for i in sorted(trunk.kvs.positions(SPLIT_KEYS))]
        note.update({"split": split} if split else {})
    kvs = edit(trunk.kvs, drop=OWN_KEYS)
    return edit(kvs, put=[*put, KV.make(UNDO, KVType.STRING, json.dumps(note, separators=(",", ":")))])


def _text(kv: KV) -> str:
    """A pair's stored bytes as text."""
    return base64.b64encode(bytes(kv.raw)).decode()


def detached_kvs(model: Model, n_trunk: int) -> KVTable:
    """The KV pairs of the model without its block: what an attach noted is restored byte for byte."""
    undo = _read_undo(model)
    drop = set(OWN_KEYS)
    if undo is not None:
        put, added = undo
        return edit(model.kvs, put=put, drop=drop | set(added))
    put = [count_kv(model, "block_count", n_trunk)]
    drop.add(f"{model.architecture}.nextn_predict_layers")
    n_all = model.arch_int("block_count")
    for suffix in per_layer_arrays(model.architecture):
        kv = model.header.by_key.get(f"{model.architecture}.{suffix}")
        if kv is not None and kv.type is KVType.ARRAY and kv.n_items == n_all > n_trunk:
            put.append(kv.with_value(kv.value[:n_trunk]))
    put += _unlisted(model, n_trunk)
    return edit(model.kvs, put=put, drop=drop)


def _read_undo(model: Model) -> tuple[list[KV], list[str]] | None:
    """The pairs to put back and the keys to drop, or None when there is no valid note."""
    text = model.header.get(UNDO)
    if not isinstance(text, str):
        return None
    try:
        note = parse_json(text, model.entry)
        raws = {str(key): base64.b64decode(raw) for key, raw in note["replaced"].items()}
        added = [str(key) for key in note["added"]]
        put = [parse_kv(raw) for raw in raws.values()]
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, FormatError):
        return None
    named = KV.make(ARCHITECTURE, KVType.STRING, model.architecture)
    others = [kv for kv in put if kv.key != ARCHITECTURE]
    if [kv.key for kv in others] != list(raws) or read_known([named, *others]).misfits:
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

    `nextn.donor_sha256` covers the source bytes of the block's tensors in file order.
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


def trained_kvs(model: Model | None) -> tuple[KV, ...]:
    """What a model's header says about how its block was trained."""
    return () if model is None else tuple(kv for key in TRAINED if (kv := model.header.by_key.get(key)) is not None)


def recorded_hashes(model: Model) -> dict[str, str]:
    """Tensor name -> sha256 as recorded by an attach; empty when none was recorded."""
    names, hashes = model.header.get("nextn.tensor_names"), model.header.get("nextn.tensor_sha256")
    if not isinstance(names, list) or not isinstance(hashes, list) or len(names) != len(hashes):
        return {}
    return dict(zip(map(str, names), map(str, hashes), strict=True))


def split_kvs(no: int, count: int, n_tensors: int, like: Model | None = None) -> list[KV]:
    """The three split keys with the types that engines expect (u16, u16, i32), or those that the set uses."""
    wanted = (
        (SPLIT_NO, KVType.UINT16, no),
        (SPLIT_COUNT, KVType.UINT16, count),
        (SPLIT_TENSORS_COUNT, KVType.INT32, n_tensors),
    )
    old = like.header.by_key if like is not None else {}
    return [old[key].with_value(n) if key in old else KV.make(key, kv_type, n) for key, kv_type, n in wanted]


def without_split(kvs: Sequence[KV]) -> KVTable:
    """The pairs without the split keys."""
    return edit(kvs, drop=SPLIT_KEYS)


def as_single_file(kvs: Sequence[KV], model: Model) -> KVTable:
    """A detached model's pairs for one file: split keys only if the original had them, in their original places."""
    out = without_split(kvs)
    try:
        split = parse_json(model.header.get(UNDO) or "{}", model.entry).get("split", [])
        pairs = [(index(i), parse_kv(base64.b64decode(raw))) for i, raw in split]
    except (ValueError, TypeError, AttributeError, binascii.Error, FormatError):
        return out
    for i, kv in pairs:
        if kv.key in SPLIT_KEYS and 0 <= i <= len(out) and not read_known([kv]).misfits:
            out = out.inserted(i, kv)
    return out


def padding_kv(size_bytes: int) -> KV:
    """A pair of exactly `size_bytes` that readers skip; STRING, since some readers are slow to skip byte arrays."""
    return KV.make(PADDING, KVType.STRING, " " * (size_bytes - padding_least()))


def padding_least() -> int:
    """The size of an empty padding pair."""
    return KV.make(PADDING, KVType.STRING, "").size_bytes
