"""Several prompts at once on an engine with as many slots, and their answers combined into one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..engines.base import Completion, Engine, Running
from ..errors import UsageError


def check_slots(engine: Engine, slots: int) -> None:
    """Raise UsageError for an impossible number of slots, or one that the engine does not draft with."""
    if slots < 1:
        raise UsageError("--slots must be at least 1.")
    if slots > 1 and engine.name == "ik_llama.cpp":
        raise UsageError(
            "ik_llama.cpp up to 8337e4cd turns MTP off when it has more than one slot (read in its source); leave out "
            "--slots."
        )


def ask_all(
    running: Running, prompts: Sequence[str], n_predict: int, slots: int, **settings: Any
) -> list[Completion]:
    """The answers to all prompts, in their order, `slots` of them worked on at a time.

    `settings` are those of `Running.complete`. Raises EngineFailed.
    """

    def ask(prompt: str) -> Completion:
        return running.complete(prompt, n_predict, **settings)

    if slots == 1:
        return [ask(prompt) for prompt in prompts]
    with ThreadPoolExecutor(slots) as pool:
        return list(pool.map(ask, prompts))


def _rate(answer: Completion, at: int) -> float:
    """The share of an answer's steps in which the draft at this position was accepted."""
    rates = answer.acceptance_per_pos or []
    return rates[at] if at < len(rates) else 0.0


def together(answers: Sequence[Completion]) -> Completion:
    """Concurrent answers combined into one: the tokens of all, per second of the slowest."""
    if len(answers) == 1:
        return answers[0]
    seconds = max((len(one.tokens) / one.decode_tps for one in answers if one.decode_tps > 0), default=0.0)
    n_tokens = sum(len(one.tokens) for one in answers)
    steps = sum(one.draft_steps for one in answers)
    known = [one for one in answers if one.acceptance_per_pos is not None]
    rates: list[float] | None = None
    if known and steps:
        depth = max(len(one.acceptance_per_pos or ()) for one in known)
        rates = [sum(one.draft_steps * _rate(one, at) for one in known) / steps for at in range(depth)]
    return Completion(
        tokens=[token for one in answers for token in one.tokens],
        text="\n".join(one.text for one in answers),
        decode_tps=n_tokens / seconds if seconds else 0.0,
        prompt_tps=min(one.prompt_tps for one in answers),
        draft_n=sum(one.draft_n for one in answers),
        draft_n_accepted=sum(one.draft_n_accepted for one in answers),
        draft_steps=steps,
        acceptance_per_pos=rates,
        top=[],
        at_limit=any(one.at_limit for one in answers),
    )
