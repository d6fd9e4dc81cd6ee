"""Numbers and words for people."""

from __future__ import annotations

import json
import sys
from typing import Any

from ..printable import json_text, one_line, printable, several_lines


def say(text: str = "") -> None:
    """A line for people: on standard error, so that standard output stays for results."""
    print(one_line(text), file=sys.stderr)


def put(text: object, *, end: str = "\n") -> None:
    """A result on standard output: a path, a command, lines that are laid out already."""
    print(several_lines(str(text), bytes_too=not sys.stdout.isatty()), end=end)


def put_path(path: object) -> None:
    """A path on standard output, alone on its line."""
    put(str(path).replace("\n", "\\n"))


def put_json(value: dict[str, Any]) -> None:
    """JSON alone on standard output."""
    sys.stdout.write(json_text(json.dumps(value, indent=1, ensure_ascii=False)) + "\n")
    sys.stdout.flush()


def columns(rows: list[tuple[str, str]]) -> str:
    """Two aligned columns."""
    width = max((len(left) for left, _ in rows), default=0)
    return "\n".join(f"{left:<{width}}  {printable(right, 1000)}".rstrip() for left, right in rows)
