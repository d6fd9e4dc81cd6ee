"""What assemble did, for the user; the path to load on standard output."""

from __future__ import annotations

from ..writing.result import Result
from .written import say_result


def show(result: Result, *, quiet: bool = False) -> None:
    """Files and figures."""
    if not quiet:
        say_result(result)
    print(result.entry)
