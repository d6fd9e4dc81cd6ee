"""What tune found, for the user: the tables on standard error, the command line on standard output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .outlet import console as console_of
from .text import say

if TYPE_CHECKING:
    from ..measure.tune_report import TuneReport


def show(report: TuneReport, *, quiet: bool = False) -> None:
    """One row per candidate, the answer, what was written, and the command."""
    if not quiet:
        _table(report)
        least, most = report.n_planned
        if report.dry_run:
            say(f"would take {least} to {most} runs, not counting repeats; the full grid has "
                f"{report.settings['n_grid']} settings")  # fmt: skip
            for path in report.files:
                say(f"would write {path}" + (", if another type wins" if path.suffix == ".gguf" else ""))
        else:
            if report.n_disturbed:
                say(f"{report.n_disturbed} of {len(report.runs)} runs were disturbed or too short and are not used")
            for note in report.notes:
                say(f"note: {note}")
            say(f"{len(report.runs)} runs of {sum(bool(t.stages) for _, t in report.trials)} settings "
                f"in {report.wall_s:.0f} s")  # fmt: skip
            say(report.sentence)
            for path in report.files:
                say(f"wrote {path}")
    if report.command is not None:
        print(report.command)


def _table(report: TuneReport) -> None:
    from rich.table import Table

    console = console_of(stderr=True, width=None if sys.stderr.isatty() else 120)
    table = Table()
    for title in ("setting", "races", "against MTP off", "tokens/s", "outcome"):
        table.add_column(title, justify="right" if title in ("against MTP off", "tokens/s") else "left")
    for one in report.candidates():
        tps = one.decode_tps
        table.add_row(
            one.id,
            ", ".join(one.stages) or "-",
            "-" if one.relative is None else f"{one.relative:.2f}",
            "-" if tps is None else f"{tps.median:,.1f} ({tps.low:,.1f} to {tps.high:,.1f})",
            one.outcome,
        )
    if report.trials:
        console.print(table, highlight=False, markup=False)
