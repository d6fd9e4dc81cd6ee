"""The engine's states are the same written and read, and torch agrees with the engine or is not used."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import dense
import numpy as np
import pytest
from dense import dense_trunk

from conftest import Q4, need
from nextn.engines.base import Launch
from nextn.engines.xllamacpp import Xllamacpp
from nextn.errors import UnsupportedModel, UsageError
from nextn.gguf.files import open_model
from nextn.gguf.kv import KV, KVType
from nextn.training import write_states as stage
from nextn.training.answers import Job, WrittenAnswer
from nextn.training.asked import read_asked, user_turn
from nextn.training.engine_reader import EngineReader, What
from nextn.training.probe import Agreement, compared, probe
from nextn.training.states import States
from nextn.training.write_states import StatesOptions, StatesProgress, usual_taps, write_states

pytestmark = pytest.mark.engine
TAPS = (1, 2, 3)
PROMPTS = [tuple(range(300 + 7 * k, 312 + 8 * k)) for k in range(9)]
ALL = StatesOptions(tokens=1200, n_predict=24, threads=1, top_k=16)


def go_on(n: int) -> bool:
    return False


def need_torch() -> None:
    need("torch", importlib.util.find_spec("torch") is not None)


def reader(engine: Xllamacpp, model: Path, taps: tuple[int, ...] | None, slots: int = 4) -> EngineReader:
    return EngineReader(engine, Launch(model, n_ctx=128, slots=slots, threads=1), What(taps, 8))


def jobs(n_predict: int, temperature: float = 0.0) -> list[Job]:
    return [Job(at, ids, n_predict, temperature, at) for at, ids in enumerate(PROMPTS)]


def again(answers: Sequence[WrittenAnswer]) -> list[Job]:
    return [Job(one.prompt_id, tuple(int(token) for token in one.ids), 0, 0.0, 0) for one in answers]


def texts(answers: Sequence[WrittenAnswer]) -> list[list[int]]:
    return [one.ids.tolist() for one in answers]


@pytest.mark.parametrize("taps", [TAPS, (*TAPS, 4), None], ids=["layers", "last", "nextn"])
def test_states_are_the_same_written_and_read(xllamacpp_engine: Xllamacpp, taps: tuple[int, ...] | None) -> None:
    with reader(xllamacpp_engine, Q4, taps) as engine:
        written = engine.write(jobs(20), go_on)  # more prompts than slots
        read = engine.write(again(written), go_on)
        drawn = [engine.write(jobs(20, 0.9), go_on) for _ in range(2)]
    assert [one.prompt_id for one in written] == list(range(len(PROMPTS)))
    assert [one.n_prompt for one in written] == [len(ids) for ids in PROMPTS]
    assert any(one.n_tokens == one.n_prompt + 20 for one in written)
    agreement = compared(written, read)
    assert min(agreement.correlation) > 0.999 and agreement.same_best > 0.97
    for one in written:
        best = one.top_logits.astype(np.float64)
        assert (np.diff(best, axis=1) <= 0).all() and (one.log_sum > best[:, 0] - 0.01).all()
        at = np.arange(one.n_prompt, one.n_tokens)  # a greedy answer is what was most likely before
        assert (one.ids[at] == one.top_ids[at - 1, 0]).all()
    if taps is not None and 4 in taps:
        size = np.sqrt((written[0].features[:, -1].astype(np.float64) ** 2).mean(1))
        assert np.abs(size - 1).max() < 0.01
    assert texts(drawn[0]) == texts(drawn[1]) != texts(written)


def test_the_engine_itself_writes_the_same(xllamacpp_engine: Xllamacpp) -> None:
    """Greedy answers are those of the engine's own server."""
    with reader(xllamacpp_engine, Q4, TAPS) as engine:
        written = engine.write(jobs(12)[:3], go_on)
    with xllamacpp_engine.start(Launch(Q4, n_ctx=256, threads=1)) as running:
        for one in written:
            n = one.n_tokens - one.n_prompt
            assert running.complete([int(token) for token in one.ids[: one.n_prompt]], n).tokens[:n] == (
                one.ids[one.n_prompt :].tolist()
            )


