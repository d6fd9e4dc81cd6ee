"""The engine check: does a real engine draft with the block, and is the text the same with it as without?

Equal text by itself proves nothing about the block, because a useless draft is merely rejected; so acceptance is
measured by draft position, and must collapse in a control whose block weights are shuffled.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nextn.engines.base import Completion, Engine, Launch, Running
from nextn.errors import EngineFailed, EngineRefused, NextnError, UsageError
from nextn.measure.engine_report import (
    COLLAPSE_RATIO,
    MIN_ACCEPTANCE,
    MIN_DRAFTED,
    NEAR_TIE_NATS,
    Divergence,
    EngineReport,
    Verdict,
    judge,
)
from nextn.measure.prompts import PROMPTS
from nextn.measure.slots import ask_all, check_slots

from ..progress import Say, heard

__all__ = ["NEAR_TIE_NATS", "Control", "Divergence", "EngineReport", "Verdict", "check_on_engine"]

N_PROBS = 40  # how many alternatives are looked up at a divergence

_WARM_UP_TOKENS = 4
_N_CTX = 1024

Control = Callable[[Path], tuple[Path, Path | None]]


def check_on_engine(
    engine: Engine,
    model: Path,
    sidecar: Path | None = None,
    control: Control | None = None,
    prompts: Sequence[str] | None = None,
    n_predict: int = 64,
    n_max: Sequence[int] = (1, 2, 3),
    threads: int | None = None,
    n_ctx: int | None = None,
    say: Say | None = None,
    extra_args: tuple[str, ...] = (),
    scratch: Path | None = None,
    slots: int = 1,
) -> EngineReport:
    """Judge `model` (with `sidecar`) on `engine`.

    The model is loaded once for each value of `n_max`, once without MTP, and once for the control; if `n_max` is
    empty, only the run without MTP is made. `control(folder)` writes a copy with shuffled block weights into `folder`,
    a temporary folder inside `scratch`, and returns its (model, sidecar). `say(what)` is called before each load.
    `prompts` None: those of `nextn.measure.prompts`; `n_ctx` None: 1024 tokens. With MTP,
    `slots` prompts are answered at a time; the reference text without MTP comes from one prompt at a time. With several
    slots, a divergence beyond rounding counts only if it comes back when the same prompts are asked once more.

    A model that the engine refuses with MTP but runs without it has failed. An engine that dies or fails, or does not
    run the model without MTP either, says nothing about the block: cannot_tell. Raises EngineMissing, and what
    `control` raises outside the tree of errors.
    """
    asked = PROMPTS if prompts is None else tuple(prompts)
    check_slots(engine, slots)
    if slots > len(asked):
        raise UsageError(
            f"--slots {slots} needs at least {slots} prompts, and there are {len(asked)}: name more with --prompts."
        )
    run = _Run(engine, asked, n_predict, threads, n_ctx or _N_CTX, tuple(extra_args), slots)
    lengths = tuple(sorted(set(n_max)))
    n_loads = len(lengths) + 1 + (control is not None and bool(lengths))
    tell = heard(say)
    try:
        for load, length in enumerate(lengths, 1):
            tell(f"load {load} of {n_loads}: drafting {length} at a time")
            run.with_mtp(model, sidecar, length)
        tell(f"load {len(lengths) + 1} of {n_loads}: the text without MTP")
        run.without_mtp(model)
        run.ask_again(model, sidecar, tell)
    except EngineRefused as error:
        reasons = [str(error)]
        drafting = bool(set(lengths) - set(run.on))  # otherwise it was the model without MTP that did not run
        if not drafting or (isinstance(error, EngineFailed) and error.signal is None):
            return run.report("cannot_tell", reasons)
        tell("whether the model loads without MTP")
        alone = run.refused_alone(model)
        reasons += [alone] if alone else []
        return run.report("cannot_tell" if alone or isinstance(error, EngineFailed) else "failed", reasons)
    if not lengths:
        return run.report("passed", ["the engine loads the model and writes text; there was nothing to draft with"])
    first = run.acceptance.get(lengths[0])
    trouble = "no control was run"
    if control is not None and first is not None and first[0] >= MIN_ACCEPTANCE:
        tell(f"load {n_loads} of {n_loads}: the control, with shuffled block weights")
        trouble = run.with_control(control, lengths[0], scratch)
    verdict, reasons = judge(
        run.divergences,
        len(run.prompts),
        lengths[0],
        first,
        sum(answer.draft_n for answer in run.on[lengths[0]]),
        run.control,
        trouble,
    )
    return run.report(verdict, reasons)


def answers_of(engine: Engine, launch: Launch, prompts: Sequence[str], n_predict: int) -> list[Completion]:
    """The answers to all prompts, from one load. Raises what starting an engine and asking it raise."""
    with engine.start(launch) as running:
        _warm_up(running, prompts[0], n_predict)
        return ask_all(running, prompts, n_predict, launch.slots)


def _warm_up(running: Running, prompt: str, n_predict: int) -> None:
    """Page the weights in, so that the first prompt is as fast as the others."""
    running.complete(prompt, min(_WARM_UP_TOKENS, n_predict))


class _Run:
    """The runs on one engine, and what they revealed."""

    def __init__(
        self,
        engine: Engine,
        prompts: tuple[str, ...],
        n_predict: int,
        threads: int | None,
        n_ctx: int,
        extra_args: tuple[str, ...],
        slots: int,
    ) -> None:
        self.engine = engine
        self.prompts = prompts
        self.n_predict = n_predict
        self.threads = threads
        self.n_ctx = n_ctx
        self.extra_args = extra_args
        self.slots = slots
        self.on: dict[int, list[Completion]] = {}
        self.off: list[Completion] = []
        self.divergences: list[Divergence] = []
        self.same_text: bool | None = None
        self.acceptance: dict[int, list[float]] = {}
        self.tps_off: float | None = None
        self.tps_on: dict[int, float] = {}
        self.control: float | None = None
        self.answers = False  # whether the engine started last is running

    @contextmanager
    def _started(self, model: Path, sidecar: Path | None, n_max: int) -> Iterator[Running]:
        launch = Launch(model, sidecar, n_max, self.n_ctx, self.threads, self.extra_args, slots=self.slots)
        self.answers = False
        with self.engine.start(launch) as running:
            try:
                _warm_up(running, self.prompts[0], self.n_predict)
                yield running
            except EngineFailed:
                self.answers = running.alive
                raise

    def refused_alone(self, model: Path) -> str:
        """A sentence if the engine does not run the model without MTP either: then the block is not to blame."""
        try:
            with self._started(model, None, 0):
                return ""
        except EngineRefused as error:
            if self.answers:  # an odd message, but the engine does run the model
                return ""
            does = "dies of" if isinstance(error, EngineFailed) else "refuses"
            line = error.line or str(error)
            return f"the engine {does} the model without MTP, too, so the block is not to blame: {line}"

    def _ask(self, model: Path, sidecar: Path | None, n_max: int) -> list[Completion]:
        with self._started(model, sidecar, n_max) as running:
            return ask_all(running, self.prompts, self.n_predict, self.slots)

    def with_mtp(self, model: Path, sidecar: Path | None, n_max: int) -> None:
        """Text, acceptance and speed with drafts of `n_max` tokens."""
        answers = self._ask(model, sidecar, n_max)
        self.on[n_max] = answers
        tps = overall_tps(answers)
        if tps is not None:
            self.tps_on[n_max] = tps
        rates = overall_acceptance(answers)
        if rates is not None:
            self.acceptance[n_max] = rates

    def without_mtp(self, model: Path) -> None:
        """The reference text; every divergence from it is examined while the engine runs."""
        with self._started(model, None, 0) as running:
            answers = [running.complete(prompt, self.n_predict) for prompt in self.prompts]
            self.off, self.tps_off = answers, overall_tps(answers)
            for n_max, others in self.on.items():
                for index, (off, on) in enumerate(zip(answers, others, strict=True)):
                    place = divergence_place(off, on)
                    if place is not None:
                        found = Divergence(n_max, index, place, _at(off.tokens, place), _at(on.tokens, place))
                        self.divergences.append(self._measured(running, found, off.tokens[:place]))
        self.same_text = not self.divergences if self.on else None

    def ask_again(self, model: Path, sidecar: Path | None, tell: Say) -> None:
        """With several slots: ask once more where a text diverged beyond rounding, and note what came back."""
        if self.slots == 1:
            return
        for n_max in sorted({one.n_max for one in self.divergences if one.beyond_rounding}):
            tell(f"a text differs: once more on {self.slots} slots, drafting {n_max} at a time")
            again = self._ask(model, sidecar, n_max)
            self.divergences = [
                replace(one, came_back=divergence_place(self.off[one.prompt], again[one.prompt]) is not None)
                if one.n_max == n_max and one.beyond_rounding
                else one
                for one in self.divergences
            ]

    def _measured(self, running: Running, found: Divergence, prefix: list[int]) -> Divergence:
        """`found` with its gap, decoded token by token as the text was, and with how far batching moves that gap."""
        off, on = found.token_off, found.token_on
        for known in self.divergences:
            if (known.prompt, known.position, known.token_on) == (found.prompt, found.position, on):
                return replace(known, n_max=found.n_max)
        if off is None or on is None:
            return found
        prompt = self.prompts[found.prompt]
        again = running.complete(prompt, found.position + 1, n_probs=N_PROBS)
        if again.tokens != [*prefix, off] or len(again.top) <= found.position:
            return found
        gap, bounded = _gap(again.top[found.position], off, on)
        batch = running.complete([*running.tokenize(prompt), *prefix], 1, n_probs=N_PROBS)
        shift = None
        if gap is not None and not bounded and batch.top:
            moved, beyond = _gap(batch.top[0], off, on)
            shift = None if moved is None or beyond else round(abs(moved - gap), 6)
        return replace(found, gap_nats=gap, gap_is_lower_bound=bounded, batch_shift_nats=shift)

    def with_control(self, control: Control, n_max: int, scratch: Path | None) -> str:
        """Measure acceptance with shuffled block weights; returns why that failed, or ""."""
        try:
            with tempfile.TemporaryDirectory(prefix="nextn-control-", dir=scratch) as folder:
                model, sidecar = control(Path(folder))
                answers = self._ask(model, sidecar, n_max)
        except (NextnError, OSError) as error:
            return f"the control could not be run: {error}"
        rates = overall_acceptance(answers)
        drafted = sum(answer.draft_n for answer in answers)
        if rates is None or drafted < MIN_DRAFTED:
            return f"the control drafted {drafted} tokens, fewer than {MIN_DRAFTED}"
        self.control = rates[0]
        return ""

    def collapsed(self) -> bool | None:
        """Whether the control's acceptance is at most `COLLAPSE_RATIO` of the real one; None: not run."""
        if self.control is None:
            return None
        return self.control <= COLLAPSE_RATIO * self.acceptance[min(self.on)][0]

    def report(self, verdict: Verdict, reasons: list[str]) -> EngineReport:
        """Everything that was found, with its verdict."""
        return EngineReport(
            engine=self.engine.name,
            engine_version=self.engine.version,
            verdict=verdict,
            reasons=reasons,
            n_prompts=len(self.prompts),
            n_drafted=sum(answer.draft_n for answers in self.on.values() for answer in answers),
            divergences=self.divergences,
            same_text=self.same_text,
            acceptance=self.acceptance,
            control_acceptance=self.control,
            control_collapsed=self.collapsed(),
            tps_off=self.tps_off,
            tps_on=self.tps_on,
            slots=self.slots,
            answers=self.on,
        )


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first index at which two token lists differ, or None; the shorter one ends in a difference."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def divergence_place(off: Completion, on: Completion) -> int | None:
    """The index of the first token at which `on` diverges from `off`; None: nowhere, or it was only cut short."""
    place = first_difference(off.tokens, on.tokens)
    return None if place is None or cut_short(off, on) else place


