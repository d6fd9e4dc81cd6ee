"""What training leaves, made up: texts with states, and judged drafts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nextn.engines.base import Completion
from nextn.measure.engine_report import EngineReport
from nextn.training.answers import Answer
from nextn.training.judge import DraftedRuns, JudgedRun

N_EMBD, TOP_K = 256, 4
PASSED = EngineReport("e", "1", "passed", ["the text is the same"], 12, same_text=True, control_acceptance=0.0)


def answer(prompt_id: int, n_prompt: int, n: int, n_taps: int) -> Answer:
    """A text of `n` tokens, of which `n_prompt` are the prompt's."""
    rng = np.random.default_rng(prompt_id)
    return Answer(
        prompt_id, n_prompt, rng.integers(0, 2048, n, np.int32),
        rng.standard_normal((n, n_taps, N_EMBD)).astype(np.float16), rng.integers(0, 2048, (n, TOP_K), np.int32),
        np.zeros((n, TOP_K), np.float16), np.zeros(n, np.float32),
    )  # fmt: skip


def completions(n_max: int, accepted: Sequence[int], steps: int = 10) -> list[Completion]:
    """One answer per prompt, of `steps` steps each, with so many accepted drafts."""
    return [
        Completion([1] * (steps + n), "", 50.0, 50.0, n_max * steps, n, steps, [n / (n_max * steps)] * n_max, [])
        for n in accepted
    ]


def judged(what: Any, accepted: Sequence[int]) -> JudgedRun:
    """A draft of which so many tokens were accepted on each prompt at n_max 3, and half as many at 1."""
    drafted = (
        DraftedRuns.of(1, completions(1, [n // 2 for n in accepted])), DraftedRuns.of(3, completions(3, accepted))
    )
    return JudgedRun(what, str(what), 0, "final", drafted)
