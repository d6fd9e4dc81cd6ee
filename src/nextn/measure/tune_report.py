"""What tune found, as JSON that `nextn serve` and `nextn report` read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schemas.base import Documented, EngineName, filled
from ..schemas.tune import PlannedRuns, TuneAnswer, TuneCandidate, TuneDocument
from .bench_report import Compared, overall_tps, spread_figures
from .timed_run import TimedRun
from .tune_space import AS_IS, Point

if TYPE_CHECKING:
    from .tune_search import Trial


@dataclass(frozen=True)
class TuneReport(Documented):
    """Everything that tune found or, with `dry_run`, would try."""

    model: str
    word: str  # "mtp", "off", "machine_busy", or "not_tried"
    sentence: str
    point: Point | None  # the settings to run with; None: none were found
    sidecar: str | None  # the file to draft with; None: the model's own block, or MTP off
    args: tuple[str, ...]  # engine arguments shared by all runs
    compared: Compared | None
    engine: EngineName
    machine: dict[str, Any]
    settings: dict[str, Any]
    trials: list[tuple[str, Trial]]
    runs: list[TimedRun]
    final_runs: list[TimedRun]
    n_planned: tuple[int, int]  # minimum and maximum number of planned runs
    wall_s: float
    command: str | None  # the command line of an engine with these settings
    files: tuple[Path, ...] = ()  # what was written, or would be: a sidecar and these settings
    dry_run: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def n_disturbed(self) -> int:
        """Runs that are not used."""
        return sum(1 for run in self.runs if not run.good)

    @property
    def when_unprinted(self) -> str:
        """Whether the settings were kept."""
        kept = [str(path) for path in self.files if not self.dry_run]
        return f"the settings are in {kept[-1]}" if kept else "nothing was written"

    @property
    def document(self) -> TuneDocument:
        """What --json prints, and what is kept beside the model."""
        point = self.point
        types = point.artifact if point else AS_IS
        return filled(
            TuneDocument,
            self,
            n_max=point.n_max if point else None,
            p_min=point.p_min if point and point.n_max else None,
            threads=point.threads if point else None,
            answer=filled(
                TuneAnswer, self, block_type=types.block, head_type=types.head, embd_type=types.embd
            ),
            comparison=None if self.compared is None else self.compared.document,
            planned_runs=PlannedRuns(*self.n_planned),
            candidates=self.candidates(),
            wall_s=round(self.wall_s, 1),
            runs=[run.document for run in self.runs],
        )

    def candidates(self) -> list[TuneCandidate]:
        """Every setting, in the order in which they were tried."""
        return [self._candidate(name, trial) for name, trial in self.trials]

    def _candidate(self, name: str, trial: Trial) -> TuneCandidate:
        point = trial.point
        return filled(
            TuneCandidate,
            trial,
            id=name,
            n_max=point.n_max,
            p_min=point.p_min,
            threads=point.threads,
            block_type=point.artifact.block,
            head_type=point.artifact.head,
            embd_type=point.artifact.embd,
            relative=None if trial.relative is None else round(trial.relative, 4),
            decode_tps=spread_figures(overall_tps([run for run in self.final_runs if run.setup == name])),
            n_runs=sum(1 for run in self.runs if run.setup == name),
        )



def planned_runs(stages: Sequence[int], n_screen: int, n_final: int, n_finalists: int) -> tuple[int, int]:
    """Minimum and maximum number of runs, without repeats: races between `stages` settings each, then the final."""
    least = sum(n + 2 * (n_screen - 1) for n in stages[:1]) + 2 * n_final
    most = sum(n * n_screen for n in stages) + (1 + n_finalists) * n_final
    return least, most
