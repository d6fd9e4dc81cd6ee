"""Numbers and words for people."""

from __future__ import annotations

import json
import sys
from typing import Any

from ..gguf.kv import printable


def say(text: str = "") -> None:
    """A line for people: on standard error, so that standard output stays for results."""
    print(text, file=sys.stderr)


def put_json(value: dict[str, Any]) -> None:
    """JSON alone on standard output."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def columns(rows: list[tuple[str, str]]) -> str:
    """Two aligned columns."""
    width = max((len(left) for left, _ in rows), default=0)
    return "\n".join(f"{left:<{width}}  {printable(right, 1000)}".rstrip() for left, right in rows)
