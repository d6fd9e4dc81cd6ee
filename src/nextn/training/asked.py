"""Prompts that the trunk asks itself: what it writes after the beginning of a user's message in its chat template.

Sampled so, a model's questions are as varied as those it was trained on (Magpie, arXiv 2406.08464), in any language and
without a list of topics: a draft that only saw shipped templates agrees less with answers to other questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from ..bounded import MOST_DOCUMENT, parse_json, read_bounded
from ..engines.running import RunningServer
from ..errors import FormatError
from ..gguf.files import Model
from ..writing.durable import write_file
from .answers import Job, StatesReader, job_seed
from .prompts import Tokenized, as_text, is_held_ids, message

FILE = "asked.json"
MOST_TOKENS = 64  # of a question; longer ones have no end and are not used
_LEAST_TOKENS = 3
_TEMPERATURE = 1.0
_MARK = "nextn puts the question here"
_CONTROL = 3  # LLAMA_TOKEN_TYPE_CONTROL, llama.cpp b11549


@dataclass(frozen=True)
class UserTurn:
    """The tokens around a user's message in the chat template."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def most_tokens(self) -> int:
        """Tokens of the longest prompt."""
        return len(self.before) + MOST_TOKENS + len(self.after)


def user_turn(running: RunningServer) -> UserTurn | None:
    """As the engine fills the template in; None for one that changes what the user says. Raises EngineFailed."""
    whole = as_text(message("", _MARK), running, True)
    before, mark, after = whole.partition(_MARK)
    if not mark or not before:
        return None
    return UserTurn(tuple(running.tokenize(before)), tuple(running.tokenize(after)))


def ask_itself(
    model: Model, reader: StatesReader, turn: UserTurn, n: int, together: int, seed: int, late: Callable[[], bool],
    said: Callable[[int], None],
) -> list[tuple[int, ...]]:  # fmt: skip
    """Up to `n` different questions, as tokens; fewer when it is `late`, and those without an end are left out.

    `together` are written at a time by each of the reader's workers; `said(k)` is called with how many there are.
    Raises what the reader raises.
    """
    kinds = model.header.get("tokenizer.ggml.token_type")
    control = frozenset() if kinds is None else frozenset(at for at, kind in enumerate(kinds) if kind == _CONTROL)
    found: dict[tuple[int, ...], None] = {}

    def write(first: int) -> list[tuple[int, ...]]:
        if late():
            return []
        jobs = [
            Job(at, turn.before, MOST_TOKENS, _TEMPERATURE, job_seed(seed, at))
            for at in range(first, min(n, first + together))
        ]
        written = reader.write(jobs, lambda _: late())
        if late():  # these were cut off
            return []
        ids = [tuple(int(one) for one in answer.ids[answer.n_prompt :]) for answer in written]
        return [one for one in ids if _LEAST_TOKENS <= len(one) < MOST_TOKENS and control.isdisjoint(one)]

    with ThreadPoolExecutor(reader.n_workers) as pool:
        for some in pool.map(write, range(0, n, together)):
            found |= dict.fromkeys(some)
            said(len(found))
    return list(found)


def mixed(given: Sequence[Tokenized], asked: Sequence[tuple[int, ...]], turn: UserTurn, seed: int) -> list[Tokenized]:
    """Prompts in turns: a given one, one that the trunk asks itself, and so on; what is left of the longer list after.

    Numbers of the latter follow those of the former.
    """
    first = 1 + max((one.number for one in given), default=-1)
    own = [
        Tokenized(first + at, (*turn.before, *ids, *turn.after), is_held_ids(ids, seed)) for at, ids in enumerate(asked)
    ]
    return [one for one in chain.from_iterable(zip_longest(given, own)) if one is not None]


def read_asked(folder: Path) -> list[tuple[int, ...]] | None:
    """What an earlier run wrote; None: nothing. Raises FormatError, StorageError."""
    path = folder / FILE
    if not path.is_file():
        return None
    data = parse_json(read_bounded(path, MOST_DOCUMENT), path)
    asked = data.get("asked") if isinstance(data, dict) else None
    if not isinstance(asked, list) or not all(
        isinstance(one, list) and all(isinstance(token, int) for token in one) for one in asked
    ):
        raise FormatError("these are not prompts that a model asked itself; delete the folder", path=path)
    return [tuple(one) for one in asked]


def write_asked(folder: Path, asked: Sequence[tuple[int, ...]]) -> None:
    """Keep them for later runs. Raises NoSpace, StorageError."""
    write_file(folder / FILE, json.dumps({"version": 1, "kind": "asked", "asked": asked}).encode() + b"\n")
