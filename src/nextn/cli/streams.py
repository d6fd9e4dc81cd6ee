"""The three standard streams as a process finds them: any may be closed, and standard error may be unwritable."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _Unheard(io.FileIO):
    """Standard error, where what cannot be written is dropped: a message nobody can read changes no result."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def take_over() -> None:
    """Fill descriptors 0 to 2 that are closed, and make standard error one that cannot fail.

    Without that, the next file to be opened gets the free number, and libraries and child processes that write
    messages to descriptor 2 write them into it: a model that is changed in place, for one.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one
    stream = sys.stderr
    if isinstance(stream, io.TextIOWrapper):
        stream.flush()
        raw = _Unheard(stream.fileno(), "w", closefd=False)
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True, write_through=True
        )
