"""Messages on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TypeVar

from ..errors import StorageError
from ..printable import json_text, one_line, printable
from ..schemas.base import Document, Documented, plain

D = TypeVar("D", bound=Documented)


def say(text: str = "") -> None:
    """A message for the user, on standard error: standard output is reserved for results."""
    print(one_line(text), file=sys.stderr)


def put_json(document: Document) -> None:
    """Print a document, and nothing else, on standard output."""
    sys.stdout.write(json_text(json.dumps(plain(document), indent=1, ensure_ascii=False)) + "\n")
    sys.stdout.flush()


def put_path(path: object) -> None:
    """Print a path on standard output, on a line of its own."""
    print(str(path).replace("\n", "\\n"))


def put_result(result: D, show: Callable[..., None], *, as_json: bool, quiet: bool = False) -> None:
    """Print the result's document, or call `show(result, quiet=...)`.

    Raises StorageError if standard output cannot be written; the message says what was done.
    """
    try:
        if as_json:
            put_json(result.document)
        else:
            show(result, quiet=quiet)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(
            f"standard output: the result could not be printed ({error.strerror}); {result.when_unprinted}."
        ) from error


def columns(rows: list[tuple[str, str]]) -> str:
    """Two aligned columns."""
    width = max((len(left) for left, _ in rows), default=0)
    return "\n".join(f"{left:<{width}}  {printable(right, 1000)}".rstrip() for left, right in rows)
