"""Whether torch reads a trunk as the engine does: the same tokens through both, before any text is written with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .answers import Answer, Array, Job, StatesReader

N_PROMPTS, N_TOKENS = 8, 24  # prompts of the probe, and tokens after each
LEAST_CORRELATION = 0.99  # of each tapped layer's inputs
LEAST_SAME = 0.9  # share of positions with the same best token


@dataclass(frozen=True)
class Agreement:
    """How far two readers agree on the same tokens."""

    n_tokens: int
    correlation: list[float]  # of layer inputs, per tap, over all tokens but the first of a text
    same_best: float  # share of positions with the same best token
    log_prob_difference: float  # mean distance of the best token's log probability

    @property
    def is_enough(self) -> bool:
        """Whether one may stand for the other."""
        return min(self.correlation) >= LEAST_CORRELATION and self.same_best >= LEAST_SAME

    @property
    def words(self) -> str:
        """In a few words."""
        lowest = min(self.correlation)
        return f"layer inputs correlate by {lowest:.4f} or more, best token the same on {self.same_best:.1%}"

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def probe(reader: StatesReader, engine: StatesReader, prompts: Sequence[tuple[int, ...]], seed: int) -> Agreement:
    """Let `reader` write a little, and `engine` read the same tokens."""
    jobs = [Job(at, ids, N_TOKENS, 0.0, seed + at) for at, ids in enumerate(prompts[:N_PROMPTS])]
    written = reader.write(jobs, lambda n: False)
    again = [Job(at, tuple(int(one) for one in answer.ids), 0, 0.0, 0) for at, answer in enumerate(written)]
    return compared(written, engine.write(again, lambda n: False))


def compared(ours: Sequence[Answer], theirs: Sequence[Answer]) -> Agreement:
    """Two readings of the same texts."""

    def of(answers: Sequence[Answer], name: str, first: int = 0) -> Array:
        joined: Array = np.concatenate([getattr(one, name)[first:] for one in answers]).astype(np.float64)
        return joined

    if [one.ids.tolist() for one in ours] != [one.ids.tolist() for one in theirs]:
        return Agreement(0, [0.0], 0.0, float("inf"))
    a, b = of(ours, "features", 1), of(theirs, "features", 1)  # first tokens have outliers that would decide alone
    correlation = [_correlation(a[:, tap], b[:, tap]) for tap in range(a.shape[1])]
    same = of(ours, "top_ids")[:, 0] == of(theirs, "top_ids")[:, 0]
    probs = [of(one, "top_logits")[:, 0] - of(one, "log_sum") for one in (ours, theirs)]
    return Agreement(len(same), correlation, float(same.mean()), float(np.abs(probs[0] - probs[1]).mean()))


def _correlation(a: Array, b: Array) -> float:
    """Pearson's of all values; 0 where one does not vary."""
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length > 0 else 0.0
