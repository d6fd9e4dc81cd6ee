"""The last thing before a terminal, a pipe or a file: control characters end here, whoever wrote them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ..printable import several_lines


class Outlet:
    """A text stream that passes on what may be shown, and is the stream in all other respects.

    Names that are no UTF-8 go out as they are where no terminal reads them: scripts need them to the byte.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._is_terminal = stream.isatty()

    def write(self, text: str) -> int:
        """Write it, escaped. Returns the length of `text`."""
        self.stream.write(several_lines(text, bytes_too=not self._is_terminal))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """The same of several."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def bare(stream: Any) -> TextIO:
    """The stream below, for what draws with a terminal's own commands."""
    found: TextIO = stream.stream if isinstance(stream, Outlet) else stream
    return found


@contextmanager
def outlets() -> Iterator[None]:
    """Standard output and standard error pass through outlets while the context lasts."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Outlet(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def console(*, stderr: bool = False, **options: Any) -> Any:
    """A console of rich's for one of the two streams: it draws, and every string that it is given is escaped first.

    Square brackets are text, unless `markup` is among the options.
    """
    from rich.console import Console

    class Escaping(Console):
        def render_str(self, text: str, **more: Any) -> Any:
            return super().render_str(several_lines(text), **more)

    return Escaping(file=bare(sys.stderr if stderr else sys.stdout), **{"markup": False, **options})
