"""What to do about a finding: text and commands, joined when printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ..shell import Command

Help: TypeAlias = "str | Command | Advice"


@dataclass(frozen=True)
class Advice:
    """Text with commands in it."""

    parts: tuple[str | Command, ...]

    @classmethod
    def of(cls, *parts: Help) -> Advice:
        """Advice from texts, commands and other advice."""
        return cls(tuple(each for part in parts for each in (part.parts if isinstance(part, Advice) else (part,))))

    def __str__(self) -> str:
        return "".join(map(str, self.parts))

    @property
    def commands(self) -> tuple[Command, ...]:
        """The commands in it."""
        return tuple(part for part in self.parts if isinstance(part, Command))

    def with_commands(self, change: Callable[[Command], Command]) -> Advice:
        """The same with its commands changed."""
        return Advice(tuple(change(part) if isinstance(part, Command) else part for part in self.parts))

    def with_text(self, change: Callable[[str], str]) -> Advice:
        """The same with its texts, and the words of its commands, changed."""
        return Advice(tuple(part.mapped(change) if isinstance(part, Command) else change(part) for part in self.parts))
