"""The verdict of verify, for the user."""

from __future__ import annotations

from ..units import counted
from ..verbs.verify import CANNOT_TELL, PASSED, Verdict
from .text import columns


def percent(share: float) -> str:
    """A share as a rounded percentage."""
    return f"{100 * share:.0f} %"


def show(verdict: Verdict, *, quiet: bool = False) -> None:
    """Everything that was found, the verdict last, on standard output; `quiet`: only the verdict."""
    print(verdict.verdict if quiet else columns(_rows(verdict)))


def _rows(verdict: Verdict) -> list[tuple[str, str]]:
    files, data = verdict.files, verdict.document
    rows = [("model", str(verdict.model))]
    if verdict.sidecar is not None:
        rows.append(("sidecar", str(verdict.sidecar)))
    if verdict.trunk is not None:
        same = files.n_same_bytes + files.n_same_file
        how = f"{files.n_same_bytes} compared byte by byte, {files.n_same_file} on shared bytes"
        rows.append(("trunk tensors", f"{same} of {files.n_tensors} identical ({how})"))
        rows.append(("changed keys", ", ".join(files.changed_keys) or "none"))
    if files.n_hashed:
        rows.append(("block tensors", f"{files.n_hashed} with the recorded sha256"))
    if data.engine:
        rows.append(("engine", f"{data.engine.name} {data.engine.version}"))
        text = {True: "the same with and without MTP", False: "differs", None: "not compared"}[data.same_text]
        near = sum(one.near_tie for one in data.divergences)
        once = sum(one.came_back is False for one in data.divergences)
        which = [f"{counted(near, 'divergence')} at near-ties"] if near else []
        which += [f"{counted(once, 'divergence')} that did not come back"] if once else []
        rows.append(("greedy text", text + (f" ({', '.join(which)})" if which else "")))
    for n_max, shares in data.acceptance.items():
        rows.append((f"accepted at {n_max}", ", ".join(percent(share) for share in shares) + " by position"))
    if data.control is not None and data.control.acceptance is not None:
        rows.append(("shuffled block", f"{percent(data.control.acceptance)} accepted at 1"))
    if data.tps:
        with_mtp = ", ".join(f"{value:.0f} at {n}" for n, value in data.tps.on.items())
        rows.append(("tokens/s", f"{data.tps.off or 0:.0f} without MTP; with: {with_mtp}"))
    rows += [("note", note) for note in verdict.notes]
    rows += [("because", reason) for reason in verdict.reasons]
    rows.append(("verdict", {PASSED: "PASSED", CANNOT_TELL: "CANNOT TELL"}.get(verdict.verdict, "FAILED")))
    return rows
