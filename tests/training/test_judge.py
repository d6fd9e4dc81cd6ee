"""The judge: which candidate it chooses, what it is held against, and what time makes it leave out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from schema_check import validate
from trained import PASSED, judged

from conftest import TinyModels
from make_schemas import schemas
from nextn.engines.base import Engine
from nextn.engines.llama_server import LlamaServer
from nextn.engines.xllamacpp import Xllamacpp
from nextn.errors import EngineRefused, UsageError
from nextn.gguf.files import open_model
from nextn.measure.control import make_control
from nextn.measure.engine_report import EngineReport
from nextn.schemas.base import plain
from nextn.training import judge as judging
from nextn.training.judge import (
    DraftBefore,
    Judgement,
    JudgeOptions,
    TrainedCandidate,
    affordable,
    decide,
    judge,
)

PROMPTS = [f"def f{n}(x):\n    return x +" for n in range(12)]


def shown(judgement: Judgement) -> dict[str, object]:
    """The document's part, checked against its schema."""
    found = plain(judgement.document)
    whole = schemas()["train.json"]
    validate(found, {"$defs": whole["$defs"], "$ref": "#/$defs/TrainJudgement"})
    return found


def twins(tiny: TinyModels, folder: Path) -> tuple[TrainedCandidate, TrainedCandidate]:
    """A good candidate, and the same with its weights shuffled."""
    bad = folder / "shuffled"
    bad.mkdir()
    _, path = make_control(open_model(tiny.trunk), tiny.sidecar, bad)
    assert path is not None
    good = folder / "candidate-00200.gguf"
    shutil.copyfile(tiny.sidecar, good)
    return TrainedCandidate(good, 200, 4000, 0.6), TrainedCandidate(path, 100, 2000, 0.1)


def on(engine: Engine, tiny: TinyModels, folder: Path, **options: object) -> Judgement:
    good, bad = twins(tiny, folder)
    return judge(tiny.trunk, [bad, good], PROMPTS, JudgeOptions(n_predict=24, threads=1, **options), engine)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_better_candidate_wins(standin: LlamaServer, tiny_models: TinyModels, tmp_path: Path) -> None:
    found = on(standin, tiny_models, tmp_path)
    assert found.winner is not None and found.winner.step == 200
    assert found.word == "better" and found.report is not None and found.report.same_text
    assert [(run.what, run.prompts, run.step) for run in found.runs] == [
        ("candidate", "choosing", 100), ("candidate", "choosing", 200), ("candidate", "final", 200),
    ]  # fmt: skip
    assert [one.n_prompts for run in found.runs for one in run.drafted] == [6, 6, 6, 6]
    document = shown(found)
    assert document["shuffled"] == 0.0 and document["winner"] == "candidate-00200.gguf"


@pytest.mark.slow
def test_what_only_guesses_is_useless(standin: LlamaServer, tiny_models: TinyModels, tmp_path: Path) -> None:
    _, bad = twins(tiny_models, tmp_path)
    found = judge(tiny_models.trunk, [bad], PROMPTS, JudgeOptions(n_predict=24, threads=1), standin)
    assert found.word == "useless" and "only guesses" in found.reasons[0]


@pytest.mark.slow
def test_the_published_block_has_to_be_beaten(standin: LlamaServer, tiny_models: TinyModels, tmp_path: Path) -> None:
    before = DraftBefore(tiny_models.trunk, tiny_models.sidecar, "mtp-published.gguf")
    found = on(standin, tiny_models, tmp_path, published=before)
    assert found.word == "not_better" and found.p == 1.0
    assert found.before is not None and found.before.name == "mtp-published.gguf"
    assert "with mtp-published.gguf" in found.reasons[0]
    shown(found)


def test_without_time_one_candidate_is_judged_on_few_prompts(
    standin: LlamaServer, tiny_models: TinyModels, tmp_path: Path
) -> None:
    found = on(standin, tiny_models, tmp_path, seconds=0.001)
    assert found.winner is not None and found.winner.step == 100
    assert "1 candidate not tried on the engine for lack of time" in found.notes
    assert f"judged on {judging.LEAST_PROMPTS} of 12 prompts for lack of time" in found.notes
    assert [run.prompts for run in found.runs] == ["final"]


