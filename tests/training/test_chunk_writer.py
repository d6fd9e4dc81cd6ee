"""Which prompts are answered next, and until when: with a reader that only pretends to write."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_states import N_EMBD, TOP_K, manifest

from nextn.errors import EngineFailed
from nextn.training.answers import Answer, Job
from nextn.training.chunk_writer import ChunkWriter, How, Limits, StatesProgress
from nextn.training.prompts import Tokenized
from nextn.training.states import States, StatesFolder

N_PREDICT = 20


class Pretends:
    """Answers of full length, whose tokens are those of the prompt and then its seed."""

    name = "engine"

    def __init__(self, n_workers: int = 1, fail_at: int = 0, pause: float = 0.0) -> None:
        self.n_workers, self.asked, self.lock = n_workers, [], threading.Lock()
        self.fail_at, self.pause = fail_at, pause

    def write(self, jobs: Sequence[Job], tick: Callable[[int], bool]) -> list[Answer]:
        with self.lock:
            self.asked.append(list(jobs))
            if len(self.asked) == self.fail_at:
                raise EngineFailed("it died")
        out = []
        for job in jobs:
            time.sleep(self.pause)
            n = len(job.ids) + job.n_predict
            ids = np.array([*job.ids, *[job.seed % 50] * job.n_predict], np.int32)
            features, top = np.zeros((n, 3, N_EMBD), np.float16), np.zeros((n, TOP_K), np.int32)
            zeros = features, top, top.astype(np.float16), np.zeros(n, np.float32)
            out.append(Answer(job.prompt_id, len(job.ids), ids, *zeros))
            if tick(n):
                break
        return out

    def __enter__(self) -> Pretends:
        return self

    def __exit__(self, *_: object) -> None: ...


TEXTS = [Tokenized(number, (1, 2, 3, 4, 5), number % 20 == 0) for number in range(200)]


def writer(folder: Path, n_most: int = 32, texts: list[Tokenized] = TEXTS, **limits: Any) -> ChunkWriter:
    given = Limits(**{"tokens": None, "until": None, "n_bytes": None, **limits})
    how = How(N_PREDICT, 0.8, 0.5, 3)
    return ChunkWriter(StatesFolder.start(folder, manifest()), texts, how, given, n_most, lambda one: None)


def places(folder: Path) -> dict[str, list[int]]:
    out: dict[str, list[int]] = {"fit": [], "held": []}
    for one in States.open(folder).manifest.chunks:
        out[one.split] += range(one.first, one.first + one.n_asked)
    return out


@pytest.mark.parametrize("n_workers", [1, 3])
def test_enough_is_written_and_no_more(tmp_path: Path, n_workers: int) -> None:
    reader = Pretends(n_workers)
    writer(tmp_path, tokens=4000).write(reader)
    found = States.open(tmp_path)
    assert 4000 <= found.n_tokens() < 4000 + 25 * 4 * (n_workers + 1)
    assert 0.02 < found.n_tokens("held") / found.n_tokens() < 0.12
    held = {job.prompt_id for jobs in reader.asked for job in jobs if job.prompt_id % 20 == 0}
    fit = {job.prompt_id for jobs in reader.asked for job in jobs if job.prompt_id % 20}
    assert held and fit and all(one.held == (one.number in held) for one in TEXTS if one.number in held | fit)
    found_places = places(tmp_path)
    assert sorted(found_places["fit"]) == list(range(len(found_places["fit"])))


def test_greedy_and_drawn_answers_are_mixed_and_never_the_same_twice(tmp_path: Path) -> None:
    reader = Pretends()
    writer(tmp_path, tokens=12_000).write(reader)
    jobs = [job for one in reader.asked for job in one]
    turns: dict[int, list[Job]] = {}
    for job in jobs:
        turns.setdefault(job.prompt_id, []).append(job)
    assert max(map(len, turns.values())) > 1  # there are not enough prompts
    first = [one[0].temperature for number, one in turns.items() if number % 20]
    assert 0.4 < sum(temperature == 0 for temperature in first) / len(first) < 0.6
    assert all(job.temperature > 0 for number, one in turns.items() if number % 20 for job in one[1:])
    assert all(job.temperature == 0 for number, one in turns.items() if number % 20 == 0 for job in one[:1])
    assert len({(job.prompt_id, job.seed) for job in jobs}) == len(jobs)


def test_a_second_run_goes_on(tmp_path: Path) -> None:
    writer(tmp_path, tokens=1500).write(Pretends())
    before = States.open(tmp_path).manifest.chunks
    assert not writer(tmp_path, tokens=1500).wants_more()
    more = writer(tmp_path, tokens=3000)
    assert more.wants_more()
    more.write(Pretends())
    found = States.open(tmp_path)
    assert found.manifest.chunks[: len(before)] == before and found.n_tokens() >= 3000
    assert len(set(places(tmp_path)["fit"])) == len(places(tmp_path)["fit"])


def test_what_a_dead_reader_left_is_asked_again(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="it died"):
        writer(tmp_path, n_most=8, tokens=4000).write(Pretends(fail_at=4))
    kept = len(States.open(tmp_path).manifest.chunks)
    assert kept == 3
    writer(tmp_path, n_most=8, tokens=4000).write(Pretends())
    found = places(tmp_path)["fit"]
    assert sorted(found) == list(range(len(found)))


def test_the_disk_has_a_bound(tmp_path: Path) -> None:
    for most in (20_000, 100_000):
        bounded = writer(tmp_path, n_bytes=most)
        bounded.write(Pretends(2))
        used = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert 0.5 * most < used <= most
        assert not writer(tmp_path, n_bytes=most).wants_more() or used > 0.8 * most


def test_time_ends_it_and_what_is_there_is_kept(tmp_path: Path) -> None:
    seen: list[StatesProgress] = []
    limited = writer(tmp_path, until=time.monotonic() + 1.2)
    limited.report = seen.append
    start = time.monotonic()
    limited.write(Pretends(2, pause=0.02))
    assert time.monotonic() - start < 10
    found = States.open(tmp_path)
    assert found.n_tokens("fit") and found.n_tokens("held")
    assert seen[-1].n_tokens == found.n_tokens() and seen[-1].rate > 0 and "per second" in seen[-1].words
    assert seen[0].left_s is not None and seen[0].left_s <= 1.2
