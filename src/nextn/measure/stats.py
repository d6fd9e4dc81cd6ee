"""Medians, spread, and a robust paired test. Pure, standard library only.

Two settings are compared pairwise: the same prompt in the same pass of an interleaved run, so that what changes
slowly (clock, temperature, a filling cache) hits both. The natural log of each pair's speed ratio is taken, so that
"twice as fast" and "half as fast" weigh the same. The test is Wilcoxon's signed-rank test (F. Wilcoxon, 1945),
two-sided and exact: it needs no normal distribution, and one outlier shifts it by only one rank. The size of the
effect is the Hodges-Lehmann estimate, the median of all pairwise means (J. Hodges, E. Lehmann, 1963), with the
interval that inverts the test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Literal

Word = Literal["faster", "slower", "not_distinguishable", "machine_busy"]

ALPHA = 0.05  # the share of comparisons of equal settings that may wrongly be called different
MIN_EFFECT = 0.03
"""Differences smaller than this are not reported as differences, however often they are repeated.

This margin was chosen, not derived: a setup is loaded once, and no repetition within a load averages out whatever
makes two loads of the same file differ. See docs/decisions/bench.md.
"""
_EXACT_UP_TO = 60


@dataclass(frozen=True)
class Spread:
    """A sample in four numbers."""

    median: float
    low: float  # the smallest value
    high: float  # the largest value
    n: int


@dataclass(frozen=True)
class Comparison:
    """How one setting compares with another."""

    word: Word
    # Speed of one over speed of the other; None when it cannot be trusted: too few pairs, or none.
    ratio: float | None
    low: float | None  # lower end of the confidence interval of `ratio` at level 1 - ALPHA
    high: float | None  # upper end
    p: float | None  # Two-sided probability of a sample this one-sided if there were no difference
    n_pairs: int


def spread(values: Sequence[float]) -> Spread | None:
    """Median, minimum, maximum and count; None for an empty sample."""
    return Spread(median(values), min(values), max(values), len(values)) if values else None


def signed_rank_p(differences: Sequence[float]) -> float:
    """The exact two-sided p of Wilcoxon's signed-rank test; differences of 0 are left out (1.0 when none is left)."""
    values = [value for value in differences if value != 0.0]
    if not values:
        return 1.0
    ranks2 = _double_ranks([abs(value) for value in values])
    positive = sum(rank for rank, value in zip(ranks2, values, strict=True) if value > 0)
    total = sum(ranks2)
    extreme = min(positive, total - positive)
    if len(values) > _EXACT_UP_TO:
        variance = sum(rank * rank for rank in ranks2) / 4
        z = (abs(positive - total / 2) - 1) / math.sqrt(variance)  # half a step, because ranks are doubled
        return min(1.0, math.erfc(max(0.0, z) / math.sqrt(2)))
    ways = [1] + [0] * total  # sign patterns by the sum of the positive ranks
    for rank in ranks2:
        for at in range(total, rank - 1, -1):
            ways[at] += ways[at - rank]
    return min(1.0, float(2 * sum(ways[: extreme + 1]) / (1 << len(values))))


def _double_ranks(sizes: Sequence[float]) -> list[int]:
    """Twice the rank of each value; ties share their mean rank, so doubling it gives an integer."""
    order = sorted(range(len(sizes)), key=lambda at: sizes[at])
    out = [0] * len(sizes)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and sizes[order[end + 1]] == sizes[order[start]]:
            end += 1
        for at in range(start, end + 1):
            out[order[at]] = start + end + 2
        start = end + 1
    return out


def hodges_lehmann(differences: Sequence[float], alpha: float = ALPHA) -> tuple[float, float, float]:
    """The estimate of the middle of `differences` (not empty), and its confidence interval at level 1 - alpha.

    With too few pairs for that confidence the interval is that of all pairwise means.
    """
    n = len(differences)
    means = sorted((differences[i] + differences[j]) / 2 for i in range(n) for j in range(i, n))
    cut = _critical(n, alpha)
    return median(means), means[cut], means[-1 - cut]


def _critical(n: int, alpha: float) -> int:
    """How many of the sorted pairwise means lie outside the interval at each end, for n pairs without ties."""
    if n > _EXACT_UP_TO:
        sigma = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        z = NormalDist().inv_cdf(1 - alpha / 2)
        return max(0, math.ceil(n * (n + 1) / 4 - z * sigma - 0.5) - 1)
    total = n * (n + 1) // 2
    ways = [1] + [0] * total
    for rank in range(1, n + 1):
        for at in range(total, rank - 1, -1):
            ways[at] += ways[at - rank]
    limit, seen = alpha / 2 * (1 << n), 0
    for cut in range(total // 2 + 1):
        seen += ways[cut]
        if seen > limit:
            return max(0, cut - 1)
    return 0


def compare(
    ours: Sequence[float], theirs: Sequence[float], *, n_tests: int = 1, min_effect: float = MIN_EFFECT
) -> Comparison:
    """Compare speeds pair by pair, each value above 0; `n_tests` comparisons share one error rate (Bonferroni).

    "faster" and "slower" need both: a p below ALPHA / n_tests and an effect of at least `min_effect`. With fewer than
    `least_pairs` pairs there is no ratio either, because no interval of that confidence exists.
    """
    if not ours:
        return Comparison("machine_busy", None, None, None, None, 0)
    logs = [math.log(one / other) for one, other in zip(ours, theirs, strict=True)]
    middle, low, high = hodges_lehmann(logs, ALPHA / n_tests)
    p = min(1.0, signed_rank_p(logs) * n_tests)
    if len(logs) < least_pairs(n_tests):
        return Comparison("not_distinguishable", None, None, None, p, len(logs))
    word: Word = "not_distinguishable"
    if p < ALPHA and abs(middle) >= math.log1p(min_effect):
        word = "faster" if middle > 0 else "slower"
    return Comparison(word, math.exp(middle), math.exp(low), math.exp(high), p, len(logs))


def least_pairs(n_tests: int = 1) -> int:
    """The fewest pairs with which any difference can be detected."""
    n = 1
    while 2 / (1 << n) * n_tests >= ALPHA:
        n += 1
    return n
