"""--for a program: LM Studio's folder and what it takes, an honest answer about ollama; names that others use."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from all_verbs import run
from faults import state
from sick import rewrite

import nextn
from conftest import CHECKPOINT, Q4, TinyModels
from nextn.errors import QuantizeError, UnsupportedModel


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    return Path(shutil.copy(Q4, tmp_path / "Tiny-Q4_K_M.gguf"))


def test_lm_studio_gets_a_bundle_where_it_looks(home: Path, trunk: Path) -> None:
    (home / ".lmstudio" / "models").mkdir(parents=True)
    (trunk.parent / "mmproj-Tiny-F16.gguf").write_bytes(b"GGUF")
    made = nextn.attach(trunk, CHECKPOINT, for_engine="lmstudio")
    assert any("mmproj-Tiny-F16.gguf has to lie beside it" in note for note in made.plan.notes)
    assert made.entry == home / ".lmstudio" / "models" / "nextn" / "Tiny-MTP-GGUF" / "Tiny-MTP-Q4_K_M.gguf"
    assert nextn.inspect(made.entry).shape == "bundled"
    assert any("LM Studio lists it as nextn/Tiny-MTP-GGUF" in note for note in made.plan.notes)


def test_lm_studios_folder_is_the_one_of_its_settings(home: Path, tmp_path: Path, trunk: Path) -> None:
    (home / ".lmstudio" / "models").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    settings = home / ".lmstudio" / "settings.json"
    settings.write_text(json.dumps({"downloadsFolder": str(tmp_path / "elsewhere")}))
    made = nextn.attach(trunk, CHECKPOINT, for_engine="lmstudio", dry_run=True)
    assert made.entry.parents[2] == tmp_path / "elsewhere"
    for damaged in ("", "[]", "{}", '{"downloadsFolder": 5}', '{"downloadsFolder": "x"}'):
        settings.write_text(damaged)
        made = nextn.attach(trunk, CHECKPOINT, for_engine="lmstudio", dry_run=True)
        assert made.entry.parents[2] == home / ".lmstudio" / "models"


def test_a_model_of_lm_studio_gets_it_beside(home: Path) -> None:
    folder = home / ".lmstudio" / "models" / "publisher" / "Tiny-GGUF"
    folder.mkdir(parents=True)
    shutil.copy(Q4, folder / "Tiny-Q4_K_M.gguf")
    made = nextn.attach(folder / "Tiny-Q4_K_M.gguf", CHECKPOINT, for_engine="lmstudio")
    assert made.entry == folder / "Tiny-MTP-Q4_K_M.gguf"
    assert any("LM Studio lists it as publisher/Tiny-GGUF" in note for note in made.plan.notes)


def test_without_lm_studio_it_says_where_to_put_it(trunk: Path, tmp_path: Path) -> None:
    made = nextn.attach(trunk, CHECKPOINT, for_engine="lmstudio", out=tmp_path / "out")
    assert made.entry == tmp_path / "out" / "Tiny-MTP-Q4_K_M.gguf"
    assert any("PUBLISHER/REPOSITORY/FILE.gguf below its folder" in note for note in made.plan.notes)
    assert nextn.attach(trunk, CHECKPOINT, for_engine="lmstudio").entry == tmp_path / "Tiny-MTP-Q4_K_M.gguf"


def test_lm_studio_takes_no_sidecar(trunk: Path, tmp_path: Path) -> None:
    before = state(tmp_path)
    with pytest.raises(UnsupportedModel, match=r"Q4_K_M\.gguf: LM Studio takes no block in a file of its own; use"):
        nextn.attach(trunk, CHECKPOINT, for_engine="lmstudio", layout="sidecar")
    with pytest.raises(UnsupportedModel, match="neither LM Studio nor ollama takes"):
        nextn.extract(CHECKPOINT, for_engine="lmstudio")
    assert state(tmp_path) == before


def test_ollama_gets_an_honest_answer(trunk: Path, tiny_models: TinyModels, tmp_path: Path) -> None:
    before = state(tmp_path)
    with pytest.raises(UnsupportedModel, match=r"nothing to write for ollama.*without a block \(as it is\)"):
        nextn.attach(trunk, for_engine="ollama")  # said before a donor is looked for
    with pytest.raises(UnsupportedModel, match=r"nothing to write for ollama.*'nextn detach .*' writes one"):
        nextn.attach(tiny_models.bundled, CHECKPOINT, for_engine="ollama")
    assert state(tmp_path) == before
    plain = nextn.detach(tiny_models.bundled, for_engine="ollama", out=tmp_path / "plain.gguf").entry
    seen = nextn.inspect(plain)
    assert seen.shape == "trunk-only" and not seen.model.arch_int("nextn_predict_layers")


def test_a_type_of_ik_is_none_of_a_programs(trunk: Path) -> None:
    with pytest.raises(QuantizeError, match="LM Studio cannot read"):
        nextn.attach(trunk, CHECKPOINT, for_engine="lmstudio", type="iq4_ks")


# -- names ------------------------------------------------------------------------------------------------------------


NAMES = ("X-Q4_K_M-mtp.gguf", "X-mtp-Q5_K_M.gguf", "X-28B_MTP.Q6_K.gguf", "x.MTP.gguf", "Тест 27Б Q4_K_M mtp.gguf")


@pytest.mark.parametrize("name", NAMES)
def test_models_under_names_with_mtp_in_them(name: str, tiny_models: TinyModels, tmp_path: Path) -> None:
    """Bundled or not, they are models to every verb, and what is made of them has a name that engines take."""
    bundled = Path(shutil.copy(tiny_models.bundled, tmp_path / name))
    assert nextn.inspect(bundled).shape == "bundled"
    problems = [each.id for each in nextn.doctor(bundled).before.problems]
    assert problems == (["name-hides-model"] if "mtp-" in name else [])
    assert nextn.extract(bundled, out=tmp_path / "e").entry.name.startswith("mtp-")
    plain = nextn.detach(bundled, out=tmp_path / "d").entry
    assert nextn.inspect(plain).shape == "trunk-only" and "mtp-" not in plain.name
    trunk = tmp_path / "t" / name
    trunk.parent.mkdir()
    shutil.copy(Q4, trunk)
    for layout in ("bundle", "sidecar"):
        made = nextn.attach(trunk, bundled, layout=layout)
        assert ("mtp-" in made.entry.name) == (layout == "sidecar" and "mtp-" in name)
    assert nextn.inspect(trunk).sidecars == (made.sidecar,)
    assert nextn.plan(trunk, header_only=True).block is not None
    shards = nextn.explode(bundled, max_tensors=40, out=tmp_path / "shards")
    assert nextn.assemble(tmp_path / "shards", out=tmp_path / "whole.gguf").entry.read_bytes() == bundled.read_bytes()
    assert len(list(shards.entry.parent.iterdir())) > 1
    nextn.pack([bundled], out=tmp_path / "packed")
    models = [path for path in (tmp_path / "packed").rglob("*.gguf") if not path.name.startswith("mtp-")]
    assert models and not any("mtp-" in path.name for path in models)


def test_ollamas_blob_is_read_and_left_alone(tiny_models: TinyModels, tmp_path: Path) -> None:
    data = tiny_models.bundled.read_bytes()
    blob = tmp_path / "models" / "blobs" / f"sha256-{hashlib.sha256(data).hexdigest()}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(data)
    before = state(tmp_path / "models")
    assert nextn.inspect(blob).shape == "bundled" and not nextn.doctor(blob).before.problems
    for made in (nextn.extract(blob, out=tmp_path / "e"), nextn.detach(blob, out=tmp_path / "d")):
        assert "sha256" not in made.entry.name
    sick = blob.with_name("sha256-" + "5" * 64)
    rewrite(blob, sick, put=[("qwen35.nextn_predict_layers", "u32", 0)])
    before = state(tmp_path / "models")
    fixed = nextn.doctor(sick, fix=True, out=tmp_path / "f").outcome
    assert fixed is not None and not list((tmp_path / "f").glob("*sha256*"))
    assert nextn.attach(Q4, blob, layout="bundle", out=tmp_path / "a").outcome is not None
    assert state(tmp_path / "models") == before


def _ollama(root: Path, model: Path) -> Path:
    """A blob of ollama's."""
    blob = root / "models" / "blobs" / f"sha256-{hashlib.sha256(model.read_bytes()).hexdigest()}"
    blob.parent.mkdir(parents=True)
    (root / "models" / "manifests").mkdir()
    return Path(shutil.copy(model, blob))


