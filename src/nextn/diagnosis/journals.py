"""Changes in place that were interrupted: a journal is left beside the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..gguf.files import Model
from ..shell import Command
from ..writing.recover import Unfinished, unfinished, unfinished_of
from .advice import Advice
from .finding import Finding


def check_journals(path: Path) -> Iterator[Finding]:
    """A finding for each journal beside a file (links followed), or beside the files of a folder."""
    yield from map(_finding, unfinished(path))


def check_model(model: Model) -> list[Finding]:
    """The same for all files of an open model, each journal once."""
    return [_finding(found) for found in unfinished_of([file.path for file in model.files])]


def _finding(found: Unfinished) -> Finding:
    mend = Advice.of("wait until it is done" if found.running else Command.of("nextn", "recover", found.files[-1]))
    return Finding(
        "change-unfinished", "error", found.sentence().partition(": ")[2], os.fspath(found.files[-1]),
        "engines refuse to load it, or load it without the change", mend,
    )  # fmt: skip
