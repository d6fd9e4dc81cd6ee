"""A setup actually run: the allocations that its engine logs, and what the kernel reports for its process."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from ..engines.base import Engine, Launch
from ..engines.running import RunningServer
from ..errors import EngineFailed
from .account import Account, engine_settings, read_account
from .settings import Settings
from .setups import Setup

PROMPT = "The quick brown fox jumps over the lazy dog. " * 8
N_PREDICT = 16


@dataclass(frozen=True)
class Measured:
    """One run's figures, in bytes."""

    weights_bytes: int  # mapped or allocated
    repacked_bytes: int
    kv_cache_bytes: int
    recurrent_bytes: int
    compute_bytes: int
    output_bytes: int  # from a formula: no engine logs it once it has grown
    rss_anonymous_bytes: int | None
    rss_file_bytes: int | None
    peak_bytes: int | None  # VmHWM of the engine's process

    @property
    def total_bytes(self) -> int:
        """Everything that the engine allocated."""
        return (
            self.weights_bytes + self.repacked_bytes + self.kv_cache_bytes + self.recurrent_bytes
            + self.compute_bytes + self.output_bytes
        )  # fmt: skip


def process_memory(pid: int) -> tuple[int, int, int] | None:
    """(anonymous, file-backed, peak) resident bytes of a process from /proc; None where there is none."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = {}
    for line in (rollup + status).splitlines():
        key, _, rest = line.partition(":")
        if key in ("Rss", "Anonymous", "VmHWM"):
            found[key] = int(rest.split()[0]) * 1024
    if len(found) != 3:
        return None
    return found["Anonymous"], found["Rss"] - found["Anonymous"], found["VmHWM"]


def engine_pid(running: RunningServer) -> int | None:
    """The engine's own process: the child of its guard."""
    guard = running._process.pid
    with contextlib.suppress(OSError, ValueError):
        children = Path(f"/proc/{guard}/task/{guard}/children").read_text().split()
        if children:
            return int(children[0])
    return None


def _compute(account: Account) -> int:
    """Compute buffers at the end; where that is not logged, the reservations, whose log lines name no context."""
    if account.final_compute:
        return sum(account.final_compute.values())
    return round(sum(sum(context.compute.values()) for context in account.contexts))


def measure(engine: Engine, setup: Setup, settings: Settings, output_bytes: int, scratch: Path) -> Measured:
    """Run the setup once, with one answer, and read what it used.

    Raises EngineRefused or EngineFailed.
    """
    assert setup.model is not None
    log = scratch / f"{setup.id}.log"
    launch = Launch(
        model=setup.model.entry,
        sidecar=None if setup.sidecar is None else setup.sidecar.entry,
        n_max=settings.n_max if setup.mtp else 0,
        n_ctx=settings.n_ctx,
        threads=1,
        extra_args=(*engine_settings(settings, setup.mtp), "verbosity=5"),
        log=log,
    )
    with engine.start(launch) as running:
        try:
            running.complete(PROMPT, N_PREDICT)
        except EngineFailed:  # a random model's text may not be UTF-8; the buffers have grown regardless
            if not running.alive:
                raise
        pid = engine_pid(running) if isinstance(running, RunningServer) else None
        memory = None if pid is None else process_memory(pid)
    account = read_account(log.read_text(encoding="utf-8", errors="replace"), accounting=False)
    repacked = sum(size for name, size in account.buffers.items() if name.endswith("REPACK"))
    return Measured(
        weights_bytes=sum(account.buffers.values()) - repacked,
        repacked_bytes=repacked,
        kv_cache_bytes=round(sum(context.kv_bytes for context in account.contexts)),
        recurrent_bytes=round(sum(context.state_bytes for context in account.contexts)),
        compute_bytes=_compute(account),
        output_bytes=output_bytes,
        rss_anonymous_bytes=memory[0] if memory else None,
        rss_file_bytes=memory[1] if memory else None,
        peak_bytes=memory[2] if memory else None,
    )


