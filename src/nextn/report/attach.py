"""What attach did, for the user; the path to load on standard output."""

from __future__ import annotations

from ..writing.result import Result
from .text import put_path
from .written import say_how_to_load, say_result


def show(result: Result, *, quiet: bool = False) -> None:
    """Files, figures, and how to load the model."""
    if not quiet:
        say_result(result)
        say_how_to_load(result.entry, None if result.sidecar == result.entry else result.sidecar)
    put_path(result.entry)
