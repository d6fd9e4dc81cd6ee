"""How many threads are worth trying: the CPUs that this process may actually use, counted as cores."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

from .cpu_watch import n_cpus

_TOPOLOGY = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


def allowed_cpus(cgroup: Path = _CGROUP) -> int:
    """CPUs that the affinity mask and the control group's quota allow, at least 1.

    A quota of 1.5 CPUs counts as 1: a thread beyond it would be stopped half of the time, and the others wait for it.
    """
    quota = _quota(cgroup)
    return max(1, min(n_cpus(), math.floor(quota) if quota is not None else n_cpus()))


def _quota(cgroup: Path) -> float | None:
    """CPUs that the control group may use (version 2, then 1); None: as many as there are."""
    with suppress(OSError, ValueError):
        limit, period = (cgroup / "cpu.max").read_text().split()[:2]
        return None if limit == "max" else int(limit) / int(period)
    with suppress(OSError, ValueError):
        limit_us = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
        return None if limit_us <= 0 else limit_us / period_us
    return None


def physical_cores(topology: Path = _TOPOLOGY) -> int:
    """Cores that the CPUs this process may use belong to: two hardware threads of one core count once."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set()
    for cpu in cpus:
        try:
            where = topology / f"cpu{cpu}" / "topology"
            cores.add(((where / "physical_package_id").read_text(), (where / "core_id").read_text()))
        except OSError:
            return n_cpus()
    return len(cores)


def thread_counts() -> tuple[int, ...]:
    """What is tried by default: all physical cores first, half of them, then every allowed CPU."""
    allowed = allowed_cpus()
    cores = min(physical_cores(), allowed)
    return tuple(dict.fromkeys((cores, max(1, cores // 2), allowed)))
