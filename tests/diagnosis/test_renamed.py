"""Architectures that somebody renamed: named back, by the family's keys and tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import KINDS, trunk_of
from sick import rewrite
from sicknesses import checked, ids

import nextn
from conftest import CHECKPOINT, Q4, TRUNKS, TinyModels, stored
from nextn.archs import FAMILIES
from nextn.diagnosis import examine
from nextn.diagnosis.renamed import find_renamed
from nextn.errors import UnsupportedModel
from nextn.gguf.files import Model, open_model
from nextn.gguf.kv import KV
from nextn.layouts.metadata import OWN_KEYS


def renamed(source: Path, target: Path, name: str, *, keys: bool = True) -> Path:
    """`source` under another architecture's name, its keys too unless `keys` is false."""
    model = open_model(source)
    arch = model.architecture
    path = rewrite(source, target, put=[("general.architecture", "str", name)], drop=sorted(OWN_KEYS))
    if keys:
        data = path.read_bytes()
        assert len(name) == len(arch)
        path.write_bytes(data.replace(f"{arch}.".encode(), f"{name}.".encode()))
    return path


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("shape", ["trunk", "bundled", "sidecar"])
def test_it_is_named_back(shape: str, keys: bool, tiny_models: TinyModels, tmp_path: Path) -> None:
    source = getattr(tiny_models, shape)
    path = renamed(source, tmp_path / source.name, "qwen36", keys=keys)
    found = examine(path)
    assert (found.architecture, ids(found)) == ("qwen36", ["architecture-renamed"])
    assert "'qwen35'" in found.problems[0].what and found.shape == examine(source).shape
    seen = nextn.inspect(path)
    assert (seen.architecture, seen.problems) == ("qwen36", (found.problems[0].what,))
    done = checked(nextn.doctor(path, fix=True))
    assert done.plan is not None and done.remaining == ()
    mended, healthy = open_model(done.plan.sidecar or done.plan.entry), open_model(source)
    assert _pairs(mended) == _pairs(healthy)
    assert all(stored(mended, name) == stored(healthy, name) for name in healthy.tensors)


def _pairs(model: Model) -> dict[str, object]:
    def value(kv: KV) -> object:
        return kv.type, kv.item_type, kv.value

    return {kv.key: value(kv) for kv in model.kvs if not kv.key.startswith("nextn.")}


def test_other_findings_are_made_under_the_real_name(tiny_models: TinyModels, tmp_path: Path) -> None:
    key = "qwen36.nextn_predict_layers"
    path = rewrite(renamed(tiny_models.bundled, tmp_path / "t.gguf", "qwen36"), tmp_path / "M.gguf", drop=[key])
    assert ids(examine(path)) == ["architecture-renamed", "block-without-key"]
    done = checked(nextn.doctor(path, fix=True))
    assert done.remaining == () and done.plan is not None
    assert open_model(done.plan.entry).header.get("qwen35.nextn_predict_layers") == 1


def test_attach_says_so(tmp_path: Path) -> None:
    path = renamed(Q4, tmp_path / "M-Q4_K_M.gguf", "qwen36")
    words = r"are those of 'qwen35': nextn doctor .* --fix restores the name 'qwen35'"
    with pytest.raises(UnsupportedModel, match=words):
        nextn.attach(path, CHECKPOINT)


def test_what_is_known_was_not_renamed(tmp_path: Path) -> None:
    for path in (*(trunk_of(kind) for kind in KINDS), *TRUNKS.glob("*.gguf")):
        assert find_renamed(open_model(path)) is None
    for name in ("llama", "gemma4", "qwen3moe", "zzzzzz"):
        assert find_renamed(open_model(rewrite(Q4, tmp_path / "M.gguf", put=[
            ("general.architecture", "str", name)], drop=["qwen35.block_count"]))) is None  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_family_is_found_by_a_name_that_is_almost_its_own(kind: str, tmp_path: Path) -> None:
    arch = open_model(trunk_of(kind)).architecture
    name = f"{arch[:-1]}{'x' if arch[-1] != 'x' else 'y'}"
    found = find_renamed(open_model(renamed(trunk_of(kind), tmp_path / "M.gguf", name)))
    assert name not in FAMILIES and found is not None and f"those of '{arch}'" in found.what
