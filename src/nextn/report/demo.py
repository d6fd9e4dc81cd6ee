"""The demo's table."""

from __future__ import annotations

import sys

from ..units import size
from ..verbs.demo import DemoResult
from .outlet import console as console_of


def show(demo: DemoResult, *, quiet: bool = False) -> None:
    """What the engine said about the bare trunk, and one row per layout."""
    from rich.table import Table

    console = console_of(width=None if sys.stdout.isatty() else 110)
    console.print(f"engine: {demo.engine}", highlight=False)
    console.print(f"trunk alone, asked to draft: {demo.refusal or 'not refused'}", highlight=False)
    table = Table()
    for title in ("layout", "written", "seconds", "same text", "accepted by position", "tokens/s off", "on", "verdict"):
        table.add_column(title, justify="right" if title in ("written", "seconds", "tokens/s off") else "left")
    for row in demo.rows:
        accepted = "\n".join(
            f"{n_max}: " + " ".join(f"{100 * share:.0f}%" for share in shares)
            for n_max, shares in row.acceptance.items()
        )
        speed = "\n".join(f"{n_max}: {tps:,.0f}" for n_max, tps in row.tps_on.items())
        table.add_row(
            row.layout,
            size(row.bytes_written),
            f"{row.wall_s:.3f}",
            {True: "yes", False: "no", None: "-"}[row.same_text],
            accepted,
            f"{row.tps_off:,.0f}",
            speed,
            row.verdict,
        )
    console.print(table)
    for row in demo.rows:
        for reason in row.reasons if row.verdict != "passed" else ():
            console.print(f"{row.layout}: {reason}", highlight=False, markup=False)
