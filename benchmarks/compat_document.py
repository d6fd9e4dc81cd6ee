"""docs/compatibility.md from the measured table."""

from __future__ import annotations

from nextn.archs import FAMILIES
from nextn.compat import ENGINES, LAYOUTS, EngineBuild, Run, Table
from nextn.compat.graphs import graphs

SIGNS = {"drafts": "drafts", "runs": "runs, no MTP", "refuses": "refuses", "fails": "fails", "not made": "-"}
WORDS = {
    "bundle": "one file",
    "shards": "shards",
    "sidecar": "trunk and sidecar",
    "trunk-only": "without a block",
    "bundle+head": "one file with `--draft-head`",
    "ik-bundle+head": "one file with `--draft-head`, `--for ik`",
}
_IN_SHORT = {"bundle": "one file", "shards": "shards", "sidecar": "sidecar"}


def document(table: Table) -> str:
    """The page: one table a family, and the words of engines that refuse."""
    newest = [table.builds(engine)[-1].name for engine in ENGINES]
    lines = [
        "# What runs what",
        "",
        "Measured, not typed: `benchmarks/compat.py` made every file below with nextn, started every engine on it, and "
        "asked it to",
        f"draft. Date: {table.measured}. Machine: {table.machine}. The models are tiny ones with the published names "
        "and shapes' ratios;",
        "all but `qwen35` are random, so a cell says what an engine does with such a file, not how many drafts of a "
        "real model it accepts.",
        "",
        "**drafts**: it loads, and drafts are verified. **runs, no MTP**: it loads, and does not draft with it. "
        "**refuses**: it does not load.",
        "**fails**: it loads, and then dies, hangs or answers an error. **-**: nextn makes no such file (the reason is "
        "below).",
        "A star: the greedy text was not that of the trunk alone on the same engine (random models have near ties).",
        "",
        "| engine | build | from |",
        "| --- | --- | --- |",
        *(f"| {build.name} | {build.version} | {build.source} |" for build in table.engines),
        "",
        "## In short",
        "",
        f"What the newest measured builds ({', '.join(newest)}) draft with.",
        "",
        "| family (`general.architecture`) | checkpoint class | llama.cpp | ik_llama.cpp |",
        "| --- | --- | --- | --- |",
        *families(table),
        "",
    ]
    lines += _drafts_of_another_kind()
    models = list(dict.fromkeys((run.arch, run.model) for run in table.runs))
    for arch, model in models:
        lines += _family(table, arch, model)
    return "\n".join(lines).rstrip() + "\n"


def _drafts_of_another_kind() -> list[str]:
    known = graphs()
    taps = ", ".join(f"`{arch}`" for arch in sorted(known.taps))
    wide = [f"`{arch}` (`{why}`)" for arch, why in known.no_taps.items() if "layer input tensor is null" not in why]
    return [
        "## EAGLE-3 and DFlash drafts",
        "",
        f"llama.cpp {known.build} takes such a draft beside a model of {taps}.",
        f"Beside any other it aborts: {len(known.no_taps)} more were tried (`benchmarks/graphs.py`), and all but "
        f"{', '.join(wide)} end with `layer input tensor is null`.",
        "",
    ]


def families(table: Table) -> list[str]:
    """A row for each family: what each engine's newest measured build does with it."""
    rows = []
    for arch, family in FAMILIES.items():
        classes = ", ".join(f"`{name}`" for name in family.classes)
        said = " | ".join(_short(table, arch, engine) for engine in ENGINES)
        rows.append(f"| {family.title} (`{arch}`) | {classes} | {said} |")
    return rows


def _short(table: Table, arch: str, engine: str) -> str:
    newest = next(b.name for b in reversed(table.builds(engine)) if table.of(arch, "trunk-only", b.name) is not None)
    older = "" if newest == table.builds(engine)[-1].name else f" ({newest}, nothing newer was run)"
    return _of_build(table, arch, newest) + older


def _of_build(table: Table, arch: str, newest: str) -> str:
    runs = {layout: table.of(arch, layout, newest) for layout in _IN_SHORT}
    drafts = [words for layout, words in _IN_SHORT.items() if (run := runs[layout]) and run.result == "drafts"]
    if drafts:
        return ", ".join(drafts)
    trunk = table.of(arch, "trunk-only", newest)
    if trunk is None or trunk.result != "runs":
        known = trunk is not None and "unknown model architecture" not in trunk.says
        return "refuses the tiny model, without a block too" if known else "no such architecture"
    loads = any(run is not None and run.result == "runs" for run in runs.values())
    return "runs it without MTP" if loads else "runs it without a block only"


def _family(table: Table, arch: str, model: str) -> list[str]:
    runs = [run for run in table.runs if (run.arch, run.model) == (arch, model)]
    layouts = [layout for layout in LAYOUTS if any(run.layout == layout for run in runs)]
    cells = {(run.layout, run.engine): run for run in runs}
    out = [f"## `{arch}`" + (f" ({model})" if model != arch else ""), ""]
    out += ["| | " + " | ".join(WORDS[layout] for layout in layouts) + " |", "| --- " * (len(layouts) + 1) + "|"]
    for build in table.engines:
        out.append(f"| {build.name} | " + " | ".join(_cell(cells, layout, build) for layout in layouts) + " |")
    said: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        if run.says:
            said.setdefault((run.layout, run.says), []).append(run.engine)
    out.append("")
    for (layout, words), engines in said.items():
        who = "nextn" if all(cells[layout, engine].result == "not made" for engine in engines) else ", ".join(engines)
        out.append(f"- {WORDS[layout]}, {who}: `{words}`")
    return [*out, ""] if said else out


def _cell(cells: dict[tuple[str, str], Run], layout: str, build: EngineBuild) -> str:
    run = cells.get((layout, build.name))
    if run is None:
        return "not run"
    counts = f" {run.draft_n_accepted}/{run.draft_n}" if run.result == "drafts" else ""
    return SIGNS[run.result] + counts + ("*" if run.same_text is False else "")
