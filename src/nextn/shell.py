"""Commands for people to copy: every word quoted for a shell, on one line and without control characters."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping


def quoted(word: object) -> str:
    """A word as it may be pasted into a POSIX shell.

    A path that begins with a dash does not become an option. What cannot be printed (a line end, say) is written as
    in `$'a\\012b'`, which bash, zsh, ksh and POSIX.1-2024 read.
    """
    text = os.fsdecode(word) if isinstance(word, os.PathLike) else str(word)
    if isinstance(word, os.PathLike) and text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if char.isprintable():
        return char
    # A byte of a file's name that is no UTF-8 is kept by Python as one of these.
    how = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", how))


def command_line(*words: object, env: Mapping[str, str] | None = None) -> str:
    """A command of these words, after the variables that it needs."""
    before = [f"{name}={quoted(value)}" for name, value in (env or {}).items()]
    return " ".join([*before, *map(quoted, words)])
