"""What engines do with a file: what was measured for its kind, unless something in its header stops them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..archs import FAMILIES
from ..archs.engines import IK, IK_UP_TO, LLAMA_CPP, LLAMA_CPP_UP_TO
from ..archs.others import LOADS_ONLY
from ..block.draft import Draft
from ..compat import ENGINES, said, verdict
from ..compat.graphs import graphs
from ..gguf.files import Model
from ..gguf.types import tensor_type

DRAFTS, RUNS, REFUSES, FAILS, UNKNOWN = "drafts", "runs", "refuses", "fails", "unknown"


@dataclass(frozen=True)
class EngineUse:
    """What an engine does with a file as it is."""

    word: str  # DRAFTS, RUNS (without MTP), REFUSES, FAILS or UNKNOWN
    says: str  # what follows the engine's name in a sentence


# The engine that alone reads a type -> the other one.
_ONLY = {"mainline": (IK, IK_UP_TO), "ik": (LLAMA_CPP, LLAMA_CPP_UP_TO)}


def layout_of(shape: str, model: Model) -> str:
    """A shape's layout in the measured table: "bundled" is "shards" or "bundle"."""
    return ("shards" if model.is_sharded else "bundle") if shape == "bundled" else shape


def measured(engine: str, arch: str, layout: str) -> str:
    """A sentence on what "llama.cpp" or "ik_llama.cpp" does with such a model, and which builds it holds for."""
    return f"{engine} {said(arch, layout, engine)}"


def unread(model: Model) -> dict[str, str]:
    """Engine -> the type of the model's tensors that it cannot read, as a sentence; without engines that read all."""
    found: dict[str, str] = {}
    for file in model.files:
        for type_id in set(file.header.tensors.type_ids):
            kind = tensor_type(type_id)
            if kind is not None and kind.engine in _ONLY:
                engine, build = _ONLY[kind.engine]
                found[engine] = f"some of its tensors are in {kind.name}, which {build} cannot read"
    return found


def uses(arch: str, layout: str, sidecar: Path | None, stops: Mapping[str, str]) -> dict[str, EngineUse]:
    """Engine -> what it does with a file of `layout`: "trunk-only", "bundle", "shards", "sidecar" or "donor".

    `sidecar`: the one beside a trunk. `stops`: engine -> the fault in the file that keeps it from loading the file or
    drafting with it. Empty for an architecture that neither nextn nor the pinned engine's measurement knows.
    """
    if arch in LOADS_ONLY:
        words = f"loads it; no engine drafts with this architecture up to {graphs().build}"
        fault = stops.get("llama.cpp")
        return {"llama.cpp": _stopped(fault) if fault else EngineUse(RUNS, words)}
    if arch not in FAMILIES:
        return _plain(arch, layout, stops.get("llama.cpp", ""))
    if layout == "donor":
        return dict.fromkeys(ENGINES, EngineUse(REFUSES, "cannot run it: attach it to a model"))
    return {engine: _use(engine, arch, layout, sidecar, stops.get(engine, "")) for engine in ENGINES}


def uses_of_draft(draft: Draft) -> dict[str, EngineUse]:
    """What engines do with a draft's own file."""
    known = graphs()
    words = f"drafts with it beside its target (-m MODEL -md this file --spec-type {draft.kind.spec_type}"
    return {"llama.cpp": EngineUse(DRAFTS, f"{words}; measured with random drafts on {known.build})")}


def beside(draft: Draft) -> EngineUse:
    """What llama.cpp does with a model that such a draft fits."""
    words = f"drafts with the sidecar beside it (-md, --spec-type {draft.kind.spec_type}"
    return EngineUse(DRAFTS, f"{words}; measured with random drafts on {graphs().build})")


def _stopped(fault: str) -> EngineUse:
    return EngineUse(REFUSES, f"not as it is: {fault}")


def _plain(arch: str, layout: str, fault: str) -> dict[str, EngineUse]:
    """What is known of a model that no block was published for: whether the pinned engine takes a draft beside it."""
    known = graphs()
    if layout != "trunk-only" or not known.has_taps(arch):
        return {}
    words = f"runs it without MTP, and takes an EAGLE-3 or DFlash draft beside it (measured on {known.build})"
    return {LLAMA_CPP: _stopped(fault) if fault else EngineUse(RUNS, words)}


def _use(engine: str, arch: str, layout: str, sidecar: Path | None, stops: str) -> EngineUse:
    support = FAMILIES[arch].on(engine)
    beside = sidecar is not None and support.drafts_with("sidecar")
    if beside:
        layout = "sidecar"
    found = verdict(arch, layout, engine)
    if stops and (found is None or found.run.result in (DRAFTS, RUNS)):
        return _stopped(stops)
    if found is None:
        return EngineUse(UNKNOWN, "not measured: nextn makes no such file")
    word = found.run.result
    if beside:
        return EngineUse(word, found.of("the sidecar beside it (-md)"))
    return EngineUse(
        word, found.of("it beside its trunk (-m TRUNK -md this file)") if layout == "sidecar" else found.words
    )
