"""Architectures whose block is loaded and never drafted with: recognised, taken off, and never put on."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sick import rewrite

import nextn
from conftest import TRUNKS, need
from nextn.archs.others import LOADS_ONLY
from nextn.engines import find_engine
from nextn.engines.base import Launch
from nextn.errors import UnsupportedModel
from nextn.gguf.files import open_model
from tiny_loads_only import KINDS, N, make_bundled

TOKENIZER = TRUNKS / "families" / "glm4moe-Q8_0.gguf"


@pytest.fixture(params=sorted(KINDS))
def bundled(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_bundled(request.param, tmp_path / f"{request.param}-F32.gguf", TOKENIZER)


def test_they_are_of_the_list() -> None:
    assert set(KINDS) < set(LOADS_ONLY)


def test_inspect_and_doctor_say_that_no_engine_drafts(bundled: Path) -> None:
    seen = nextn.inspect(bundled)
    assert seen.shape == "bundled" and seen.problems == ()
    assert "no engine drafts" in seen.to_json()["runs_on"]["llama.cpp"]
    found = nextn.doctor(bundled).before
    assert found.problems == (), [finding.what for finding in found.problems]


@pytest.mark.engine
def test_detach_leaves_a_model_that_gives_the_same_text(bundled: Path, tmp_path: Path) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    before = bundled.read_bytes()
    plain = nextn.detach(bundled, out=tmp_path / "plain.gguf").entry
    assert bundled.read_bytes() == before
    model = open_model(plain)
    assert model.arch_int("block_count") == N and not model.arch_int("nextn_predict_layers")
    assert not any(name.startswith(f"blk.{N}.") for name in model.tensors)
    texts = []
    for path in (bundled, plain):
        with find_engine("xllamacpp").start(Launch(path, n_ctx=512, threads=1)) as running:
            texts.append(running.complete("def read(self):\n", n_predict=12).tokens)
    assert texts[0] == texts[1] and texts[0]


@pytest.mark.parametrize(
    "name",
    [
        "Exaone4_5_ForConditionalGeneration",
        "GlmOcrForConditionalGeneration",
        "BailingMoeV2ForCausalLM",
        "Dots3NoteForCausalLM",
        "ExaoneMoEForCausalLM",
        "ExaoneMoeForCausalLM",
    ],
)
def test_their_checkpoints_are_recognised(name: str, family: Callable[[str], Path], tmp_path: Path) -> None:
    donor = tmp_path / "donor"
    shutil.copytree(family("glm4moe"), donor)
    config = json.loads((donor / "config.json").read_text())
    (donor / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    for run in (
        lambda: nextn.attach(TOKENIZER, donor, out=tmp_path / "out"),
        lambda: nextn.extract(donor, out=tmp_path / "out"),
    ):
        with pytest.raises(UnsupportedModel, match="no engine drafts"):
            run()
    assert not (tmp_path / "out").exists()


def test_attach_and_extract_refuse(bundled: Path, tmp_path: Path, family: Callable[[str], Path]) -> None:
    plain = nextn.detach(bundled, out=tmp_path / "plain.gguf").entry
    for donor in (bundled, family("glm4moe")):
        with pytest.raises(UnsupportedModel, match="no engine drafts") as error:
            nextn.attach(plain, donor, out=tmp_path / "out")
        assert error.value.exit_code == 16
    with pytest.raises(UnsupportedModel, match="no engine"):
        nextn.extract(bundled, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spelled", ["graniteswitch", "granite-switch"])
def test_the_key_of_a_router_is_never_taken_for_mtp(spelled: str, tmp_path: Path) -> None:
    source = make_bundled("exaone-moe", tmp_path / "source.gguf", TOKENIZER)
    counts = {"block_count": N + 1, "nextn_predict_layers": 1, "embedding_length": 64}
    put = [("general.architecture", "str", spelled), *((f"{spelled}.{key}", "u32", n) for key, n in counts.items())]
    path = rewrite(source, tmp_path / "router.gguf", put=put, lose=lambda name: ".nextn." in name)
    assert nextn.inspect(path).to_json()["n_layer_nextn"] == 0
    assert nextn.doctor(path).before.problems == ()
    refusals = {
        "attach": lambda: nextn.attach(path, source, out=tmp_path / "out"),
        "attach without a donor": lambda: nextn.attach(path, out=tmp_path / "out"),
        "as a donor": lambda: nextn.attach(TOKENIZER, path, out=tmp_path / "out"),
        "detach": lambda: nextn.detach(path, out=tmp_path / "out"),
        "detach in another form": lambda: nextn.detach(path, qkv="split", out=tmp_path / "out"),
        "extract": lambda: nextn.extract(path, out=tmp_path / "out"),
        "extract a donor file": lambda: nextn.extract(path, block_only=True, out=tmp_path / "out"),
        "pack": lambda: nextn.pack([path], donor=source, out=tmp_path / "out"),
        "pack alone": lambda: nextn.pack([path], out=tmp_path / "out"),
    }
    for verb, refused in refusals.items():
        with pytest.raises(UnsupportedModel, match="a router layer, not for MTP") as error:
            refused()
        assert "lost along the way" not in str(error.value), verb
        assert error.value.exit_code == 16, verb
    assert not (tmp_path / "out").exists()
