"""Which architectures of the pinned engine have a graph for MTP, and which have one that an EAGLE-3 draft can tap.

`graphs.json` is written by benchmarks/graphs.py, which judges every architecture on the engine.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from . import EngineBuild


@dataclass(frozen=True)
class Graphs:
    """What was found in one build."""

    build: str  # "b11549" of llama.cpp
    taps: frozenset[str]  # architectures whose graph hands layer inputs to an EAGLE-3 or DFlash draft
    no_taps: Mapping[str, str]  # the others -> llama.cpp's last message when it is asked for one
    mtp: frozenset[str]  # model classes of llama.cpp with a graph for MTP

    def has_taps(self, arch: str) -> bool | None:
        """Whether an EAGLE-3 or DFlash draft can be loaded beside a model; None where that was not measured."""
        return True if arch in self.taps else False if arch in self.no_taps else None


@functools.cache
def graphs() -> Graphs:
    """What was found in the build that this version of nextn is pinned to."""
    data = json.loads(files("nextn.compat").joinpath("graphs.json").read_text("utf-8"))
    build = EngineBuild(data["build"], "llama.cpp", "", "").label
    return Graphs(build, frozenset(data["taps"]), data["no_taps"], frozenset(data["mtp_graphs"]))
