"""Commands to copy: words that are put together last, quoted for a POSIX shell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command as its words."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, *words: object) -> Command:
        """From words and paths."""
        return cls(tuple(os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in words))

    def __str__(self) -> str:
        return shlex.join(self.words)

    def __format__(self, spec: str) -> str:
        raise TypeError("a command stands beside text, never inside it: see Advice, or use shell()")

    def starts_with(self, other: Command) -> bool:
        """Whether its first words are those of another."""
        return self.words[: len(other.words)] == other.words

    def more(self, *words: object) -> Command:
        """The same with further words."""
        return Command((*self.words, *Command.of(*words).words))

    def mapped(self, change: Callable[[str], str]) -> Command:
        """The same with every word changed."""
        return Command(tuple(map(change, self.words)))


def shell(*words: object) -> str:
    """A command as one line for a POSIX shell."""
    return str(Command.of(*words))
