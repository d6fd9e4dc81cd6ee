"""What a process group and the whole machine did between two moments, read from /proc.

The engine runs in its own session (`engines/process.py`), so all its processes are found by the session
number. Sources: proc(5) for `stat`, `status` and `/proc/stat`; the kernel's `Documentation/scheduler/sched-stats.rst`
for `schedstat` (time on a CPU, time waiting for one, both in ns). Without /proc nothing is known: every figure is
None, and no run is called disturbed or quiet.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import oscalls

_PROC = Path("/proc")
_COMPUTES = 0.5
"""A thread that runs less than this share of the busiest one does not compute. A server's HTTP threads wait for the CPU
of the thread that decodes, which does not slow it down."""


def n_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Usage:
    """What happened between two moments."""

    wall_s: float  # seconds between them
    cpu_s: float | None = None  # CPU seconds of the engine, all threads; None: unknown (as for all that follow)
    wait_s: float | None = None  # seconds that the engine's threads waited for a CPU, all threads that compute
    others_cpus: float | None = None  # CPUs that other processes kept busy on average
    steal_cpus: float | None = None  # CPUs that the hypervisor gave to other machines, on average
    n_involuntary: int | None = None  # times the kernel preempted one of the engine's threads

    @property
    def wait_share(self) -> float | None:
        """Share of the CPU time that the engine wanted and did not get."""
        if self.cpu_s is None or self.wait_s is None:
            return None
        wanted = self.cpu_s + self.wait_s
        return self.wait_s / wanted if wanted > 0 else 0.0

    def cpu_ratio(self, threads: int | None) -> float | None:
        """CPU seconds per second and thread: 1 when every thread ran all the time (engines spin)."""
        if self.cpu_s is None or threads is None or self.wall_s <= 0:
            return None
        return self.cpu_s / self.wall_s / threads


@dataclass(frozen=True)
class Resident:
    """Main memory that the engine's processes hold, in bytes."""

    anon_bytes: int  # private memory
    file_bytes: int  # resident pages of files, mainly mapped weights
    peak_bytes: int  # the peak of both together, per process


@dataclass(frozen=True)
class _Moment:
    wall_s: float
    threads: dict[str, tuple[float, float]]  # of the engine, by number: seconds on a CPU, seconds waiting for one
    own_cpu_s: float
    busy_s: float
    steal_s: float
    n_involuntary: int


class Watch:
    """Usage of the session `session` since the last look."""

    def __init__(self, session: int | None) -> None:
        self._session = session
        self._last = self._look()

    def since(self) -> Usage:
        """What happened since the last call, or since the watch was made."""
        before, now = self._last, self._look()
        self._last = now
        wall = now.wall_s - before.wall_s
        if self._session is None or not _known():
            return Usage(wall)
        ran, waited = _between(before.threads, now.threads)
        engine = sum(ran.values())
        others = (now.busy_s - before.busy_s) - engine - (now.own_cpu_s - before.own_cpu_s)
        span = max(wall, 1e-9)
        return Usage(
            wall,
            engine,
            sum(waited[thread] for thread, seconds in ran.items() if seconds >= _COMPUTES * max(ran.values())),
            max(0.0, others / span),
            max(0.0, (now.steal_s - before.steal_s) / span),
            now.n_involuntary - before.n_involuntary,
        )

    def _look(self) -> _Moment:
        threads = {}
        n_involuntary = 0
        if self._session is not None:
            for task in _tasks(self._session):
                threads[task.name] = _schedstat(task)
                n_involuntary += _status(task / "status").get("nonvoluntary_ctxt_switches", 0)
        busy, steal = _machine()
        own = os.times()
        return _Moment(time.perf_counter(), threads, own.user + own.system, busy, steal, n_involuntary)


def _between(
    before: dict[str, tuple[float, float]], now: dict[str, tuple[float, float]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds that each thread ran and waited; one that ended in between is not known."""
    ran, waited = {}, {}
    for thread, (cpu, wait) in now.items():
        earlier = before.get(thread, (0.0, 0.0))
        ran[thread], waited[thread] = cpu - earlier[0], wait - earlier[1]
    return ran, waited


def resident(session: int) -> Resident | None:
    """Memory of the session's processes, including the guard's few megabytes; None: unknown."""
    found = [_status(pid / "status") for pid in _processes(session)]
    if not found:
        return None
    return Resident(
        sum(one.get("RssAnon", 0) for one in found),
        sum(one.get("RssFile", 0) + one.get("RssShmem", 0) for one in found),
        sum(one.get("VmHWM", 0) for one in found),
    )


def cpu_name() -> str:
    """The processor's name, or the machine type."""
    with suppress(OSError):
        for line in (_PROC / "cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _known() -> bool:
    return (_PROC / "stat").exists() and (_PROC / "self" / "schedstat").exists()


def _processes(session: int) -> Iterator[Path]:
    with suppress(OSError):
        for entry in _PROC.iterdir():
            if not entry.name.isdigit():
                continue
            with suppress(OSError, ValueError, IndexError):
                # "pid (name) state ppid pgrp session ...", and the name may hold anything
                if int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[3]) == session:
                    yield entry


def _tasks(session: int) -> Iterator[Path]:
    for process in _processes(session):
        with suppress(OSError):
            yield from (process / "task").iterdir()


def _schedstat(task: Path) -> tuple[float, float]:
    """Seconds on a CPU, seconds waiting for one."""
    with suppress(OSError, ValueError, IndexError):
        ran, waited = (task / "schedstat").read_text().split()[:2]
        return int(ran) / 1e9, int(waited) / 1e9
    return 0.0, 0.0


def _status(path: Path) -> dict[str, int]:
    """The numbers of a `status` file; sizes in bytes."""
    out: dict[str, int] = {}
    with suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            parts = value.split()
            if parts and parts[0].isdigit():
                out[name] = int(parts[0]) * (1024 if parts[-1] == "kB" else 1)
    return out


def _machine() -> tuple[float, float]:
    """CPU seconds since boot: used by all processes, and stolen."""
    with suppress(OSError, ValueError, IndexError):
        line = (_PROC / "stat").read_text().partition("\n")[0].split()[1:]
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(n) / oscalls.clock_ticks() for n in line[:8])
        return user + nice + system + irq + softirq, steal
    return 0.0, 0.0


def busy_cpus(span_s: float = 0.3) -> float:
    """CPUs kept busy by all processes except this one, watched for `span_s` seconds; 0 where nothing is known."""
    own, (busy, _), start = os.times(), _machine(), time.perf_counter()
    time.sleep(span_s)
    later, (busy_later, _) = os.times(), _machine()
    mine = later.user + later.system - own.user - own.system
    return max(0.0, (busy_later - busy - mine) / (time.perf_counter() - start))
