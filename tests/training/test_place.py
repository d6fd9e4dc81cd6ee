"""Where a draft goes, what its header says of its training, and that a block carries that along."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from trained import PASSED, judged

import nextn
from conftest import Q4, TinyModels
from nextn.errors import OutputExists, UsageError
from nextn.gguf.files import open_model
from nextn.gguf.kv import KVType
from nextn.layouts.metadata import TRAINED
from nextn.training.judge import Judgement, TrainedCandidate
from nextn.training.place import draft_place, written
from nextn.training.provenance import Training, provenance_pairs

TRAINING = Training("nothing", "tiny", "ab" * 32, "shipped prompts", 1000, 7, 320, 9000)


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "tiny-qwen35-Q4_K_M.gguf"
    path.parent.mkdir()
    shutil.copyfile(Q4, path)
    return path


def judgement(candidate: Path) -> Judgement:
    winner = TrainedCandidate(candidate, 320, 9000)
    final, before = judged("candidate", [9] * 12), judged("published", [6] * 12)
    return Judgement("xllamacpp", "1", "better", ("it is",), winner, (final, before), PASSED, 0.001)


def test_names_that_llama_cpp_finds(trunk: Path, tmp_path: Path) -> None:
    model = open_model(trunk)
    assert draft_place(model, "eagle3", None, None).path == trunk.parent / "eagle3-tiny-qwen35-Q8_0.gguf"
    assert draft_place(model, "native", None, None).path == trunk.parent / "mtp-tiny-qwen35-Q8_0.gguf"
    assert draft_place(model, "native", "bundle", None).name == "tiny-qwen35-MTP-Q4_K_M.gguf"
    named = draft_place(model, "native", None, tmp_path / "x.gguf")
    assert named.path == tmp_path / "x.gguf" and "does not start with 'mtp-'" in named.notes[0]
    with pytest.raises(UsageError, match="leave out --layout bundle"):
        draft_place(model, "eagle3", "bundle", None)


def test_nothing_is_overwritten_after_hours(trunk: Path) -> None:
    model = open_model(trunk)
    (trunk.parent / "mtp-tiny-qwen35-Q8_0.gguf").touch()
    found = draft_place(model, "native", None, None)
    assert found.name == "mtp-tiny-qwen35-trained-Q8_0.gguf" and "--sidecar" in found.notes[0]
    found.path.touch()
    with pytest.raises(OutputExists):
        draft_place(model, "native", None, None)
    with pytest.raises(OutputExists):
        draft_place(model, "native", None, trunk)


@pytest.mark.parametrize("layout", ["sidecar", "bundle"])
def test_the_header_says_how_it_was_trained(
    layout: str, trunk: Path, tiny_models: TinyModels, tmp_path: Path
) -> None:
    model, candidate = open_model(trunk), tmp_path / "candidate-000320.gguf"
    shutil.copyfile(tiny_models.sidecar, candidate)
    pairs = provenance_pairs(TRAINING, judgement(candidate))
    plan = written(model, candidate, pairs, draft_place(model, "native", layout, None), tmp_path / "scratch")
    made = open_model(plan.entry)
    assert {kv.key for kv in pairs} == set(TRAINED)
    values = {key.rpartition(".")[2]: made.header.get(key) for key in TRAINED}
    assert (values["seed"], values["n_steps"], values["text"]) == (7, 320, "shipped prompts")
    assert values["accepted_per_step"] == pytest.approx(0.9)
    assert values["accepted_per_step_before"] == pytest.approx(0.6)
    assert len(values["accepted_at_3"]) == 3 and values["accepted_shuffled"] == 0.0 and values["same_text"] is True
    shown = nextn.inspect(plan.entry).to_json()["provenance"]
    assert shown["trained.n_tokens_seen"] == "9000" and shown["trained.accepted_per_step"] == "0.9"
    assert not nextn.inspect(plan.entry).problems


def test_a_block_carries_it_along_and_leaves_none_behind(trunk: Path, tiny_models: TinyModels, tmp_path: Path) -> None:
    model, candidate = open_model(trunk), tmp_path / "candidate-000320.gguf"
    shutil.copyfile(tiny_models.sidecar, candidate)
    pairs = provenance_pairs(TRAINING, judgement(candidate))
    plan = written(model, candidate, pairs, draft_place(model, "native", None, tmp_path / "mtp-t.gguf"), tmp_path)
    for layout in ("bundle", "shards"):
        bundle = nextn.attach(trunk, plan.entry, layout=layout, out=tmp_path / layout).entry
        assert open_model(bundle).header.get("nextn.trained.seed") == 7
        again = nextn.extract(bundle, out=tmp_path / f"{layout}-again").entry
        assert open_model(again).header.by_key["nextn.trained.seed"].type is KVType.UINT64
        back = nextn.detach(bundle, out=tmp_path / f"{layout}-back").entry
        assert back.read_bytes() == trunk.read_bytes()
    with trunk.open("rb") as file:
        before = file.read()
    nextn.attach(trunk, plan.entry, layout="in-place")
    assert open_model(trunk).header.get("nextn.trained.n_steps") == 320
    nextn.detach(trunk, in_place=True)
    assert trunk.read_bytes() == before
