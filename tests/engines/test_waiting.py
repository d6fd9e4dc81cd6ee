"""Threads of an engine that judges sleep while they wait; those of one that is timed spin, as the user's own will."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nextn.engines import Engine, Launch, LlamaServer, Xllamacpp, llama_server, xllamacpp
from nextn.errors import StorageError
from nextn.measure.timed_run import TimedSetup

POLICY = "OMP_WAIT_POLICY"


@pytest.fixture(params=["xllamacpp", "llama-server"])
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`environment(launch)`: the variables that the engine's process would get."""
    server = LlamaServer(Path("/llama-server"), "1", "--spec-type draft-mtp")
    engine: Engine = Xllamacpp("1") if request.param == "xllamacpp" else server
    module = xllamacpp if request.param == "xllamacpp" else llama_server
    seen: dict[str, str] = {}

    def process(command: Any, *, env: dict[str, str], **more: Any) -> None:
        seen.update(env)
        raise StorageError("enough seen")

    monkeypatch.setattr(module, "EngineProcess", process)
    monkeypatch.delenv(POLICY, raising=False)

    def of(launch: Launch) -> dict[str, str]:
        with pytest.raises(StorageError):
            engine.start(launch)
        return dict(seen)

    return of


def test_a_judge_sleeps(environment: Any, tmp_path: Path) -> None:
    assert environment(Launch(tmp_path / "m.gguf", n_max=1))[POLICY] == "passive"


def test_what_is_timed_spins(environment: Any, tmp_path: Path) -> None:
    launch = TimedSetup("n_max 1", tmp_path / "m.gguf", n_max=1).launch(1024)
    assert launch.timed and POLICY not in environment(launch)


@pytest.mark.parametrize("timed", [True, False])
def test_the_users_choice_stays(timed: bool, environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POLICY, "active")
    assert environment(Launch(tmp_path / "m.gguf", timed=timed))[POLICY] == "active"
