"""Drafting as a server does it, on the engine: several slots, images, and that docs/serving.md says what happens."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

import nextn
import serving
from conftest import CHECKPOINT, Q4, ROOT, need
from nextn.engines import Launch, LlamaServer, Xllamacpp, find_engine
from nextn.engines.base import Completion
from nextn.errors import UsageError
from nextn.measure.engine_check import check_on_engine
from nextn.measure.slots import ask_all, check_slots, together
from nextn.measure.tasks import shipped_tasks

PAGE = (ROOT / "docs" / "serving.md").read_text("utf-8")


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    return nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path_factory.mktemp("bundled")).entry


def row(start: str) -> list[tuple[int, int]]:
    """(accepted, drafted) by n_max in the page's row that starts so."""
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {start} |"))
    return [(int(a), int(b)) for a, b in re.findall(r"(\d+)/(\d+) \(", line)]


# ---- answers together -------------------------------------------------------------------------------------------


def completion(n: int, tps: float, drafted: int, accepted: int, steps: int, rates: list[float] | None) -> Completion:
    return Completion(list(range(n)), "x" * n, tps, 10.0 * n, drafted, accepted, steps, rates, [])


def test_answers_at_the_same_time_are_one_of_all_their_tokens() -> None:
    one, two = completion(20, 10.0, 12, 6, 6, [0.5, 0.5]), completion(30, 10.0, 18, 18, 9, [1.0, 1.0])
    both = together([one, two])
    assert len(both.tokens) == 50 and both.decode_tps == pytest.approx(50 / 3.0)  # the slower one took 3 s
    assert (both.draft_n, both.draft_n_accepted, both.draft_steps) == (30, 24, 15)
    assert both.acceptance_per_pos == pytest.approx([0.8, 0.8]) and both.prompt_tps == 200.0
    assert together([one]) is one
    shorter = together([one, completion(4, 10.0, 4, 4, 4, [1.0])])
    assert shorter.acceptance_per_pos == pytest.approx([0.7, 0.3])
    assert together([completion(5, 0.0, 0, 0, 0, None)] * 2).acceptance_per_pos is None


class Counting:
    """A running engine that notices how many answers it is asked for at once."""

    def __init__(self) -> None:
        import threading

        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def complete(self, prompt: str, n_predict: int, **more: Any) -> Completion:
        import time

        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        with self.lock:
            self.now -= 1
        return Completion([len(prompt)], prompt, 1.0, 1.0, 0, 0, 0, None, [])


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_as_many_prompts_as_slots_are_asked_at_once_and_answers_keep_their_order(slots: int) -> None:
    running: Any = Counting()
    prompts = [f"{n}" * n for n in range(1, 9)]
    answers = ask_all(running, prompts, 4, slots)
    assert running.most == slots and [answer.text for answer in answers] == prompts


def test_what_cannot_have_several_slots_is_told() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        check_slots(Xllamacpp("x"), 0)
    ik: Any = type("Ik", (), {"name": "ik_llama.cpp"})()
    with pytest.raises(UsageError, match="up to 8337e4cd"):
        check_slots(ik, 2)
    check_slots(ik, 1)
    with pytest.raises(UsageError, match="--slots 3 needs at least 3 prompts, and there are 2"):
        check_on_engine(Xllamacpp("x"), Path("m.gguf"), prompts=["a", "b"], slots=3)


def test_each_slot_has_the_whole_context() -> None:
    server = LlamaServer(Path("/bin/true"), "7", "--spec-type none,draft-mtp\n-np N\n", {})
    args = server._arguments(Launch(Path("m.gguf"), n_ctx=512, slots=4), 99)
    assert args[args.index("-c") + 1] == "2048" and args[args.index("-np") + 1] == "4"
    one = server._arguments(Launch(Path("m.gguf"), n_ctx=512), 99)
    assert one[one.index("-c") + 1] == "512" and one[one.index("-np") + 1] == "1"


# ---- on the engine ----------------------------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.parametrize("slots", [1, 4])
def test_slots_cost_no_acceptance(slots: int, bundled: Path) -> None:
    """The page's row, up to the drafts that a batch of another size rounds otherwise on another machine."""
    prompts = [prompt for task in shipped_tasks(None) for prompt in task.prompts][: max(serving.SLOTS)]
    engine = find_engine("xllamacpp")
    for n_max, (said, of) in zip((1, 2), row(str(slots)), strict=False):
        with engine.start(Launch(bundled, n_max=n_max, n_ctx=512, threads=1, slots=slots)) as running:
            answers = ask_all(running, prompts, serving.N_PREDICT, slots)
        drafted, accepted = sum(a.draft_n for a in answers), sum(a.draft_n_accepted for a in answers)
        assert drafted > 100 and abs(accepted / drafted - said / of) < 0.04, (n_max, accepted, drafted)


@pytest.mark.engine
def test_verify_passes_on_four_slots(bundled: Path) -> None:
    data = nextn.verify(bundled, slots=4, n_predict=48, threads=1).to_json()
    assert data["verdict"] == "passed" and data["slots"] == 4, data["reasons"]
    assert data["control"]["collapsed"] is True
    assert all(item["near_tie"] or item["came_back"] is False for item in data["divergences"])


@pytest.mark.engine
def test_bench_times_all_slots_together(bundled: Path) -> None:
    report = nextn.bench(
        bundled, n_max=[1], tasks=["code"], repeats=1, n_predict=24, threads=1, slots=2, patience_s=0.0
    )
    assert report.settings["slots"] == 2
    alone = nextn.bench(bundled, n_max=[1], tasks=["code"], repeats=1, n_predict=24, threads=1, patience_s=0.0)
    assert alone.settings["slots"] == 1
    tokens = {found.settings["slots"]: sum(run.n_tokens for run in found.runs) for found in (report, alone)}
    assert tokens[2] == 2 * tokens[1]  # each run answers two prompts, and all are of one length


@pytest.mark.engine
def test_an_image_before_the_prompt_changes_no_text_and_drafts_go_on(bundled: Path, tmp_path: Path) -> None:
    from tiny_vision import make_mmproj

    cells = serving.images(Xllamacpp.find(), bundled, make_mmproj(tmp_path / "mmproj-tiny.gguf", 256))
    assert len(cells) == len(serving.N_MAX)
    from importlib.metadata import version

    for cell, (said, of) in zip(cells, row(version("xllamacpp")), strict=True):
        found = re.match(r"(\d+)/(\d+) .*, same text", cell)
        assert found is not None, cell
        assert int(found[2]) > 20 and abs(int(found[1]) / int(found[2]) - said / of) < 0.1, cell
