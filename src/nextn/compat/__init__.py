"""Which engine runs what, as measured: `table.json`, written by benchmarks/compat.py, and look-ups in it.

A run is one model of a family in one layout on one engine. Its `result` is "drafts", "runs" (without MTP),
"refuses" (it does not load), "fails" (it loads and then dies, hangs, or answers an error) or "not made" (nextn makes
no such file); `says` holds the engine's own words.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

LAYOUTS = ("bundle", "shards", "sidecar", "trunk-only", "bundle+head", "ik-bundle+head")
"""What is measured; "+head" is a file with `--draft-head`, "ik-" one made `--for ik`."""
ENGINES = ("llama.cpp", "ik_llama.cpp")
_LOGGED = re.compile(r"\s*\|\s*model=.*|^\^?(?:ERR \[[^]]*\] |llama_model_load: )?(?:error loading model: )?")
"""What a server's log puts around the words: the level, the function, and the path of the tiny model."""
_WORST_FIRST = ("not made", "refuses", "fails", "runs", "drafts")


@dataclass(frozen=True)
class EngineBuild:
    """One engine that was measured."""

    name: str  # as in the table's rows
    engine: str  # "llama.cpp" or "ik_llama.cpp"
    version: str  # the version that it reports
    source: str  # the wheel, or the commit it was built from

    @property
    def label(self) -> str:
        """The build as users of the engine know it: "b11549" of llama.cpp, the commit of ik_llama.cpp."""
        package, _, version = self.name.partition(" ")
        if package == "xllamacpp":  # the wheel's last number is llama.cpp's build
            return "b" + version.rpartition(".")[2]
        return version if package == self.engine else self.name


@dataclass(frozen=True)
class Run:
    """One cell of the table."""

    engine: str  # EngineBuild.name
    model: str  # the tiny checkpoint
    arch: str
    layout: str
    result: str
    says: str = ""
    draft_n: int = 0
    draft_n_accepted: int = 0
    same_text: bool | None = None  # greedy tokens equal to those of the trunk by itself; None: nothing to compare with


@dataclass(frozen=True)
class Table:
    """The complete table; engines ordered by age, llama.cpp's first."""

    measured: str  # date, ISO 8601
    machine: str
    engines: tuple[EngineBuild, ...]
    runs: tuple[Run, ...]

    def of(self, arch: str, layout: str, engine: str) -> Run | None:
        """The worst run of an architecture's models in this layout on one engine; None when it was not measured."""
        found = [run for run in self.runs if (run.arch, run.layout, run.engine) == (arch, layout, engine)]
        return min(found, key=lambda run: _WORST_FIRST.index(run.result), default=None)

    def builds(self, engine: str) -> list[EngineBuild]:
        """The builds of "llama.cpp" or "ik_llama.cpp", oldest first."""
        return [build for build in self.engines if build.engine == engine]

    def oldest_that_drafts(self, arch: str, layout: str, engine: str = "llama.cpp") -> EngineBuild | None:
        """The oldest build such that it and every newer one draft."""
        oldest = None
        for build in reversed(self.builds(engine)):
            run = self.of(arch, layout, build.name)
            if run is None or run.result != "drafts":
                break
            oldest = build
        return oldest


def from_json(data: dict[str, Any]) -> Table:
    """A table from what `to_json` wrote."""
    return Table(
        data["measured"],
        data["machine"],
        tuple(EngineBuild(**build) for build in data["engines"]),
        tuple(Run(**{**run, "says": _LOGGED.sub("", run.get("says", ""))}) for run in data["runs"]),
    )


def to_json(table: Table) -> dict[str, Any]:
    """JSON of a table; fields that hold their default are left out."""
    return {
        "version": 1,
        "measured": table.measured,
        "machine": table.machine,
        "engines": [vars(build) for build in table.engines],
        "runs": [{k: v for k, v in vars(run).items() if v not in ("", 0, None) or v is False} for run in table.runs],
    }


@functools.cache
def table() -> Table:
    """The measured table that this version of nextn carries."""
    return from_json(json.loads(files(__name__).joinpath("table.json").read_text("utf-8")))


@dataclass(frozen=True)
class MeasuredVerdict:
    """What an engine did with an architecture in a layout: in its newest measured build, and which builds agree."""

    run: Run  # of the newest build
    newest: EngineBuild
    since: EngineBuild  # the oldest build since which all did the same
    oldest: bool  # whether that is the oldest measured build

    @property
    def words(self) -> str:
        """`of()` for a file that has already been named."""
        return self.of()

    def of(self, what: str = "it") -> str:
        """What follows the engine's name in a sentence about `what`, with the builds to which it applies."""
        builds = self.newest.label if self.since == self.newest else f"{self.since.label} to {self.newest.label}"
        up_to = f"up to {self.newest.label}" if self.oldest else f"on {builds}"
        says = f": {self.run.says}" if self.run.says else ""
        if self.run.result == "drafts":
            return f"drafts with {what} (measured on {builds})"
        if self.run.result == "runs" and self.run.layout == "trunk-only":
            return f"runs {what} without MTP (measured on {builds})"
        does = {"runs": "runs {} without MTP", "refuses": "refuses {}", "fails": "fails with {}"}[self.run.result]
        return f"{does.format(what)} {up_to}{says}"


def verdict(arch: str, layout: str, engine: str) -> MeasuredVerdict | None:
    """What was measured; None where nothing was, and where nextn makes no such file."""
    known = table()
    runs = [(build, run) for build in known.builds(engine) if (run := known.of(arch, layout, build.name)) is not None]
    if not runs or runs[-1][1].result == "not made":
        return None
    newest, run = runs[-1]
    same = len(runs)
    while same and runs[same - 1][1].result == run.result:
        same -= 1
    return MeasuredVerdict(run, newest, runs[same][0], same == 0)


def measured(arch: str, layout: str) -> dict[str, str]:
    """Engine -> `MeasuredVerdict.words` of this architecture and layout; what was not measured is left out."""
    found = {engine: verdict(arch, layout, engine) for engine in ENGINES}
    return {engine: one.words for engine, one in found.items() if one is not None}


def said(arch: str, layout: str, engine: str) -> str:
    """`MeasuredVerdict.words`, or that nothing was measured: what follows the engine's name in a sentence."""
    found = verdict(arch, layout, engine)
    return "was not measured with it" if found is None else found.words
