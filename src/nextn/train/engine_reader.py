"""Answers and states from the pinned engine: any architecture, in the wheel's library, in a process of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..engines.base import Launch
from ..engines.xllamacpp import Xllamacpp
from ..errors import EngineFailed
from .answers import Answer, Job, parted, read_arrays

_TURN_S = 1.0  # seconds between two looks at the progress


@dataclass(frozen=True)
class What:
    """Which states are read, and how many logits are kept."""

    taps: tuple[int, ...] | None  # layers whose inputs are kept; None: the state that the MTP graph gets
    top_k: int


class EngineReader:
    """The engine as a `Reader`."""

    name = "engine"
    n_workers = 1

    def __init__(self, engine: Xllamacpp, launch: Launch, what: What) -> None:
        """Load the model; `launch.slots` answers are written together, each in `launch.n_ctx` tokens.

        Raises what `Engine.start` raises.
        """
        self._launch = launch
        taps = None if what.taps is None else list(what.taps)
        more = {"taps": taps, "top_k": what.top_k, "slot_ctx": launch.n_ctx}
        self._running = engine.running(launch, "nextn.train.engine_child", more)

    def ends(self) -> frozenset[int]:
        """Tokens at which an answer ends. Raises EngineFailed."""
        return frozenset(int(one) for one in self._running.ask("/ends", {})["ids"])

    def write(self, jobs: Sequence[Job], tick: Callable[[int], bool]) -> list[Answer]:
        """See `Reader.write`. Raises EngineFailed."""
        self._running.ask("/start", {"jobs": [asdict(job) for job in jobs]})
        try:
            done = False
            while not done:
                went = self._running.ask("/go", {"seconds": _TURN_S})
                done = bool(went["done"]) or tick(int(went["n_tokens"]))
            with tempfile.TemporaryDirectory(prefix="nextn-states-") as folder:
                path = Path(folder) / "answers.safetensors"
                n_clamped = int(self._running.ask("/take", {"file": os.fspath(path)})["n_clamped"])
                return parted({name: array.copy() for name, array in read_arrays(path).items()}, n_clamped)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineFailed(f"{self._launch.model}: the engine's states cannot be read ({error!r})") from error

    def __enter__(self) -> EngineReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.stop()
