"""What the modules compute is what the engine computes: as many drafted tokens accepted, for each kind of draft."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drafts import changed_gguf, number
from drafts import text as text_pair

from conftest import TRUNKS, need
from nextn.engines import Launch, Xllamacpp
from nextn.gguf.files import open_sound
from nextn.gguf.kv import KV, KVType
from nextn.training.fit import FitOptions, fit
from nextn.training.states import States
from nextn.training.write_states import StatesOptions, write_states

pytestmark = pytest.mark.engine
QWEN35 = TRUNKS / "tiny-qwen35-Q8_0.gguf"
# Random weights, but the graph: latent attention, experts in groups.
DEEPSEEK = TRUNKS / "families" / "deepseek3-Q8_0.gguf"
N_DRAFTED = 3
KINDS = [("eagle3", QWEN35, False), ("native", QWEN35, False), ("native", DEEPSEEK, False), ("native", DEEPSEEK, True)]


@pytest.fixture(autouse=True)
def torch() -> Any:
    need("torch, which 'nextn[train]' installs,", find_spec("torch") is not None)
    import torch

    torch.set_num_threads(1)
    return torch


def options(kind: str, **more: Any) -> FitOptions:
    given = {"kind": kind, "batch": 1024, "threads": 1, "checks": 1, "exact": True, "type": "f32", "embd_type": "f32"}
    return FitOptions(**{**given, "learning_rate": 2e-3, **more})


def counted(trunk: Path, sidecar: Path, states: Path, kind: str) -> tuple[int, int, int]:
    """(drafts, tokens drafted, tokens accepted) by the module, in the greedy held-out answers."""
    from nextn.training.fit.kinds import make
    from nextn.training.fit.rollout import DraftAgreement, rollout
    from nextn.training.fit.texts import Texts

    held = Texts(States.open(states), "held")
    drafter = make(open_sound(trunk), held, options(kind, start=sidecar), None).drafter
    known, found = drafter.index_of_token(drafter.embeddings.shape[0]), DraftAgreement(N_DRAFTED)
    for text in held.texts:
        rows = held.rows([text], kind, [(0, text.n_tokens)])
        found.add(rollout(drafter, rows, [1.0] * N_DRAFTED, 0.5, known, look=True), rows, [True])
    return found.n_drafts, found.n_offered, sum(found.accepted)


def lived(engine: Xllamacpp, trunk: Path, sidecar: Path, states: Path) -> tuple[np.ndarray[Any, Any], bool]:
    """The same by the engine, and whether it wrote the same answers."""
    found, same = np.zeros(3, int), True
    with engine.start(Launch(trunk, sidecar, n_max=N_DRAFTED, n_ctx=512, threads=1)) as running:
        for held in States.open(states).chunks("held"):
            for number_of in range(held.n_sequences):
                ids, n_prompt = held.sequence(number_of)["ids"].tolist(), int(held.n_prompt[number_of])
                done = running.complete(ids[:n_prompt], len(ids) - n_prompt)
                found += (done.draft_steps, done.draft_n, done.draft_n_accepted)
                same = same and list(done.tokens[: len(ids) - n_prompt]) == ids[n_prompt:]
    return found, same


def with_yarn(source: Path, path: Path) -> Path:
    """A copy whose positions are scaled as DeepSeek-V3's and Kimi-K2's are, already within a short text."""
    arch = open_sound(source).architecture
    floats = {"factor": 4.0, "yarn_log_multiplier": 0.08, "yarn_beta_fast": 2.0, "yarn_beta_slow": 0.5}
    pairs = [KV.make(f"{arch}.rope.scaling.{key}", KVType.FLOAT32, value) for key, value in floats.items()]
    original = number(f"{arch}.rope.scaling.original_context_length", 64)
    return changed_gguf(source, path, [text_pair(f"{arch}.rope.scaling.type", "yarn"), original, *pairs])


@pytest.mark.parametrize(
    ("kind", "trunk", "scaled"), KINDS, ids=["eagle3", "qwen35", "deepseek2", "deepseek2 with YaRN"]
)
def test_the_engine_accepts_what_the_module_says(
    kind: str, trunk: Path, scaled: bool, xllamacpp_engine: Xllamacpp, tmp_path: Path
) -> None:
    if scaled:
        trunk = with_yarn(trunk, tmp_path / trunk.name)
    states = tmp_path / "states"
    how = StatesOptions(
        native=kind == "native", taps=None if kind == "native" else (1, 2, 3), tokens=3000, n_predict=40,
        greedy_share=1.0, reader="engine", threads=1, engine=xllamacpp_engine, top_k=8,
    )  # fmt: skip
    write_states(trunk, states, how)
    trained = fit(trunk, states, tmp_path / "trained", options(kind, steps=40))
    said = counted(trunk, trained.candidates[0], states, kind)
    live, same = lived(xllamacpp_engine, trunk, trained.candidates[0], states)
    if same:  # a text that goes another way at a near tie is drafted for otherwise
        # One token that both find about equally likely moves the steps after it.
        assert np.abs(live - said).max() <= max(4, 0.01 * said[1]), (live, said)
    assert live[2] / live[1] == pytest.approx(said[2] / said[1], abs=0.06)
    assert said[2] > 0.1 * said[1]
    if kind == "eagle3":  # a grown block is not random: it begins as a layer of the trunk
        random = fit(trunk, states, tmp_path / "random", options(kind, steps=1, learning_rate=1e-12))
        nothing, _ = lived(xllamacpp_engine, trunk, random.candidates[0], states)
        assert nothing[2] <= 0.02 * nothing[1]
