"""docs/compatibility.md from the measured table."""

from __future__ import annotations

from nextn.compat import LAYOUTS, EngineBuild, Run, Table

SIGNS = {"drafts": "drafts", "runs": "runs, no MTP", "refuses": "refuses", "fails": "fails", "not made": "-"}
WORDS = {
    "bundle": "one file",
    "shards": "shards",
    "sidecar": "trunk and sidecar",
    "trunk-only": "without a block",
    "bundle+head": "one file with `--draft-head`",
    "ik-bundle+head": "one file with `--draft-head`, `--for ik`",
}


def document(table: Table) -> str:
    """The page: one table a family, and the words of engines that refuse."""
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
    ]
    models = list(dict.fromkeys((run.arch, run.model) for run in table.runs))
    for arch, model in models:
        lines += _family(table, arch, model)
    return "\n".join(lines).rstrip() + "\n"


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
