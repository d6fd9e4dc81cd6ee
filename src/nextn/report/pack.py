"""What pack made, for the user; the folder on standard output."""

from __future__ import annotations

from ..publish.packing import PackResult
from ..shell import shell
from ..units import size
from .text import put_path, say
from .written import say_outputs


def show(result: PackResult, *, quiet: bool = False) -> None:
    """Notes, files, figures."""
    plan = result.package.plan
    if not quiet:
        for note in plan.notes:
            say(f"note: {note}")
        would = "" if result.outcome else "would "
        say_outputs(plan, done=result.outcome is not None)
        hashed = result.bytes_hashed + result.bytes_compared
        say(
            f"{would}read {size(result.bytes_read)} ({size(hashed)} of it to hash), "
            f"{would}write {size(plan.bytes_written)}, link {size(plan.bytes_linked)}"
        )
        kept = result.package.kept
        if kept:
            say(f"kept: {', '.join(kept)}")
        say(f"upload it with: {shell(*result.package.upload)}")
        if not result.package.n_verified:
            say("note: nothing was verified, as the card says; --verified accepts what 'nextn verify --json' prints")
    put_path(plan.folder)
