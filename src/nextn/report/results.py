"""Results of other verbs (their `--json`) read back as sections of tables and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import FormatError, StorageError
from ..printable import shell_line
from ..units import size


@dataclass(frozen=True)
class TextTable:
    """A table of text cells, with a caption that says what it shows."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """What one result file says."""

    title: str
    summary: tuple[str, ...]
    tables: tuple[TextTable, ...] = ()
    plots: tuple[dict[str, Any], ...] = ()
    """What the page draws: {"kind": "memory" | "acceptance" | "speed" | "bytes", ...}."""
    commands: tuple[str, ...] = field(default=())
    rank: int = 0
    """Its place on the page: the smallest first, of equals in the order given."""


def read_results(paths: Sequence[str | Path]) -> list[Section]:
    """A section a file: what the model is first, how it serves last.

    Raises StorageError, and FormatError for what no verb of nextn wrote.
    """
    return sorted((read_result(Path(path)) for path in paths), key=lambda section: section.rank)


def read_result(path: Path) -> Section:
    """What `path` holds, told by its keys."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path}: cannot read the result: {error.strerror or error}.") from error
    except ValueError as error:
        raise FormatError("this is no JSON; name a file that a verb's --json wrote", path=path) from error
    if not isinstance(data, dict):
        raise FormatError("this is JSON of another kind; name a file that a verb's --json wrote", path=path)
    if data.get("version") != 1:
        raise FormatError(f"its version is {data.get('version')!r}, and this nextn reads version 1", path=path)
    for keys, read in _KINDS:
        if keys <= data.keys():
            try:
                return replace(read(data), rank=_ORDER.index(read))
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                raise FormatError(
                    f"a part of this result is missing or odd ({error!r}); make it again", path=path
                ) from error
    raise FormatError("no verb that report knows wrote this; it takes inspect, doctor, attach, extract, detach, "
                      "verify, plan, bench, tune and serve", path=path)  # fmt: skip


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _name(path: object) -> str:
    return Path(str(path)).name


def _inspect(data: dict[str, Any]) -> Section:
    rows = [
        ("path", str(data["path"])),
        ("shape", str(data["shape"])),
        ("architecture", str(data["architecture"])),
        ("trunk layers", str(data["n_layer_trunk"])),
        ("MTP blocks", f"{data['n_layer_nextn']} ({size(data['block_bytes'])})" if data["n_layer_nextn"] else "none"),
        ("size", f"{size(data['size_bytes'])} in {data['n_files']} file(s)"),
        *((f"on {engine}", str(what)) for engine, what in data["runs_on"].items()),
        *(("problem", str(problem)) for problem in data["problems"]),
    ]
    types = tuple((str(name), size(n)) for name, n in data["types"].items())
    return Section(
        f"Model: {data['name'] or _name(data['path'])}",
        (f"{data['shape']}, {size(data['size_bytes'])}",),
        (
            TextTable("What the model is", ("what", "value"), tuple(rows)),
            TextTable("Bytes by type", ("type", "bytes"), types),
        ),
    )


def _written(data: dict[str, Any]) -> Section:
    rows, bars = [], []
    for file in data["files"]:
        ranges = file.get("ranges") or [
            {"what": "linked" if file["how"] == "link" else "new", "size_bytes": file["size_bytes"]}
        ]
        start = 0
        for part in ranges:
            end = start + int(part["size_bytes"])
            rows.append((_name(file["path"]), str(part["what"]), f"{start:,}", f"{end:,}", size(part["size_bytes"])))
            start = end
        bars.append({"name": _name(file["path"]), "ranges": ranges})
    would = "would write" if data["dry_run"] else "wrote"
    linked, read = size(data["bytes_linked"]), size(data["bytes_read"])
    commands = []
    if data["sidecar"] and data["sidecar"] != data["entry"]:
        commands.append(shell_line(["nextn", "serve", data["entry"], "--sidecar", data["sidecar"]]))
    elif data["layout"] in ("bundle", "shards", "trunk-only"):
        commands.append(shell_line(["nextn", "serve", data["entry"]]))
    return Section(
        f"Files: {data['verb']} as {data['layout']}",
        (f"{would} {size(data['bytes_written'])}, linked {linked} without touching its bytes, read {read}",),
        (TextTable("Byte ranges (end exclusive)", ("file", "what", "start", "end", "size"), tuple(rows)),),
        ({"kind": "bytes", "files": bars},),
        tuple(commands),
    )


