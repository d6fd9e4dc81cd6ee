"""Text that leaves the program: nothing from a file, a server or an engine moves the cursor or hides anything."""

from __future__ import annotations

import re

# What `str.isprintable` accepts but no terminal shows: fillers and joiners that engines' own names never contain.
_INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
_SUSPECT = re.compile(r"[^\x20-\x7e]")


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def is_plain(char: str) -> bool:
    """Whether a terminal shows a character as itself."""
    return char.isprintable() and char not in _INVISIBLE


def printable(text: str, limit: int = 120) -> str:
    """A key, a name or a sentence as it may appear in a message: one line, no control characters, bounded length."""
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return one_line(text)


def one_line(text: str) -> str:
    """The same without the length limit."""
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
    """JSON with everything escaped that no terminal should receive; its meaning is unchanged."""
    return re.sub(r"[^\x0a\x20-\x7e]", lambda match: match[0] if is_plain(match[0]) else _json_escape(match[0]), text)


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))
