"""Judging trained drafts: by what a real engine accepts live, greedily, on prompts that training never saw.

Held-out loss only orders the candidates. The engine chooses among them on one half of the prompts; the chosen one is
then held, on the other half, against what was there before (nothing, or a published block) and against itself with
shuffled weights, and its text against the text without drafts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..engines.base import Completion, Engine, Launch
from ..errors import EngineRefused, UsageError
from ..gguf.files import open_sound
from ..measure.control import make_control
from ..measure.engine_check import answers_of, check_on_engine, overall_acceptance, overall_tps
from ..measure.engine_report import MIN_ACCEPTANCE, EngineReport
from ..measure.stats import ALPHA, signed_rank_p
from ..progress import Say, heard
from ..schemas.base import filled
from ..schemas.train import DraftCounts, JudgedDraft, TrainJudgement
from ..units import counted
from ..writing.scratch import scratch_folder

Word = Literal["better", "not_better", "useless", "text_changed", "cannot_tell"]
N_MAX = 3  # the draft length that decides
N_FIRST = 1  # and the one that shows how often the first drafted token is right
LEAST_PROMPTS = 4  # of each half
ENOUGH_PROMPTS = 10  # of each half, before another candidate is tried
_N_FINAL_RUNS = 4  # drafting at both lengths, without drafts, with shuffled weights
_N_PROBES = 2  # answers, with the load before them, by which time is planned


@dataclass(frozen=True)
class TrainedCandidate:
    """A draft that training made."""

    path: Path  # its GGUF: a sidecar
    step: int = 0  # optimiser steps behind it
    n_tokens_seen: int = 0  # tokens of text behind it, repetitions counted
    held_out: float | None = None  # share of held-out tokens that its first drafted token matched, without an engine


@dataclass(frozen=True)
class DraftBefore:
    """What drafts for the trunk already."""

    model: Path  # the model to load
    sidecar: Path | None  # None: the model's own block
    name: str  # what to call it


@dataclass(frozen=True)
class JudgeOptions:
    """How to judge."""

    published: DraftBefore | None = None
    seconds: float | None = None  # how long it may take; None: as long as all candidates need
    n_predict: int = 96  # tokens of each answer
    n_ctx: int = 1024
    threads: int | None = None
    engine_args: tuple[str, ...] = ()


@dataclass(frozen=True)
class DraftedRuns:
    """What came of drafting with one length on several prompts."""

    n_max: int
    n_prompts: int
    n_steps: int  # verification steps
    n_drafted: int
    n_accepted: int
    by_position: tuple[float, ...]  # share of the steps in which the 1st, 2nd, ... drafted token was accepted
    decode_tps: float | None  # tokens per second of these runs, whose threads sleep while they wait: no benchmark
    per_prompt: tuple[float, ...]  # accepted drafts per step, prompt by prompt

    @classmethod
    def of(cls, n_max: int, answers: Sequence[Completion]) -> DraftedRuns:
        """From the answers of one load."""
        return cls(
            n_max, len(answers), sum(one.draft_steps for one in answers), sum(one.draft_n for one in answers),
            sum(one.draft_n_accepted for one in answers), tuple(overall_acceptance(answers) or ()),
            overall_tps(answers), tuple(one.draft_n_accepted / max(1, one.draft_steps) for one in answers),
        )  # fmt: skip

    @property
    def per_step(self) -> float:
        """Accepted drafts per verification step."""
        return self.n_accepted / max(1, self.n_steps)

    @property
    def rate(self) -> float:
        """Share of drafted tokens that were accepted."""
        return self.n_accepted / max(1, self.n_drafted)

    @property
    def document(self) -> DraftCounts:
        """What --json prints of it."""
        return filled(
            DraftCounts, self, per_step=round(self.per_step, 4), by_position=list(self.by_position),
            per_prompt=[round(each, 4) for each in self.per_prompt],
        )  # fmt: skip


@dataclass(frozen=True)
class JudgedRun:
    """One draft on one half of the prompts."""

    what: Literal["candidate", "published"]
    name: str
    step: int
    prompts: Literal["choosing", "final"]
    drafted: tuple[DraftedRuns, ...]

    @property
    def document(self) -> JudgedDraft:
        """What --json prints of it."""
        return filled(JudgedDraft, self, drafted=[each.document for each in self.drafted])


@dataclass(frozen=True)
class Judgement:
    """Which candidate is best, and whether it is better than what was there."""

    engine: str
    engine_version: str
    word: Word
    reasons: tuple[str, ...]  # one sentence each
    winner: TrainedCandidate | None  # the candidate that was held against the controls
    runs: tuple[JudgedRun, ...]
    report: EngineReport | None = field(default=None, repr=False)  # of the winner, on the final prompts
    p: float | None = None  # of the paired test against the published block
    notes: tuple[str, ...] = ()
    wall_s: float = 0.0

    @property
    def final(self) -> JudgedRun | None:
        """The winner on the final prompts."""
        return next((run for run in self.runs if run.what == "candidate" and run.prompts == "final"), None)

    @property
    def before(self) -> JudgedRun | None:
        """The published block on the final prompts."""
        return next((run for run in self.runs if run.what == "published" and run.prompts == "final"), None)

    @property
    def document(self) -> TrainJudgement:
        """What --json prints of it: a part of train's document."""
        report, winner = self.report, self.winner
        return filled(
            TrainJudgement, self,
            runs=[run.document for run in self.runs],
            winner=None if winner is None else winner.path.name,
            same_text=None if report is None else report.same_text,
            n_near_ties=0 if report is None else sum(one.near_tie for one in report.divergences),
            shuffled=None if report is None else report.control_acceptance,
            tps_off=None if report is None else report.tps_off,
        )  # fmt: skip


