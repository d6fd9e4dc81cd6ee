"""Documents as sections of tables and plots: what `nextn report` shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import UnsetType

from ..errors import FormatError, StorageError, UsageError
from ..gguf import strangers
from ..gguf.header import MAGIC
from ..schemas.base import plain
from ..schemas.bench import BenchDocument
from ..schemas.doctor import DoctorDocument
from ..schemas.inspect import InspectDocument
from ..schemas.plan import Columns, PlanDocument
from ..schemas.reading import read_document
from ..schemas.timing import Computer, SpreadFigures
from ..schemas.tune import TuneDocument
from ..schemas.verify import VerifyDocument
from ..schemas.worth import CurvePoint, WorthDocument
from ..schemas.written import WritingDocument
from ..shell import shell
from ..units import counted, size
from . import first_hour
from . import other_sections as others
from .draft_facts import draft_facts
from .other_sections import percent, rate, ratio
from .section import Section, TextTable, Tone
from .training_section import train

# Kinds that have a section, in the order in which sections are shown.
KINDS = (
    "scan", "inspect", "doctor", "pull", "attach", "extract", "detach", "explode", "assemble", "recover", "pack",
    "plan", "worth", "verify", "bench", "tensors", "tune", "train", "serve", "up", "demo", "cache", "report",
    "error",
)  # fmt: skip


def read_sections(paths: Sequence[str | Path], left_out: list[str] | None = None) -> list[Section]:
    """One section per file: first what the model is, last how it is served. A folder stands for the documents in it.

    `left_out` gets a sentence about each .json file in a folder that is not one. Raises StorageError, FormatError for
    anything but a document of one of KINDS, and UsageError for a folder without any.
    """
    found = [section for path in map(Path, paths) for section in _read(path, [] if left_out is None else left_out)]
    return sorted(found, key=lambda section: section.rank)


def _read(path: Path, left_out: list[str]) -> list[Section]:
    """The document's section, or those of the documents that a folder holds."""
    if not path.is_dir():
        return [read_section(path)]
    found = []
    others = len(left_out)
    for file in sorted(path.glob("*.json")):
        try:
            found.append(read_section(file))
        except (FormatError, StorageError) as error:
            left_out.append(str(error))
    if not found:
        why = f" ({left_out[others]})" if left_out[others:] else ""
        raise UsageError(f"{path}: there is no document in this folder that --json of a nextn command wrote{why}.")
    return found


def read_section(path: Path) -> Section:
    """What the document in `path` says. Raises StorageError, FormatError."""
    _refuse_model(path)
    document = read_document(path, KINDS)
    kind = str(type(document).__struct_config__.tag)
    return replace(_MAKERS[kind](document), rank=KINDS.index(kind), made=path.stat().st_mtime)


def _refuse_model(path: Path) -> None:
    """Raise FormatError for a model, and for a pointer to a file, however large it is."""
    head = b""
    with suppress(OSError):  # `read_document` says what cannot be opened
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(strangers.MOST_BYTES)
    if head.startswith(MAGIC):
        raise FormatError("this is a GGUF, not a nextn document; name a file that --json wrote", path=path)
    if strangers.is_pointer(head):
        raise FormatError(strangers.by_content(head) or "", path=path)


def _name(path: str) -> str:
    return Path(path).name


def _known(n_bytes: int | None) -> str:
    return "-" if n_bytes is None else size(n_bytes)


def _inspect(data: InspectDocument) -> Section:
    rows = [
        ("path", data.path),
        ("shape", data.shape),
        ("architecture", data.architecture),
        *(
            [
                ("trunk layers", str(data.n_layer_trunk or "not known")),
                ("MTP blocks", f"{data.n_layer_nextn} ({size(data.block_bytes)})" if data.n_layer_nextn else "none"),
            ]
            if data.draft is None
            else draft_facts(data.draft, data.n_layer_nextn, data.n_vocab)
        ),
        *(("sidecar here", path) for path in data.sidecars),
        ("size", f"{_known(data.size_bytes)} in {counted(data.n_files, 'file')}"),
        *((f"on {engine}", what) for engine, what in data.runs_on.items()),
        *(("problem", problem) for problem in data.problems),
    ]
    types = tuple((name, size(n)) for name, n in data.types.items())
    return Section(
        f"Model: {data.name or _name(data.path)}",
        (f"{data.shape}, {_known(data.size_bytes)}",),
        (
            TextTable("What the model is", ("what", "value"), tuple(rows)),
            TextTable("Bytes by type", ("type", "bytes"), types),
        ),
    )


