"""Which kind of draft is trained, what its states take, and what other trunks would."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from drafts import TRUNK, as_architecture

from conftest import Q4, TinyModels, need
from nextn.errors import UnsupportedModel, UsageError
from nextn.gguf.files import open_model
from nextn.training.cost import MachineRates, TrunkSizes, bytes_per_token, draft_weights, training_cost
from nextn.training.kind import NATIVE, choose_kind, usual_taps


def test_a_native_block_comes_first() -> None:
    found = choose_kind(open_model(Q4), "auto")
    assert (found.kind, found.taps, found.n_embd, found.n_vocab) == ("native", (), 256, 2048)
    assert "has an MTP graph for 'qwen35'" in found.why
    asked = choose_kind(open_model(Q4), "eagle3")  # which has taps, too
    assert (asked.kind, asked.taps) == ("eagle3", (1, 2, 3))


@pytest.mark.parametrize("arch", ["llama", "qwen3"])
def test_eagle3_where_there_are_only_taps(arch: str, tmp_path: Path) -> None:
    trunk = open_model(as_architecture(TRUNK, tmp_path / "m.gguf", arch))
    assert choose_kind(trunk, "auto").kind == "eagle3"
    with pytest.raises(UnsupportedModel, match=f"native does not fit it: llama.cpp .* no MTP graph for '{arch}'"):
        choose_kind(trunk, "native")


@pytest.mark.parametrize(("arch", "says"), [
    ("gemma3", "the graph of 'gemma3' in llama.cpp b11549 hands no layer inputs to an EAGLE-3 draft"),
    ("glm4moe", "fitting an MTP block of 'glm4moe' is not implemented, and the graph of 'glm4moe'"),
    ("nonesuch", "whether llama.cpp b11549 accepts an EAGLE-3 draft for 'nonesuch' was not measured"),
])  # fmt: skip
def test_one_sentence_where_there_is_neither(arch: str, says: str, tmp_path: Path) -> None:
    trunk = open_model(as_architecture(TRUNK, tmp_path / "m.gguf", arch))
    with pytest.raises(UnsupportedModel) as caught:
        choose_kind(trunk, "auto")
    assert says in str(caught.value) and str(caught.value).startswith(str(tmp_path / "m.gguf"))
    assert caught.value.exit_code == 16


def test_what_is_no_trunk(tiny_models: TinyModels) -> None:
    with pytest.raises(UsageError, match="name the model that it belongs to"):
        choose_kind(open_model(tiny_models.sidecar), "auto")
    with pytest.raises(UsageError, match="'medusa' is not a kind of draft"):
        choose_kind(open_model(Q4), "medusa")


@pytest.mark.parametrize("n_layer", [2, 3, 4, 5, 6, 7, 8, 30, 61])
def test_taps_differ_and_exist(n_layer: int) -> None:
    taps = usual_taps(n_layer)
    assert len(set(taps)) == 3 and list(taps) == sorted(taps) and taps[0] >= 0 and taps[2] <= n_layer
    if n_layer == 30:
        assert taps == (2, 15, 27)


def test_the_families_that_are_fitted_are_those_that_are_chosen() -> None:
    need("torch, which 'nextn[train]' installs,", importlib.util.find_spec("torch") is not None)
    from nextn.training.fit.native import LAYERS

    assert set(LAYERS) == set(NATIVE)


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_states_of_a_token_have_the_size_that_is_said() -> None:
    # SmolLM2: an id, three states of 576 halves, 32 ids and halves, a float
    assert bytes_per_token(576, 3) == 4 + 3 * 576 * 2 + 32 * 6 + 4 == 3656
    assert bytes_per_token(256, 0) == 4 + 256 * 2 + 32 * 6 + 4


def test_costs_are_computed_from_sizes() -> None:
    dense = TrunkSizes("d", 1000, 4000, 50_000, 1e9, 1e9, 8.0)
    machine = MachineRates("m", 1e12, 1e10)
    cost = training_cost(dense, machine, n_tokens=3.6e6, epochs=1, n_drafted=1, draft_vocab=10_000, n_parallel=1)
    assert cost.write_h == pytest.approx(3.6e6 * 1e9 / 1e10 / 3600)  # one sequence: all weights are read for each token
    weights = 3e6 + 6e6 + 1e6 + 12e6 + 10e6
    assert cost.draft_weights == draft_weights(dense, 10_000, eagle3=True) == weights
    assert cost.fit_h == pytest.approx(6 * weights * 3.6e6 / 1e12 / 3600)
    assert cost.states_bytes == bytes_per_token(1000, 3) * 3.6e6 and cost.hours == cost.write_h + cost.fit_h
    together = training_cost(dense, machine, n_tokens=3.6e6, n_parallel=1000)
    assert together.write_h == pytest.approx(3.6e6 * 2e9 / 1e12 / 3600)  # many sequences: arithmetic
    experts = TrunkSizes("e", 1000, 4000, 50_000, 1e11, 1e9, 8.0)
    few = training_cost(experts, machine, n_tokens=3.6e6, n_parallel=4)
    assert few.write_h == pytest.approx(together.write_h * 50)  # four tokens choose other experts each


def test_the_page_has_the_computed_table() -> None:
    import train as bars

    assert bars.cost_table() in bars.PAGE.read_text(encoding="utf-8")
