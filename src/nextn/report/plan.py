"""The table of setups, and the user's questions answered in sentences."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from .text import size

if TYPE_CHECKING:
    from ..memory.measured import Measured
    from ..verbs.plan import MemoryPlan, Row

COLUMNS = ("disk", "weights", "KV cache", "recurrent", "compute", "total")


def answers(plan: MemoryPlan) -> tuple[str, ...]:
    """Does an unused block cost memory, how much does a used one, does it fit, what does publishing cost."""
    out = []
    unused, used = plan.difference("bundled_off", "no_mtp"), plan.difference("bundled_on", "no_mtp")
    beside = plan.difference("sidecar", "no_mtp")
    if unused is not None:
        out.append(
            "an unused block costs no memory"
            if unused <= 0
            else f"an unused block costs {size(unused)} of memory"
        )
    if used is not None:
        more = f", with a sidecar {size(beside)}" if beside is not None else ""
        out.append(f"drafting costs {size(used)} of memory bundled{more} (n_max {plan.settings.n_max})")
    out += _fit(plan)
    if plan.publishing is not None and plan.publishing["how"] is not None:
        shared = plan.publishing
        how = {"sidecar": "with a sidecar", "shards": "as shards"}[shared["how"]]
        out.append(
            f"publishing with and without MTP takes {size(shared['separate_bytes'])} as separate files and "
            f"{size(shared['shared_bytes'])} {how}"
        )
    return tuple(out)


def _fit(plan: MemoryPlan) -> list[str]:
    machine = plan.machine
    if machine.ram_bytes is None and machine.gpu_memory_bytes is None:
        return ["whether it fits is not known: neither this machine's memory nor --gpu-memory is"]
    where = [f"{size(machine.ram_bytes)} of main memory"] if machine.ram_bytes is not None else []
    where += [f"{size(machine.gpu_memory_bytes)} of GPU memory"] if machine.gpu_memory_bytes is not None else []
    out = []
    for title, rows in _same_fit(plan):
        longest = rows[0].max_n_ctx
        verb = "fits" if rows[0].fits else "does not fit"
        if longest is None:
            continue
        trained = plan.model.arch_int("context_length")
        most = "what the model was trained on" if trained and longest >= trained else "the most that fits"
        tail = f"n_ctx up to {longest:,} ({most})" if longest else "no context fits"
        out.append(f"{title}: {verb} in {' and '.join(where)} at n_ctx {plan.settings.n_ctx:,}; {tail}")
    return out


def _same_fit(plan: MemoryPlan) -> list[tuple[str, list[Row]]]:
    """Setups with the same answer, together."""
    groups: dict[tuple[bool | None, int | None], list[Row]] = {}
    for row in plan.rows:
        if row.prediction is not None:
            groups.setdefault((row.fits, row.max_n_ctx), []).append(row)
    if len(groups) == 1:
        return [("every setup", next(iter(groups.values())))]
    return [("; ".join(row.title for row in rows), rows) for rows in groups.values()]


def show(plan: MemoryPlan) -> None:
    """Print the table on standard output; it fits 80 columns."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 100, highlight=False)
    keys, values = plan.settings.kv_type_k.name, plan.settings.kv_type_v.name
    types = keys if keys == values else f"{keys}, {values}"
    settings = plan.settings
    many = f", {settings.n_parallel} sequences" if settings.n_parallel > 1 else ""
    console.print(f"{plan.name}", markup=False)
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


def _rows(add: Callable[..., None], row: Row) -> None:
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
            f"note: weights count up to {size(repacked)} twice: the CPU keeps them rearranged, and their pages of the "
            "file can be dropped when memory is short"
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
