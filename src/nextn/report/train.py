"""What training made, for the user; the path to load on standard output."""

from __future__ import annotations

import sys

from ..printable import printable
from ..shell import shell
from ..units import counted, duration, size
from ..verbs.train import TrainResult
from .outlet import console as console_of
from .outlet import plain_lines
from .text import put_path, say
from .verify import percent
from .written import say_how_to_load


def show(result: TrainResult, *, quiet: bool = False) -> None:
    """The stages, what the engine accepted, and the sentence; `quiet`: only the path, if a draft was written."""
    if not quiet:
        _told(result)
    if result.entry is not None:
        put_path(result.sidecar or result.entry)
    elif quiet:
        say(result.sentence)


def _told(result: TrainResult) -> None:
    known, data = result.chosen, result.document
    say(f"kind: {known.kind}, since {known.why}")
    say(f"before: {result.before or 'nothing drafts for this model'}")
    taps = f"layers {', '.join(map(str, known.taps))}" if known.taps else "the state that its MTP graph gets"
    say(
        f"states: {taps}, {known.bytes_per_token:,} bytes per token, at most {size(result.max_disk_bytes)} or "
        f"{data.sizes.n_tokens_most:,} tokens"
    )
    spent = data.spent
    if result.outcome == "planned":
        stages = [(name, getattr(data.budget, name)) for name in ("states", "fit", "judge")]
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in stages if seconds)
        say(f"budget: {parts}; work folder: {printable(data.work, 1000)}")
    else:
        say(f"spent: {', '.join(f'{name} {duration(getattr(spent, name))}' for name in ('states', 'fit', 'judge'))}")
    if result.states is not None:
        made = result.states
        say(
            f"text: {counted(made.n_tokens, 'token')} in {counted(made.n_sequences, 'answer')}, "
            f"{made.n_tokens_held:,} held out, {size(made.size_bytes)}, read by {made.reader}"
        )
    if result.fit is not None:
        fit = result.fit
        last = fit.curve[-1] if fit.curve else None
        seen = "" if last is None else f"; held-out agreement {', '.join(map(percent, last.agreement))} by position"
        say(f"fit: {counted(fit.n_steps, 'step')}, {fit.n_tokens_seen:,} tokens seen, from {fit.start}{seen}")
    if result.judgement is not None:
        _judged(result)
    for note in result.notes:
        say(f"note: {note}")
    if result.entry is not None:
        say_how_to_load(result.trunk if result.sidecar is not None else result.entry, result.sidecar)
        again = shell("nextn", "bench", result.trunk if result.sidecar is not None else result.entry,
                      *(() if result.sidecar is None else ("--sidecar", result.sidecar)))  # fmt: skip
        say(f"whether it is faster on this machine: {again}")
    say(result.sentence)


def _judged(result: TrainResult) -> None:
    from rich.table import Table

    judgement = result.judgement
    assert judgement is not None
    table = Table(title=f"accepted by {judgement.engine} {judgement.engine_version}", title_justify="left")
    for head in ("draft", "prompts", "n_max", "accepted", "per step", "by position"):
        table.add_column(head, justify="left" if head in ("draft", "prompts") else "right")
    for run in judgement.runs:
        for one in run.drafted:
            table.add_row(
                run.name, run.prompts, str(one.n_max), f"{one.n_accepted:,} of {one.n_drafted:,}",
                f"{one.per_step:.2f}", ", ".join(map(percent, one.by_position)),
            )  # fmt: skip
    found = console_of(stderr=True, width=None if sys.stderr.isatty() else 120)
    found.print(table, highlight=False, markup=False)
    line = plain_lines(found)
    report = judgement.report
    if report is not None:
        text = {True: "the same with it and without", False: "differs", None: "not compared"}[report.same_text]
        near = sum(one.near_tie for one in report.divergences)
        line(f"text: {text}" + (f" ({counted(near, 'divergence')} at near-ties)" if near else ""))
        if report.control_acceptance is not None:
            line(f"with its weights shuffled: {percent(report.control_acceptance)} accepted at 1")
    for note in judgement.notes:
        line(f"note: {note}")
    for reason in judgement.reasons:
        line(f"because: {reason}")
