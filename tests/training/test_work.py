"""The work folder: what it refuses, and how a budget is divided and counted."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from conftest import Q4, TRUNKS
from nextn.errors import FormatError, OutputExists, UsageError
from nextn.gguf.files import open_model
from nextn.schemas.train import StageSeconds
from nextn.training import work as working
from nextn.training.work import LEAST_JUDGE_S, Work, stage_budget


def made(folder: Path, trunk: Path = Q4, start: str | None = None, **more: object) -> Work:
    options = {"kind": "native", "seed": 0, **more}
    return Work(folder, open_model(trunk), options["kind"], options["seed"], start, dry_run=False)  # type: ignore[arg-type]


def test_time_is_counted_over_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    work = made(tmp_path / "w")
    with work.timed("states") as running:
        clock[0] += 3
        running.tick()
        assert json.loads((tmp_path / "w" / "train.json").read_text())["spent"]["states"] == 0  # not yet
        clock[0] += 4
        running.tick()
        assert json.loads((tmp_path / "w" / "train.json").read_text())["spent"]["states"] == 7  # a killed run's, too
        clock[0] += 1
    with pytest.raises(KeyboardInterrupt), made(tmp_path / "w").timed("fit"):
        clock[0] += 2
        raise KeyboardInterrupt
    again = made(tmp_path / "w")
    assert (again.spent.states, again.spent.fit, again.spent.judge) == (8, 2, 0)


@pytest.mark.parametrize(
    ("spent", "stage", "alone", "left"),
    [
        ((0, 0, 0), "states", False, 40),
        ((10, 0, 0), "states", False, 30),
        ((50, 0, 0), "states", False, 0),
        ((40, 0, 0), "fit", False, 50),
        ((10, 0, 0), "fit", False, 80),  # what the states did not need
        ((40, 20, 0), "fit", False, 30),
        ((40, 60, 0), "fit", False, 0),
        ((0, 0, 0), "states", True, 100),
        ((30, 20, 0), "fit", True, 50),
        ((20, 30, 0), "judge", False, 50),
        ((40, 59, 0), "judge", False, LEAST_JUDGE_S),
    ],
)
def test_the_budget_is_divided(spent: tuple[float, ...], stage: str, alone: bool, left: float) -> None:
    assert stage_budget(100, StageSeconds(*spent), stage, alone=alone) == left  # type: ignore[arg-type]


def test_a_folder_belongs_to_one_training(tmp_path: Path) -> None:
    made(tmp_path / "w")
    with pytest.raises(UsageError, match="belongs to tiny-qwen35-Q4_K_M; name another one with --work"):
        made(tmp_path / "w", TRUNKS / "tiny-qwen35-Q8_0.gguf")
    with pytest.raises(UsageError, match="pass --kind native --seed 0"):
        made(tmp_path / "w", seed=1)
    with pytest.raises(UsageError, match="started from nothing, not from mtp-x"):
        made(tmp_path / "w", start="mtp-x.gguf")
    work = made(tmp_path / "w")
    work.wrote("mtp-x.gguf")
    assert made(tmp_path / "w", start="mtp-x.gguf").starts_from_nothing  # what training itself wrote


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "holiday.jpg").touch()
    with pytest.raises(OutputExists, match="holds other files and no train"):
        made(tmp_path / "w")
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "train.json").write_text("[]")
    with pytest.raises(FormatError, match="not the note of a work folder"):
        made(tmp_path / "v")


def test_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    Work(tmp_path / "w", open_model(Q4), "native", 0, None, dry_run=True)
    assert not (tmp_path / "w").exists() and working.NOTE == "train.json"