def _acceptance_table(by: dict[str, Sequence[float]]) -> TextTable:
    most = max((len(shares) for shares in by.values()), default=0)
    rows = tuple((name, *(_percent(x) for x in shares), *[""] * (most - len(shares))) for name, shares in by.items())
    return TextTable(
        "Share of drafts accepted at position 1, 2, ...", ("setup", *(f"{i + 1}" for i in range(most))), rows
    )


def _verify(data: dict[str, Any]) -> Section:
    by = {f"n_max {n_max}": shares for n_max, shares in data["acceptance"].items()}
    words = {"passed": "PASSED", "failed": "FAILED"}.get(data["verdict"], "CANNOT TELL")
    return Section(
        f"Verified: {_name(data['model'])}",
        (words, *map(str, data["reasons"])),
        (_acceptance_table(by),) if by else (),
        ({"kind": "acceptance", "series": by},) if by else (),
    )


# Columns as in the terminal's table -> the parts of a plan that they add up.
_MEMORY = {"weights": ("weights", "repacked"), "KV cache": ("kv_cache",), "recurrent": ("recurrent",),
           "compute": ("compute", "output"), "total": ("total",)}  # fmt: skip


def _parts(use: dict[str, Any]) -> tuple[str, ...]:
    return tuple(size(sum(use[f"{part}_bytes"] for part in parts)) for parts in _MEMORY.values())


def _known(n_bytes: int | None) -> str:
    return "-" if n_bytes is None else size(n_bytes)


def _plan(data: dict[str, Any]) -> Section:
    rows: list[tuple[str, ...]] = []
    plotted = []
    for setup in data["setups"]:
        title, devices = str(setup["title"]), setup["devices"]
        if not setup["available"]:
            rows.append((title, str(setup["why_not"] or "not possible"), *[""] * (len(_MEMORY) + 2)))
            continue
        fits = {True: "yes", False: "no", None: "not known"}[setup["fits"]]
        longest = setup["max_n_ctx"]
        end = (fits, "-" if longest is None else f"{longest:,}" if longest else "none")
        for i, use in enumerate(devices):
            name = title if len(devices) == 1 else f"{title}: {use['device']}"
            disk = _known(setup["disk_bytes"]) if i == 0 else ""
            rows.append((name, disk, *_parts(use), *(end if i == 0 else ("", ""))))
            plotted.append({"title": name, "linear": [use["linear"]]})
        if setup["measured"] is not None:
            rows.append((f"{title}, measured", "", *_parts(setup["measured"]), "", ""))
    n_ctx = data["settings"]["n_ctx"]
    head = ("setup", "disk", *_MEMORY, "fits", "longest context")
    tables = [TextTable(f"Memory by setup at a context of {n_ctx:,} tokens", head, tuple(rows)), _disk(data)]
    plot = {
        "kind": "memory",
        "n_ctx": n_ctx,
        "n_ctx_train": data["n_ctx_train"],
        "n_parallel": data["settings"]["n_parallel"],
        "setups": plotted,
    }
    said = (*map(str, data["answers"]), *(f"note: {note}" for note in data["notes"]))
    return Section(f"Memory: {_name(data['model'])}", said, tuple(tables), (plot,))


def _disk(data: dict[str, Any]) -> TextTable:
    """What each setup takes on disk, and what publishing with and without MTP does."""
    rows = [
        (str(one["title"]), str(len(one["files"])), _known(one["disk_bytes"]), _known(one["disk_new_bytes"]))
        for one in data["setups"]
        if one["available"]
    ]
    shared = data["publishing"]
    if shared is not None:
        rows.append(("published with and without MTP, as separate files", "", size(shared["separate_bytes"]), ""))
        if shared["how"] is not None:
            how = {"sidecar": "trunk and sidecar", "shards": "shards"}[shared["how"]]
            rows.append((f"published with and without MTP, as {how}", "", size(shared["shared_bytes"]), ""))
    return TextTable("Disk", ("setup", "files", "all files", "of these to be written"), tuple(rows))


def _spread(value: dict[str, Any] | None) -> str:
    if not value or value.get("median") is None:
        return "-"
    low, high = value.get("low"), value.get("high")
    return _figure(value["median"]) + ("" if low is None or high is None else f" ({_figure(low)} to {_figure(high)})")


