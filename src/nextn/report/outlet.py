"""The last step before a terminal, a pipe or a file: control characters are escaped here, wherever they came from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TextIO

from ..printable import several_lines


class Outlet:
    """A text stream that passes on only what is safe to show, and otherwise behaves like the stream it wraps.

    Names that are not UTF-8 go out unchanged unless a terminal reads them: scripts need the exact bytes.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.was_written = False
        self._is_terminal = stream.isatty()

    def write(self, text: str) -> int:
        """Write it, escaped. Returns the length of `text`."""
        self.was_written = True
        self.stream.write(several_lines(text, bytes_too=not self._is_terminal))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """The same for several lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def bare(stream: Any) -> TextIO:
    """The underlying stream, for code that draws with terminal control sequences."""
    found: TextIO = stream.stream if isinstance(stream, Outlet) else stream
    return found


@contextmanager
def outlets() -> Iterator[None]:
    """Route standard output and standard error through outlets while the context lasts."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Outlet(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def console(*, stderr: bool = False, **options: Any) -> Any:
    """A rich console for one of the two streams: it draws, and every string it is given is escaped first.

    Square brackets are text, unless `markup` is among the options.
    """
    from rich.console import Console

    class Escaping(Console):
        def render_str(self, text: str, **more: Any) -> Any:
            return super().render_str(several_lines(text), **more)

    return Escaping(file=bare(sys.stderr if stderr else sys.stdout), **{"markup": False, **options})


def plain_lines(found: Any) -> Callable[[str], None]:
    """A function that prints a line on a console as it is: no markup, no highlighting, and the terminal wraps it."""
    return partial(found.print, highlight=False, markup=False, soft_wrap=True)
