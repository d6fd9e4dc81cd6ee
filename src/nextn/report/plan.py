"""The table of setups, and the user's questions answered in sentences."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..printable import one_line
from ..units import size
from .outlet import console as console_of

if TYPE_CHECKING:
    from ..memory.measured import Measured
    from ..memory.memory_plan import MemoryPlan, SetupCost

COLUMNS = ("disk", "weights", "KV cache", "recurrent", "compute", "total")


def show(plan: MemoryPlan, *, quiet: bool = False) -> None:
    """Print the table on standard output; it fits 80 columns."""
    from rich.table import Table

    console = console_of(width=None if sys.stdout.isatty() else 100, highlight=False)
    keys, values = plan.settings.kv_type_k.name, plan.settings.kv_type_v.name
    types = keys if keys == values else f"{keys}, {values}"
    settings = plan.settings
    many = f", {settings.n_parallel} sequences" if settings.n_parallel > 1 else ""
    console.print(one_line(str(plan.name)), markup=False)
    console.print(
        f"n_ctx {settings.n_ctx:,}, KV cache {types}, n_max {settings.n_max}{many}; "
        f"figures: {_source(plan)}", markup=False
    )  # fmt: skip
    table = Table(pad_edge=False)
    table.add_column("setup")
    for title in COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for row in plan.rows:
        _rows(table.add_row, row)
    console.print(table)
    for text in (*plan.answers, *_notes(plan)):
        console.print(text, markup=False)


def _source(plan: MemoryPlan) -> str:
    sources = {row.prediction.source for row in plan.rows if row.prediction is not None}
    if sources == {"engine"}:
        return f"{plan.engine}, without loading"
    return "headers" if sources == {"header"} else f"{plan.engine} and headers"


def _rows(add: Callable[..., None], row: SetupCost) -> None:
    found = row.prediction
    if found is None:
        add(row.title, *["n/a"] * len(COLUMNS))
        return
    for i, use in enumerate(found.devices):
        title = row.title if i == 0 and len(found.devices) == 1 else f"{row.title}: {use.device}" if i == 0 else (
            f"  {use.device}"
        )
        add(
            title,
            size(row.setup.disk_bytes) if i == 0 else "",
            size(use.weights_bytes + use.repacked_bytes),
            size(use.kv_cache_bytes),
            size(use.recurrent_bytes),
            size(use.compute_bytes + use.output_bytes),
            size(use.total_bytes),
        )
    if row.measured is not None:
        _measured(add, row.measured)


def _measured(add: Callable[..., None], found: Measured) -> None:
    add(
        "  measured",
        "",
        size(found.weights_bytes + found.repacked_bytes),
        size(found.kv_cache_bytes),
        size(found.recurrent_bytes),
        size(found.compute_bytes + found.output_bytes),
        size(found.total_bytes),
    )


def _notes(plan: MemoryPlan) -> list[str]:
    out = []
    repacked = max((row.prediction.sum("repacked_bytes") for row in plan.rows if row.prediction), default=0)
    if repacked:
        out.append(
            f"note: up to {size(repacked)} of weights count twice: the CPU keeps a rearranged copy, and their pages of "
            "the file can be dropped when memory is short"
        )
    for row in plan.rows:
        if row.measured is not None and row.measured.rss_anonymous_bytes is not None:
            measured = row.measured
            out.append(
                f"{row.title}: process of {size(measured.rss_anonymous_bytes or 0)} anonymous and "
                f"{size(measured.rss_file_bytes or 0)} file-backed, peak {size(measured.peak_bytes or 0)}"
            )
    why = dict.fromkeys(row.setup.why_not for row in plan.rows if row.setup.why_not)
    out += [f"n/a: {text}" for text in why]
    out += [f"note: {text}" for text in dict.fromkeys([*plan.notes, *(n for row in plan.rows for n in row.notes)])]
    return out
