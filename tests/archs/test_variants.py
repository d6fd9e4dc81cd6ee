"""Variants inside families: what nextn makes of each, against the upstream converter's output and the engine's word.

See docs/goldens.md. A variant that the converter writes and the engine drafts with must come out the same, bundled
and as a sidecar; one that the engine refuses, or that the converter stops at, must never become a sidecar.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from described import described, stored_sha256

import nextn
from conftest import DATA
from nextn.archs import FAMILIES
from nextn.errors import NextnError
from nextn.gguf.files import Model, open_model
from nextn.gguf.header import build_header, pad_to, place
from nextn.gguf.kv import KV, KVType, edit
from variants import BASES, TRUNKS, Variant, arch_of, base, make

GOLDENS = DATA / "goldens" / "variants"
TYPES = {"u32": KVType.UINT32, "i32": KVType.INT32, "f32": KVType.FLOAT32, "bool": KVType.BOOL, "str": KVType.STRING}
SHORT = 16  # hex digits of a hash
# Where nextn differs on purpose. Without a head and a word of tied embeddings a download is more likely not whole.
REFUSED = {"without a head": "there is no head"}
# The converter has transformers complete these lists; the goldens are made from config.json as it is.
AS_ITSELF = ("config without layer_types",)
HEAD, OUTPUT = "nextn.shared_head_head.weight", "output.weight"


@cache
def golden(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDENS / f"{kind}.json").read_text())
    return found


def all_variants() -> Iterator[tuple[str, str]]:
    for path in sorted(GOLDENS.glob("*.json")):
        yield from ((path.stem, name) for name in golden(path.stem)["variants"])


def whole(kind: str, layout: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The converter's output of a variant: the kind's own with what differs."""
    own, changed = golden(kind)["base"][layout], entry.get(layout, {})
    out = {}
    for part in ("kv", "tensors"):
        merged = {**own[part], **changed.get(part, {})}
        out[part] = {name: x for name, x in merged.items() if x is not None}
    return out


def trunk_for(kind: str, bundle: dict[str, Any], path: Path) -> Path:
    """The kind's trunk with the header that belongs to a bundled model: no count of blocks, no entries of theirs."""
    model = open_model(TRUNKS / f"{BASES[kind]}.gguf")
    arch, kv = model.architecture, dict(bundle["kv"])
    n_nextn = kv.pop(f"{arch}.nextn_predict_layers")[1]
    n_all = kv[f"{arch}.block_count"][1]
    put = []
    for key, (kind_of, value) in kv.items():
        if kind_of.startswith("arr["):
            values = value[: n_all - n_nextn] if len(value) == n_all else value
            put.append(KV.make(key, KVType.ARRAY, values, TYPES[kind_of[4:-1]]))
        else:
            put.append(KV.make(key, TYPES[kind_of], value - n_nextn if key.endswith(".block_count") else value))
    old = {key for key in model.header.by_key if key.startswith(f"{arch}.")}
    kvs = edit(model.kvs, drop=old, put=put)
    kept = [(file, info) for file, info in model.items() if info.name != OUTPUT or OUTPUT in bundle["tensors"]]
    ranges = [file.tensor_range(info) for file, info in kept]
    infos, _ = place([(info, end - start) for (_, info), (start, end) in zip(kept, ranges, strict=True)], 32)
    data = model.entry.read_bytes()
    body = b"".join(data[start:end] + bytes(pad_to(end - start, 32) - (end - start)) for start, end in ranges)
    path.write_bytes(build_header(kvs, infos) + body)
    return path


def header_of(model: Model) -> dict[str, Any]:
    return {kv.key: described(kv) for kv in model.kvs if kv.key.startswith(f"{model.architecture}.")}


