"""What tune found, as JSON that `nextn serve` and `nextn report` read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bench_report import Compared, compared_json, overall_tps, spread_json
from .timed_run import TimedRun
from .tune_space import Point

if TYPE_CHECKING:
    from .tune_search import Trial


@dataclass(frozen=True)
class TuneReport:
    """Everything that tune found, or with `dry_run` would try."""

    model: str
    word: str
    """"mtp", "off", "machine_busy", or "not_tried"."""
    sentence: str
    point: Point | None
    """The settings to run with; None: none were found."""
    sidecar: str | None
    """The file to draft with; None: the model's own block, or MTP off."""
    args: tuple[str, ...]
    """Engine arguments that all runs had."""
    compared: Compared | None
    engine: dict[str, str]
    machine: dict[str, Any]
    settings: dict[str, Any]
    trials: list[tuple[str, Trial]]
    runs: list[TimedRun]
    final_runs: list[TimedRun]
    n_planned: tuple[int, int]
    """Runs that were planned, at least and at most."""
    wall_s: float
    command: str | None
    """The command line of an engine with these settings."""
    files: tuple[Path, ...] = ()
    """What was written, or would be: a sidecar, and these settings."""
    dry_run: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def n_disturbed(self) -> int:
        """Runs that are not used."""
        return sum(1 for run in self.runs if not run.good)

    def to_json(self) -> dict[str, Any]:
        """JSON as in the schema of tune."""
        point = self.point
        return {
            "version": 1,
            "verb": "tune",
            "dry_run": self.dry_run,
            "model": self.model,
            "sidecar": self.sidecar,
            "n_max": point.n_max if point else None,
            "p_min": point.p_min if point and point.n_max else None,
            "threads": point.threads if point else None,
            "args": list(self.args),
            "answer": {
                "word": self.word,
                "sentence": self.sentence,
                "block_type": point.artifact.block if point else None,
                "head_type": point.artifact.head if point else None,
                "embd_type": point.artifact.embd if point else None,
            },
            "comparison": None if self.compared is None else compared_json(self.compared),
            "engine": self.engine,
            "machine": self.machine,
            "settings": self.settings,
            "planned_runs": {"least": self.n_planned[0], "most": self.n_planned[1]},
            "candidates": self.candidates(),
            "n_disturbed": self.n_disturbed,
            "wall_s": round(self.wall_s, 1),
            "command": self.command,
            "files": [str(path) for path in self.files],
            "notes": list(self.notes),
            "runs": [run.to_json() for run in self.runs],
        }

    def candidates(self) -> list[dict[str, Any]]:
        """JSON of every setting, in the order they were tried."""
        return [self._candidate(name, trial) for name, trial in self.trials]

    def _candidate(self, name: str, trial: Trial) -> dict[str, Any]:
        return {
            "id": name,
            **trial.point.to_json(),
            "stages": list(trial.stages),
            "outcome": trial.outcome,
            "why": trial.why,
            "relative": None if trial.relative is None else round(trial.relative, 4),
            "decode_tps": spread_json(overall_tps([run for run in self.final_runs if run.setup == name])),
            "n_runs": sum(1 for run in self.runs if run.setup == name),
        }


def planned_runs(stages: Sequence[int], n_screen: int, n_final: int, n_finalists: int) -> tuple[int, int]:
    """Runs at least and at most of races between so many settings each, and of the final. Without repeats."""
    least = sum(n + 2 * (n_screen - 1) for n in stages[:1]) + 2 * n_final
    most = sum(n * n_screen for n in stages) + (1 + n_finalists) * n_final
    return least, most
