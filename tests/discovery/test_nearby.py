"""attach without --from: what else on this machine holds the block, which of it is taken, and what is only a guess."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import state
from hub_server import HubServer
from shelves import COMMIT, in_hub_cache, in_lm_studio, in_ollama
from sick import rewrite

import nextn
from conftest import CHECKPOINT, Q4, TinyModels
from nextn.errors import NoBlock, RemoteError, UsageError
from nextn.gguf.files import open_model
from nextn.measure.target import open_target

MODEL = "tiny-qwen35-Q4_K_M.gguf"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches and a home folder of a test's own, without a network."""
    folder = tmp_path / "home"
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("NEXTN_CACHE", str(folder / "nextn"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    return folder


def test_the_developers_caches_are_out_of_sight() -> None:
    from huggingface_hub import constants

    from nextn.remote.cache import cache_root

    for folder in (os.environ["HF_HOME"], constants.HF_HOME, cache_root()):
        assert Path(tempfile.gettempdir()) in Path(folder).parents


def model_in(folder: Path, name: str = MODEL) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(Q4, folder / name))


def checkpoint(folder: Path) -> Path:
    return shutil.copytree(CHECKPOINT, folder, dirs_exist_ok=True)


def taken(model: Path) -> tuple[str, str]:
    """The donor that a dry run takes, and what is said about the choice."""
    said: list[str] = []
    made = nextn.attach(model, dry_run=True, say=said.append)
    assert made.donor is not None
    return made.donor.name, said[0]


PLACES: dict[str, tuple[str, str, str]] = {  # the model's folder, the checkpoint's, where it is said to be
    "the same folder": ("tiny-qwen35", "tiny-qwen35", "is the model's own folder"),
    "a folder in it": ("m", "m/tiny-qwen35-mtp", "is beside the model"),
    "the folder above": ("tiny-qwen35/quants", "tiny-qwen35", "is the folder above the model's"),
    "a folder beside its folder": ("m/quants", "m/tiny-qwen35", "is beside the model's folder"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_checkpoint_near_the_model(place: str, tmp_path: Path) -> None:
    model, folder, where = PLACES[place]
    checkpoint(tmp_path / folder)
    name, said = taken(model_in(tmp_path / model))
    assert name == Path(folder).name
    assert f"{where}: it has the model's name; architecture, hidden size, vocabulary, layers" in said
    assert "guess" not in said


def test_under_another_name_it_is_a_guess(tmp_path: Path) -> None:
    checkpoint(tmp_path / "m" / "download-1")
    name, said = taken(model_in(tmp_path / "m"))
    assert name == "download-1"
    assert "the donor is a guess: the checkpoint folder" in said and "name the right one with --from" in said
    assert "the Hub was not asked (hf:" in said and "no connection to 127.0.0.1" in said


def test_several_are_a_question(tmp_path: Path, run_nextn: Run) -> None:
    for name in ("tiny-qwen35", "tiny-qwen35-FP8"):
        checkpoint(tmp_path / "m" / name)
    model = model_in(tmp_path / "m")
    before = state(tmp_path / "m")
    with pytest.raises(UsageError, match="2 donors on this machine hold a block that fits"):
        nextn.attach(model)
    done = run_nextn("attach", model)
    assert done.returncode == UsageError.exit_code and done.stderr.count("\n") == 1 and done.stdout == ""
    assert str(tmp_path / "m" / "tiny-qwen35-FP8") in done.stderr and "--from" in done.stderr
    assert state(tmp_path / "m") == before


def test_what_does_not_fit_is_not_taken(tmp_path: Path, family: Callable[[str], Path]) -> None:
    shutil.copytree(family("glm4moe"), tmp_path / "m" / "tiny-qwen35")
    part = checkpoint(tmp_path / "m" / "tiny-qwen35-mtp")
    (part / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(RemoteError, match=r"no donor was named.*name one with --from"):
        nextn.attach(model_in(tmp_path / "m"))


def test_a_repository_in_the_hubs_cache(tmp_path: Path, home: Path) -> None:
    in_hub_cache(home, "org/tiny-qwen35", CHECKPOINT)
    before = state(home)
    name, said = taken(model_in(tmp_path / "m"))
    assert name == f"hf:org/tiny-qwen35@{COMMIT}"
    assert "hf:org/tiny-qwen35 in the Hub's local cache: it has the model's name" in said and "guess" not in said
    made = nextn.attach(tmp_path / "m" / MODEL, layout="bundle", out=tmp_path / "out")
    header = open_model(made.entry).header
    assert header.get("nextn.donor") == f"hf:org/tiny-qwen35@{COMMIT}" and header.get("nextn.donor_revision") == COMMIT
    assert state(home) == before


def test_what_the_metadata_name_is_taken_from_the_cache(tmp_path: Path, home: Path) -> None:
    in_hub_cache(home, "org/original", CHECKPOINT)
    path = rewrite(Q4, tmp_path / "m" / MODEL, put=[("general.source.huggingface.repository", "str", "org/original")])
    name, said = taken(path)
    assert name == f"hf:org/original@{COMMIT}"
    assert "general.source.huggingface.repository names it" in said and "it comes from the Hub's local cache" in said


def test_another_repository_in_the_cache_is_a_guess(tmp_path: Path, home: Path) -> None:
    in_hub_cache(home, "org/something", CHECKPOINT)
    name, said = taken(model_in(tmp_path / "m"))
    assert name == f"hf:org/something@{COMMIT}" and "the donor is a guess: hf:org/something in the Hub's" in said


def test_a_bundled_gguf_in_the_hubs_cache(tmp_path: Path, home: Path, tiny_models: TinyModels) -> None:
    bundled = shutil.copy(tiny_models.bundled, tmp_path / "tiny-qwen35-Q8_0-MTP.gguf")
    in_hub_cache(home, "org/tiny-qwen35-GGUF", Path(bundled))
    name, said = taken(model_in(tmp_path / "m"))
    assert name.startswith("hf:org/tiny-qwen35-GGUF@") and "tiny-qwen35-Q8_0-MTP.gguf of hf:org/tiny" in said


def test_lm_studio_and_ollama(tmp_path: Path, home: Path, tiny_models: TinyModels) -> None:
    model = model_in(tmp_path / "m")
    in_lm_studio(home, "publisher/tiny-qwen35-GGUF", tiny_models.bundled, "tiny-qwen35-Q8_0-mtp.gguf")
    assert "tiny-qwen35-Q8_0-mtp.gguf of publisher/tiny-qwen35-GGUF in LM Studio's models" in taken(model)[1]
    shutil.rmtree(home / ".lmstudio")
    root = home / ".ollama" / "models"
    in_ollama(home, "hf.co/org/tiny-qwen35-MTP-GGUF/Q8_0", tiny_models.bundled)
    manifest = root / "manifests" / "hf.co" / "org" / "tiny-qwen35-MTP-GGUF" / "Q8_0"
    layers = json.loads(manifest.read_text())["layers"]
    before = state(root)
    assert "the model 'hf.co/org/tiny-qwen35-MTP-GGUF:Q8_0' of ollama" in taken(model)[1]
    nextn.attach(model)
    assert state(root) == before
    elsewhere = json.dumps({"layers": [layers[0] | {"digest": "../x"}]})
    for damaged in ("", "[]", '{"layers": [{"mediaType": 5}]}', elsewhere):
        manifest.write_text(damaged)
        (tmp_path / "m" / "mtp-tiny-qwen35-Q8_0.gguf").unlink(missing_ok=True)
        with pytest.raises((NoBlock, RemoteError)):
            nextn.attach(model)


@pytest.mark.slow
def test_a_guess_by_names_on_the_hub_is_said_to_be_one(hub: HubServer, run_nextn: Run, tmp_path: Path) -> None:
    hub.add_folder("Qwen/tiny-qwen35", CHECKPOINT)
    path = rewrite(Q4, tmp_path / "m" / MODEL, drop=["general.source.huggingface.repository"])
    done = run_nextn("attach", path, "--dry-run", HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 0, done.stderr
    assert "the donor is a guess: Qwen/tiny-qwen35, by " in done.stderr
    assert "to be certain, name it yourself (--from hf:Qwen/tiny-qwen35), or another" in done.stderr


def test_copies_of_one_sidecar_are_no_reason_to_ask(tmp_path: Path, tiny_models: TinyModels) -> None:
    trunk = shutil.copy(tiny_models.trunk, tmp_path / "model.gguf")
    for name in ("mtp-b.gguf", "mtp-a.gguf"):
        shutil.copy(tiny_models.sidecar, tmp_path / name)
    assert open_target(trunk).sidecar_path == tmp_path / "mtp-a.gguf"
    data = bytearray((tmp_path / "mtp-b.gguf").read_bytes())
    at = data.index(b"nextn.tensor_sha256") + 60
    data[at : at + 1] = b"0" if data[at : at + 1] != b"0" else b"1"
    (tmp_path / "mtp-b.gguf").write_bytes(data)  # another block, by its header
    with pytest.raises(UsageError, match=r"2 sidecars fit it equally well .* name one with --sidecar"):
        open_target(trunk)
    with pytest.raises(UsageError, match="name one with --from"):
        nextn.train(trunk, dry_run=True)
