"""The figures of bench, for the user."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..units import size
from .outlet import console as console_of
from .outlet import plain_lines

if TYPE_CHECKING:
    from ..measure.bench_report import BenchReport, SetupFigures


def show(report: BenchReport, *, quiet: bool = False) -> None:
    """One row per setup, the comparisons by task, and the verdict; `quiet`: only the verdict."""
    if quiet:
        print(report.verdict.sentence if report.verdict else "there was nothing to compare")
        return
    from rich.table import Table

    console = console_of(width=None if sys.stdout.isatty() else 120)
    line = plain_lines(console)

    settings, machine = report.settings, report.machine
    line(f"engine: {report.engine.name} {report.engine.version}")
    line(f"machine: {machine['n_cpus']} CPUs, {machine['cpu']}, {machine['system']}")
    at_once = f", {settings['slots']} answers at a time" if settings.get("slots", 1) > 1 else ""
    how = "greedy" if settings["temperature"] == 0 else f"sampled at temperature {settings['temperature']:g}"
    line(
        f"{settings['repeats']} interleaved passes of {sum(settings['tasks'].values())} prompts, up to "
        f"{settings['n_predict']} tokens, {how}, loaded {settings['loads']}{at_once}"
    )
    tasks = list(settings["tasks"])
    table = Table()
    titles = ["setup", "tokens/s", "low to high", *(tasks if len(tasks) > 1 else []), "accepted by position"]
    for title in [*titles, "tokens per step", "prompt t/s", "memory"]:
        table.add_column(title, justify="left" if title in ("setup", "accepted by position") else "right")
    for row in report.rows:
        table.add_row(*_cells(row, tasks))
    console.print(table)
    if report.n_disturbed:
        line(f"{report.n_disturbed} of {len(report.runs)} runs were disturbed or too short and are not used")
    for note in report.notes:
        line(f"note: {note}")
    verdict = report.verdict
    if verdict is None:
        line("verdict: there was nothing to compare.")
        return
    for one in report.comparisons:
        if (one.setup, one.base) == (verdict.setup, verdict.base) and one.task != verdict.task:
            line(f"{one.task}: {one.sentence}")
    line(f"verdict: {verdict.sentence}")


def _cells(row: SetupFigures, tasks: list[str]) -> list[str]:
    tps, seen = row.decode_tps, row.memory.resident if row.memory else None
    by_task = [f"{value.median:,.1f}" if (value := row.by_task.get(task)) else "-" for task in tasks]
    return [
        row.setup.id,
        f"{tps.median:,.1f}" if tps else "-",
        f"{tps.low:,.1f} to {tps.high:,.1f}" if tps else "-",
        *(by_task if len(tasks) > 1 else []),
        " ".join(f"{100 * rate:.0f}%" for rate in row.acceptance) if row.acceptance else "-",
        f"{row.mean_length:.2f}" if row.mean_length else "-",
        f"{row.prompt_tps.median:,.0f}" if row.prompt_tps else "-",
        size(seen.peak_bytes) if seen else "-",
    ]
