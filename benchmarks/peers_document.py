"""The table and the plot of docs/performance.md, made from the raw values of `peers.py`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, PLOT = DOCS / "performance.md", DOCS / "peers.svg"
BEGIN, END = "<!-- benchmarks/peers.py: begin -->", "<!-- benchmarks/peers.py: end -->"
Row = dict[str, Any]
INNER = ("open a header", "open a set", "quantize")  # shown without the start of the process
COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#bf8700", "#57606a")


def write(values: dict[str, Any]) -> None:
    """Put table, targets and conditions between the marks of the page, and draw the plot."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    rows: list[Row] = values["rows"]
    text = f"{conditions(values)}\n\n{targets(rows)}\n\n{table(rows)}\n"
    PAGE.write_text(f"{before}{BEGIN}\n{text}{END}{after}")
    PLOT.write_text(plot(rows))


def of(rows: Iterable[Row], what: str, who: str, size: str | None = None) -> list[Row]:
    """The rows of one contestant in one case."""
    return [row for row in rows if row["what"] == what and row["who"] == who and (size is None or row["size"] == size)]


def median(rows: Iterable[Row], key: str) -> float | None:
    """The median of what all of the rows have."""
    found = [row[key] for row in rows if key in row]
    return statistics.median(found) if found else None


def seconds(rows: list[Row]) -> float | None:
    """The median time that a row shows: without the start of the process where that is what is compared."""
    return median(rows, "inner_s" if rows and rows[0]["what"] in INNER else "wall_s")


def conditions(values: dict[str, Any]) -> str:
    """When, with what and on what the values were measured."""
    versions, machine = values["versions"], values["machine"]
    shown = ", ".join(f"{name} {number}" for name, number in versions.items())
    note = f" {values['note'].strip()}" if values.get("note") else ""
    load = f"load average {machine['load_at_end']:.1f} at the end"
    return wrapped(
        f"{values['date']}, {shown}, on {machine['n_cpus']} cores of a shared {machine['cpu']} machine, "
        f"{machine['system']}, {load}.{note}"
    )


