"""How a run ends that has no result: one sentence on standard error, an exit code, and with --json a document."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from ..absent import whose
from ..errors import EXIT_BUG, EXIT_INTERRUPTED, NextnError, StorageError, UsageError
from ..printable import one_line
from ..report.outlet import Outlet
from .common import Declined


@dataclass(frozen=True)
class Failure:
    """What is said about an error."""

    error: str  # the class in nextn.errors, or Interrupted, Declined, OutOfMemory, Bug
    exit_code: int
    message: str

    @classmethod
    def of(cls, error: BaseException, words: Sequence[str]) -> Failure:
        """From what was raised while the command line `words` ran. Raises it again if NEXTN_TRACEBACK asks for that."""
        match error:
            case click.UsageError():
                from .mistakes import sentence

                return cls(UsageError.__name__, error.exit_code, sentence(error, words))
            case click.ClickException():
                return cls(UsageError.__name__, error.exit_code, error.format_message())
            case NextnError():
                return cls(type(error).__name__, error.exit_code, str(error))
            case Declined():
                return cls("Declined", EXIT_INTERRUPTED, "the answer was no, so nothing more was done.")
            case KeyboardInterrupt() | click.exceptions.Abort():
                if isinstance(error, click.exceptions.Abort) and error.__cause__ is None:
                    print(file=sys.stderr)  # a question's line has not ended
                rest = "no incomplete file has a final name, and the inputs are untouched."
                return cls("Interrupted", EXIT_INTERRUPTED, f"interrupted; {rest}")
            case MemoryError():
                rest = "no incomplete file has a final name; inputs are untouched."
                return cls("OutOfMemory", EXIT_BUG, f"out of memory; {rest}")
            case OSError():
                where = f"{error.filename}: " if error.filename else ""
                owner = whose(error.filename) if error.filename and isinstance(error, PermissionError) else ""
                what = f"{where}the system refused: {error.strerror or error}{owner}."
                return cls(StorageError.__name__, StorageError.exit_code, what)
        if os.environ.get("NEXTN_TRACEBACK"):
            raise error
        what = f"this is a bug in nextn ({type(error).__name__}: {error}); inputs are untouched."
        more = "Run it again with NEXTN_TRACEBACK=1 and report what it prints."
        return cls("Bug", EXIT_BUG, f"{what} {more}")

    def put(self, verb: str | None, words: Sequence[str]) -> int:
        """Say it, and return the exit code."""
        print(f"nextn: {one_line(self.message)}", file=sys.stderr)
        if _wants_json(words) and not (isinstance(sys.stdout, Outlet) and sys.stdout.was_written):
            from ..report.text import put_json
            from ..schemas.base import filled
            from ..schemas.error import ErrorDocument

            with contextlib.suppress(OSError):  # nobody reads it, and the exit code is the error's own
                put_json(filled(ErrorDocument, self, verb=verb, message=one_line(self.message)))
        return self.exit_code


def _wants_json(words: Sequence[str]) -> bool:
    """Whether --json is among nextn's own words: what follows -- is the engine's."""
    own = words[: words.index("--")] if "--" in words else words
    return "--json" in own
