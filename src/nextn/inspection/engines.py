"""What engines do with a file: what was measured for its kind, unless something in its header stops them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..archs import FAMILIES
from ..archs.others import LOADS_ONLY
from ..block.draft import Draft
from ..compat import ENGINES, said, verdict
from ..compat.graphs import graphs
from ..gguf.files import Model


def layout_of(shape: str, model: Model) -> str:
    """A shape's layout in the measured table: "bundled" is "shards" or "bundle"."""
    return ("shards" if model.is_sharded else "bundle") if shape == "bundled" else shape


def measured(engine: str, arch: str, layout: str) -> str:
    """A sentence on what "llama.cpp" or "ik_llama.cpp" does with such a model, and which builds it holds for."""
    return f"{engine} {said(arch, layout, engine)}"


def runs_on(arch: str, layout: str, sidecar: Path | None, stops: Mapping[str, str]) -> dict[str, str]:
    """Engine -> what it does with a file of `layout`: "trunk-only", "bundle", "shards", "sidecar" or "donor".

    `sidecar`: the one beside a trunk. `stops`: engine -> the fault in the file that keeps it from loading the file or
    drafting with it. Empty for an architecture that nextn does not know.
    """
    if arch in LOADS_ONLY:
        words = f"loads it; no engine drafts with this architecture up to {graphs().build}"
        fault = stops.get("llama.cpp")
        return {"llama.cpp": f"not as it is: {fault}" if fault else words}
    if arch not in FAMILIES:
        return {}
    if layout == "donor":
        return dict.fromkeys(ENGINES, "cannot run it: attach it to a model")
    return {engine: _words(engine, arch, layout, sidecar, stops.get(engine, "")) for engine in ENGINES}


def runs_draft(draft: Draft) -> dict[str, str]:
    """Engine -> what it does with a draft's own file."""
    known = graphs()
    words = f"drafts with it beside its target (-m MODEL -md this file --spec-type {draft.kind.spec_type}"
    return {"llama.cpp": f"{words}; measured with random drafts on {known.build})"}


def beside(draft: Draft) -> str:
    """What llama.cpp does with a model that such a draft fits."""
    words = f"drafts with the sidecar beside it (-md, --spec-type {draft.kind.spec_type}"
    return f"{words}; measured with random drafts on {graphs().build})"


def _words(engine: str, arch: str, layout: str, sidecar: Path | None, stops: str) -> str:
    support = FAMILIES[arch].on(engine)
    beside = sidecar is not None and support.drafts_with("sidecar")
    if beside:
        layout = "sidecar"
    found = verdict(arch, layout, engine)
    if stops and (found is None or found.run.result in ("drafts", "runs")):
        return f"not as it is: {stops}"
    if found is None:
        return "not measured: nextn makes no such file"
    if beside:
        return found.of("the sidecar beside it (-md)")
    return found.of("it beside its trunk (-m TRUNK -md this file)") if layout == "sidecar" else found.words
