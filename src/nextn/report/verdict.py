"""The verdict of verify, for people."""

from __future__ import annotations

from ..verbs.verify import CANNOT_TELL, PASSED, Verdict
from .text import columns


def percent(share: float) -> str:
    """A share as whole percent."""
    return f"{100 * share:.0f} %"


def show(verdict: Verdict) -> str:
    """All that was found, the verdict last."""
    files, data = verdict.files, verdict.to_json()
    rows = [("model", str(verdict.model))]
    if verdict.sidecar is not None:
        rows.append(("sidecar", str(verdict.sidecar)))
    if verdict.trunk is not None:
        same = files.n_same_bytes + files.n_same_file
        how = f"{files.n_same_bytes} compared byte by byte, {files.n_same_file} on shared bytes"
        rows.append(("trunk tensors", f"{same} of {files.n_tensors} identical ({how})"))
        rows.append(("changed keys", ", ".join(files.changed_keys) or "none"))
    if files.n_hashed:
        rows.append(("block tensors", f"{files.n_hashed} have the sha256 that was recorded"))
    if verdict.engine is not None:
        engine = data.get("engine") or {}
        rows.append(("engine", f"{engine.get('name')} {engine.get('version')}"))
        text = {True: "the same with and without MTP", False: "differs", None: "not compared"}[data["same_text"]]
        near = sum(1 for item in data["divergences"] if item.get("near_tie"))
        rows.append(("greedy text", text + (f" ({near} parting(s) at near-ties)" if near else "")))
        for n_max, shares in data["acceptance"].items():
            rows.append((f"accepted at {n_max}", ", ".join(percent(share) for share in shares) + " by position"))
        control = data["control"]
        if control and control.get("acceptance") is not None:
            rows.append(("shuffled block", f"{percent(control['acceptance'])} accepted at 1"))
        tps = data.get("tps") or {}
        if tps:
            with_mtp = ", ".join(f"{value:.0f} at {n}" for n, value in (tps.get("on") or {}).items())
            rows.append(("tokens/s", f"{tps.get('off') or 0:.0f} without MTP; with: {with_mtp}"))
    rows += [("note", note) for note in verdict.notes]
    rows += [("because", reason) for reason in verdict.reasons]
    words = {PASSED: "PASSED", CANNOT_TELL: "CANNOT TELL"}.get(verdict.verdict, "FAILED")
    rows.append(("verdict", words))
    return columns(rows)