def _written(data: WritingDocument) -> Section:
    verb = str(type(data).__struct_config__.tag)
    layout: str = data.layout  # type: ignore[attr-defined]  # attach, detach and extract, each with its own values
    rows, bars = [], []
    for file in data.files:
        start = 0
        for part in file.ranges:
            end = start + part.size_bytes
            rows.append((_name(file.path), part.what, f"{start:,}", f"{end:,}", size(part.size_bytes)))
            start = end
        bars.append({"name": _name(file.path), "ranges": [plain(part) for part in file.ranges]})
    would = "would write" if data.dry_run else "wrote"
    linked, read = size(data.bytes_linked), size(data.bytes_read)
    commands = []
    if data.sidecar and data.sidecar != data.entry:
        commands.append(shell("nextn", "serve", Path(data.entry), "--sidecar", Path(data.sidecar)))
    elif layout in ("bundle", "shards", "trunk-only", "single"):
        commands.append(shell("nextn", "serve", Path(data.entry)))
    return Section(
        f"Files: {verb} as {layout}",
        (f"{would} {size(data.bytes_written)}, linked {linked} without touching its bytes, read {read}",),
        (TextTable("Byte ranges (end exclusive)", ("file", "what", "start", "end", "size"), tuple(rows)),),
        ({"kind": "bytes", "files": bars},),
        tuple(commands),
    )


def _acceptance_table(by: Mapping[str, Sequence[float]]) -> TextTable:
    most = max((len(shares) for shares in by.values()), default=0)
    rows = tuple((name, *(percent(x) for x in shares), *[""] * (most - len(shares))) for name, shares in by.items())
    head = ("setup", *(f"{i + 1}" for i in range(most)))
    return TextTable("Share of drafts accepted at position 1, 2, ...", head, rows)


def _verify(data: VerifyDocument) -> Section:
    by = {f"n_max {n_max}": shares for n_max, shares in data.acceptance.items()}
    words = {"passed": "PASSED", "failed": "FAILED", "cannot_tell": "CANNOT TELL"}[data.verdict]
    engine = data.engine
    return Section(
        f"Verified: {_name(data.model)}",
        (words, *data.reasons),
        (_acceptance_table(by),) if by else (),
        ({"kind": "acceptance", "series": by},) if by else (),
        badge=words,
        tone=_TONES[data.verdict],
        weight=3,
        engine="" if isinstance(engine, UnsetType) else f"{engine.name} {engine.version}",
    )


MEMORY_HEAD = ("weights", "KV cache", "recurrent", "compute", "total")  # columns as in the terminal's table


def _parts(use: Columns) -> tuple[str, ...]:
    sums = (
        use.weights_bytes + use.repacked_bytes,
        use.kv_cache_bytes,
        use.recurrent_bytes,
        use.compute_bytes + use.output_bytes,
        use.total_bytes,
    )
    return tuple(map(size, sums))


def _plan(data: PlanDocument) -> Section:
    rows: list[tuple[str, ...]] = []
    plotted = []
    for setup in data.setups:
        if not setup.available:
            rows.append((setup.title, setup.why_not or "not possible", *[""] * (len(MEMORY_HEAD) + 2)))
            continue
        fits = {True: "yes", False: "no", None: "not known"}[setup.fits]
        longest = setup.max_n_ctx
        end = (fits, "-" if longest is None else f"{longest:,}" if longest else "none")
        for i, use in enumerate(setup.devices):
            name = setup.title if len(setup.devices) == 1 else f"{setup.title}: {use.device}"
            disk = _known(setup.disk_bytes) if i == 0 else ""
            rows.append((name, disk, *_parts(use), *(end if i == 0 else ("", ""))))
            exact = [
                use.weights_bytes + use.repacked_bytes, use.kv_cache_bytes, use.recurrent_bytes,
                use.compute_bytes + use.output_bytes,
            ]  # fmt: skip
            plotted.append({"title": name, "linear": [plain(use.linear)], "exact": exact})
        if setup.measured is not None:
            rows.append((f"{setup.title}, measured", "", *_parts(setup.measured), "", ""))
    n_ctx = data.settings.n_ctx
    head = ("setup", "disk", *MEMORY_HEAD, "fits", "longest context")
    tables = [TextTable(f"Memory by setup at a context of {n_ctx:,} tokens", head, tuple(rows)), _disk(data)]
    plot = {
        "kind": "memory",
        "n_ctx": n_ctx,
        "n_ctx_train": data.n_ctx_train,
        "n_parallel": data.settings.n_parallel,
        "setups": plotted,
    }
    said = (*data.answers, *(f"note: {note}" for note in data.notes))
    return Section(f"Memory: {_name(data.model)}", said, tuple(tables), (plot,))


