"""The batch curve and what follows from it, for the user."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..measure.worth_formula import RATES
from .outlet import console as console_of
from .outlet import plain_lines

if TYPE_CHECKING:
    from ..measure.worth_formula import Payoff
    from ..measure.worth_report import WorthReport


def show(report: WorthReport, *, quiet: bool = False) -> None:
    """One row per batch size, the break-even of each length, and the answer; `quiet`: only the answer."""
    if quiet:
        print(report.sentence)
        return
    line = plain_lines(console_of(width=None if sys.stdout.isatty() else 120))

    settings, known = report.settings, report.machine
    line(f"engine: {report.engine.name} {report.engine.version}")
    line(f"machine: {known['n_cpus']} CPUs, {known['cpu']}, {known['system']}")
    if settings["slots"] > 1:
        line(f"batches of {settings['slots']} slots together")
    for payoff in report.payoffs:
        _table(report, payoff)
    if report.first is not None:
        first = report.first
        line(
            f"draft: {first.draft.of(1, first.curve.cost(2)):.2f} tokens' time at n_max 1, "
            f"{first.draft.of(3, first.curve.cost(4)):.2f} at n_max 3, {first.draft.source}"
        )
        for rate in RATES:
            found = first.best(rate)
            only = "" if found.speedup > 1 else "only "
            line(
                f"at {100 * rate:.0f} % acceptance per position: n_max {found.n_max} is best, {only}"
                f"{found.speedup:.2f} times as fast"
            )
        for kink in first.kinks:
            line(f"kink: {kink.n_tokens} tokens cost less than {kink.cheaper_than}")
    if report.n_disturbed:
        n_all = len(report.passes) + len(report.runs)
        line(f"{report.n_disturbed} of {n_all} passes and runs were disturbed and are not used")
    for note in report.notes:
        line(f"note: {note}")
    line(report.sentence if report.first is None else f"answer: {report.sentence}")


def _table(report: WorthReport, payoff: Payoff) -> None:
    from rich.table import Table

    curve = payoff.curve
    token_ms = 1000 * curve.token_s
    title = f"after {curve.depth:,} tokens; one token takes {token_ms:.3g} ms"
    table = Table(title=title, title_justify="left")
    titles = ("n_max", "batch", "cost", "low to high", "accepted drafts needed", "per position", "at most")
    for head in titles:
        table.add_column(head, justify="right")
    for size, cost in sorted(curve.costs.items()):
        n = size - 1
        ends = [f"{cost.median:.2f}", f"{cost.low:.2f} to {cost.high:.2f}"]
        if not n:
            table.add_row("off", str(size), *ends, "", "", "")
            continue
        found = payoff.break_even(n)
        rate = "never" if found.per_position is None else f"{100 * found.per_position:.0f} %"
        table.add_row(
            str(n), str(size), *ends, f"{found.accepted_per_step:.2f} of {n}", rate, f"{payoff.speedup(n, n):.2f} times"
        )
    console_of(width=None if sys.stdout.isatty() else 120).print(table, highlight=False, markup=False)