def wrapped(text: str, width: int = 130) -> str:
    """The text in lines."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


# -- targets -------------------------------------------------------------------------------------------------


def targets(rows: list[Row]) -> str:
    """What was aimed at, and what was measured."""
    vocabulary, many = "248,320 tokens", "200,000 tensors"
    out: list[tuple[str, str, str, bool | None]] = []

    def add(what: str, goal: str, value: float | None, is_met: bool, unit: str = "x") -> None:
        if value is not None:
            out.append((what, goal, f"{value:.2f}{unit}" if value < 10 else f"{value:,.0f}{unit}", is_met))

    def ratio(what: str, over: str, under: str, size: str, key: str | None = None, below: str = "") -> float | None:
        first, second = of(rows, what, over, size), of(rows, below or what, under, size)
        one = median(first, key) if key else seconds(first)
        other = median(second, key) if key else seconds(second)
        return None if one is None or other is None else one / other

    for size in (vocabulary, "20,000 tensors"):
        value = ratio("open a header", "nextn", "ggml (C)", size)
        add(f"opening a header of {size}, time relative to ggml's C reader", "at most 1.1x", value, (value or 9) <= 1.1)
    value = ratio("open a header", "gguf-py", "nextn", vocabulary)
    add(f"gguf-py's time to open {vocabulary}, relative to nextn's", "at least 200x", value, (value or 0) >= 200)
    for size in (vocabulary, many):
        value = ratio("open a header", "nextn inspect", "nextn", size)
        add(f"`inspect` of {size}, relative to opening, without process start", "at most 2x", value, (value or 9) <= 2)
    for what in ("attach, shards", "attach, in place"):
        value = ratio_of_sizes(rows, what)
        add(f"{what}, largest trunk relative to 1 GB", "at most 1.2x", value, (value or 9) <= 1.2)
    size = last_size(rows, "attach, bundle")
    value = ratio("attach, bundle", "nextn", "cp", size)
    add(f"attach, bundle of {size}, relative to `cp` and `sync`", "at most 1.1x", value, (value or 9) <= 1.1)
    size = last_size(rows, "extract, checkpoint")
    value = ratio("extract, checkpoint", "converter --mtp", "nextn", size)
    add(f"converter's time to extract from {size}, relative to nextn's", "at least 5x", value, (value or 0) >= 5)
    value = ratio("extract, checkpoint", "converter --mtp", "nextn", size, "peak_bytes")
    add(f"converter's memory to extract from {size}, relative to nextn's", "at least 10x", value, (value or 0) >= 10)
    for size in dict.fromkeys(row["size"] for row in rows if row["what"] == "quantize"):
        ours = next((row["who"] for row in rows if row["size"] == size and row["who"].startswith("nextn,")), "")
        value = ratio("quantize", "ggml, 1 thread", ours, size)
        if value is not None:
            n_threads = int(ours.split()[1])
            value /= n_threads
            add(f"quantize to {size}, {n_threads} threads, share of {n_threads} times ggml's speed on one",
                "at least 90 %", value * 100, value >= 0.9, " %")  # fmt: skip
    lines = ["| target | goal | measured | met |", "| --- | --- | --- | --- |"]
    lines += [f"| {what} | {goal} | {shown} | {'yes' if is_met else 'no'} |" for what, goal, shown, is_met in out]
    return "\n".join(lines)


def last_size(rows: list[Row], what: str) -> str:
    """The largest size of a case."""
    found = [row for row in rows if row["what"] == what]
    return str(max(found, key=lambda row: row["x"])["size"]) if found else ""


def ratio_of_sizes(rows: list[Row], what: str) -> float | None:
    """The time on the largest trunk relative to that on the smallest."""
    sizes = sorted({row["x"]: row["size"] for row in rows if row["what"] == what and "GB" in row["size"]}.items())
    if len(sizes) < 2:
        return None
    small, large = (seconds(of(rows, what, "nextn", size)) for size in (sizes[0][1], sizes[-1][1]))
    return None if not small or not large else large / small


# -- table ---------------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """One line per case and contestant, medians of all rounds."""
    lines = [
        "| what | size | by | time | CPU | peak memory | read | written | fetched |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    seen = ("", "")
    order = {what: i for i, what in enumerate(dict.fromkeys(row["what"] for row in rows))}
    for key in sorted(dict.fromkeys((row["what"], row["size"], row["who"]) for row in rows), key=lambda k: order[k[0]]):
        what, size, who = key
        mine = of(rows, what, who, size)
        same = (what, size) == seen
        seen = (what, size)
        fetched = median(mine, "fetched_bytes")
        lines.append(
            f"| {'' if same else what} | {'' if same else size} | {who} | {time_text(seconds(mine) or 0)} "
            f"| {time_text(median(mine, 'cpu_s') or 0)} | {(median(mine, 'peak_bytes') or 0) / 1e6:,.0f} MB "
            f"| {amount(median(mine, 'read_bytes') or 0)} | {amount(median(mine, 'written_bytes') or 0)} "
            f"| {'' if fetched is None else amount(fetched)} |"
        )
    return "\n".join(lines)


def time_text(value: float) -> str:
    """Seconds, or milliseconds of short times."""
    return f"{value * 1e3:,.0f} ms" if value < 1 else f"{value:,.1f} s"


def amount(value: float) -> str:
    """Bytes in MB."""
    n_mb = value / 1e6
    return f"{n_mb:,.0f} MB" if n_mb >= 10 else f"{n_mb:.1f} MB"


# -- plot ----------------------------------------------------------------------------------------------------

LEFT, TOP, WIDTH, HEIGHT, APART = 70, 50, 360, 300, 210
BY_SIZE = (
    ("attach, shards", "nextn", "attach, shards"),
    ("attach, sidecar", "nextn", "attach, sidecar"),
    ("attach, in place", "nextn", "attach, in place"),
    ("attach, bundle", "nextn", "attach, bundle"),
    ("attach, bundle", "cp", "cp"),
    ("attach, bundle", "gguf-py", "gguf-py"),
)
BY_SHARDS = (
    ("attach, shards", "nextn", "attach, shards"),
    ("detach, shards", "nextn", "detach, shards"),
    ("open a set", "nextn", "open, nextn"),
    ("open a set", "ggml (C)", "open, ggml (C)"),
    ("open a set", "gguf-py", "open, gguf-py"),
)


def plot(rows: list[Row]) -> str:
    """Time over the size of the trunk, and over the number of shards, both axes logarithmic."""
    of_size = [row for row in rows if "GB" in row["size"]]
    of_shards = [row for row in rows if "shards" in row["size"]]
    n_wide = 2 * (LEFT + WIDTH + APART) - 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {n_wide} {TOP + HEIGHT + 60}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        *panel(of_size, BY_SIZE, LEFT, "Time by size of the trunk", "GB"),
        *panel(of_shards, BY_SHARDS, LEFT * 2 + WIDTH + APART - 40, "Time by number of shards", "shards"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def panel(rows: list[Row], lines: Iterable[tuple[str, str, str]], left: int, title: str, unit: str) -> list[str]:
    """Axes, grid, and a line with its name per contestant."""
    series: list[tuple[str, list[tuple[float, float]]]] = []
    for what, who, name in lines:
        mine = of(rows, what, who)
        sizes = sorted({row["x"]: row["size"] for row in mine}.items())
        points = [(x, seconds(of(rows, what, who, size)) or 0) for x, size in sizes]
        if points:
            series.append((name, points))
    if not series:
        return []
    xs = [x for _, points in series for x, _ in points]
    ys = [y for _, points in series for _, y in points]
    x_low, x_high = math.floor(math.log10(min(xs))), math.log10(max(xs)) + 0.05
    y_low, y_high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def across(x: float) -> float:
        return left + WIDTH * (math.log10(x) - x_low) / (x_high - x_low)

    def down(y: float) -> float:
        return TOP + HEIGHT * (y_high - math.log10(y)) / (y_high - y_low)

    out = [f'<text x="{left}" y="{TOP - 20}" font-size="16" font-weight="bold">{title}</text>']
    for power in range(y_low, y_high + 1):
        y = down(10.0**power)
        label = next(f"{10 ** (power + n):,} {name}" for n, name in ((0, "s"), (3, "ms"), (6, "µs")) if power + n >= 0)
        out.append(f'<path d="M{left} {y:.1f}h{WIDTH}" stroke="#d0d7de"/>')
        out.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for power in range(x_low, math.floor(x_high) + 1):
        x = across(10.0**power)
        label = f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"
        out.append(f'<path d="M{x:.1f} {TOP}v{HEIGHT}" stroke="#d0d7de"/>')
        out.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{label}</text>')
    out.append(f'<text x="{left + WIDTH / 2}" y="{TOP + HEIGHT + 42}" text-anchor="middle">{unit}</text>')
    for i, (name, points) in enumerate(series):
        color = COLORS[i]
        path = "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if "nextn" not in name and not name.startswith(("attach", "detach")) else ""
        out.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        out += [f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="3.5" fill="{color}"/>' for x, y in points]
    # Names are in the order of the lines' ends, far enough apart to be read.
    at = TOP
    for i in sorted(range(len(series)), key=lambda i: down(series[i][1][-1][1])):
        name, points = series[i]
        at = max(at + 18, int(down(points[-1][1])) + 4)
        out.append(f'<text x="{left + WIDTH + 10}" y="{at}" fill="{COLORS[i]}">{name}</text>')
    return out