def unlike(model: Model, wanted: dict[str, Any], layout: str) -> list[str]:
    """What differs from the converter's output, in words."""
    mine, kv = header_of(model), wanted["kv"]
    out = [f"{key}: {mine.get(key)} for {kv.get(key)}" for key in {**mine, **kv} if mine.get(key) != kv.get(key)]
    n_trunk = kv[f"{model.architecture}.block_count"][1] - kv[f"{model.architecture}.nextn_predict_layers"][1]
    theirs = wanted["tensors"]
    own_head = any(name.endswith(HEAD) for name in theirs)
    for name in {*theirs, *model.tensors}:
        in_block = name.startswith("blk.") and int(name.split(".")[1]) >= n_trunk
        if not in_block and layout == "bundle":
            continue
        if name not in model.tensors:
            if name != OUTPUT or not own_head or FAMILIES[model.architecture].head_needed:
                out.append(f"{name} is not there")
            continue
        info = model.tensors[name][1]
        found = [info.type_name.upper(), list(info.ne), stored_sha256(model, name)[:SHORT]]
        if found != theirs.get(name):
            out.append(f"{name}: {found} for {theirs.get(name)}")
    return out


def outcome(act: Callable[[], Model], wanted: dict[str, Any], layout: str) -> list[str] | NextnError:
    try:
        model = act()
    except NextnError as error:
        return error
    return unlike(model, wanted, layout)


def complaints(kind: str, name: str, source: Path, folder: Path) -> list[str]:
    """What is wrong with nextn's two answers to a variant; empty: nothing."""
    entry = golden(kind)["variants"][name]
    if name in AS_ITSELF and kind.startswith("qwen"):
        entry = {"what": entry["what"]}
    variant = Variant.of({"kind": kind, **entry["what"]})
    checkpoint = make(variant, source, folder / kind)
    own = golden(kind)["base"]
    fails = {layout: "fails" in entry.get(layout, {}) for layout in ("bundle", "sidecar")}
    drafts = entry.get("engine", "drafts") == "drafts" and not any(fails.values())
    of_block = bool(variant.drop or variant.add)
    if any(fails.values()) and knows_more(kind, variant):
        return []
    out = []
    if "bundle" in own:
        bundle = whole(kind, "bundle", {} if fails["bundle"] else entry)
        trunk = trunk_for(kind, bundle, folder / "trunk.gguf")

        def attach() -> Model:
            return open_model(
                nextn.attach(trunk, checkpoint, layout="bundle", type="bf16", out=folder / "bundle").entry
            )

        found = outcome(attach, bundle, "bundle")
        if isinstance(found, NextnError):
            out += [f"attach refuses: {found}"] if drafts else []
        elif drafts or not of_block:
            out += [f"attach: {words}" for words in found if drafts]
        else:
            out += [f"attach makes what the engine {entry.get('engine', 'never sees')}"] if found or of_block else []
    like = "sidecar" if "sidecar" in own else "bundle"
    sidecar = whole(kind, like, {} if fails[like] else entry)

    def extract() -> Model:
        kinds = {} if kind == "deepseek4" else {"type": "bf16", "embd_type": "bf16"}
        return open_model(nextn.extract(checkpoint, **kinds, out=folder / "mtp-x.gguf").entry)

    found = outcome(extract, sidecar, "sidecar")
    if isinstance(found, NextnError):
        out += [f"extract refuses: {found}"] if drafts and REFUSED.get(name, "not it") not in str(found) else []
    elif drafts:
        out += [f"extract: {words}" for words in found]
    elif found or of_block:
        out.append(f"extract makes what the engine {entry.get('engine', 'never sees')}")
    return out


def knows_more(kind: str, variant: Variant) -> bool:
    """Whether all that is added is in the family's table: loaders take it, and the converter has no name for it."""
    family = FAMILIES[arch_of(kind)]
    sources = [source.name.replace("{k}", "0") for rule in family.rules for source in rule.sources]
    local = [name.split(".", 3)[3] if family.behind_trunk else name for name in variant.add]
    return bool(variant.add) and not variant.drop and all(
        any(name.endswith(source.removeprefix("layers.0.")) for source in sources) for name in local
    )  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("bases")
    return cache(lambda kind: base(kind, folder / kind))


@pytest.mark.parametrize(("kind", "name"), list(all_variants()))
def test_a_variant_is_what_the_converter_and_the_engine_say(
    kind: str, name: str, sources: Callable[[str], Path], tmp_path: Path
) -> None:
    assert complaints(kind, name, sources(kind), tmp_path) == []


def test_every_kind_has_variants() -> None:
    assert {kind for kind, _ in all_variants()} == set(BASES)
    assert len(list(all_variants())) >= 200
