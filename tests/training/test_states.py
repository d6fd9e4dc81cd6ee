"""The folder of states: what is written is read back, a stopped run leaves nothing wrong, damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextn.errors import FormatError, StorageError, UsageError
from nextn.training.answers import Answer, as_f16, drawn, joined, parted
from nextn.training.states import MANIFEST, States, StatesFolder, StatesManifest, Trunk
from nextn.writing.system import System

N_EMBD, TOP_K, TAPS = 8, 4, [1, 2, 3]


def manifest(**more: Any) -> StatesManifest:
    given = {
        "trunk": Trunk("tiny", 100, "ab" * 32), "architecture": "llama", "n_embd": N_EMBD, "n_vocab": 50, "taps": TAPS,
        "nextn_state": False, "reader": "engine", "agreement": None, "engine": "xllamacpp 1", "seed": 3,
        "top_k": TOP_K, "n_predict": 9, "temperature": 0.8, "greedy_share": 0.5, "prompts": {"sha256": "x"},
    }  # fmt: skip
    return StatesManifest(**{**given, **more})


def answer(prompt_id: int, n_prompt: int, n: int) -> Answer:
    rng = np.random.default_rng(prompt_id)
    return Answer(
        prompt_id, n_prompt, rng.integers(0, 50, n, np.int32),
        rng.standard_normal((n, 3, N_EMBD)).astype(np.float16), rng.integers(0, 50, (n, TOP_K), np.int32),
        rng.standard_normal((n, TOP_K)).astype(np.float16), rng.standard_normal(n).astype(np.float32),
    )  # fmt: skip


def same(a: Answer, b: Answer) -> bool:
    arrays = ("ids", "features", "top_ids", "top_logits", "log_sum")
    return (a.prompt_id, a.n_prompt) == (b.prompt_id, b.n_prompt) and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    folder = StatesFolder.start(tmp_path / "a" / "states", manifest())
    given = [answer(0, 3, 7), answer(5, 2, 12)]
    folder.add(0, "held", given, 1.5)
    folder.add(0, "fit", [answer(9, 1, 4)], 0.5, n_asked=3)
    found = States.open(folder.folder)
    (held,), (fit,) = list(found.chunks("held")), list(found.chunks("fit"))
    assert all(same(a, b) for a, b in zip(given, parted(held.arrays), strict=True))
    assert (found.n_tokens(), found.n_tokens("held"), fit.entry.first, fit.entry.n_asked) == (23, 19, 0, 3)
    assert np.array_equal(held.sequence(1)["ids"], given[1].ids) and fit.features.shape == (4, 3, N_EMBD)
    assert found.n_bytes == sum(path.stat().st_size for path in folder.folder.glob("*.safetensors"))
    found.check()


def test_other_readers_read_it(tmp_path: Path) -> None:
    """The file is a safetensors file: its table is where the format says, and its offsets are those of the arrays."""
    folder = StatesFolder.start(tmp_path, manifest())
    entry = folder.add(0, "fit", [answer(0, 3, 7)], 1.0)
    data = (tmp_path / entry.file).read_bytes()
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    start, end = table["ids"]["data_offsets"]
    assert table["ids"] == {"dtype": "I32", "shape": [7], "data_offsets": [start, end]}
    assert np.array_equal(np.frombuffer(data[8 + length + start : 8 + length + end], "<i4"), answer(0, 3, 7).ids)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"trunk": Trunk("other", 1, "cd" * 32)}, "another trunk"), ({"taps": [0, 1, 2]}, "other taps"),
        ({"seed": 4}, "another --seed"), ({"prompts": {"sha256": "y"}}, "other prompts"),
        ({"n_predict": 10}, "another length of answers"),
    ],
)  # fmt: skip
def test_states_of_another_kind_are_not_mixed(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    StatesFolder.start(tmp_path, manifest()).add(0, "fit", [answer(0, 3, 7)], 1.0)
    with pytest.raises(UsageError, match=word):
        StatesFolder.start(tmp_path, manifest(**change))
    assert States.open(tmp_path).n_tokens() == 7


class Stops(System):
    """Stops before the k-th fsync."""

    def __init__(self, k: int) -> None:
        self.left = k

    def fsync(self, fd: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(5, "stopped here")
        super().fsync(fd)


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    """Wherever writing a chunk stops, the folder opens, and the next run writes the chunk again."""
    reached = 0
    for k in range(20):
        place = tmp_path / str(k)
        StatesFolder.start(place, manifest()).add(0, "held", [answer(0, 3, 7)], 1.0)
        folder = StatesFolder.start(place, manifest())
        folder.system = Stops(k)
        try:
            folder.add(0, "fit", [answer(1, 2, 5)], 1.0)
        except StorageError:
            reached += 1
        again = StatesFolder.start(place, manifest())
        found = States.open(place)
        found.check()
        assert found.n_tokens("held") == 7 and found.n_tokens("fit") in (0, 5)
        if not found.n_tokens("fit"):
            again.add(0, "fit", [answer(1, 2, 5)], 1.0)
        assert States.open(place).n_tokens() == 12
        assert {path.name for path in place.iterdir() if not path.name.startswith(".")} == {
            MANIFEST, "states-00001.safetensors", "states-00002.safetensors",
        }  # fmt: skip
    assert 0 < reached < 20


def test_a_chunk_that_is_gone_is_written_again(tmp_path: Path) -> None:
    folder = StatesFolder.start(tmp_path, manifest())
    entry = folder.add(0, "fit", [answer(0, 3, 7)], 1.0)
    (tmp_path / entry.file).unlink()
    assert not StatesFolder.start(tmp_path, manifest()).manifest.chunks


def test_damage_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no states"):
        States.open(tmp_path)
    folder = StatesFolder.start(tmp_path, manifest())
    entry = folder.add(0, "fit", [answer(0, 3, 7)], 1.0)
    path = tmp_path / entry.file
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + b"abc")
    with pytest.raises(FormatError, match="not the file"):
        States.open(tmp_path).check()
    path.write_bytes(whole[:-1])
    with pytest.raises(FormatError, match=entry.file):
        list(States.open(tmp_path).chunks())
    data = json.loads((tmp_path / MANIFEST).read_text())
    for change in ({"n_tokens": 8}, {"file": "../x.safetensors"}, {"split": "other"}):
        path.write_bytes(whole)
        (tmp_path / MANIFEST).write_text(json.dumps({**data, "chunks": [{**data["chunks"][0], **change}]}))
        with pytest.raises(FormatError):
            list(States.open(tmp_path).chunks())
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(FormatError, match=MANIFEST):
        States.open(tmp_path)


def test_float16_is_clamped_and_counted() -> None:
    kept, n = as_f16(np.array([1.0, 1e6, -np.inf, np.nan, 65504.0], np.float32))
    assert n == 3 and np.isfinite(kept).all() and kept[1] == 65504 and kept[2] == -65504


def test_tokens_are_drawn_by_their_probability() -> None:
    n = 20_000
    ids = np.tile(np.array([[7, 3, 9]]), (n, 1))
    logits = np.tile(np.log([[0.6, 0.3, 0.1]]), (n, 1))
    noise = np.random.default_rng(0).random(n)
    chosen = drawn(ids, logits, np.ones(n), noise)
    assert [round(float((chosen == token).mean()), 1) for token in (7, 3, 9)] == [0.6, 0.3, 0.1]
    assert (drawn(ids, logits, np.zeros(n), noise) == 7).all()
    cold = drawn(ids, logits, np.full(n, 0.5), noise)
    assert (cold == 7).mean() > (chosen == 7).mean() + 0.1


def test_parts_and_wholes() -> None:
    given = [answer(0, 3, 7), answer(1, 2, 2), answer(2, 1, 5)]
    assert all(same(a, b) for a, b in zip(given, parted(joined(given)), strict=True))
    assert given[0].cut(2).n_prompt == 2 and given[0].cut(4).n_tokens == 4
