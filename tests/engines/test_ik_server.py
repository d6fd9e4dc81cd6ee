"""The llama-server of ik_llama.cpp: found, told apart, and asked to draft."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from families import trunk_of

import nextn
from conftest import TRUNKS, TinyModels
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
    with pytest.raises(EngineMissing, match=r"is not a llama-server of ik_llama\.cpp"):
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


@pytest.mark.engine
def test_glm_5_in_its_published_widths_drafts(
    ik: IkServer, family: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ik_llama.cpp takes latent attention of 512 and 64 alone. Its answers break on random text: its log counts."""
    import compat

    monkeypatch.chdir(tmp_path)
    trunk = TRUNKS / "families" / "glmdsa-wide-Q8_0.gguf"
    made = nextn.attach(trunk, family("glmdsa-wide"), for_engine="both", out=tmp_path / "both")
    assert made.plan.layout == "bundle"
    result, says, drafted, accepted, _ = compat.ask(ik, made.entry, None, 1)
    assert (result, drafted > 0, accepted > 0) == ("drafts", True, True), says
    plain = nextn.detach(made.entry, for_engine="ik", out=tmp_path / "plain.gguf").entry
    assert compat.ask(ik, plain, None, 0)[0] == "runs"


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["deepseek3-wide", "glm4moelite-wide"])
def test_deepseek2_is_refused_with_a_block_and_runs_without(
    kind: str, ik: IkServer, family: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import compat

    monkeypatch.chdir(tmp_path)
    made = nextn.attach(trunk_of(kind), family(kind), layout="bundle", out=tmp_path / "bundle")
    result, says, *_ = compat.ask(ik, made.entry, None, 0)
    assert result == "refuses" and "wrong number of tensors" in says
    assert compat.ask(ik, nextn.detach(made.entry, out=tmp_path / "plain.gguf").entry, None, 0)[0] == "runs"


@pytest.mark.engine
def test_a_fused_mimo_made_for_llama_cpp_runs_on_ik_when_split(
    ik: IkServer, family: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MiMo-V2.5 is published for llama.cpp: q, k and v fused in trunk and block."""
    import compat

    monkeypatch.chdir(tmp_path)
    fused = nextn.detach(TRUNKS / "families" / "mimo2-Q8_0.gguf", qkv="fused", out=tmp_path / "fused.gguf").entry
    bundled = nextn.attach(fused, family("mimo2"), layout="bundle", out=tmp_path / "bundled.gguf").entry
    assert compat.ask(find_engine("xllamacpp"), bundled, None, 1)[0] == "drafts"
    for path in (fused, bundled):
        result, says, *_ = compat.ask(ik, path, None, 0)
        assert result == "refuses" and "attn_q.weight' not found" in says
    split = nextn.detach(bundled, qkv="split", out=tmp_path / "split.gguf").entry
    assert compat.ask(ik, split, None, 0)[0] == "runs"
