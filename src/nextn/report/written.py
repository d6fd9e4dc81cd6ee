"""What attach, detach and extract did, for the user."""

from __future__ import annotations

from pathlib import Path

from ..printable import printable
from ..shell import shell
from ..units import size
from ..writing.plan import Link, Plan
from ..writing.result import Result
from .text import say

_MOST_SHOWN = 100  # files of a set that are listed one by one


def say_outputs(plan: Plan, *, done: bool) -> None:
    """Say what each file of a plan is, or would be."""
    would = "" if done else "would "
    for change in plan.changes:
        grows = change.size_after - change.size_bytes
        path, sign = printable(str(change.path), 1000), "+" if grows >= 0 else "-"
        say(f"{would}change {size(change.size_after):>8}  {path} ({sign}{abs(grows):,} bytes)")
    for number, step in enumerate(() if done else plan.change_steps, start=1):
        say(f"  {number}. {printable(step, 1000)}")
    shown = plan.outputs if len(plan.outputs) <= _MOST_SHOWN else plan.outputs[-_MOST_SHOWN:]
    for out in shown:
        how = "link " if isinstance(out, Link) else "write"
        say(f"{would}{how} {size(out.size_bytes):>9}  {printable(str(plan.folder / out.name), 1000)}")
    if len(shown) < len(plan.outputs):
        say(f"and {len(plan.outputs) - len(shown):,} more files in the same folder; --json lists all")


def say_result(result: Result) -> None:
    """Notes, files and figures."""
    plan, done = result.plan, result.outcome
    for note in plan.notes:
        say(f"note: {note}")
    say_outputs(plan, done=done is not None)
    say(
        f"read {size(result.bytes_read)}, {'would write' if done is None else 'wrote'} {size(result.bytes_written)}"
        f", linked {size(result.bytes_linked)}"
        + (f" in {done.wall_s:.2f} s" if done else f", memory up to {size(plan.peak_memory_bytes)}")
    )
    if result.donor is not None and result.donor.sha256 is not None:
        say(f"block from {printable(result.donor.name, 1000)}, sha256 {result.donor.sha256}")
    if result.bytes_downloaded:
        say(f"downloaded {size(result.bytes_downloaded)}, headers included")


def say_how_to_load(entry: object, sidecar: object = None, *, drafting: bool = True) -> None:
    """The command of llama.cpp's server that loads it."""
    from ..engines.draft_type import spec_type  # with the engines: 4 MB that an extract does not need

    beside = () if sidecar is None else ("-md", sidecar)
    draft = ("--spec-type", spec_type(None if sidecar is None else Path(str(sidecar)))) if drafting else ()
    say(f"load it with: {shell('llama-server', '-m', entry, *beside, *draft)}")