def _hub(root: Path, model: Path) -> Path:
    """A file of a snapshot in the Hub's cache."""
    repository = root / "models--org--M"
    (repository / "blobs").mkdir(parents=True)
    file = repository / "snapshots" / ("0" * 40) / "M-Q4_K_M.gguf"
    file.parent.mkdir(parents=True)
    return Path(shutil.copy(model, file))


@pytest.mark.parametrize("store", [_ollama, _hub])
def test_nothing_is_written_into_another_programs_cache(
    store: Callable[[Path, Path], Path], tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from a shell inside it, where the current folder is the default, nor because -o names it."""
    model = store(tmp_path, tiny_models.bundled)
    before = state(tmp_path)
    monkeypatch.chdir(model.parent)
    for out in ([], ["-o", "."], ["-o", str(model.parent / "sub" / "M.gguf")]):
        for verb in ("detach", "extract", "explode", "assemble"):
            ran = run(verb, model.name, *out)
            assert ran.code == 2 and re.search("is ollama's, which deletes|is in the Hub's cache", ran.err), ran
    for more in (["pack", model.name, "-o", "."], ["pull", "org/M", "-o", "."], ["tune", model.name, "-o", "."]):
        ran = run(*more)
        assert ran.code == 2 and "name another one with -o" in ran.err, ran
    assert state(tmp_path) == before
    assert nextn.detach(model, out=tmp_path / "plain.gguf").entry.is_file()
