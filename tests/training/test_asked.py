"""Prompts that a model asks itself: which are used, in what order, and that a stopped run reads them back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_chunk_writer import TEXTS, Pretends
from test_prompts import Played

from nextn.errors import FormatError, OutputExists
from nextn.training.answers import Job, WrittenAnswer
from nextn.training.asked import FILE, MOST_TOKENS, UserTurn, ask_itself, mixed, read_asked, user_turn, write_asked
from nextn.training.prompts import Tokenized, is_held_ids

TURN = UserTurn((1, 2), (3,))
NORMAL, CONTROL = 1, 3


class Asks(Pretends):
    """Writes the same few questions over and over, of all the kinds that can come."""

    QUESTIONS = ([10, 11, 12], [10, 11, 13, 14], [20], [30] * MOST_TOKENS, [10, 7, 12], [10, 11, 12])

    def write(self, jobs: Sequence[Job], tick: Callable[[int], bool]) -> list[WrittenAnswer]:
        self.asked.append(list(jobs))
        tick(1)
        out = []
        for job in jobs:
            question = self.QUESTIONS[job.prompt_id % len(self.QUESTIONS)]
            ids = np.array([*job.ids, *question], np.int32)
            zeros = np.zeros((len(ids), 1)), np.zeros((len(ids), 1)), np.zeros((len(ids), 1)), np.zeros(len(ids))
            out.append(WrittenAnswer(job.prompt_id, len(job.ids), ids, *zeros))
        return out


def model(kinds: list[int] | None) -> Any:
    return SimpleNamespace(header={"tokenizer.ggml.token_type": kinds})


def ask(reader: Asks, n: int, late: Callable[[], bool] = lambda: False) -> list[tuple[int, ...]]:
    kinds = [NORMAL] * 50
    kinds[7] = CONTROL
    said: list[int] = []
    found = ask_itself(model(kinds), reader, TURN, n, 4, 5, late, said.append)
    assert said == sorted(said) and (not said or said[-1] == len(found))
    return found


def test_questions_with_an_end_are_used_once() -> None:
    """Not those that are too short or too long, and none with a control token: it would begin another turn."""
    reader = Asks()
    assert ask(reader, 12) == [(10, 11, 12), (10, 11, 13, 14)]
    asked = list(itertools.chain(*reader.asked))
    assert [len(some) for some in reader.asked] == [4, 4, 4] and len({job.seed for job in asked}) == 12
    assert {(job.ids, job.n_predict, job.temperature) for job in asked} == {((1, 2), MOST_TOKENS, 1.0)}
    assert [job.seed for job in asked] == [5 * 1_000_003 + at for at in range(12)]
    assert ask_itself(model(None), Asks(), TURN, 6, 6, 0, lambda: False, lambda n: None)[-1] == (10, 7, 12)


def test_late_questions_may_have_been_cut_off() -> None:
    clock = itertools.count()
    assert ask(Asks(), 12, lambda: next(clock) >= 5) == [(10, 11, 12), (10, 11, 13, 14)]
    assert ask(Asks(), 12, lambda: True) == []


def test_both_kinds_take_turns() -> None:
    asked = [(10 + at, 11, 12) for at in range(300)]
    found = mixed(TEXTS, asked, TURN, seed=0)
    assert [one.ids for one in found[:4]] == [TEXTS[0].ids, (1, 2, 10, 11, 12, 3), TEXTS[1].ids, (1, 2, 11, 11, 12, 3)]
    assert len(found) == len(TEXTS) + 300 and len({one.number for one in found}) == len(found)
    own = [one for one in found if one.number >= len(TEXTS)]
    held = [one.held for one in own]
    assert held == [is_held_ids(ids, 0) for ids in asked] and 1 <= sum(held) < 30
    assert mixed(TEXTS, [], TURN, 0) == TEXTS
    assert mixed([], asked[:1], TURN, 0) == [Tokenized(0, (1, 2, 10, 11, 12, 3), is_held_ids(asked[0], 0))]


def test_the_template_around_a_message() -> None:
    turn = user_turn(Played())  # type: ignore[arg-type]
    assert turn is not None and "".join(map(chr, turn.before)) == "<user>"
    assert "".join(map(chr, turn.after)) == "<assistant>" and turn.most_tokens == 6 + MOST_TOKENS + 11

    class Shouts(Played):
        def ask(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
            return {"prompt": super().ask(path, payload)["prompt"].upper()}

    assert user_turn(Shouts()) is None  # type: ignore[arg-type]


def test_a_stopped_run_reads_them_back(tmp_path: Path) -> None:
    assert read_asked(tmp_path) is None
    write_asked(tmp_path, [(1, 2, 3), (4,)])
    assert read_asked(tmp_path) == [(1, 2, 3), (4,)]
    with pytest.raises(OutputExists):
        write_asked(tmp_path, [])
    for text in ("[]", '{"asked": 7}', '{"asked": [["x"]]}', "{"):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(FormatError, match="asked"):
            read_asked(tmp_path)
