"""Whether a silent engine is still working: its CPU time and bytes read, as counted by the kernel."""

from __future__ import annotations

import contextlib
from pathlib import Path

from nextn import oscalls
from nextn.engines.process import EngineProcess

BUSY_CPU = 0.01  # of one CPU: an idle server's own wake-ups stay below this,
BUSY_READ_BPS = 100_000  # and anything that reads more slowly would take weeks to load a model
LOOKS = 30  # within the time that silence may last: each look goes through all processes
PROC = Path("/proc")
_SESSION, _UTIME, _STIME = 3, 11, 12  # fields of /proc/PID/stat after the command name (proc(5): 6, 14, 15)


def activity(session: int) -> tuple[float, int] | None:
    """CPU seconds and bytes read of a session's live processes, except its leader; None: not known on this system."""
    seconds, n_read, found = 0.0, 0, False
    try:
        pids = [path for path in PROC.iterdir() if path.name.isdigit() and path.name != str(session)]
    except OSError:
        return None
    for path in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[_SESSION]) == session:
                found = True
                seconds += (int(fields[_UTIME]) + int(fields[_STIME])) / oscalls.clock_ticks()
                n_read += int((path / "io").read_text().partition("\nread_bytes: ")[2].split()[0])
    return (seconds, n_read) if found else None


class Silence:
    """How long an engine has printed nothing, computed nothing and read nothing."""

    def __init__(self, process: EngineProcess, limit_s: float, now: float) -> None:
        self._process, self._every = process, limit_s / LOOKS
        self._since = self._looked = now
        self._size = -1
        self._done: tuple[float, int] | None = None

    def seconds(self, now: float) -> float:
        """Seconds of silence at `now`; none accumulate where the kernel does not report what an engine does."""
        size, waited = self._process.log_size(), now - self._looked
        if size != self._size:
            self._size, self._done, self._since, self._looked = size, None, now, now
        elif waited >= self._every:
            before, self._done = self._done, activity(self._process.pid)
            self._looked = now
            if (
                before is None
                or self._done is None
                or self._done[0] - before[0] > BUSY_CPU * waited
                or self._done[1] - before[1] > BUSY_READ_BPS * waited
            ):
                self._since = now
        return now - self._since
