"""What tune found: the decision, the settings for serve, everything that was tried, and the raw runs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .stats import Comparison
from .target import Target
from .trial import Run
from .tune_space import Point, Space

Decision = Literal["mtp", "off", "cannot_tell"]
MTP: Decision = "mtp"
OFF_WINS: Decision = "off"
CANNOT_TELL: Decision = "cannot_tell"


@dataclass(frozen=True)
class Tried:
    """One setup in one race."""

    race: str
    point: Point
    share: float | None
    """Speed by that of the race's leader; None: no undisturbed run."""
    n_prompts: int
    dropped_after: int | None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return {
            "race": self.race,
            "setup": self.point.id,
            **_settings(self.point),
            "share": None if self.share is None else round(self.share, 4),
            "n_prompts": self.n_prompts,
            "dropped_after": self.dropped_after,
        }


def _settings(point: Point) -> dict[str, Any]:
    return {
        "n_max": point.n_max,
        "p_min": point.p_min if point.n_max else 0.0,
        "threads": point.threads,
        **point.artifact.to_json(),
    }


@dataclass
class TuneReport:
    """The result; filled in while the races go on."""

    target: Target
    space: Space
    note: Path
    """Where the settings are written."""
    settings: dict[str, Any]
    engine: dict[str, str] | None = None
    machine: dict[str, Any] | None = None
    decision: Decision | None = None
    """None after a dry run."""
    winner: Point | None = None
    candidate: Point | None = None
    """The best with MTP."""
    baseline: Point | None = None
    """MTP off, with the best number of threads."""
    comparison: Comparison | None = None
    tried: list[Tried] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    args: tuple[str, ...] = ()
    sidecar: Path | None = None
    """The winning block where it is a new file, else what the user has."""
    written: list[Path] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        """The decision for people."""
        found, one = self.comparison, self.candidate
        if self.decision is None or found is None or one is None:
            return "nothing was run"
        if self.decision == CANNOT_TELL:
            return "the machine was too busy to tell; run it again when it is quiet"
        if self.decision == MTP:
            return f"MTP pays: {one.id} is {_times(found)} as fast as without"
        if found.word == "slower":
            return f"leave MTP off: the best found with it, {one.id}, is {_times(found)} as fast as without"
        return f"leave MTP off: the best found with it, {one.id}, is not distinguishable from going without"

    @property
    def command(self) -> list[str]:
        """How to serve the model so."""
        return ["nextn", "serve", str(self.target.model.entry), "--tuned", str(self.note)]

    def to_json(self) -> dict[str, Any]:
        """JSON as in schemas/tune.json; `nextn serve` reads n_max, p_min, threads, args and sidecar of it."""
        won, found = self.winner, self.comparison
        return {
            "version": 1,
            "verb": "tune",
            "dry_run": self.decision is None,
            "model": os.fspath(self.target.model.entry),
            "decision": self.decision,
            "sentence": self.sentence,
            "n_max": None if won is None else won.n_max,
            "p_min": None if won is None else (won.p_min if won.n_max else 0.0),
            "threads": None if won is None else won.threads,
            "args": list(self.args),
            "sidecar": None if self.sidecar is None else os.fspath(self.sidecar),
            "command": self.command,
            "engine": self.engine,
            "machine": self.machine,
            "settings": self.settings,
            "space": {
                "n_max": list(self.space.n_max),
                "p_min": list(self.space.p_min),
                "types": list(self.space.types),
                "draft_heads": list(self.space.draft_heads),
                "embd_types": list(self.space.embd_types),
                "threads": list(self.space.threads),
                "n_grid": self.space.n_grid,
            },
            "candidate": None if self.candidate is None else _settings(self.candidate),
            "baseline": None if self.baseline is None else _settings(self.baseline),
            "comparison": None
            if found is None
            else {
                "word": found.word,
                "ratio": _round(found.ratio),
                "low": _round(found.low),
                "high": _round(found.high),
                "p": _round(found.p),
                "n_pairs": found.n_pairs,
            },
            "tried": [one.to_json() for one in self.tried],
            "n_disturbed": sum(not run.good for run in self.runs),
            "runs": [run.to_json() for run in self.runs],
            "written": [os.fspath(path) for path in self.written],
            "notes": self.notes,
        }

    def encode(self) -> bytes:
        """What is written beside the model."""
        return (json.dumps(self.to_json(), indent=1) + "\n").encode()


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _times(found: Comparison) -> str:
    if found.ratio is None or found.low is None or found.high is None:
        return "not known to be"
    return f"{found.ratio:.2f} times ({found.low:.2f} to {found.high:.2f})"