def cut_short(off: Completion, on: Completion) -> bool:
    """Whether `on` is `off` up to where the engine stopped at the limit: its last draft is then incomplete."""
    return on.at_limit and bool(on.text) and off.text.startswith(on.text)


def overall_acceptance(answers: Sequence[Completion]) -> list[float] | None:
    """Acceptance by draft position over all answers, weighted by verification steps; None when unknown."""
    sums: list[float] = []
    steps = 0
    for answer in answers:
        if answer.acceptance_per_pos is None:
            continue
        steps += answer.draft_steps
        for position, rate in enumerate(answer.acceptance_per_pos):
            if position == len(sums):
                sums.append(0.0)
            sums[position] += rate * answer.draft_steps
    return [round(total / steps, 4) for total in sums] if steps else None


def overall_tps(answers: Sequence[Completion]) -> float | None:
    """Generated tokens per second over all answers; None when the engine gave no speeds."""
    timed = [(len(answer.tokens), answer.decode_tps) for answer in answers if answer.decode_tps > 0]
    seconds = sum(n / tps for n, tps in timed)
    return round(sum(n for n, _ in timed) / seconds, 2) if seconds else None


def _at(tokens: list[int], index: int) -> int | None:
    return tokens[index] if index < len(tokens) else None


def _gap(top: list[tuple[int, float]], off: int, on: int) -> tuple[float | None, bool]:
    """Log-probability of `off` minus that of `on`, and whether it is only a lower bound because `on` is not listed."""
    known = {token: value for token, value in top if math.isfinite(value)}
    if off not in known:
        return None, False
    if on in known:
        return round(known[off] - known[on], 6), False
    return round(known[off] - min(known.values()), 6), True
