"""What doctor found and fixed, for the user."""

from __future__ import annotations

from ..printable import printable
from ..units import counted
from ..verbs.doctor import DoctorResult
from .text import put_path, say
from .written import say_outputs


def show(done: DoctorResult, *, fix: bool, quiet: bool = False) -> None:
    """Findings go to standard output; with `fix`, to standard error, and the path to load to standard output."""
    if not fix:  # the findings are the result
        if not quiet:
            for line in lines(done):
                print(line)
        return
    if not quiet:
        for line in lines(done):
            say(line)
    plan = done.plan
    if plan is None:
        if done.before.problems and not quiet:
            say("none of this can be fixed with what was given; nothing was written")
        return
    if not quiet:
        say_outputs(plan, done=done.outcome is not None)
        left = [finding.id for finding in done.remaining]
        say("left: " + ", ".join(left) if left else "nothing is left to fix")
    put_path(plan.sidecar or plan.entry)


def lines(done: DoctorResult) -> list[str]:
    """The diagnosis as text."""
    before = done.before
    n = len(before.problems)
    head = f"{before.name}: {before.shape}" + (f", {before.architecture}" if before.architecture else "")
    out = [printable(f"{head}: " + (counted(n, "problem") if n else "no problems"), 1000)]
    for finding in before.findings:
        entry = finding.entry
        out += ["", f"{entry.severity}: {entry.id}", f"  {entry.what}", f"  where   {entry.where}"]
        if entry.engine:
            out.append(f"  effect  {entry.engine}")
        out.append(f"  fix     {entry.mend}")
    out += [f"note: {note}" for note in before.notes]
    out += [f"not checked: {check}: {why}" for check, why in before.skipped]
    return out
