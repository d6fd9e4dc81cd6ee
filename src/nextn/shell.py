"""Commands to copy: words joined only at the end, quoted for a POSIX shell, on one printable line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .printable import is_plain


@dataclass(frozen=True)
class Command:
    """A command as its words."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, *words: object) -> Command:
        """From words and paths; a path that begins with a dash does not become an option."""
        return cls(tuple(map(_word, words)))

    def __str__(self) -> str:
        return " ".join(map(quoted, self.words))

    def __format__(self, spec: str) -> str:
        raise TypeError("a command stands beside text, never inside it: see Advice, or use shell()")

    def starts_with(self, other: Command) -> bool:
        """Whether it starts with another command's words."""
        return self.words[: len(other.words)] == other.words

    def more(self, *words: object) -> Command:
        """The same with further words."""
        return Command((*self.words, *Command.of(*words).words))

    def mapped(self, change: Callable[[str], str]) -> Command:
        """The same with every word changed."""
        return Command(tuple(map(change, self.words)))


def shell(*words: object, env: Mapping[str, str] | None = None) -> str:
    """A command as one line for a POSIX shell, after the variables that it needs."""
    before = [f"{name}={quoted(value)}" for name, value in (env or {}).items()]
    return " ".join([*before, str(Command.of(*words))])


def quoted(text: str) -> str:
    """A word that is safe to paste into a POSIX shell.

    What cannot be printed (like a newline) is written as in `$'a\\012b'`, which bash, zsh, ksh and POSIX.1-2024 read.
    """
    return shlex.quote(text) if all(map(is_plain, text)) else "$'" + "".join(map(_escaped, text)) + "'"


def _word(word: object) -> str:
    if not isinstance(word, os.PathLike):
        return str(word)
    text: str = os.fsdecode(word)
    return f"./{text}" if text.startswith("-") else text


def _escaped(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if is_plain(char):
        return char
    # Python keeps a byte of a file name that is not UTF-8 as one of these.
    how = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", how))
