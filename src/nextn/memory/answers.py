"""Does it fit, how long may the context be, and what do an unused and a used block cost?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import oscalls
from .estimate import Prediction
from .settings import CTX_GRAIN, Settings
from .weights import HOST


@dataclass(frozen=True)
class Machine:
    """The available memory in bytes; None where it is unknown."""

    ram_bytes: int | None
    ram_available_bytes: int | None
    gpu_memory_bytes: int | None = None

    def limit(self, device: str) -> int | None:
        """The memory limit of a device. A GPU's is only known if the user gives it."""
        return self.ram_bytes if device == HOST else self.gpu_memory_bytes


def this_machine(gpu_memory_bytes: int | None = None) -> Machine:
    """The memory of this machine, or of the container that this runs in."""
    total = available = None
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            key, _, rest = line.partition(":")
            if key in ("MemTotal", "MemAvailable"):
                n_bytes = int(rest.split()[0]) * 1024
                total, available = (n_bytes, available) if key == "MemTotal" else (total, n_bytes)
    except (OSError, ValueError, IndexError):
        total = oscalls.memory_bytes()
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if text.isdigit() and (total is None or int(text) < total):
            total = int(text)
            available = total if available is None else min(available, total)
    except OSError:
        pass
    return Machine(total, available, gpu_memory_bytes)


def fits(prediction: Prediction, machine: Machine, settings: Settings) -> bool | None:
    """Whether each device of known memory can hold its part; None when no device's memory is known."""
    known = [(use, limit) for use in prediction.devices if (limit := machine.limit(use.device)) is not None]
    return all(use.needed_at(settings) <= limit for use, limit in known) if known else None


def longest_context(prediction: Prediction, machine: Machine, settings: Settings, n_ctx_train: int) -> int | None:
    """The longest context that fits, at most the trained length; 0: none fits, None: unknown."""
    if fits(prediction, machine, settings) is None:
        return None
    low, high = 0, max(1, (n_ctx_train or settings.n_ctx) * settings.n_parallel // CTX_GRAIN)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(prediction, machine, settings.at(middle * CTX_GRAIN)):
            low = middle
        else:
            high = middle - 1
    return low * CTX_GRAIN