def judge(
    trunk: Path,
    candidates: Sequence[TrainedCandidate],
    prompts: Sequence[str],
    options: JudgeOptions,
    engine: Engine,
    say: Say | None = None,
) -> Judgement:
    """Choose among the candidates on every second prompt, and judge the chosen one on the others.

    `candidates` come in the order in which they are to be tried; time decides how many are, and on how many prompts. A
    single one is judged on all of them. A candidate that the engine refuses is left out with a note. Raises UsageError
    for too few prompts, EngineMissing, EngineRefused when the engine runs none of the candidates, NoSpace for the
    control.
    """
    if not candidates:
        raise UsageError(f"{trunk}: there are no candidates to judge; run --stage fit first.")
    if len(prompts) < 2 * LEAST_PROMPTS:
        raise UsageError(f"{trunk}: judging needs at least {2 * LEAST_PROMPTS} prompts, and there are {len(prompts)}.")
    return _Judge(trunk, tuple(prompts), options, engine, heard(say)).run(tuple(candidates))


@dataclass(frozen=True)
class JudgeSize:
    """How much of a judgement there is time for."""

    n_candidates: int
    n_prompts: int  # of each half, or of the whole for a single candidate


def affordable(limit_s: float | None, answer_s: float, n_candidates: int, n_prompts: int, n_final: int) -> JudgeSize:
    """What fits into `limit_s`, if an answer takes `answer_s` and the final takes `n_final` runs of its prompts.

    Several candidates on half of the prompts each, as long as those halves are not too short to tell them apart;
    otherwise the best by held-out text on as many prompts as there is time for.
    """
    half = n_prompts // 2
    if limit_s is None:
        return JudgeSize(n_candidates, n_prompts if n_candidates == 1 else half)
    answers = limit_s / max(answer_s, 1e-6)
    for n in range(n_candidates, 1, -1):
        fits = min(half, int(answers / (n + n_final)))
        if fits >= min(half, ENOUGH_PROMPTS):
            return JudgeSize(n, fits)
    return JudgeSize(1, max(LEAST_PROMPTS, min(n_prompts, int(answers / n_final))))


