"""What a path or an address names, opened as far as it can be.

An incomplete set is a finding, not an error; so is a file whose in-place change was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FormatError, IncompleteModel
from ..gguf.files import Model, model_candidates
from ..remote.address import parse_source
from ..remote.opening import Opened, opened
from ..sources.checkpoint import Checkpoint
from .finding import Finding
from .journals import check_journals
from .sets import open_broken_set

if TYPE_CHECKING:
    from ..remote.http import Options


@dataclass(frozen=True)
class Subject:
    """A model, a checkpoint, or a set that cannot be opened, which has neither."""

    name: str  # a path, or the address with its commit
    model: Model | None
    checkpoint: Checkpoint | None = None
    findings: tuple[Finding, ...] = ()  # what is wrong with it as a set
    opened: Opened | None = None  # None: a set that was not opened the usual way
    is_remote: bool = False

    def text(self, text: str) -> str:
        """`text` with addresses instead of cache paths."""
        return text if self.opened is None else self.opened.text(text)


@contextmanager
def subject_of(source: str | Path, options: Options | None = None) -> Iterator[Subject]:
    """Open a GGUF, any shard of a set, a folder or a checkpoint, locally or on a server; incomplete sets, too.

    Raises what `remote.opening.opened` raises except IncompleteModel, and FormatError where a journal shows why.
    """
    with ExitStack() as stack:
        try:
            found = stack.enter_context(opened(source, options, misfits=True))
            subject = Subject(
                found.name, found.model, found.checkpoint, opened=found, is_remote=found.remote is not None
            )
        except IncompleteModel as error:
            subject = _incomplete(source, error)
        except FormatError:
            found_beside = _unfinished(source)
            if not found_beside:
                raise
            subject = Subject(str(source), None, findings=found_beside)
        yield subject


def _unfinished(source: str | Path) -> tuple[Finding, ...]:
    place = parse_source(source)
    return tuple(check_journals(place)) if isinstance(place, Path) else ()


def _incomplete(source: str | Path, error: IncompleteModel) -> Subject:
    place = parse_source(source)
    if isinstance(place, Path):
        broken = open_broken_set(model_candidates(place)[0] if place.is_dir() else place, error)
        return Subject(str(place), broken.model, findings=tuple(broken.findings))
    finding = Finding(
        "shards-missing", "error", str(error).partition(": ")[2].rstrip(".") + ".", str(source),
        "llama.cpp refuses to load the set: 'failed to load GGUF split'", "take another repository",
    )  # fmt: skip
    return Subject(str(source), None, findings=(finding,), is_remote=True)