def _figure(value: float) -> str:
    """Three digits or more, never an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}"


def _bench(data: dict[str, Any]) -> Section:
    timed = [one for one in data["setups"] if one["decode_tps"] is not None]
    bars = [{"name": one["id"], **{key: one["decode_tps"][key] for key in ("median", "low", "high")}} for one in timed]
    series = {one["id"]: one["acceptance"] for one in data["setups"] if one["acceptance"]}
    plots: list[dict[str, Any]] = []
    if bars:
        plots.append({"kind": "speed", "bars": bars})
    if series:
        plots.append({"kind": "acceptance", "series": series})
    verdict = data["verdict"]
    said = [verdict["sentence"] if verdict else "There was nothing to compare."]
    said.append(f"{data['n_disturbed']} of {len(data['runs'])} runs were disturbed or too short and are not used.")
    said += [note for note in data["notes"] if note not in said]
    tasks = sorted({task for one in data["setups"] for task in one["decode_tps_by_task"]})
    rows = tuple(
        (
            one["id"],
            *map(_spread, (one["decode_tps"], *(one["decode_tps_by_task"].get(task) for task in tasks))),
            _spread(one["prompt_tps"]),
            "-" if one["mean_length"] is None else f"{one['mean_length']:.2f}",
        )
        for one in data["setups"]
    )
    head = ("setup", "all tasks", *tasks, "prompt", "tokens a step")
    tables = [TextTable("Tokens per second: median (spread)", head, rows)]
    compared = tuple(
        (one["setup"], one["base"], one["task"], one["word"].replace("_", " "), _ratio(one), str(one["n_pairs"]))
        for one in data["comparisons"]
    )
    if compared:
        columns = ("setup", "against", "task", "verdict", "times as fast (low to high)", "pairs")
        tables.append(TextTable("Comparisons", columns, compared))
    if series:
        tables.append(_acceptance_table(series))
    return Section(f"Speed: {_name(data['model'])}", tuple(said), tuple(tables), tuple(plots))


def _ratio(one: dict[str, Any]) -> str:
    return "-" if one["ratio"] is None else f"{one['ratio']:.2f} ({one['ratio_low']:.2f} to {one['ratio_high']:.2f})"


def _tune(data: dict[str, Any]) -> Section:
    keys = ("n_max", "p_min", "threads", "args")
    rows = tuple((key, str(data[key])) for key in keys if data.get(key) is not None)
    model = data.get("model")
    commands = () if model is None else (shell_line(["nextn", "serve", str(model)]),)
    said = "leave MTP off" if data["n_max"] == 0 else f"draft up to {data['n_max']} tokens at a time"
    if "answer" in data:
        said = data["answer"]["sentence"]
    return Section("Tuned settings", (said,), (TextTable("Settings", ("what", "value"), rows),), (), commands)


def _doctor(data: dict[str, Any]) -> Section:
    found = data["findings"]
    n = sum(one["severity"] != "note" for one in found)
    said = [f"{n} problem{'s' if n > 1 else ''}" if n else "no problems"]
    said += [str(note) for note in data["notes"]]
    said += [f"not checked: {one['check']}: {one['why']}" for one in data["skipped"]]
    rows = tuple((str(one["severity"]), str(one["id"]), str(one["what"]), str(one["mend"])) for one in found)
    table = TextTable("Findings", ("severity", "finding", "what", "what mends it"), rows)
    return Section(f"Examined: {_name(data['path'])}", tuple(said), (table,) if rows else ())


def _serve(data: dict[str, Any]) -> Section:
    return Section(f"Serving: {_name(data['model'])}", (*map(str, data["notes"]),), commands=(str(data["shell"]),))


_KINDS = (
    ({"verdict", "same_text", "acceptance"}, _verify),
    ({"setups", "publishing"}, _plan),
    ({"setups", "runs", "verdict"}, _bench),
    ({"findings", "skipped"}, _doctor),
    ({"shell", "command"}, _serve),
    ({"shape", "runs_on"}, _inspect),
    ({"verb", "files", "layout", "entry"}, _written),
    ({"n_max"}, _tune),
)
_ORDER = (_inspect, _doctor, _written, _plan, _verify, _bench, _tune, _serve)
