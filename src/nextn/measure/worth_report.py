"""What worth found: the curve, and what follows from it for drafting. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..schemas.base import Documented, EngineName, filled
from ..schemas.worth import (
    DepthToken,
    DraftFigures,
    KinkedBatch,
    LengthBreakEven,
    LengthSpeedup,
    WorthDocument,
)
from .batch_curve import DepthCurve, TimedPass
from .timed_run import TimedRun
from .worth_formula import RATES, Ceiling, DraftCost, Payoff, sentence

BUSY = "no answer: the machine was too busy with other work; try again when it is idle"


@dataclass(frozen=True)
class WorthReport(Documented):
    """Everything that worth found."""

    model: str
    sidecar: str | None
    measured: str  # when, in UTC
    engine: EngineName
    machine: dict[str, Any]
    settings: dict[str, Any]
    curves: list[DepthCurve]  # by depth; those without enough undisturbed passes are missing
    draft: DraftCost | None
    passes: list[TimedPass]
    runs: list[TimedRun]
    notes: list[str] = field(default_factory=list)

    @property
    def payoffs(self) -> list[Payoff]:
        """One per curve."""
        return [] if self.draft is None else [Payoff(curve, self.draft) for curve in self.curves]

    @property
    def first(self) -> Payoff | None:
        """At the first depth that was asked for; None: that one has no curve."""
        depth = self.settings["depths"][0]
        return next((one for one in self.payoffs if one.curve.depth == depth), None)

    @property
    def word(self) -> str:
        """The answer in one word."""
        if self.first is None:
            return "machine_busy"
        return "can_pay" if self.first.ceiling.speedup > 1 else "cannot_pay"

    @property
    def sentence(self) -> str:
        """The answer at the first depth."""
        return BUSY if self.first is None else sentence(self.first)

    @property
    def n_disturbed(self) -> int:
        """Passes and runs that are not used."""
        return sum(not one.good for one in self.passes) + sum(not run.good for run in self.runs)

    @property
    def document(self) -> WorthDocument:
        """What --json prints."""
        first = self.first
        return filled(
            WorthDocument,
            self,
            curve=[point for curve in self.curves for point in curve.document],
            tokens=[DepthToken(one.depth, round(one.token_s, 7), round(one.state_cost, 4)) for one in self.curves],
            draft=None if self.draft is None else filled(DraftFigures, self.draft, **_rounded(self.draft)),
            break_even={} if first is None else {str(n): _break_even(first, n) for n in first.lengths},
            ceiling=None if first is None else _speedup(first.ceiling),
            best={} if first is None else {f"{rate:g}": _speedup(first.best(rate)) for rate in RATES},
            kinks=[] if first is None else [KinkedBatch(one.n_tokens, one.cheaper_than) for one in first.kinks],
            sentences={str(one.curve.depth): sentence(one) for one in self.payoffs},
            passes=[one.document for one in self.passes],
            runs=[run.document for run in self.runs],
        )


def _rounded(draft: DraftCost) -> dict[str, float]:
    return {name: round(getattr(draft, name), 4) for name in ("per_token", "per_step", "catch_up")}


def _break_even(payoff: Payoff, n: int) -> LengthBreakEven:
    found = payoff.break_even(n)
    rate = None if found.per_position is None else round(found.per_position, 4)
    return LengthBreakEven(round(found.accepted_per_step, 4), rate)


def _speedup(found: Ceiling) -> LengthSpeedup:
    return LengthSpeedup(found.n_max, round(found.speedup, 4))


