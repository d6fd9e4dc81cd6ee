"""The fit without an engine: the loss, several drafted steps at once, resuming, the held-out count, refusals."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from made_states import made_states

from conftest import TRUNKS, need
from nextn.errors import UnsupportedModel, UsageError
from nextn.gguf.files import open_model
from nextn.training.fit import FitOptions, FitStep, fit

TRUNK = TRUNKS / "tiny-qwen35-Q8_0.gguf"
TAPS = [1, 2, 3]


@pytest.fixture(autouse=True)
def torch() -> Any:
    need("torch, which 'nextn[train]' installs,", find_spec("torch") is not None)
    import torch

    torch.manual_seed(7)
    torch.set_num_threads(1)
    return torch


def options(**more: Any) -> FitOptions:
    return FitOptions(**{"steps": 6, "batch": 256, "threads": 1, "checks": 2, "exact": True, "draft_vocab": 64, **more})


@pytest.fixture
def states(tmp_path: Path) -> Path:
    return made_states(tmp_path / "states", TRUNK, taps=TAPS)


# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("trained_head", [True, False])
def test_the_loss_and_its_gradients_are_those_of_a_plain_cross_entropy(
    torch: Any, trained_head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nextn.training.fit import loss

    monkeypatch.setattr(loss, "_CACHED_VALUES", 70)  # several pieces
    monkeypatch.setattr(loss, "_KEPT_VALUES", 150)
    n, n_vocab, width = 11, 20, 6
    hidden, head = torch.randn(n, width, requires_grad=True), torch.randn(n_vocab, width, requires_grad=trained_head)
    index, weight = torch.randint(0, n_vocab, (n, 4)), torch.rand(n)
    share = torch.rand(n, 4).softmax(-1)
    wanted = loss.Targets(index, share, index[:, 0])
    best = torch.empty(n, dtype=torch.int64)
    found = loss.head_loss(hidden, head, wanted, weight, best)
    grads = torch.autograd.grad(2 * found, [hidden, head] if trained_head else [hidden])
    logits = hidden @ head.T
    whole = torch.zeros(n, n_vocab).scatter_add(1, index, share)
    plain = -((whole * logits.log_softmax(-1)).sum(-1) * weight).sum()
    expected = torch.autograd.grad(2 * plain, [hidden, head] if trained_head else [hidden])
    assert torch.allclose(found, plain, atol=1e-5) and torch.equal(best, logits.argmax(-1))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(grads, expected, strict=True))


def test_tokens_that_the_draft_lacks_leave_their_share_to_the_others(torch: Any) -> None:
    from nextn.training.fit.loss import targets

    known = torch.tensor([-1, 0, 1, -1])
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]).log()
    found = targets(torch.tensor([[1, 3, 2], [3, 2, 1]]), logits, torch.zeros(2), known, 0.0)
    assert torch.allclose(found.share, torch.tensor([[5 / 7, 0, 2 / 7], [0, 0.6, 0.4]]))
    assert found.best.tolist() == [0, -1]
    half = targets(torch.tensor([[1, 3, 2]]), logits[:1], torch.zeros(1), known, 0.5)
    assert torch.allclose(half.share, torch.tensor([[0.5 + 2.5 / 7, 0, 1 / 7]]))


# -- several steps at once --------------------------------------------------------------------------------------------


def _drafters(torch: Any, states: Path) -> Any:
    from nextn.training.fit.kinds import make
    from nextn.training.fit.texts import Texts
    from nextn.training.states import States

    texts = Texts(States.open(states), "fit")
    return make(open_model(TRUNK), texts, options(), None).drafter, texts


def test_all_rows_at_once_are_what_drafting_from_one_row_gives(torch: Any, states: Path) -> None:
    from nextn.training.fit.parts import Past

    drafter, texts = _drafters(torch, states)
    text = texts.texts[0]
    rows = texts.rows([text], "eagle3", [(0, text.n_tokens)])
    with torch.no_grad():
        drafter.begin()
        state, past, whole = drafter.enter(rows.features.float()), Past(), []
        for n in range(3):
            tokens = torch.zeros_like(rows.tokens)
            tokens[:, : tokens.shape[1] - n] = rows.tokens[:, n:]
            found = drafter.draft(tokens, state, n, past)
            state = found.state
            whole.append(found.hidden)
        at = 9
        for n in range(3):  # the same rows, with the draft's own states written after row `at` as an engine does
            features = drafter.enter(rows.features[:, : at + 1].float())
            own = [features]
            for k in range(n):
                entered = torch.cat(own, 1)
                made = drafter.draft(rows.tokens[:, : at + 1 + k], entered, 0, Past())
                own.append(made.state[:, -1:])
            entered = torch.cat(own, 1)
            last = drafter.draft(rows.tokens[:, : at + 1 + n], entered, 0, Past()).hidden[:, -1]
            assert torch.allclose(last, whole[n][:, at], atol=2e-4), n


def test_a_walk_drafts_and_goes_on_as_an_engine_does(torch: Any) -> None:
    from nextn.training.fit.rollout import DraftAgreement, Rollout
    from nextn.training.fit.texts import Rows

    hits = torch.tensor([[1, 1, 0, 1, 1, 1, 1, 0], [1, 0, 0, 0, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]]).bool()
    labels = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1]] * 3).bool()
    follows = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0]]).bool()
    nothing = torch.zeros(1)
    rows = Rows(nothing, nothing, nothing, nothing, nothing, nothing, follows, 8)
    found = DraftAgreement(3)
    found.add(Rollout(torch.tensor(1.0), (hits & labels)[:, None], labels[:, None]), rows, [True])
    # drafts at row 1 (1 accepted of 3), row 3 (1 of 3), row 5 (1 of 1, since 2 tokens are left)
    assert (found.n_drafts, found.n_offered, found.accepted) == (3, 7, [3, 0, 0])
    assert found.places == [7, 6, 5]  # what the trunk writes after the last row is not in the text
    assert found.right[0] == 5


# -- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("native", [False, True])
def test_seconds_teach_a_text_without_surprises(native: bool, tmp_path: Path) -> None:
    kind = "native" if native else "eagle3"
    states = made_states(tmp_path / "s", TRUNK, taps=None if native else TAPS)
    seen: list[FitStep] = []
    result = fit(
        TRUNK,
        states,
        tmp_path / "o",
        options(kind=kind, steps=30, checks=5, exact=False, step_weight=1.0, learning_rate=3e-3),
        seen.append,
    )
    first, last = result.curve[0], result.curve[-1]
    assert last.agreement[0] > 0.9 and last.accepted_per_step > first.accepted_per_step
    assert last.loss < first.loss
    assert (result.n_steps, len(seen), result.curve[-1].step) == (30, 30, 30)
    assert [step.point for step in seen if step.point] == list(result.curve)
    assert result.candidates and all(path.is_file() for path in result.candidates)
    assert {path.name for path in (tmp_path / "o").glob("*.gguf")} == {path.name for path in result.candidates}
    told = json.loads((tmp_path / "o" / "fit.json").read_text())
    assert (told["kind"], told["n_draft_vocab"]) == ("fit", 64 if not native else 2048)
    model = open_model(result.candidates[0])
    assert model.architecture == ("qwen35" if native else "eagle3")
    assert model.header.get("nextn.donor") == "nextn train"
    if not native:
        assert model.header.get("general.name") == f"{TRUNK.stem}-EAGLE3"
        assert model.arch_value("target_layers") == TAPS and model.tensors["d2t"][1].ne == (64,)


@pytest.mark.slow
@pytest.mark.parametrize("native", [False, True])
def test_an_interrupted_fit_goes_on_to_the_same_weights(native: bool, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    kind = "native" if native else "eagle3"
    states = made_states(tmp_path / "s", TRUNK, taps=None if native else TAPS)
    whole = options(kind=kind, steps=8, checks=4)
    fit(TRUNK, states, tmp_path / "whole", whole)

    class Killed(Exception):
        pass

    def kill(step: FitStep) -> None:
        if step.step == 5:  # saved after the fourth
            raise Killed

    with pytest.raises(Killed):
        fit(TRUNK, states, tmp_path / "parts", whole, kill)
    continued: list[int] = []
    result = fit(TRUNK, states, tmp_path / "parts", whole, lambda step: continued.append(step.step))
    assert continued == [5, 6, 7, 8] and [point.step for point in result.curve] == [2, 4, 6, 8]
    a, b = (load_file(tmp_path / name / "fit.safetensors") for name in ("whole", "parts"))
    assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)
    last = "candidate-000008.gguf"
    assert (tmp_path / "whole" / last).read_bytes() == (tmp_path / "parts" / last).read_bytes()


@pytest.mark.slow
def test_a_finished_fit_is_not_done_again_and_another_seed_begins_anew(states: Path, tmp_path: Path) -> None:
    first = fit(TRUNK, states, tmp_path / "o", options(steps=2))
    steps: list[int] = []
    again = fit(TRUNK, states, tmp_path / "o", options(steps=2), lambda step: steps.append(step.step))
    assert not steps and again.candidates == first.candidates
    fit(TRUNK, states, tmp_path / "o", options(steps=2, seed=5), lambda step: steps.append(step.step))
    assert steps == [1, 2]


@pytest.mark.slow
def test_a_draft_is_trained_further(states: Path, tmp_path: Path) -> None:
    first = fit(TRUNK, states, tmp_path / "a", options(steps=30, checks=1, type="f32"))
    start = tmp_path / "eagle3-start.gguf"
    shutil.copy(first.candidates[0], start)
    second = fit(TRUNK, states, tmp_path / "b", options(steps=1, checks=1, start=start, learning_rate=1e-9))
    assert second.curve[0].loss == pytest.approx(first.curve[-1].loss, abs=1e-4)
    assert second.n_draft_vocab == first.n_draft_vocab


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "asked", "words"),
    [
        ({"taps": None}, {}, "no inputs of three layers"),
        ({"taps": TAPS}, {"kind": "native"}, "not those that an MTP block reads"),
        ({"taps": TAPS}, {"kind": "dflash"}, "'dflash' is not a kind of draft to train"),
        ({"taps": TAPS}, {"steps": None}, "give it seconds or steps"),
        ({"taps": TAPS}, {"batch": 0}, "must be at least 1"),
        ({"taps": TAPS, "architecture": "llama"}, {}, "these states are of another model .'llama'"),
    ],
)
def test_what_does_not_fit(made: dict[str, Any], asked: dict[str, Any], words: str, tmp_path: Path) -> None:
    states = made_states(tmp_path / "s", TRUNK, **made)
    with pytest.raises(UsageError, match=words):
        fit(TRUNK, states, tmp_path / "o", options(**asked))
    assert not list(tmp_path.glob("o/*.gguf"))


def test_a_family_that_is_not_modelled(tmp_path: Path) -> None:
    trunk = TRUNKS / "qwen3next-BF16.gguf"
    states = made_states(tmp_path / "s", trunk, taps=None, n_used=20)
    with pytest.raises(UnsupportedModel, match="does not train blocks of 'qwen3next'"):
        fit(trunk, states, tmp_path / "o", options(kind="native"))
