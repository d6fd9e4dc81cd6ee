"""The engine check: verdicts from arithmetic, and verdicts of real engines on sound and unsound models."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import gguf
from nextn.engines import Completion, Engine
from nextn.errors import EngineFailed, EngineRefused, NoSpace
from nextn.measure.engine_check import (
    NEAR_TIE_NATS,
    Divergence,
    check_on_engine,
    cut_short,
    first_difference,
    overall_acceptance,
    overall_tps,
)
from nextn.measure.engine_report import judge
from nextn.measure.prompts import PROMPTS

FEW = PROMPTS[:3]


@pytest.fixture(scope="module")
def shuffled(tiny_models, tmp_path_factory) -> Path:
    """The bundled model, the quantization blocks of its MTP block's matrices permuted."""
    path = tmp_path_factory.mktemp("shuffled") / "shuffled.gguf"
    shuffle(tiny_models.bundled, path)
    return path


def shuffle(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    reader = gguf.GGUFReader(target, "r+")
    random = np.random.default_rng(1)
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.4.") and len(tensor.shape) > 1:
            _, block_bytes = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
            blocks = tensor.data.view(np.uint8).reshape(-1, block_bytes)
            blocks[:] = blocks[random.permutation(len(blocks))]
    reader.data.flush()


# ---- arithmetic -----------------------------------------------------------------------------------------------


def answer(tokens=(1, 2, 3), tps=10.0, drafted=0, accepted=0, steps=0, rates=None, top=()):
    return Completion(list(tokens), "", tps, 0.0, drafted, accepted, steps, rates, [list(one) for one in top])


def test_first_difference():
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 2], [1, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2
    assert first_difference([], [1]) == 0


def test_acceptance_is_weighted_by_steps():
    answers = [answer(steps=10, rates=[0.5, 0.2]), answer(steps=30, rates=[0.9, 0.6]), answer()]
    assert overall_acceptance(answers) == [0.8, 0.5]
    assert overall_acceptance([answer()]) is None
    assert overall_acceptance([answer(steps=4, rates=[0.5]), answer(steps=4, rates=[0.5, 0.5])]) == [0.5, 0.25]


def test_speed_is_tokens_over_time():
    assert overall_tps([answer([0] * 10, 10.0), answer([0] * 10, 5.0), answer(tps=0.0)]) == 6.67
    assert overall_tps([answer(tps=0.0)]) is None


def near(gap: float | None = 0.0, **more) -> Divergence:
    return Divergence(1, 0, 5, 7, 8, gap, **more)


@pytest.mark.parametrize(
    ("divergence", "near_tie", "beyond_rounding"),
    [
        (near(0.0), True, False),
        (near(NEAR_TIE_NATS), True, False),
        (near(NEAR_TIE_NATS + 0.01), False, True),
        (near(-0.3), True, False),
        (near(0.5, batch_shift_nats=0.6), True, False),
        (near(0.5, batch_shift_nats=0.4), False, True),
        (near(0.05, gap_is_lower_bound=True), False, False),
        (near(3.0, gap_is_lower_bound=True), False, True),
        (near(None), False, False),
        (Divergence(1, 0, 5, None, 8), False, True),
    ],
)
def test_near_ties(divergence, near_tie, beyond_rounding):
    assert (divergence.near_tie, divergence.beyond_rounding) == (near_tie, beyond_rounding)


@pytest.mark.parametrize(
    ("divergences", "acceptance", "drafted", "control", "verdict", "says"),
    [
        ([], [0.6], 100, 0.0, "passed", "the text is the same"),
        ([near()], [0.6], 100, 0.3, "passed", "texts differ at 1 near ties only"),
        ([near(2.0)], [0.6], 100, 0.0, "failed", r"diverges at token 5 .* by 2\.000 nats"),
        ([near(2.0, gap_is_lower_bound=True)], [0.6], 100, 0.0, "failed", "by at least 2"),
        ([Divergence(1, 0, 5, 7, None)], [0.6], 100, 0.0, "failed", "ends with MTP"),
        ([near(None)], [0.6], 100, 0.0, "cannot_tell", "did not repeat its own text"),
        ([], [0.6], 100, 0.31, "cannot_tell", "were still accepted"),
        ([], [0.6], 100, None, "cannot_tell", "nothing to compare it to: trouble"),
        ([], [0.09], 100, None, "cannot_tell", "cannot be distinguished from one that guesses"),
        ([], [1.0], 7, None, "cannot_tell", "drafted 7 tokens"),
        ([], None, 0, None, "cannot_tell", "drafted 0 tokens"),
        ([], None, 50, None, "cannot_tell", "does not say which"),
    ],
)
def test_verdicts(divergences, acceptance, drafted, control, verdict, says):
    found, reasons = judge(divergences, 5, 1, acceptance, drafted, control, "trouble")
    assert found == verdict

    assert re.search(says, " ".join(reasons))


# ---- an engine played by a script -----------------------------------------------------------------------------


class Played:
    """An engine that gives the same answers as told, by n_max; what it was asked is kept."""

    name, version = "played", "1"

    def __init__(self, answers, failure=None, alive=True):
        self.answers, self.failure, self.alive = answers, failure, alive
        self.launches, self.asked = [], []

    def start(self, launch):
        self.launches.append(launch)
        self.launch = launch
        return self

    def complete(self, prompt, n_predict, *, n_probs=0):
        self.asked.append((prompt, n_predict, n_probs))
        if self.failure:
            raise self.failure
        if isinstance(prompt, list):
            return self.answers["batch"]
        return self.answers["again"] if n_probs else self.answers[self.launch.n_max]

    def tokenize(self, text):
        return [100, 101]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


TOP = [(2, -0.7), (3, -0.75), (4, -3.0)]
DRAFTED = {"drafted": 20, "accepted": 10, "steps": 20, "rates": [0.5]}
NOTHING_DRAFTED = {"drafted": 20, "accepted": 0, "steps": 20, "rates": [0.0]}


def play(on, **answers):
    told = {0: answer((1, 2, 9)), 1: answer(on, **DRAFTED), **answers}
    engine = Played(told)

    def control(folder: Path):
        told[1] = answer((1, 2, 9), **NOTHING_DRAFTED)
        assert folder.is_dir()
        return folder / "m.gguf", folder / "s.gguf"

    said = []
    report = check_on_engine(engine, Path("m"), Path("s"), control, ["one"], 3, [1], say=said.append)
    return engine, report, said


def test_the_runs_and_their_order():
    engine, report, said = play((1, 2, 9))
    first, second, third = engine.launches
    assert (first.model, first.sidecar, first.n_max) == (Path("m"), Path("s"), 1)
    assert (second.model, second.sidecar, second.n_max) == (Path("m"), None, 0)
    assert third.sidecar is not None and third.sidecar.name == "s.gguf" and not third.sidecar.parent.exists()
    assert (report.verdict, report.same_text, report.control_acceptance) == ("passed", True, 0.0)
    assert [text.split(":")[0] for text in said] == ["load 1 of 3", "load 2 of 3", "load 3 of 3"]


def test_a_divergence_at_a_near_tie():
    again = answer((1, 2), top=[[(1, -0.1)], TOP])
    batch = answer((3,), top=[[(3, -0.7), (2, -0.72)]])
    engine, report, _ = play((1, 3, 9), again=again, batch=batch)
    (one,) = report.divergences
    assert (one.prompt, one.position, one.token_off, one.token_on) == (0, 1, 2, 3)
    assert one.gap_nats == pytest.approx(0.05) and one.batch_shift_nats == pytest.approx(0.07) and one.near_tie
    assert (report.verdict, report.same_text) == ("passed", False)
    assert ([100, 101, 1], 1, 40) in engine.asked
    assert report.documented["divergences"][0].near_tie


def test_a_divergence_that_is_none():
    again = answer((1, 2), top=[[(1, -0.1)], TOP])
    _, report, _ = play((1, 4, 9), again=again, batch=answer((2,), top=[TOP]))
    assert (report.verdict, report.divergences[0].gap_nats) == ("failed", pytest.approx(2.3))
    _, report, _ = play((1, 77, 9), again=again, batch=answer((2,), top=[TOP]))
    assert report.divergences[0].gap_is_lower_bound and report.verdict == "failed"


def test_an_engine_that_does_not_repeat_itself():
    _, report, _ = play((1, 3, 9), again=answer((5, 2), top=[[(5, -0.1)], TOP]), batch=answer())
    assert (report.verdict, report.divergences[0].gap_nats) == ("cannot_tell", None)


class Changing(Played):
    """With MTP it gives another text each time the model is loaded, the last one from then on."""

    def __init__(self, texts, **answers):
        top = [[(1, -0.1)], TOP]
        told = {0: answer((1, 2, 9)), "again": answer((1, 2), top=top), "batch": answer((2,), top=[TOP])}
        super().__init__({**told, **answers})
        self.texts, self.drafting = list(texts), DRAFTED

    def start(self, launch):
        if launch.n_max:
            text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
            self.answers[1] = answer(text, **self.drafting)
        return super().start(launch)


@pytest.mark.parametrize(
    ("slots", "texts", "verdict", "loads", "came_back"),
    [
        (2, [(1, 4, 9), (1, 2, 9)], "passed", [1, 0, 1, 1], False),  # the same prompts once more: the same text
        (2, [(1, 4, 9), (1, 4, 9)], "failed", [1, 0, 1, 1], True),
        (2, [(1, 4, 9), (1, 2, 8)], "failed", [1, 0, 1, 1], True),  # another place is no better
        (1, [(1, 4, 9), (1, 2, 9)], "failed", [1, 0, 1], None),  # one slot repeats itself: nothing to ask again
        (2, [(1, 3, 9), (1, 2, 9)], "passed", [1, 0, 1], None),  # a near tie needs no explanation
    ],
)
def test_on_several_slots_a_divergence_counts_if_it_comes_back(slots, texts, verdict, loads, came_back):
    engine = Changing(texts)

    def control(folder: Path):
        engine.texts, engine.drafting = [(1, 2, 9)], NOTHING_DRAFTED
        return folder / "m.gguf", None

    report = check_on_engine(engine, Path("m"), None, control, ["one", "two"], 3, [1], slots=slots)
    assert report.verdict == verdict, report.reasons
    assert [launch.n_max for launch in engine.launches] == loads[: len(engine.launches)]
    assert {one.came_back for one in report.divergences} == {came_back}
    assert {one.came_back for one in report.documented["divergences"]} == {came_back}
    told = [reason for reason in report.reasons if "asked once more on as many slots" in reason]
    assert len(told) == (2 if came_back is False else 0)
    if came_back is False:
        assert report.reasons[0] == "the text is the same with and without MTP, on 2 prompts when asked once more"


@pytest.mark.parametrize("alive", [True, False])
def test_an_engine_that_fails_says_nothing_about_the_block(alive):
    engine = Played({}, EngineFailed("it fell over", line="x"), alive)
    report = check_on_engine(engine, Path("m"), None, None, ["one"])
    assert (report.verdict, report.reasons) == ("cannot_tell", ["it fell over"])
    assert len(engine.launches) == 1


def test_an_engine_that_dies_is_tried_without_mtp():
    engine = Played({}, EngineFailed("it died", line="signal 11 (SIGSEGV)", signal=11), alive=False)
    report = check_on_engine(engine, Path("m"), Path("s"), None, ["one"])
    assert report.verdict == "cannot_tell" and report.reasons[0] == "it died"
    assert report.reasons[1] == (
        "the engine dies of the model without MTP, too, so the block is not to blame: signal 11 (SIGSEGV)"
    )
    assert [(launch.n_max, launch.sidecar) for launch in engine.launches] == [(1, Path("s")), (0, None)]


def test_a_control_that_cannot_be_made():
    def control(folder: Path):
        raise NoSpace("the disk is full")

    engine = Played({0: answer(), 1: answer(**DRAFTED)})
    report = check_on_engine(engine, Path("m"), None, control, ["one"], 3, [1])
    assert report.verdict == "cannot_tell" and "could not be run: the disk is full" in report.reasons[0]


def test_no_block_no_drafts():
    report = check_on_engine(Played({0: answer()}), Path("m"), None, None, ["one"], 3, [])
    assert (report.verdict, report.acceptance, report.same_text) == ("passed", {}, None)


class Refusing:
    """An engine that refuses what `refuses(launch)` says, and else writes the same text each time."""

    name, version = "refusing", "1"

    def __init__(self, refuses):
        self.refuses = refuses

    def start(self, launch):
        if self.refuses(launch):
            raise EngineRefused(f"refused n_max {launch.n_max}", line=f"no {launch.n_max}")
        answers = {0: answer((1, 2, 9))} | {n: answer((1, 2, 9), **DRAFTED) for n in (1, 2, 3)}
        played = Played(answers)
        played.launch = launch
        return played


@pytest.mark.parametrize(
    ("refused", "n_max", "verdict", "n_reasons"),
    [
        ({1, 2}, (1, 2), "failed", 1),  # with MTP only
        ({2}, (1, 2), "failed", 1),
        ({0, 1, 2}, (1, 2), "cannot_tell", 2),
        ({0}, (1, 2), "cannot_tell", 1),  # it drafted, and does not run without: odd
        ({0}, (), "cannot_tell", 1),
    ],
)
def test_only_a_block_that_is_to_blame_fails(refused, n_max, verdict, n_reasons):
    engine = Refusing(lambda launch: launch.n_max in refused)
    report = check_on_engine(engine, Path("m"), None, None, ["one"], 3, n_max)
    assert (report.verdict, len(report.reasons)) == (verdict, n_reasons)
    assert ("not to blame" in report.reasons[-1]) == (n_reasons == 2)


def kept_log(reason: str) -> Path:
    return Path(reason.rpartition("its log: ")[2].rstrip(")"))


# ---- engines, the stand-in among them ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sound_model_passes(engine: Engine, tiny_models, shuffled):
    report = check_on_engine(engine, tiny_models.bundled, None, lambda folder: (shuffled, None), FEW, 48, threads=1)
    assert report.verdict == "passed", report.reasons
    assert set(report.acceptance) == {1, 2, 3}
    assert [len(report.acceptance[n]) for n in (1, 2, 3)] == [1, 2, 3]
    assert report.acceptance[1][0] > 0.3 and report.acceptance[3][0] > report.acceptance[3][2]
    assert report.control_acceptance is not None and report.control_acceptance < 0.1 and report.control_collapsed
    assert report.n_drafted > 100 and report.n_prompts == 3
    told = report.documented
    assert (told["engine"].name, told["engine"].version) == (engine.name, engine.version)
    assert set(told["acceptance"]) == set(told["tps"].on) == {"1", "2", "3"}
    assert told["tps"].off > 0 and told["control"].collapsed is True


@pytest.mark.slow
def test_a_sidecar_passes(engine: Engine, tiny_models, tmp_path):
    def control(folder: Path):
        shuffle(tiny_models.sidecar, folder / "control.gguf")
        return tiny_models.trunk, folder / "control.gguf"

    report = check_on_engine(
        engine, tiny_models.trunk, tiny_models.sidecar, control, FEW, 48, (1,), threads=1, scratch=tmp_path
    )
    assert report.verdict == "passed", report.reasons
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_shuffled_block_cannot_be_told(engine: Engine, tiny_models, shuffled):
    report = check_on_engine(engine, shuffled, None, lambda folder: (shuffled, None), FEW, 32, (1,), threads=1)
    assert report.verdict == "cannot_tell"
    assert "cannot be distinguished from one that guesses" in report.reasons[0]


@pytest.mark.slow
def test_a_control_that_drafts_as_well_proves_nothing(engine: Engine, tiny_models):
    same = tiny_models.bundled
    report = check_on_engine(engine, same, None, lambda folder: (same, None), FEW, 32, (1,), threads=1)
    assert (report.verdict, report.control_collapsed) == ("cannot_tell", False)


def test_a_trunk_alone_fails(engine: Engine, tiny_models):
    report = check_on_engine(engine, tiny_models.trunk, None, None, FEW, threads=1)
    assert report.verdict == "failed"
    assert "context type MTP requested but model doesn't contain MTP layers" in report.reasons[0]
    kept_log(report.reasons[0]).unlink()


@pytest.mark.slow
def test_a_control_that_does_not_load(engine: Engine, tiny_models, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no model")
    report = check_on_engine(engine, tiny_models.bundled, None, lambda folder: (broken, None), FEW, 32, (1,), threads=1)
    assert report.verdict == "cannot_tell"
    assert "the control could not be run" in report.reasons[0] and "invalid magic" in report.reasons[0]
    kept_log(report.reasons[0]).unlink()


def test_an_answer_cut_at_the_limit_is_no_divergence():
    """ik_llama.cpp leaves out the rest of a draft that reaches beyond n_predict."""

    def said(text, at_limit=True):
        return Completion([], text, 0.0, 0.0, 0, 0, 0, None, [], at_limit)

    assert cut_short(said("one two"), said("one"))
    assert not cut_short(said("one two"), said("one", at_limit=False))  # an end of text where there is none
    assert not cut_short(said("one two"), said("one t2"))
    assert not cut_short(said("one"), said("one two"))
    assert not cut_short(said("one two"), said(""))
