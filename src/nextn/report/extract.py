"""What extract did, for the user; the block's file on standard output."""

from __future__ import annotations

from ..writing.result import Result
from .text import put_path
from .written import say_result


def show(result: Result, *, quiet: bool = False) -> None:
    """Files and figures."""
    if not quiet:
        say_result(result)
    put_path(result.sidecar if result.sidecar is not None else result.entry)
