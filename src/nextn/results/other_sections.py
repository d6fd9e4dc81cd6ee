"""Sections of documents that neither judge nor measure: what was packed, downloaded, kept, restored; and reports."""

from __future__ import annotations

from pathlib import Path

from ..schemas.cache import CacheDocument
from ..schemas.demo import DemoDocument
from ..schemas.error import ErrorDocument
from ..schemas.pack import PackDocument
from ..schemas.pull import PullDocument
from ..schemas.recover import RecoverDocument
from ..schemas.report import ReportDocument
from ..schemas.serve import ServeDocument
from ..schemas.tensors import TensorsDocument
from ..schemas.timing import SetupComparison
from ..shell import shell
from ..units import counted, size
from .section import Section, TextTable


def percent(share: float | None) -> str:
    """A share as text; '-' where it is not known."""
    return "-" if share is None else f"{100 * share:.0f} %"


def rate(text: str) -> str:
    """A key that is a share, as a percentage; any other as it is."""
    try:
        return percent(float(text))
    except ValueError:
        return text


def ratio(one: SetupComparison) -> str:
    """How many times as fast, with its interval."""
    return "-" if one.ratio is None else f"{one.ratio:.2f} ({one.ratio_low or 0:.2f} to {one.ratio_high or 0:.2f})"


def pack(data: PackDocument) -> Section:
    """A folder to publish."""
    rows = tuple(
        (one.quant, name, Path(variant.entry).name, Path(variant.sidecar).name if variant.sidecar else "-")
        for one in data.quants
        for name, variant in one.variants.items()
    )
    files = tuple((Path(one.path).name, one.how, size(one.size_bytes), one.sha256 or "-") for one in data.files)
    would = "would write" if data.dry_run else "wrote"
    said = [f"{would} {size(data.bytes_written)}, linked {size(data.bytes_linked)} in {data.folder}"]
    said += [f"kept: {', '.join(data.kept)}"] if data.kept else []
    return Section(
        f"Packed: {Path(data.folder).name}",
        (*said, *data.notes),
        (
            TextTable("Quants and variants", ("quant", "variant", "load", "with"), rows),
            TextTable("Files of this run", ("file", "how", "size", "sha256"), files),
        ),
        commands=(shell(*data.upload),),
    )


def pull(data: PullDocument) -> Section:
    """A variant that was downloaded."""
    rows = tuple((Path(one.path).name, one.state, size(one.size_bytes), one.sha256 or "-") for one in data.files)
    would = "would download" if data.dry_run else "downloaded"
    beside = () if data.sidecar is None else ("--sidecar", Path(data.sidecar))
    return Section(
        f"Downloaded: {data.repo}, {data.quant} {data.variant}",
        (f"{would} {size(data.bytes_downloaded)} of {size(data.size_bytes)} at commit {data.commit}", data.why),
        (TextTable("Files", ("file", "before", "size", "sha256"), rows),),
        commands=(shell("nextn", "serve", Path(data.entry), *beside),),
    )


def cache(data: CacheDocument) -> Section:
    """What is kept on this machine."""
    rows = tuple(
        (one.name, size(one.size_bytes), one.used, one.model or "-", "yes" if one.stale else "no")
        for one in data.entries
    )
    said = f"{counted(len(data.entries), 'entry', 'entries')} in {data.folder}"
    said += f", freed {size(data.freed_bytes)}" if data.freed_bytes else ""
    table = TextTable("What is kept", ("name", "size", "last written", "model", "stale"), rows)
    return Section("Cache", (said,), (table,) if rows else ())


def recover(data: RecoverDocument) -> Section:
    """What interrupted changes had left."""
    would = "would be " if data.dry_run else ""
    rows = tuple(
        (Path(one.path).name, one.verb or "-", f"{would}{one.what}", ", ".join(map(_name, one.files)))
        for one in data.journals
    )
    said = counted(len(data.journals), "interrupted change") if rows else "nothing was interrupted"
    table = TextTable("Journals", ("journal", "of", "what", "files"), rows)
    return Section(f"Recovered: {_name(data.path)}", (said,), (table,) if rows else ())


def _name(path: str) -> str:
    return Path(path).name


def demo(data: DemoDocument) -> Section:
    """The shipped model in all layouts."""
    words = {"passed": "passed", "failed": "FAILED", "cannot_tell": "cannot tell"}
    rows = tuple(
        (
            one.layout, words[one.verdict], {True: "the same", False: "differs", None: "-"}[one.same_text],
            "; ".join(f"n_max {n}: {' '.join(map(percent, some))}" for n, some in one.acceptance.items()) or "-",
            f"{one.tps_off:,.0f}", ", ".join(f"{tps:,.0f} (n_max {n})" for n, tps in one.tps_on.items()) or "-",
        )
        for one in data.rows
    )  # fmt: skip
    head = ("layout", "verdict", "text", "accepted by position", "tokens/s without MTP", "with MTP")
    return Section(
        "Demo", (f"on {data.engine}", f"with only the trunk it says: {data.refusal}"),
        (TextTable("The shipped model in each layout", head, rows),),
        badge="PASSED" if data.passed else "FAILED", tone="good" if data.passed else "bad", weight=1,
        engine=data.engine,
    )  # fmt: skip


def tensors(data: TensorsDocument) -> Section:
    """Acceptance by tensor and type."""
    base = data.base.acceptance
    known = {(one.tensor, one.type): one.acceptance for one in data.runs}

    def cell(name: str, kind: str) -> str:
        share = known.get((name, kind))
        return "-" if share is None else f"{100 * share:.1f} %"

    rows = tuple((name, *(cell(name, kind) for kind in data.settings.types)) for name in data.settings.tensors)
    asked = data.settings
    said = f"the block as it is ({data.base.type}): {percent(base)} of {counted(data.base.drafted, 'draft')} accepted"
    head = ("tensor", *asked.types)
    caption = f"Accepted drafts with one tensor in another type, at n_max {asked.n_max}"
    return Section(
        f"Types by tensor: {_name(asked.model)}", (said, *data.notes), (TextTable(caption, head, rows),),
        engine=f"{asked.engine.name} {asked.engine.version}",
    )  # fmt: skip


def report(data: ReportDocument) -> Section:
    """An earlier report: its sections' tables under their titles."""
    tables = tuple(
        TextTable(f"{one.title}: {table.caption}", tuple(table.head), tuple(map(tuple, table.rows)))
        for one in data.sections
        for table in one.tables
    )
    said = tuple(f"{one.title}: {line}" for one in data.sections for line in one.summary)
    return Section("Report", said, tables, commands=tuple(line for one in data.sections for line in one.commands))


def serve(data: ServeDocument) -> Section:
    """How it is served."""
    engine = f"{data.engine.name} {data.engine.version}"
    return Section(f"Serving: {_name(data.model)}", tuple(data.notes), commands=(data.shell,), engine=engine)


def error(data: ErrorDocument) -> Section:
    """A command that failed."""
    rows = (("command", data.verb or "-"), ("error", data.error), ("exit code", str(data.exit_code)))
    return Section(
        f"Failed: nextn {data.verb or ''}".rstrip(), (data.message,),
        (TextTable("How it ended", ("what", "value"), rows),), badge="FAILED", tone="bad",
    )  # fmt: skip
