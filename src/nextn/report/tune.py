"""What tune found, for people."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..measure.tune_report import Tried, TuneReport


def show(report: TuneReport) -> None:
    """One row for everything that was tried, the decision, and the command."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)

    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    space = report.space
    if report.decision is None:
        for what, values in (
            ("draft lengths", space.n_max), ("least probabilities", space.p_min), ("types of the block", space.types),
            ("draft heads", space.draft_heads), ("embeddings", space.embd_types), ("threads", space.threads),
        ):  # fmt: skip
            line(f"{what}: " + ", ".join("as it is" if value is None else f"{value}" for value in values))
        line(f"the full grid has {space.n_grid} setups; the races try a part of them, one after the other")
        return
    assert report.engine is not None and report.machine is not None
    line(f"engine: {report.engine['name']} {report.engine['version']}")
    line(f"machine: {report.machine['n_cpus']} CPUs, {report.machine['cpu']}, {report.machine['system']}")
    table = Table()
    for title in ("race", "setup", "of the fastest", "prompts", ""):
        table.add_column(title, justify="right" if title in ("of the fastest", "prompts") else "left")
    before = None
    for one in report.tried:
        if before not in (None, one.race):
            table.add_section()
        table.add_row("" if before == one.race else one.race, *_cells(one))
        before = one.race
    console.print(table)
    disturbed = sum(not run.good for run in report.runs)
    if disturbed:
        line(f"{disturbed} of {len(report.runs)} runs were disturbed or too short and are not used")
    for note in report.notes:
        line(f"note: {note}")
    line(report.sentence)
    for path in report.written:
        line(f"wrote {path}")
    if report.written:
        line(f"serve it with: {shlex.join(report.command)}")


def _cells(one: Tried) -> list[str]:
    share = "-" if one.share is None else f"{100 * one.share:.0f} %"
    stopped = "" if one.dropped_after is None else "stopped"
    return [one.point.id, share, str(one.n_prompts), stopped]
