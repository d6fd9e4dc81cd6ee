"""What inspect found, for the user: one fact per line."""

from __future__ import annotations

from ..inspection.checkpoint import CheckpointInspection
from ..inspection.model import Inspection
from ..inspection.shard_set import SetInspection
from ..results.draft_facts import draft_facts
from ..units import counted, size
from .text import columns


def show(seen: Inspection | CheckpointInspection | SetInspection, *, quiet: bool = False) -> None:
    """Print it on standard output."""
    print(columns(_rows(seen)))


def _rows(seen: Inspection | CheckpointInspection | SetInspection) -> list[tuple[str, str]]:
    data = seen.document
    files = counted(data.n_files, "shard") if data.n_files > 1 else "1 file"
    total = "size not known" if data.size_bytes is None else size(data.size_bytes)
    block = f"{data.n_layer_nextn} ({size(data.block_bytes)})" if data.n_layer_nextn else "none"
    types = "types of the block" if data.shape == "checkpoint" else "types"
    rows = [
        ("model", data.name or "-"),
        ("path", data.path),
        ("shape", data.shape),
        ("architecture", data.architecture),
    ]
    if data.draft is not None:
        rows += draft_facts(data.draft, data.n_layer_nextn, data.n_vocab)
    elif data.shape != "set":
        rows += [("trunk layers", str(data.n_layer_trunk or "not known")), ("MTP blocks", block)]
    if data.n_tensors:
        rows.append(("size", f"{total} in {files}, {counted(data.n_tensors, 'tensor')}"))
        rows.append((types, ", ".join(f"{name} {size(n)}" for name, n in data.types.items()) or "-"))
    if data.provenance:
        rows.append(("donor", data.provenance.get("donor", "-")))
        rows.append(("donor's block", f"sha256 {data.provenance.get('donor_sha256', '-')}"))
        if "trained.start" in data.provenance:
            rows.append(("trained", _trained(data.provenance)))
    rows += [("block sha256", data.block_sha256)] if data.block_sha256 else []
    rows += [("downloaded", size(data.bytes_downloaded))] if data.bytes_downloaded else []
    rows += [("sidecar here", path) for path in data.sidecars]
    rows += [(f"on {engine}", what) for engine, what in data.runs_on.items()]
    rows += [("hint", hint) for hint in data.hints]
    return rows + ([("problem", problem) for problem in data.problems] or [("problems", "none")])


def _trained(known: dict[str, str]) -> str:
    """How nextn trained it, in a line."""
    found = []
    if (first := _number(known, "accepted_at_1")) is not None:
        found.append(f"{first:.1%} accepted at n_max 1")
    if (each := _number(known, "accepted_per_step")) is not None:
        found.append(f"{each:.2f} accepted per step at n_max 3")
    n_steps, text = _number(known, "n_steps"), known.get("trained.text")
    steps = "" if n_steps is None else f", {n_steps:,.0f} steps"
    on = "" if text is None else f" on {text}"
    trunk, shown = known.get("trained.trunk", "?"), ", ".join(found) or "not judged"
    return f"from {known['trained.start']}{steps}{on}, for {trunk}: {shown}"


def _number(known: dict[str, str], key: str) -> float | None:
    """A figure of a header, which can hold anything."""
    try:
        return float(known[f"trained.{key}"])
    except (KeyError, ValueError):
        return None
