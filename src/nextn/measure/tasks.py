"""The tasks of bench, and the prompts shipped for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ..bounded import MOST_DOCUMENT, read_bounded
from ..errors import StorageError, UsageError

TASKS = ("code", "extract", "story")  # accepted drafts: most in code, least in prose, extraction in between
OWN = "own"  # the task name for a user's own prompts
_BETWEEN = "\n---\n"


@dataclass(frozen=True)
class Task:
    """Prompts of one kind."""

    name: str
    prompts: tuple[str, ...]


def shipped_tasks(names: Sequence[str] | None = None) -> tuple[Task, ...]:
    """The shipped tasks by name, all by default. Raises UsageError for an unknown name."""
    out = []
    for name in dict.fromkeys(names if names is not None else TASKS):
        if name not in TASKS:
            raise UsageError(f"'{name}' is not a task; the shipped ones are {', '.join(TASKS)}.")
        text = (resources.files("nextn") / "task_prompts" / f"{name}.txt").read_text(encoding="utf-8")
        out.append(Task(name, split_prompts(text)))
    if not out:
        raise UsageError(f"there is no task to measure with; the shipped ones are {', '.join(TASKS)}.")
    return tuple(out)


def read_task(path: Path | str) -> Task:
    """A user's prompts, separated by lines that hold only `---`. Raises StorageError."""
    try:
        text = read_bounded(Path(path), MOST_DOCUMENT, "read the prompts").decode("utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(f"{path}: cannot read the prompts: {error}.") from error
    prompts = split_prompts(text)
    if not prompts:
        raise StorageError(f"{path}: there are no prompts in this file; separate them by lines that hold only ---.")
    return Task(OWN, prompts)


def split_prompts(text: str) -> tuple[str, ...]:
    """The prompts of a file; the newline before a separator does not belong to its prompt."""
    parts = f"\n{text}".replace("\r\n", "\n").split(_BETWEEN)
    return tuple(part.strip("\n") for part in parts if part.strip())
