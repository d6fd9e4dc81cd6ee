"""What tune need not race: draft lengths that cannot win whatever the block accepts, by the batch curve."""

from __future__ import annotations

from collections.abc import Sequence

from ..gguf.files import Model
from .batch_curve import SIZES, DepthCurve
from .worth_bytes import estimated_draft
from .worth_formula import Payoff

MARGIN = 0.95
"""A perfect draft must stay below this share of the speed without MTP: the curve is measured in a few seconds only."""
_CHEAPEST_BLOCK = "q4_0"


def sizes_for(lengths: Sequence[int]) -> tuple[int, ...]:
    """The batches to time for these lengths: those of the curve up to the longest one's."""
    most = max(n + 1 for n in lengths)
    above = min((size for size in SIZES if size >= most), default=SIZES[-1])
    return tuple(size for size in SIZES if size <= above)


def perfect_draft(model: Model, curve: DepthCurve, draft: Model | None = None) -> Payoff:
    """The curve with the cheapest draft that tune could make: one layer in q4_0, and a head in q4_0.

    `draft`: a model of its own, which is raced as it is.
    """
    return Payoff(curve, estimated_draft(model, _CHEAPEST_BLOCK, draft))


def hopeless(payoff: Payoff, lengths: Sequence[int]) -> dict[int, float]:
    """Lengths at which even a perfect draft is slower than MTP off, with the speed that it reaches."""
    longest = max(payoff.lengths)
    reached = {n: payoff.speedup(n, n) for n in lengths if n <= longest}
    return {n: speed for n, speed in reached.items() if speed < MARGIN}
