"""The stages within their time, and what is read back of them: states, the curve of a fit, its candidates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..bounded import MOST_DOCUMENT, parse_json, read_bounded
from ..errors import FormatError, UsageError
from ..gguf.files import Model
from ..progress import Say
from ..schemas.train import FitMade, FitPoint, StatesMade
from .fit import FitOptions, FitStep, fit
from .judge import TrainedCandidate
from .kind import DraftName
from .states import States
from .work import Work
from .write_states import StatesOptions, StatesProgress, write_states

CURVE = "fit.json"
_STEP = re.compile(r"candidate-(\d+)\.gguf\Z")
_SAY_EVERY = 10  # steps


def run_states(trunk: Model, work: Work, options: StatesOptions, say: Say) -> StatesMade:
    """Let the trunk write within `options`. Raises UsageError when it wrote nothing, and what `write_states` raises."""
    with work.timed("states") as clock:

        def progress(step: StatesProgress) -> None:
            clock.tick()
            say(f"states: {step.words}")

        made = write_states(trunk.entry, work.states, options, progress)
    if not made.n_tokens("fit"):
        raise UsageError(
            f"{work.states}: there was no time or room to write any text to train on; raise --budget or --max-disk."
        )
    return states_made(made)


def states_made(made: States) -> StatesMade:
    """What a folder of states holds."""
    chunks = made.manifest.chunks
    return StatesMade(
        str(made.folder), made.manifest.reader, sum(one.n_sequences for one in chunks), made.n_tokens(),
        made.n_tokens("held"), made.n_bytes,
    )


def run_fit(
    trunk: Model, work: Work, kind: DraftName, start: Path | None, start_name: str, seconds: float, seed: int,
    threads: int | None, say: Say,
) -> FitMade:
    """Fit for `seconds` more, from `start`, called `start_name`.

    Raises UsageError when there is no time left, and what `fit` raises.
    """
    before = _document(work)
    done_s = 0.0 if before is None else float(before["seconds"])
    if seconds <= 0 and before is None:
        raise UsageError(f"{work.folder}: the budget is spent, and nothing is fitted yet; raise --budget.")
    options = FitOptions(kind=kind, start=start, seconds=done_s + seconds, seed=seed, threads=threads)
    with work.timed("fit") as clock:

        def progress(step: FitStep) -> None:
            clock.tick()
            if step.point is not None or step.step % _SAY_EVERY == 0:
                left = max(0.0, options.seconds - step.seconds) if options.seconds is not None else 0.0
                at = "" if step.point is None else f", held-out {step.point.agreement[0]:.1%} at 1"
                say(f"fit: step {step.step:,}, loss {step.loss:.3f}{at}, {left / 60:.1f} min left")

        fit(trunk.entry, work.states, work.fit, options, progress)
    return fit_made(work, start_name)


def fit_made(work: Work, start_name: str) -> FitMade:
    """What was fitted so far. Raises UsageError for a folder without a fit, FormatError for a damaged one."""
    found = _document(work)
    if found is None:
        raise UsageError(f"{work.fit}: nothing was fitted in this work folder yet; run --stage fit.")
    try:
        curve = [
            FitPoint(
                int(point["step"]), int(point["n_tokens"]), float(point["seconds"]), float(point["loss"]),
                [float(share) for share in point["agreement"]],
            )
            for point in found["curve"]
        ]  # fmt: skip
        ordered = sorted(found["candidates"], key=lambda name: -float(found["candidates"][name]))
        return FitMade(start_name, int(found["step"]), int(found["n_tokens"]), ordered, curve)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"this is not the curve of a fit ({error!r})", path=work.fit / CURVE) from error


def candidates_of(work: Work, made: FitMade) -> list[TrainedCandidate]:
    """The candidates, the best by held-out text first."""
    seen = {point.step: point for point in made.curve}
    out = []
    for name in made.candidates:
        match = _STEP.match(name)
        step = int(match[1]) if match else 0
        point = seen.get(step)
        out.append(
            TrainedCandidate(
                work.fit / name, step, 0 if point is None else point.n_tokens_seen,
                point.agreement[0] if point is not None and point.agreement else None,
            )
        )  # fmt: skip
    return out


def _document(work: Work) -> dict[str, Any] | None:
    path = work.fit / CURVE
    if not path.is_file():
        return None
    found = parse_json(read_bounded(path, MOST_DOCUMENT), path)
    if not isinstance(found, dict) or found.get("kind") != "fit" or not isinstance(found.get("seconds"), int | float):
        raise FormatError("this is not the curve of a fit; name another folder with --work", path=path)
    return found
