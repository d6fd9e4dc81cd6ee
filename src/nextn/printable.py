"""Text that leaves the program: what comes from a file, a server or an engine moves no cursor and hides nothing."""

from __future__ import annotations

import re

# What `str.isprintable` lets through and no terminal shows: fillers and joiners that engines' own names never hold.
_INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
_SUSPECT = re.compile(r"[^\x20-\x7e]")


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def is_plain(char: str) -> bool:
    """Whether a terminal shows a character as itself."""
    return char.isprintable() and char not in _INVISIBLE


def printable(text: str, limit: int = 120) -> str:
    """A key, a name or a sentence as it may stand in a message: one line, no control characters, not endless."""
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return one_line(text)


def one_line(text: str) -> str:
    """The same of any length."""
    if text.isascii() and text.isprintable():
        return text
    return _SUSPECT.sub(lambda match: match[0] if is_plain(match[0]) else _escape(match[0]), text)


def several_lines(text: str, *, bytes_too: bool = False) -> str:
    """Text that is laid out already: its line ends and odd spaces stay; `bytes_too`: bytes that are not UTF-8, too."""

    def shown(match: re.Match[str]) -> str:
        char = match[0]
        stays = char == "\n" or (char.isspace() and char > "\x9f" and char not in "\u2028\u2029")
        return char if stays or is_plain(char) or (bytes_too and "\udc80" <= char <= "\udcff") else _escape(char)

    return _SUSPECT.sub(shown, text)


def json_text(text: str) -> str:
    """JSON with everything escaped that no terminal should get; it says the same."""
    return re.sub(r"[^\x0a\x20-\x7e]", lambda match: match[0] if is_plain(match[0]) else _json_escape(match[0]), text)


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))
