"""The training loop: batches, schedule, held-out curve, candidates, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError
from ...gguf.files import Model, open_sound
from ..states import States
from .drafter import Drafter
from .optimizers import Optimizers
from .options import FitOptions, FitResult, FitStep, HeldOutPoint, Progress
from .rollout import DraftAgreement, rollout
from .saved import Save, key_of, points
from .texts import Text, Texts

_WARM = 0.03  # share of the fit in which the learning rate rises
_FLOOR = 0.02  # share of the peak that it ends at
_CLIP = 1.0
_PEAK_NEW = 2e-3  # of the learning rate, for an EAGLE-3 draft from nothing
_PEAK = 6e-4


@dataclass
class _Fit:
    trunk: Model
    out: Path
    options: FitOptions
    drafter: Drafter
    coverage: float
    write: Callable[[Path], Path]
    held: Texts
    save: Save
    optimizer: Optimizers
    step: int = 0
    n_tokens: int = 0
    before_s: float = 0.0  # of earlier runs
    started: float = field(default_factory=time.monotonic)
    curve: list[HeldOutPoint] = field(default_factory=list)
    candidates: dict[str, float] = field(default_factory=dict)  # name -> accepted per step
    running: float = 0.0

    @property
    def seconds(self) -> float:
        return self.before_s + time.monotonic() - self.started

    @property
    def done(self) -> float:
        """Share of the fit, 0 to 1, by steps or time, whichever is further."""
        shares = []
        if self.options.steps is not None:
            shares.append(self.step / max(1, self.options.steps))
        if self.options.seconds is not None:
            shares.append(self.seconds / max(1e-9, self.options.seconds))
        return max(shares)

    def told(self) -> dict[str, Any]:
        return {
            "step": self.step, "n_tokens": self.n_tokens, "seconds": self.seconds, "running": self.running,
            "curve": [asdict(point) for point in self.curve], "candidates": self.candidates,
        }  # fmt: skip

    def document(self) -> dict[str, Any]:
        """What fit.json says."""
        n, start = len(self.drafter.target), self.options.start
        return {
            "version": 1, "kind": "fit", **self.told(), "n_draft_vocab": n, "coverage": self.coverage,
            "options": {**asdict(self.options), "start": start.name if start is not None else None},
        }  # fmt: skip


def run_fit(trunk: Path, states: Path, out: Path, options: FitOptions, progress: Progress | None) -> FitResult:
    """See `options.fit`."""
    _check(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = open_sound(trunk)
    found_states = States.open(states)
    texts, held = Texts(found_states, "fit"), Texts(found_states, "held")
    _check_states(model, texts, held)
    save = Save(out, key_of(options, texts.manifest.trunk.fingerprint))
    known = save.found()
    fit = _begin(model, texts, held, out, options, save, known)
    device = fit.drafter.target.device
    index = fit.drafter.index_of_token(fit.drafter.embeddings.shape[0])
    weights = [options.step_weight**n for n in range(options.n_drafted)]
    first_only = options.first_only if options.start is None else 0.0
    batches = texts.training(options.kind, options.seed, options.batch, options.max_length, fit.step)
    next_check = _next_check(fit.done, options.checks)
    while fit.done < 1:
        rows = next(batches).to(device)
        rate = _rate(fit.done, options)
        fit.optimizer.rate(rate)
        fit.optimizer.zero_grad()
        n_drafted = 1 if fit.done < first_only else options.n_drafted
        found = rollout(fit.drafter, rows, weights[:n_drafted], options.argmax_weight, index)
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(fit.drafter.parameters(), _CLIP)
        fit.optimizer.step()
        fit.step += 1
        fit.n_tokens += rows.n_tokens
        loss = float(found.loss.detach())
        fit.running = loss if fit.step == 1 else 0.98 * fit.running + 0.02 * loss
        point = None
        if fit.done >= next_check or fit.done >= 1:
            point = _look(fit, index)
            next_check = _next_check(fit.done, options.checks)
        if progress is not None:
            progress(FitStep(fit.step, options.steps, fit.seconds, options.seconds, fit.running, point))
    if not fit.curve or fit.curve[-1].step != fit.step:
        _look(fit, index)
    ordered = sorted(fit.candidates, key=lambda name: -fit.candidates[name])
    return FitResult(
        candidates=tuple(out / name for name in ordered), curve=tuple(fit.curve), n_steps=fit.step,
        n_tokens=fit.n_tokens, seconds=fit.seconds, n_draft_vocab=len(fit.drafter.target), coverage=fit.coverage,
    )  # fmt: skip


def _check(options: FitOptions) -> None:
    if options.seconds is None and options.steps is None:
        raise UsageError("a fit needs an end: give it seconds or steps.")
    if options.n_drafted < 1 or options.batch < 1 or options.checks < 1:
        raise UsageError("drafted steps, tokens per batch and checks must be at least 1.")


def _check_states(trunk: Model, texts: Texts, held: Texts) -> None:
    manifest = texts.manifest
    if manifest.architecture != trunk.architecture or manifest.n_embd != trunk.arch_int("embedding_length"):
        raise UsageError(
            f"{texts.folder}: these states are of another model ('{manifest.architecture}', hidden size "
            f"{manifest.n_embd:,}), not of {trunk.entry.name}; write states of this one."
        )
    for part in (texts, held):
        if not part.texts:
            raise UsageError(
                f"{texts.folder}: there is no text here to {'train on' if part is texts else 'compare with'}; write "
                "more states."
            )


def _begin(
    trunk: Model, texts: Texts, held: Texts, out: Path, options: FitOptions, save: Save,
    known: tuple[dict[str, Any], dict[str, Tensor]] | None,
) -> _Fit:  # fmt: skip
    from .kinds import make

    made = make(trunk, texts, options, None if known is None else known[1]["target"].numpy().astype(np.int64))
    device = _device(options)
    drafter = made.drafter.to(device)
    optimizer = Optimizers(drafter, options.decay, muon=options.is_new_eagle3)
    fit = _Fit(trunk, out, options, drafter, made.coverage, made.write, held, save, optimizer)
    if known is not None:
        told, tensors = known
        save.restore(drafter, optimizer, tensors)
        fit.step, fit.n_tokens, fit.before_s, fit.running = (
            told["step"], told["n_tokens"], told["seconds"], told["running"]
        )  # fmt: skip
        fit.curve, fit.candidates = points(told), dict(told["candidates"])
    return fit


def _device(options: FitOptions) -> torch.device:
    if options.device is not None:
        return torch.device(options.device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _rate(done: float, options: FitOptions) -> float:
    peak = options.learning_rate or (_PEAK_NEW if options.is_new_eagle3 else _PEAK)
    warm = min(1.0, (done + 1e-4) / _WARM)
    return peak * warm * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def _next_check(done: float, checks: int) -> float:
    return (math.floor(done * checks + 1e-9) + 1) / checks


def _look(fit: _Fit, index: Tensor) -> HeldOutPoint:
    """Compare with held-out text, keep the candidate if it is one of the best, save what resuming needs."""
    found = agreement(fit.drafter, fit.held, fit.options, index)
    point = HeldOutPoint(fit.step, fit.n_tokens, fit.seconds, found.mean_loss, found.shares, found.accepted_per_step)
    fit.curve.append(point)
    _candidate(fit, point)
    fit.save.write(fit.drafter, fit.optimizer, fit.told(), fit.drafter.target)
    fit.save.curve(fit.document())
    return point


def _candidate(fit: _Fit, point: HeldOutPoint) -> None:
    """Keep the best few and the last."""
    name = f"candidate-{fit.step:06d}.gguf"
    (fit.out / name).unlink(missing_ok=True)  # of a run that was interrupted after this
    fit.write(fit.out / name)
    fit.candidates[name] = point.accepted_per_step
    best = sorted(fit.candidates, key=lambda each: -fit.candidates[each])[: fit.options.keep]
    for each in list(fit.candidates):
        if each != name and each not in best:
            del fit.candidates[each]
            (fit.out / each).unlink(missing_ok=True)


def agreement(drafter: Drafter, held: Texts, options: FitOptions, index: Tensor) -> DraftAgreement:
    """How far the draft agrees with its trunk on held-out text, drafting as the engine does."""
    out = DraftAgreement(options.n_drafted)
    device = index.device
    chosen = sorted(held_texts(held, options.check_tokens), key=lambda text: text.n_tokens)
    with torch.no_grad():
        while chosen:
            length = min(chosen[-1].n_tokens, options.max_length)
            n = max(1, options.batch // length)
            some, chosen = chosen[-n:], chosen[:-n]
            cuts = [(0, min(text.n_tokens, options.max_length)) for text in some]
            rows = held.rows(some, options.kind, cuts).to(device)
            found = rollout(drafter, rows, [1.0] * options.n_drafted, options.argmax_weight, index, look=True)
            out.add(found, rows, [held.greedy(text) for text in some])
    return out


def held_texts(held: Texts, n_tokens: int) -> list[Text]:
    """Texts up to `n_tokens` tokens, greedy answers first: they show what an engine would accept."""
    order = sorted(held.texts, key=lambda text: not held.greedy(text))
    out: list[Text] = []
    for text in order:
        if out and n_tokens <= 0:
            break
        out.append(text)
        n_tokens -= text.n_tokens
    return out