def test_a_tick_ends_answers_where_they_are(xllamacpp_engine: Xllamacpp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextn.training.engine_reader._TURN_S", 0.0)
    with reader(xllamacpp_engine, Q4, TAPS, slots=9) as engine:
        turns = iter([False, True])
        short = engine.write(jobs(100), lambda n: next(turns, True))
        assert len(short) < len(PROMPTS) or any(one.n_tokens < one.n_prompt + 100 for one in short)
        assert len(engine.write(jobs(2), go_on)) == len(PROMPTS)  # and the next call begins anew


@pytest.mark.parametrize("arch", ["llama", "qwen3"])
def test_torch_agrees_with_the_engine(xllamacpp_engine: Xllamacpp, arch: str, tmp_path: Path) -> None:
    need_torch()
    from nextn.training.torch_reader import TorchReader

    path = dense_trunk(tmp_path / "trunk.gguf", arch, tied=arch == "llama")
    taps = (*TAPS, dense.N_LAYER)
    with reader(xllamacpp_engine, path, taps) as engine:
        torch = TorchReader(open_model(path), taps, 8, engine.ends(), 1)
        agreement = probe(torch, engine, PROMPTS, 0)
        written = torch.write(jobs(30, 0.9), go_on)
        assert compared(written, engine.write(again(written), go_on)).is_enough
    assert min(agreement.correlation) > 0.995 and agreement.same_best > 0.93
    assert agreement.log_prob_difference < 0.1
    assert texts(torch.write(jobs(30, 0.9), go_on)) == texts(written)


def test_torch_ends_and_leaves_rows_right(tmp_path: Path) -> None:
    """Answers of different lengths in one batch are those of one prompt at a time."""
    need_torch()
    from nextn.training.torch_reader import TorchReader

    model = open_model(dense_trunk(tmp_path / "trunk.gguf", "llama"))
    free = TorchReader(model, TAPS, 8, frozenset(), 1).write(jobs(25), go_on)
    ends = frozenset(int(one.ids[one.n_prompt + 3 + 2 * at]) for at, one in enumerate(free[:6]))
    ending = TorchReader(model, TAPS, 8, ends, 1)
    together = ending.write(jobs(25), go_on)
    alone = [ending.write([job], go_on)[0] for job in jobs(25)]
    assert len({one.n_tokens - one.n_prompt for one in together}) > 2
    assert all(not ends & set(one.ids[one.n_prompt :].tolist()) for one in together)
    same = sum(a.ids.tolist() == b.ids.tolist() for a, b in zip(together, alone, strict=True))
    assert same >= len(alone) - 1  # matrices of another height may round otherwise
    for a, b in zip(together, alone, strict=True):
        n = min(a.n_tokens, b.n_tokens, a.n_prompt + 4)
        assert np.allclose(a.features[:n].astype(float), b.features[:n].astype(float), atol=0.15, rtol=0.05)


@pytest.mark.parametrize(
    "more",
    [
        KV.make("llama.expert_count", KVType.UINT32, 4), KV.make("llama.attention.sliding_window", KVType.UINT32, 8),
        KV.make("llama.rope.scaling.type", KVType.STRING, "yarn"),
    ],
    ids=lambda kv: kv.key,
)  # fmt: skip
def test_what_torch_does_not_know_it_refuses(tmp_path: Path, more: KV) -> None:
    from nextn.training.dense import NotDense, sizes_of

    with pytest.raises(NotDense):
        sizes_of(open_model(dense_trunk(tmp_path / "trunk.gguf", "llama", more=more)))


def test_a_reader_that_disagrees_is_seen(tmp_path: Path, xllamacpp_engine: Xllamacpp) -> None:
    """Another model's states do not pass for the trunk's."""
    need_torch()
    from nextn.training.torch_reader import TorchReader

    path, other = dense_trunk(tmp_path / "a.gguf", "llama"), dense_trunk(tmp_path / "b.gguf", "llama", seed=2)
    with reader(xllamacpp_engine, path, TAPS) as engine:
        torch = TorchReader(open_model(other), TAPS, 8, engine.ends(), 1)
        assert not probe(torch, engine, PROMPTS, 0).is_enough


# -- the stage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", [True, False])
def test_the_stage_with_the_engine(tmp_path: Path, xllamacpp_engine: Xllamacpp, native: bool) -> None:
    seen: list[StatesProgress] = []
    options = replace(ALL, native=native, engine=xllamacpp_engine)
    states = write_states(Q4, tmp_path / "states", options, seen.append)
    m = states.manifest
    assert (m.reader, m.agreement, m.nextn_state, m.taps) == ("engine", None, native, None if native else [1, 2, 3])
    assert states.n_tokens() >= 1200 and states.n_tokens("held") and "xllamacpp" in m.engine
    assert seen and seen[0].n_tokens == 0 and all(one.target in (None, 1200) for one in seen), seen
    states.check()
    more = write_states(Q4, tmp_path / "states", replace(options, tokens=1800))
    assert more.n_tokens() >= 1800 and more.manifest.chunks[: len(m.chunks)] == m.chunks
    with pytest.raises(UsageError, match="another --seed"):
        write_states(Q4, tmp_path / "states", replace(options, seed=9))


def test_the_stage_with_torch(tmp_path: Path, xllamacpp_engine: Xllamacpp) -> None:
    need_torch()
    path = dense_trunk(tmp_path / "trunk.gguf", "qwen3")
    own = tmp_path / "prompts.txt"
    own.write_text("\n".join(f"Tell me about number {number}." for number in range(40)))
    options = replace(ALL, engine=xllamacpp_engine, prompts=own)
    states = write_states(path, tmp_path / "states", options)
    m = states.manifest
    assert m.reader == "torch" and m.agreement is not None and min(m.agreement["correlation"]) > 0.99
    assert m.taps == list(usual_taps(dense.N_LAYER))
    assert m.prompts["source"] == "own" and states.n_tokens() >= 1200


def test_torch_that_disagrees_is_not_used(
    tmp_path: Path, xllamacpp_engine: Xllamacpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_torch()
    path = dense_trunk(tmp_path / "trunk.gguf", "llama")
    monkeypatch.setattr(stage, "probe", lambda *given: Agreement(100, [0.9, 0.99, 0.99], 0.5, 1.0))
    said: list[str] = []
    options = replace(ALL, engine=xllamacpp_engine, tokens=300)
    states = write_states(path, tmp_path / "a", options, lambda one: said.append(one.step))
    assert states.manifest.reader == "engine" and any("disagrees with the engine" in one for one in said)
    with pytest.raises(UsageError, match="disagrees with the engine"):
        write_states(path, tmp_path / "b", replace(options, reader="torch"))


def test_without_torch_the_engine_writes(
    tmp_path: Path, xllamacpp_engine: Xllamacpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    path = dense_trunk(tmp_path / "trunk.gguf", "llama")
    said: list[str] = []
    options = replace(ALL, engine=xllamacpp_engine, tokens=300)
    states = write_states(path, tmp_path / "a", options, lambda one: said.append(one.step))
    assert states.manifest.reader == "engine" and any("pip install" in one for one in said)


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, xllamacpp_engine: Xllamacpp) -> None:
    no_taps = dense_trunk(tmp_path / "qwen2.gguf", "qwen2")
    with pytest.raises(UnsupportedModel, match="no layer inputs for EAGLE-3 in its graph of 'qwen2'"):
        write_states(no_taps, tmp_path / "a", replace(ALL, engine=xllamacpp_engine))
    with pytest.raises(UnsupportedModel, match="no graph for MTP of 'qwen2'"):
        write_states(no_taps, tmp_path / "b", replace(ALL, native=True, engine=xllamacpp_engine))
    with pytest.raises(UsageError, match="has 4 layers"):
        write_states(Q4, tmp_path / "c", replace(ALL, taps=(1, 2, 9), engine=xllamacpp_engine))
    with pytest.raises(UsageError, match="no text was written within the limits"):
        write_states(Q4, tmp_path / "d", replace(ALL, max_disk=1000, engine=xllamacpp_engine))
    assert not list(tmp_path.glob("*/states-*"))


def test_usual_taps() -> None:
    assert usual_taps(30) == (2, 15, 27) and usual_taps(36) == (2, 18, 33)
    for n in range(4, 100):
        low, middle, high = usual_taps(n)
        assert 0 <= low < middle < high < n


def test_the_manifest_is_what_others_read(tmp_path: Path, xllamacpp_engine: Xllamacpp) -> None:
    write_states(Q4, tmp_path, replace(ALL, native=True, tokens=300, engine=xllamacpp_engine))
    data = json.loads((tmp_path / "states.json").read_text())
    named = "version kind trunk architecture n_embd n_vocab taps nextn_state reader agreement engine seed top_k chunks"
    assert set(named.split()) <= set(data) and (data["version"], data["kind"]) == (1, "states")
    assert {one["split"] for one in data["chunks"]} == {"fit", "held"}
    chunk = next(States.open(tmp_path).chunks("fit"))
    assert chunk.starts.dtype == np.int64 and chunk.n_prompt.min() > 0 and chunk.features.shape[1:] == (1, 256)


TEMPLATE = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}[assistant]"


def test_a_model_with_a_template_asks_itself_too(tmp_path: Path, xllamacpp_engine: Xllamacpp) -> None:
    path = dense_trunk(
        tmp_path / "trunk.gguf", "llama", more=KV.make("tokenizer.chat_template", KVType.STRING, TEMPLATE)
    )
    with xllamacpp_engine.start(Launch(path, n_ctx=256, threads=1)) as running:
        turn = user_turn(running)
        assert turn is not None
        assert list(turn.before) == running.tokenize("[user]")
        assert list(turn.after) == running.tokenize("\n[assistant]")
    said: list[str] = []
    options = replace(ALL, engine=xllamacpp_engine, reader="engine")
    write_states(path, tmp_path / "states", options, lambda one: said.append(one.step))
    asked = read_asked(tmp_path / "states")
    assert asked is not None and any(step.startswith("asking itself: ") for step in said)
    said.clear()
    write_states(path, tmp_path / "states", replace(options, tokens=1500), lambda one: said.append(one.step))
    assert read_asked(tmp_path / "states") == asked and not any(step.startswith("asking") for step in said)
    write_states(path, tmp_path / "plain", replace(options, asks_itself=False))
    assert read_asked(tmp_path / "plain") is None
