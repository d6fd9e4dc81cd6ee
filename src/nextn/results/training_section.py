"""The section of a draft that was trained."""

from __future__ import annotations

from pathlib import Path

from ..schemas.train import TrainDocument
from ..shell import shell
from ..units import size
from .other_sections import percent
from .section import Section, TextTable, Tone

_BADGES: dict[str, tuple[str, Tone]] = {
    "written": ("BETTER DRAFT", "good"), "not_better": ("NOT BETTER", "unclear"), "planned": ("", "plain"),
    "stage_done": ("", "plain"), "exported": ("", "plain"),
}  # fmt: skip


def train(data: TrainDocument) -> Section:
    """What was trained, the curve of the fit, and what the engine accepted."""
    badge, tone = _BADGES[data.outcome]
    tables = []
    if data.judgement is not None:
        rows = tuple(
            (run.name, run.prompts, str(one.n_max), f"{one.n_accepted:,} of {one.n_drafted:,}", f"{one.per_step:.2f}",
             ", ".join(map(percent, one.by_position)))
            for run in data.judgement.runs
            for one in run.drafted
        )  # fmt: skip
        tables.append(
            TextTable(
                "Accepted by the engine", ("draft", "prompts", "n_max", "accepted", "per step", "by position"), rows
            )
        )
    if data.fit is not None:
        points = tuple(
            (f"{one.step:,}", f"{one.n_tokens_seen:,}", f"{one.loss:.3f}", ", ".join(map(percent, one.agreement)))
            for one in data.fit.curve
        )
        tables.append(TextTable("Held-out text", ("step", "tokens seen", "loss", "agreement by position"), points))
    said = [data.sentence, f"kind: {data.draft}, since {data.draft_why}"]
    if data.states is not None:
        made = data.states
        held = f"{made.n_tokens_held:,} held out"
        said.append(f"{made.n_tokens:,} tokens of its own text, {held}, {size(made.size_bytes)}")
    beside = () if data.sidecar is None else ("--sidecar", data.sidecar)
    commands = () if data.entry is None else (shell("nextn", "bench", data.entry, *beside),)
    engine = "" if data.engine is None else f"{data.engine.name} {data.engine.version}"
    return Section(
        f"Trained: {Path(data.trunk).name}", (*said, *data.notes), tuple(tables), commands=commands,
        badge=badge, tone=tone, weight=1 if badge else 0, engine=engine,
    )  # fmt: skip