@pytest.mark.parametrize(
    ("limit", "answer", "n_candidates", "n_prompts", "n_candidates_tried", "n_prompts_used"),
    [
        (None, 1.0, 4, 36, 4, 18),
        (None, 1.0, 1, 36, 1, 36),
        (540.0, 1.5, 4, 36, 4, 18),  # nine minutes for SmolLM2: everything
        (140.0, 1.0, 4, 36, 4, 17),
        (100.0, 1.0, 4, 36, 4, 12),
        (70.0, 1.0, 4, 36, 3, 10),  # another candidate would leave too few prompts
        (55.0, 1.0, 4, 36, 1, 13),
        (30.0, 5.0, 4, 36, 1, 4),
        (30.0, 5.0, 2, 12, 1, 4),
        (70.0, 1.0, 2, 12, 2, 6),
    ],
)
def test_time_decides_how_much_is_judged(
    limit: float | None, answer: float, n_candidates: int, n_prompts: int, n_candidates_tried: int, n_prompts_used: int
) -> None:
    size = affordable(limit, answer, n_candidates, n_prompts, 4)
    assert (size.n_candidates, size.n_prompts) == (n_candidates_tried, n_prompts_used)
    if limit is not None and size.n_prompts > judging.LEAST_PROMPTS:
        runs = 4 + (size.n_candidates if size.n_candidates > 1 else 0)
        assert runs * size.n_prompts * answer <= limit


@pytest.mark.slow
def test_a_candidate_that_the_engine_refuses_is_left_out(tiny_models: TinyModels, tmp_path: Path) -> None:
    good, bad = twins(tiny_models, tmp_path)

    class Choosy:
        name, version = "choosy", "1"

        def __init__(self, engine: Engine) -> None:
            self.engine = engine

        def start(self, launch: object) -> object:
            if getattr(launch, "sidecar", None) == bad.path:
                raise EngineRefused("it refuses the model: wrong shape")
            return self.engine.start(launch)  # type: ignore[arg-type]

    import standin_server

    engine = Choosy(LlamaServer.find(standin_server.write(tmp_path / "server")))
    options = JudgeOptions(n_predict=24, threads=1)
    for order in ([bad, good], [good, bad]):
        found = judge(tiny_models.trunk, order, PROMPTS, options, engine)  # type: ignore[arg-type]
        assert found.winner == good and any("wrong shape" in note for note in found.notes)
    with pytest.raises(EngineRefused, match="wrong shape"):
        judge(tiny_models.trunk, [bad], PROMPTS, options, engine)  # type: ignore[arg-type]


def test_too_few_prompts(tiny_models: TinyModels, standin: LlamaServer) -> None:
    with pytest.raises(UsageError, match="at least 8 prompts, and there are 3"):
        judge(tiny_models.trunk, [TrainedCandidate(tiny_models.sidecar)], PROMPTS[:3], JudgeOptions(), standin)
    with pytest.raises(UsageError, match="no candidates"):
        judge(tiny_models.trunk, [], PROMPTS, JudgeOptions(), standin)


# -- the decision -----------------------------------------------------------------------------------------------------


def test_chance_is_not_an_improvement() -> None:
    old = [10, 12, 9, 14, 10, 11, 13, 10, 9, 12, 10, 11]
    word, reasons, p = decide(PASSED, judged("candidate", [n + (-1) ** i for i, n in enumerate(old)]), judged("x", old))
    assert word == "not_better" and p is not None and p > 0.05
    slightly = [n + (2 if i % 3 else -3) for i, n in enumerate(old)]
    word, reasons, p = decide(PASSED, judged("candidate", slightly), judged("x", old))
    assert word == "not_better" and "chance explains" in reasons[0]
    word, reasons, p = decide(PASSED, judged("candidate", [n + 2 for n in old]), judged("x", old))
    assert word == "better" and p is not None and p < 0.001 and "1.29 drafts accepted per step" in reasons[0]


def test_a_changed_text_is_never_better() -> None:
    from nextn.measure.engine_report import Divergence

    other = Divergence(3, 0, 5, 1, 2, gap_nats=4.0)
    failed = EngineReport("e", "1", "failed", ["diverges"], 12, divergences=[other], same_text=False)
    assert decide(failed, judged("candidate", [20] * 12), None)[:2] == ("text_changed", ["diverges"])
    doubt = EngineReport("e", "1", "cannot_tell", ["a doubt"], 12, same_text=True)
    assert decide(doubt, judged("candidate", [20] * 12), None)[:2] == ("cannot_tell", ["a doubt"])


@pytest.mark.engine
def test_on_the_real_engine(xllamacpp_engine: Xllamacpp, tiny_models: TinyModels, tmp_path: Path) -> None:
    found = on(xllamacpp_engine, tiny_models, tmp_path)
    assert found.word == "better" and found.winner is not None and found.winner.step == 200
    final = found.final
    assert final is not None and final.drafted[0].rate > 0.4 and final.drafted[1].per_step > 0.5
    bad = found.runs[0].drafted[0]
    assert found.runs[0].step == 100 and bad.n_drafted > 50 and bad.rate <= 0.02