def _disk(data: PlanDocument) -> TextTable:
    """What each setup takes on disk, and what publishing both with and without MTP takes."""
    rows = [
        (one.title, str(len(one.files)), _known(one.disk_bytes), _known(one.disk_new_bytes))
        for one in data.setups
        if one.available
    ]
    shared = data.publishing
    if shared is not None:
        rows.append(("published with and without MTP, as separate files", "", size(shared.separate_bytes), ""))
        if shared.how is not None:
            how = {"sidecar": "trunk and sidecar", "shards": "shards"}[shared.how]
            rows.append((f"published with and without MTP, as {how}", "", _known(shared.shared_bytes), ""))
    return TextTable("Disk", ("setup", "files", "all files", "of these to be written"), tuple(rows))


def _spread(value: SpreadFigures | None) -> str:
    return "-" if value is None else f"{_figure(value.median)} ({_figure(value.low)} to {_figure(value.high)})"


def _figure(value: float) -> str:
    """Three digits or more, never an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}"


def _bench(data: BenchDocument) -> Section:
    bars = [
        {"name": one.id, "median": one.decode_tps.median, "low": one.decode_tps.low, "high": one.decode_tps.high}
        for one in data.setups
        if one.decode_tps is not None
    ]
    series = {one.id: one.acceptance for one in data.setups if one.acceptance}
    plots: list[dict[str, Any]] = []
    if bars:
        plots.append({"kind": "speed", "bars": bars})
    if series:
        plots.append({"kind": "acceptance", "series": series})
    said = [data.verdict.sentence if data.verdict else "There was nothing to compare."]
    said.append(f"{data.n_disturbed} of {counted(len(data.runs), 'run')} were disturbed or too short and are not used.")
    said += [note for note in data.notes if note not in said]
    tasks = sorted({task for one in data.setups for task in one.decode_tps_by_task})
    rows = tuple(
        (
            one.id,
            *map(_spread, (one.decode_tps, *(one.decode_tps_by_task.get(task) for task in tasks))),
            _spread(one.prompt_tps),
            "-" if one.mean_length is None else f"{one.mean_length:.2f}",
        )
        for one in data.setups
    )
    head = ("setup", "all tasks", *tasks, "prompt", "tokens per step")
    tables = [TextTable("Tokens per second: median (spread)", head, rows)]
    compared = tuple(
        (one.setup, one.base, one.task, one.word.replace("_", " "), ratio(one), str(one.n_pairs))
        for one in data.comparisons
    )
    if compared:
        columns = ("setup", "against", "task", "verdict", "times as fast (low to high)", "pairs")
        tables.append(TextTable("Comparisons", columns, compared))
    if series:
        tables.append(_acceptance_table(series))
    word = data.verdict.word if data.verdict else None
    return Section(
        f"Speed: {_name(data.model)}", tuple(said), tuple(tables), tuple(plots),
        badge="" if word is None else word.replace("_", " ").upper(), tone=_TONES.get(word or "", "plain"), weight=2,
        engine=f"{data.engine.name} {data.engine.version}", machine=_machine(data.machine),
    )  # fmt: skip


def _machine(where: Computer) -> str:
    return f"{where.cpu}, {counted(where.n_cpus, 'CPU')}, {where.system}"


def _worth(data: WorthDocument) -> Section:
    by_depth: dict[int, list[CurvePoint]] = {}
    for point in data.curve:
        by_depth.setdefault(point.depth, []).append(point)
    rows = tuple(
        (f"{depth:,}", str(one.n_tokens), f"{one.cost:.2f} ({one.low:.2f} to {one.high:.2f})")
        for depth, points in by_depth.items()
        for one in points
    )
    tables = [TextTable("Cost of a batch, in tokens with MTP off", ("context", "tokens", "cost (spread)"), rows)]
    needs = tuple(
        (n, f"{one.accepted_per_step:.2f}", "never" if one.per_position is None else percent(one.per_position))
        for n, one in data.break_even.items()
    )
    if needs:
        tables.append(TextTable("Faster from", ("n_max", "accepted drafts per step", "per position"), needs))
    best = tuple((rate(share), str(one.n_max), f"{one.speedup:.2f}") for share, one in data.best.items())
    if best:
        tables.append(TextTable("Best length", ("acceptance per position", "n_max", "times as fast"), best))
    plots: tuple[dict[str, Any], ...] = ()
    if by_depth:
        series = {f"{depth:,} tokens of context": list(map(plain, points)) for depth, points in by_depth.items()}
        plots = ({"kind": "curve", "series": series, "pays": _break_even_line(data)},)
    said = [f"On this machine drafting {data.sentence}." if data.ceiling else data.sentence]
    said += [f"{one.n_tokens} tokens cost less than {one.cheaper_than}" for one in data.kinks]
    return Section(
        f"Worth: {_name(data.model)}", (*said, *data.notes), tuple(tables), plots,
        badge=data.word.replace("_", " ").upper(), tone=_TONES[data.word], weight=1,
        engine=f"{data.engine.name} {data.engine.version}", machine=_machine(data.machine),
    )  # fmt: skip


def _break_even_line(data: WorthDocument) -> list[dict[str, float]]:
    """The most that a batch may cost if a perfect draft is to pay: its tokens, without what drafting them costs."""
    draft = data.draft
    sizes = sorted({one.n_tokens for one in data.curve})
    if draft is None:
        return []
    state = data.tokens[0].state_cost if data.tokens else 0.0
    most = {n: (n - (n - 1) * draft.per_token - draft.per_step - state) / (1 + draft.catch_up) for n in sizes}
    return [{"n_tokens": n, "cost": 1.0 if n == 1 else round(cost, 4)} for n, cost in most.items()]


def _tune(data: TuneDocument) -> Section:
    args = shell(*data.args)
    values = (("n_max", data.n_max), ("p_min", data.p_min), ("threads", data.threads), ("args", args))
    rows = tuple((name, str(value)) for name, value in values if value is not None)
    table = TextTable("Settings", ("what", "value"), rows)
    command = shell("nextn", "serve", Path(data.model))
    word = data.answer.word
    return Section(
        "Tuned settings", (data.answer.sentence,), (table,), (), (command,),
        badge=_TUNED[word], tone=_TONES[word], weight=2,
        engine=f"{data.engine.name} {data.engine.version}", machine=_machine(data.machine),
    )  # fmt: skip


def _doctor(data: DoctorDocument) -> Section:
    n = sum(one.severity != "note" for one in data.findings)
    said = [counted(n, "problem") if n else "no problems", *data.notes]
    said += [f"not checked: {one.check}: {one.why}" for one in data.skipped]
    rows = tuple((one.severity, one.id, one.what, one.mend) for one in data.findings)
    table = TextTable("Findings", ("severity", "finding", "what", "what fixes it"), rows)
    worst: Tone = "bad" if any(one.severity == "error" for one in data.findings) else "unclear" if n else "good"
    return Section(
        f"Examined: {_name(data.path)}", tuple(said), (table,) if rows else (),
        badge="NO PROBLEMS" if worst == "good" else counted(n, "PROBLEM", "PROBLEMS"), tone=worst,
        weight=4 if worst == "bad" else 0,
    )  # fmt: skip


_TONES: dict[str, Tone] = {
    "passed": "good", "failed": "bad", "cannot_tell": "unclear",
    "faster": "good", "slower": "bad", "not_distinguishable": "unclear", "machine_busy": "unclear",
    "can_pay": "good", "cannot_pay": "bad", "mtp": "good", "off": "bad", "not_tried": "unclear",
}  # fmt: skip
_TUNED = {"mtp": "FASTER WITH MTP", "off": "FASTER WITHOUT", "machine_busy": "MACHINE BUSY", "not_tried": "NOT TRIED"}
_MAKERS: dict[str, Callable[[Any], Section]] = {
    "scan": first_hour.scan,
    "up": first_hour.up,
    "inspect": _inspect,
    "doctor": _doctor,
    "attach": _written,
    "extract": _written,
    "detach": _written,
    "explode": _written,
    "assemble": _written,
    "recover": others.recover,
    "pull": others.pull,
    "pack": others.pack,
    "tensors": others.tensors,
    "cache": others.cache,
    "demo": others.demo,
    "report": others.report,
    "plan": _plan,
    "worth": _worth,
    "verify": _verify,
    "bench": _bench,
    "tune": _tune,
    "train": train,
    "serve": others.serve,
    "error": others.error,
}
