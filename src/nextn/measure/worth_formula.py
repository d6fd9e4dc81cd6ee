"""What a batch curve says about drafting: break-even, ceiling, best lengths, kinks. Pure.

The unit is the time of one token with MTP off. A step that drafts n tokens costs

    step(n) = curve(n + 1) + draft(n) + state

and yields 1 + a tokens, where a is the mean number of accepted drafts, so drafting multiplies the speed by
(1 + a) / step(n). With a chance p for each drafted token to be accepted after those before it, 1 + a is
(1 - p^(n+1)) / (1 - p). That is the walltime improvement of Y. Leviathan, M. Kalman, Y. Matias, "Fast Inference from
Transformers via Speculative Decoding" (2023), theorem 3.8, which takes curve(n + 1) as 1: on a machine where a batch
costs what one token costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .batch_curve import DepthCurve

RATES = (0.5, 0.7, 0.9)  # acceptance per position that the best length is given for
_KINK = 0.98  # a batch is called cheaper than a shorter one from here on
HARD = 0.9  # more than what is reported for published blocks
FIELD = "users report 65 to 90 % in code for published blocks, and about half of that in prose"
"""Collected from public threads of 2026; not measured by nextn. See docs/worth.md."""


@dataclass(frozen=True)
class DraftCost:
    """What drafting costs beside the verification, in times of one token with MTP off."""

    source: Literal["measured", "estimated"]
    per_token: float  # of each drafted token
    per_step: float = 0.0  # of each step, however many are drafted
    catch_up: float = 0.0  # of each step, as a share of its verification: the block reads all verified tokens

    def of(self, n: float, verification: float) -> float:
        """Of a step that drafts n tokens, on average."""
        return max(0.0, self.per_step + n * self.per_token + self.catch_up * verification)


@dataclass(frozen=True)
class BreakEven:
    """Above what drafting n tokens at a time is faster."""

    n_max: int
    accepted_per_step: float  # mean number of accepted drafts
    per_position: float | None  # chance of each position, given those before; None: not even a perfect draft pays


@dataclass(frozen=True)
class Ceiling:
    """The most that a draft can win."""

    n_max: int
    speedup: float


@dataclass(frozen=True)
class Kink:
    """A batch that is not dearer than a shorter one."""

    n_tokens: int
    cheaper_than: int


@dataclass(frozen=True)
class Payoff:
    """One curve with one draft."""

    curve: DepthCurve
    draft: DraftCost

    @property
    def lengths(self) -> tuple[int, ...]:
        """The draft lengths that can be judged."""
        return self.curve.lengths

    def step(self, n: float) -> float:
        """What a step that drafts n tokens, on average, costs."""
        verification = self.curve.cost(n + 1)
        return verification + self.draft.of(n, verification) + self.curve.state_cost

    def speedup(self, n: float, accepted: float) -> float:
        """Speed with `accepted` drafts per step on average, over that with MTP off."""
        return (1 + accepted) / self.step(n)

    def predicted(self, by_position: Sequence[float]) -> float:
        """The same from the share of steps in which the 1st, 2nd, ... drafted token was accepted."""
        return self.speedup(len(by_position), sum(by_position))

    def break_even(self, n: int) -> BreakEven:
        """What length n needs."""
        needed = max(0.0, self.step(n) - 1)
        return BreakEven(n, needed, rate_for(needed, n))

    @property
    def ceiling(self) -> Ceiling:
        """All drafts accepted, at the best length."""
        best = max(self.lengths, key=lambda n: self.speedup(n, n))
        return Ceiling(best, self.speedup(best, best))

    def best(self, rate: float) -> Ceiling:
        """The best length for a chance per position, and what it wins."""
        best = max(self.lengths, key=lambda n: self.speedup(n, accepted_at(rate, n)))
        return Ceiling(best, self.speedup(best, accepted_at(rate, best)))

    @property
    def easiest(self) -> BreakEven | None:
        """The length that pays at the lowest acceptance; None: none can pay."""
        able = [found for n in self.lengths if (found := self.break_even(n)).per_position is not None]
        return min(able, key=lambda found: found.per_position or 0.0, default=None)

    @property
    def kinks(self) -> list[Kink]:
        """Batches that are clearly cheaper than a shorter one."""
        sizes = sorted(self.curve.costs)
        out = []
        for at, size in enumerate(sizes):
            dearer = [less for less in sizes[:at] if less > 1 and self.curve.cost(size) < _KINK * self.curve.cost(less)]
            if dearer:
                out.append(Kink(size, dearer[0]))
        return out


def accepted_at(rate: float, n: int) -> float:
    """Mean number of accepted drafts of n, when each is accepted with this chance after those before it."""
    return sum(rate**position for position in range(1, n + 1))


def rate_for(accepted: float, n: int) -> float | None:
    """The chance per position that gives this mean number of accepted drafts of n; None: more than all of them."""
    if accepted > n:
        return None
    low, high = 0.0, 1.0
    for _ in range(50):  # the sum rises with the chance
        middle = (low + high) / 2
        low, high = (middle, high) if accepted_at(middle, n) < accepted else (low, middle)
    return high


def sentence(payoff: Payoff) -> str:
    """The answer in one sentence."""
    ceiling, easiest = payoff.ceiling, payoff.easiest
    if easiest is None or easiest.per_position is None or ceiling.speedup <= 1:
        return (
            f"cannot pay here: even a perfect draft reaches {ceiling.speedup:.2f} times the speed without MTP (n_max "
            f"{ceiling.n_max}); another quantization type of the model, more of it on a GPU, or another number of "
            "threads can change that"
        )
    most = f"a perfect draft reaches {ceiling.speedup:.2f} times the speed at n_max {ceiling.n_max}"
    word = "can pay" if easiest.per_position < HARD else "can hardly pay here: only"
    least = f"{100 * easiest.per_position:.0f} % acceptance per position at n_max {easiest.n_max}"
    return f"{word} from {least} ({most}; {FIELD})"