class _Judge:
    """One judgement under way."""

    def __init__(
        self, trunk: Path, prompts: tuple[str, ...], options: JudgeOptions, engine: Engine, say: Say
    ) -> None:
        self.trunk = trunk
        self.prompts = prompts
        self.options = options
        self.engine = engine
        self.say = say
        self.start = time.monotonic()
        self.runs: list[JudgedRun] = []
        self.notes: list[str] = []

    def run(self, candidates: tuple[TrainedCandidate, ...]) -> Judgement:
        """All of it."""
        candidates, answer_s = self._loadable(candidates)
        n_final = _N_FINAL_RUNS + (2 if self.options.published is not None else 0)
        limit = self.options.seconds
        left = None if limit is None else limit - (time.monotonic() - self.start)
        chosen = affordable(left, answer_s, len(candidates), len(self.prompts), n_final)
        if chosen.n_candidates < len(candidates):
            n = len(candidates) - chosen.n_candidates
            self.notes.append(f"{counted(n, 'candidate')} not tried on the engine for lack of time")
        single = chosen.n_candidates == 1
        usual = len(self.prompts) if single else len(self.prompts) // 2
        if chosen.n_prompts < usual:
            self.notes.append(f"judged on {chosen.n_prompts} of {usual} prompts for lack of time")
        self.final = (self.prompts if single else self.prompts[1::2])[: chosen.n_prompts]
        best = candidates[0]
        if not single:
            best = self._chosen(candidates[: chosen.n_candidates], self.prompts[::2][: chosen.n_prompts])
        before = self._published()
        report = self._held_up(best)
        drafted = tuple(DraftedRuns.of(n, report.answers[n]) for n in sorted(report.answers))
        mine = JudgedRun("candidate", best.path.name, best.step, "final", drafted)
        self.runs.append(mine)
        word, reasons, p = decide(report, mine, before)
        return Judgement(
            self.engine.name, self.engine.version, word, tuple(reasons), best, tuple(self.runs), report, p,
            tuple(self.notes), round(time.monotonic() - self.start, 1),
        )  # fmt: skip

    def _loadable(
        self, candidates: tuple[TrainedCandidate, ...]
    ) -> tuple[tuple[TrainedCandidate, ...], float]:
        """The candidates from the first on that the engine loads, and the seconds of one of its answers."""
        for number, one in enumerate(candidates):
            self.say(f"loading {one.path.name}")
            try:
                began = time.monotonic()
                self._drafts(self.trunk, one.path, N_MAX, self.prompts[:_N_PROBES])
                return candidates[number:], (time.monotonic() - began) / _N_PROBES
            except EngineRefused as error:
                self.notes.append(f"{one.path.name}: {error}")
                if number == len(candidates) - 1:
                    raise
        raise AssertionError("unreachable")

    def _chosen(self, candidates: tuple[TrainedCandidate, ...], prompts: Sequence[str]) -> TrainedCandidate:
        """The candidate of which most drafts are accepted per step."""
        found: list[tuple[float, TrainedCandidate]] = []
        for number, one in enumerate(candidates, 1):
            self.say(f"candidate {number} of {len(candidates)}: {one.path.name}")
            try:
                drafted = self._drafts(self.trunk, one.path, N_MAX, prompts)
            except EngineRefused as error:
                self.notes.append(f"{one.path.name}: {error}")
                continue
            self.runs.append(JudgedRun("candidate", one.path.name, one.step, "choosing", (drafted,)))
            found.append((drafted.per_step, one))
        return max(found, key=lambda each: each[0], default=(0.0, candidates[0]))[1]

    def _published(self) -> JudgedRun | None:
        known = self.options.published
        if known is None:
            return None
        drafted = []
        for n_max in (N_FIRST, N_MAX):
            self.say(f"control: {known.name}, drafting {n_max} at a time")
            drafted.append(self._drafts(known.model, known.sidecar, n_max, self.final))
        run = JudgedRun("published", known.name, 0, "final", tuple(drafted))
        self.runs.append(run)
        return run

    def _drafts(self, model: Path, sidecar: Path | None, n_max: int, prompts: Sequence[str]) -> DraftedRuns:
        asked = self.options
        launch = Launch(model, sidecar, n_max, asked.n_ctx, asked.threads, asked.engine_args)
        return DraftedRuns.of(n_max, answers_of(self.engine, launch, prompts, asked.n_predict))

    def _held_up(self, best: TrainedCandidate) -> EngineReport:
        """The winner as verify judges a block: text, acceptance, and the control with shuffled weights."""
        asked, trunk = self.options, open_sound(self.trunk)

        def control(folder: Path) -> tuple[Path, Path | None]:
            return make_control(trunk, best.path, folder)

        with scratch_folder("judge") as scratch:
            return check_on_engine(
                self.engine, self.trunk, best.path, control=control, prompts=self.final, n_predict=asked.n_predict,
                n_max=(N_FIRST, N_MAX), threads=asked.threads, n_ctx=asked.n_ctx, extra_args=asked.engine_args,
                scratch=scratch, say=lambda text: self.say(f"{best.path.name}: {text}"),
            )  # fmt: skip


def decide(report: EngineReport, mine: JudgedRun, before: JudgedRun | None) -> tuple[Word, list[str], float | None]:
    """What the final runs mean, why, and the p of the paired test against what was there."""
    by_length = {each.n_max: each for each in mine.drafted}
    first, most = by_length.get(N_FIRST), by_length.get(N_MAX)
    if report.verdict == "failed" or first is None or most is None:
        return ("text_changed" if report.divergences else "cannot_tell"), list(report.reasons), None
    told = f"{first.rate:.1%} of {first.n_drafted:,} tokens drafted with n_max {N_FIRST} were accepted"
    per_step = f"{most.per_step:.2f} drafts accepted per step with n_max {N_MAX}"
    if first.rate < MIN_ACCEPTANCE:
        return "useless", [f"{told}: this draft only guesses"], None
    if report.verdict != "passed":
        return "cannot_tell", list(report.reasons), None
    if before is None:
        return "better", [f"there was no draft, and with this one {told}, and {per_step}", *report.reasons], None
    old = next(each for each in before.drafted if each.n_max == N_MAX)
    p = signed_rank_p([new - was for new, was in zip(most.per_prompt, old.per_prompt, strict=True)])
    compared = f"{per_step}, and {old.per_step:.2f} with {before.name}"
    if most.per_step > old.per_step and p < ALPHA:
        return "better", [f"{compared} (p {p:.2g} on {counted(most.n_prompts, 'prompt')})", *report.reasons], p
    if most.per_step > old.per_step:
        chance = f"which chance explains (p {p:.2g} on {counted(most.n_prompts, 'prompt')})"
        return "not_better", [f"{compared}, {chance}"], p
    return "not_better", [compared], p
