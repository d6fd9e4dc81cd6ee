"""Progress of long work on standard error: a bar or the current step on a terminal, lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..printable import one_line
from ..progress import Progress, Say
from ..units import size
from .outlet import console

LINE_EVERY_S = 10.0  # in a pipe: one line at the first step, then at most this often


@contextmanager
def byte_progress(title: str, enabled: bool = True) -> Iterator[Progress]:
    """A callable `(bytes done, total bytes)` that draws a bar, or in a pipe prints the progress."""
    if not enabled:
        yield lambda done, total: None
        return
    if not sys.stderr.isatty():
        line = _lines(wait_first=True)
        yield lambda done, total: line(lambda: f"{title}: {size(done)} of {size(total)}")
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(*columns, console=console(stderr=True), transient=True)
    task = bar.add_task(title, total=None)

    def advance(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if total and done >= total:
            bar.stop()  # other steps may follow
        else:
            bar.start()  # not earlier: a search or a question may come before the first bytes

    try:
        yield advance
    finally:
        bar.stop()


@contextmanager
def step_progress(enabled: bool = True, *, every_step: bool = False) -> Iterator[Say]:
    """A callable that shows the current step; in a pipe `every_step` gets a line, else one now and then."""
    if not enabled:
        yield lambda text: None
        return
    if not sys.stderr.isatty():
        line = _lines(0.0 if every_step else LINE_EVERY_S)
        yield lambda text: line(lambda: text)
        return
    from rich.markup import escape

    with console(stderr=True).status("starting") as status:
        yield lambda text: status.update(escape(one_line(text)))


def _lines(every_s: float = LINE_EVERY_S, *, wait_first: bool = False) -> Callable[[Callable[[], str]], None]:
    """Prints lines at least `every_s` apart; `wait_first`: the first one waits too."""
    last = time.monotonic() if wait_first else None

    def line(text: Callable[[], str]) -> None:
        nonlocal last
        now = time.monotonic()
        if last is None or now - last >= every_s:
            last = now
            print(one_line(text()), file=sys.stderr, flush=True)

    return line
