"""The llama-server of ik_llama.cpp: found, told apart, and asked to draft."""

from __future__ import annotations

from pathlib import Path

import pytest

import nextn
from conftest import TinyModels
from nextn.engines import IkServer, Launch, find_engine
from nextn.engines.ik import IK_PATH_VARIABLE
from nextn.errors import EngineMissing, EngineRefused

PROMPT = "def read(self):\n"


def fake(folder: Path, help: str) -> Path:
    binary = folder / "llama-server"
    binary.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "version: 4840 (8337e4cd)"\necho "{help}"\n')
    binary.chmod(0o755)
    return binary


def test_none_is_named(monkeypatch):
    monkeypatch.delenv(IK_PATH_VARIABLE, raising=False)
    with pytest.raises(EngineMissing, match=f"set {IK_PATH_VARIABLE}"):
        find_engine("ik_llama.cpp")


def test_another_projects_server_is_not_taken_for_it(tmp_path, monkeypatch):
    binary = fake(tmp_path, "--spec-type draft-mtp")
    monkeypatch.setenv(IK_PATH_VARIABLE, str(binary))
    with pytest.raises(EngineMissing, match=r"is no llama-server of ik_llama\.cpp"):
        find_engine("ik_llama.cpp")
    assert not isinstance(find_engine(str(binary)), IkServer)


def test_a_path_tells_which_project_it_is(tmp_path):
    engine = find_engine(str(fake(tmp_path, "--spec-type SPEC  e.g. mtp:n_max=1,p_min=0.0")))
    assert isinstance(engine, IkServer)
    assert (engine.name, engine.version) == ("ik_llama.cpp", "4840 (8337e4cd)")
    args = engine._arguments(Launch(Path("m.gguf"), Path("s.gguf"), n_max=2, p_min=0.25), 99)
    assert args[-4:] == ["--spec-type", "mtp:n_max=2,p_min=0.25", "-md", "s.gguf"]


@pytest.mark.engine
@pytest.mark.parametrize("shape", ["bundled", "shards"])
def test_it_drafts_and_keeps_the_text(ik: IkServer, tiny_models: TinyModels, shape: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ik.start(Launch(tiny_models.trunk, threads=1)) as running:
        plain = running.complete(PROMPT, 48)
        assert plain.draft_n == 0
    for n_max in (1, 3):
        with ik.start(Launch(getattr(tiny_models, shape), n_max=n_max, threads=1)) as running:
            answer = running.complete(PROMPT, 48)
            rates = answer.acceptance_per_pos
            assert rates is not None and len(rates) == n_max
            assert 0 < answer.draft_n_accepted < answer.draft_n <= n_max * answer.draft_steps
            assert len(answer.text) > 100 and plain.text.startswith(answer.text)  # with MTP it may stop a token early
    assert list(tmp_path.iterdir()) == []  # no llama.log


@pytest.mark.engine
def test_a_sidecar_of_qwen35_is_refused_in_its_own_words(ik: IkServer, tiny_models: TinyModels):
    with pytest.raises(EngineRefused) as caught:
        ik.start(Launch(tiny_models.trunk, tiny_models.sidecar, n_max=1, threads=1))
    assert caught.value.line.endswith("tensor 'blk.0.attn_norm.weight' not found")
    assert caught.value.log is not None
    caught.value.log.unlink()


@pytest.mark.engine
def test_verify_judges_with_it(ik: IkServer, tiny_models: TinyModels):
    report = nextn.verify(tiny_models.bundled, engine=ik, threads=1, n_predict=32).to_json()
    assert report["verdict"] == "passed", report["reasons"]
    assert "ik_llama.cpp" in str(report["engine"])
