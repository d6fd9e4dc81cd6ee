"""Variants inside families: what nextn makes of each, against the upstream converter's output and the engine's word.

See docs/goldens.md. A variant that the converter writes and the engine drafts with must come out the same, bundled
and as a sidecar; one that the engine refuses, or that the converter stops at, must never become a sidecar.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from described import described, stored_sha256

import nextn
from conftest import DATA
from nextn.archs import FAMILIES, per_layer_arrays
from nextn.errors import NextnError
from nextn.gguf.files import Model, open_model
from nextn.gguf.header import build_header, pad_to, place
from nextn.gguf.kv import KV, KVType
from nextn.gguf.kv_table import edit
from nextn.sources.checkpoint import plain_name
from variants import BASES, TRUNKS, Base, Variant, arch_of, base, make

GOLDENS = DATA / "goldens" / "variants"
TYPES = {
    "u32": KVType.UINT32, "i32": KVType.INT32, "u64": KVType.UINT64, "i64": KVType.INT64, "f32": KVType.FLOAT32,
    "bool": KVType.BOOL, "str": KVType.STRING,
}  # fmt: skip
SHORT = 16  # hex digits of a hash
MEMORY = next((path for path in ("/dev/shm",) if os.access(path, os.W_OK)), None)  # where syncing costs nothing
# Where nextn differs on purpose. Without a head and a word of tied embeddings a download is more likely not whole; the
# converter writes LongRoPE's name without its factors.
REFUSED = {"without a head": "there is no head", "rope unknown": "positions are scaled with 'longrope'"}
# Loaders do without these one by one, and compute something else then; models have all of their group or none.
TORN = (
    "q_norm.weight", "k_norm.weight", "q_proj.bias", "k_proj.bias", "v_proj.bias", "gate_proj.weight",
    "up_proj.weight", "down_proj.weight", "router.gate.weight", "k_norm.bias", "weights_proj.weight", "wk.weight",
    "wq_b.weight", "fc1_latent_proj.weight", "fc2_latent_proj.weight",
)  # fmt: skip
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
            by_layer = key.removeprefix(f"{arch}.") in per_layer_arrays(arch)
            values = value[: n_all - n_nextn] if by_layer and len(value) == n_all else value
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


def complaints(kind: str, name: str, source: Path, folder: Path) -> list[str]:
    """What is wrong with nextn's two answers to a variant; empty: nothing."""
    entry = golden(kind)["variants"][name]
    variant = Variant.of({"kind": kind, **entry["what"]})
    checkpoint = make(variant, source, folder / kind)
    own, at = golden(kind)["base"], Base(kind, source)
    if any("fails" in entry.get(layout, {}) for layout in own) and knows_more(kind, variant):
        return []
    out = []
    for layout in ("bundle", "sidecar"):
        like = layout if layout in own else "bundle"
        if like not in own or (layout == "bundle" and only_pairs(variant)):
            continue
        said = entry.get(like, {})
        if drops_the_block(kind, said):  # by a count that is not there: nextn goes by the tensors
            said = {}
        wanted = whole(kind, like, {} if "fails" in said else {like: said})

        def act(layout: str = layout, wanted: dict[str, Any] = wanted) -> Model:
            if layout == "bundle":
                trunk = trunk_for(kind, wanted, folder / "trunk.gguf")
                made = nextn.attach(trunk, checkpoint, layout=layout, type="bf16", out=folder / layout)
            else:
                types = {"embd_type": "bf16"} if kind == "deepseek4" else {"type": "bf16", "embd_type": "bf16"}
                made = nextn.extract(checkpoint, **types, out=folder / "mtp-x.gguf")
            return open_model(made.entry)

        found: Model | NextnError
        try:
            found = act()
        except NextnError as error:
            found = error
        verdict = "converter fails" if "fails" in said else said.get("engine", "drafts")
        if verdict == "drafts":
            if isinstance(found, NextnError):
                deliberate = REFUSED.get(name, "not it") in str(found) or is_torn(name, found)
                bundle = entry.get("bundle", {})  # of a model that no engine runs there is no use in a sidecar
                deliberate |= "fails" in bundle or bundle.get("engine", "drafts") != "drafts"
                out += [] if deliberate else [f"{layout} is refused: {found}"]
            else:
                out += [f"{layout}: {words}" for words in unlike(found, wanted, layout)]
        elif isinstance(found, NextnError) or (layout == "bundle" and not of_block(variant, at)):
            pass  # a bundle's pairs are the trunk's, good or bad
        elif unlike(found, whole(kind, like, {}), layout):  # what the kind's own is, the engine drafts with
            out.append(f"{layout} is made, and the verdict is: {verdict} {said.get('fails', '')}")
    return out


def only_pairs(variant: Variant) -> bool:
    """Whether only single values of config.json differ: attach takes the trunk's header, whatever they are."""
    plain = not (variant.drop or variant.add or variant.rename or variant.place or variant.top)
    return plain and not any(isinstance(x, list | dict) for x in variant.config.values())


def of_block(variant: Variant, at: Base) -> bool:
    """Whether the block's tensors are others."""
    return any(at.in_block(name) for name in (*variant.drop, *variant.add))


def is_torn(name: str, error: NextnError) -> bool:
    """Whether one tensor of several that go together is what nextn misses."""
    return name.endswith(TORN) and "is incomplete" in str(error)


def drops_the_block(kind: str, said: dict[str, Any]) -> bool:
    """Whether the converter wrote a model without a block."""
    return said.get("kv", {}).get(f"{arch_of(kind)}.nextn_predict_layers", 1) is None


def knows_more(kind: str, variant: Variant) -> bool:
    """Whether all that is added is in the family's table: loaders take it, and the converter has no name for it."""
    family = FAMILIES[arch_of(kind)]
    sources = [source.name.replace("{k}", "0") for rule in family.rules for source in rule.sources]
    local = [plain_name(name).split(".", 3)[3] if family.behind_trunk else name for name in variant.add]
    return bool(variant.add) and not variant.drop and all(
        any(name.endswith(source.removeprefix("layers.0.")) for source in sources) for name in local
    )  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("bases")
    return cache(lambda kind: base(kind, folder / kind))


def every_variant() -> Iterator[Any]:
    """Three of four are slow: each makes files, and there are 1,500."""
    for number, (kind, name) in enumerate(all_variants()):
        yield pytest.param(kind, name, marks=[pytest.mark.slow] * bool(number % 4))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), list(every_variant()))
def test_a_variant_is_what_the_converter_and_the_engine_say(
    kind: str, name: str, sources: Callable[[str], Path]
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        assert complaints(kind, name, sources(kind), Path(folder)) == []


def test_every_family_that_llama_cpp_runs_has_variants() -> None:
    counts = Counter(kind for kind, _ in all_variants())
    assert set(counts) == set(BASES)
    assert {arch_of(kind) for kind in BASES} == {arch for arch, family in FAMILIES.items() if family.llama_cpp.drafts}
    assert min(counts.values()) >= 50 and sum(counts.values()) >= 900
