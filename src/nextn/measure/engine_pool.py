"""Engines kept loaded side by side where memory permits; only one of them works at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType

from ..engines.base import Engine, MemoryUse, Running
from ..errors import EngineFailed, EngineRefused
from ..memory.answers import this_machine
from ..schemas.base import filled
from ..schemas.bench import LoadMemory
from .cpu_watch import Resident, resident
from .timed_run import TimedSetup

WARM_UP_TOKENS = 16
MAX_LOADED = 12
_RESERVE_BYTES = 256 << 20
_HEADROOM = 1.25


@dataclass
class LoadedMemory:
    """What a load of one setup takes."""

    resident: Resident | None  # main memory, the largest value seen; None: unknown
    engine: list[MemoryUse]  # from the engine's own memory report

    @property
    def document(self) -> LoadMemory:
        """What --json prints of it."""
        seen = self.resident
        return filled(
            LoadMemory,
            self,
            rss_anon_bytes=seen.anon_bytes if seen else None,
            rss_file_bytes=seen.file_bytes if seen else None,
            rss_peak_bytes=seen.peak_bytes if seen else None,
        )



class Pool:
    """Loaded engines by setup; a context manager that stops them all."""

    def __init__(
        self, engine: Engine, n_ctx: int, extra_args: Sequence[str], warm_up: str, *, side_by_side: bool = True,
        slots: int = 1,
    ) -> None:
        self._engine = engine
        self._n_ctx = n_ctx
        self._extra_args = tuple(extra_args)
        self._warm_up = warm_up
        self._slots = slots
        self._loaded: dict[str, tuple[TimedSetup, Running]] = {}
        self.side_by_side = side_by_side
        """False from the start, or once an engine uses memory other than main memory (how much of that is free is
        unknown), or once two loads did not fit."""
        self.memory: dict[str, LoadedMemory] = {}
        self.n_loads = 0

    def get(self, setup: TimedSetup) -> Running:
        """The engine with this setup, loaded and warm. Raises EngineRefused, EngineFailed, EngineMissing."""
        found = self._loaded.get(setup.id)
        if found is not None and found[0].same_load(setup) and found[1].alive:
            self._loaded[setup.id] = self._loaded.pop(setup.id)  # the most recently used one comes last
            return found[1]
        if found is not None:
            self.drop(setup.id)
        if not self.side_by_side:
            self.drop_all()
        while self._loaded and not self._has_room(setup):
            self.drop(next(iter(self._loaded)))
        running = self._start(setup)
        self._loaded[setup.id] = (setup, running)
        self.n_loads += 1
        try:
            running.complete(self._warm_up, WARM_UP_TOKENS)  # pages the weights in
        except BaseException:
            self.drop(setup.id)
            raise
        self.note_memory(setup)
        if any(use.device != "Host" and use.model_mib > 0 for use in running.memory):
            self.side_by_side = False
        return running

    def _start(self, setup: TimedSetup) -> Running:
        launch = replace(setup.launch(self._n_ctx, self._extra_args), slots=self._slots)
        try:
            return self._engine.start(launch)
        except EngineRefused as error:
            if not self._loaded or (isinstance(error, EngineFailed) and error.signal is None):
                raise
            self.drop_all()  # perhaps because two did not fit
            with suppress(OSError):
                if error.log is not None:
                    error.log.unlink()
            running = self._engine.start(launch)
            self.side_by_side = False
            return running

    def _has_room(self, setup: TimedSetup) -> bool:
        free = this_machine().ram_available_bytes
        if free is None or len(self._loaded) >= MAX_LOADED:
            return False
        known = [memory.resident for memory in self.memory.values() if memory.resident is not None]
        need = max((one.anon_bytes for one in known), default=0)
        files = {setup.model, setup.sidecar} - {file for one, _ in self._loaded.values() for file in _files(one)}
        need += max((one.file_bytes for one in known), default=0) if files - {None} else 0
        return free > _HEADROOM * need + _RESERVE_BYTES

    def note_memory(self, setup: TimedSetup) -> None:
        """Read the engine's current memory; the largest figures are kept."""
        running = self._loaded[setup.id][1]
        now = resident(running.session)
        before = self.memory.get(setup.id)
        if before is not None and before.resident is not None and now is not None:
            old = before.resident
            now = Resident(
                max(old.anon_bytes, now.anon_bytes),
                max(old.file_bytes, now.file_bytes),
                max(old.peak_bytes, now.peak_bytes),
            )
        self.memory[setup.id] = LoadedMemory(now, list(running.memory))

    def drop(self, setup_id: str) -> None:
        """Stop one engine; harmless when it is not loaded."""
        found = self._loaded.pop(setup_id, None)
        if found is not None:
            found[1].stop()

    def drop_all(self) -> None:
        """Stop them all."""
        for setup_id in list(self._loaded):
            self.drop(setup_id)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop_all()


def _files(setup: TimedSetup) -> tuple[object, ...]:
    return setup.model, setup.sidecar if setup.n_max else None
