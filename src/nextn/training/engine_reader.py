"""Answers and states from the pinned engine: any architecture, in the wheel's library, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..block.anatomy import Anatomy
from ..engines.base import Launch
from ..engines.xllamacpp import Xllamacpp
from ..errors import EngineFailed, UnsupportedModel
from ..gguf.files import Model, open_sound
from ..sources.ranges import Reader
from ..sources.rows import GGUFRows
from ..writing.scratch import scratch_folder
from .answers import Array, Job, WrittenAnswer, parted, read_arrays

_TURN_S = 1.0  # seconds between two looks at the progress


@dataclass(frozen=True)
class What:
    """Which states are read, and how many logits are kept."""

    taps: tuple[int, ...] | None
    """Layers whose inputs are kept; None: the state that the MTP graph gets. One layer more than there are stands for
    what the last one puts out, divided by its root mean square, as the norm after it does."""
    top_k: int


class EngineReader:
    """The engine as a `StatesReader`."""

    name = "engine"
    n_workers = 1

    def __init__(self, engine: Xllamacpp, launch: Launch, what: What) -> None:
        """Load the model; `launch.slots` answers are written together, each in `launch.n_ctx` tokens.

        Raises what `Engine.start` raises, and UnsupportedModel.
        """
        model = open_sound(launch.model)
        self._last = None  # the weights of the last norm, which the engine has multiplied what comes after it with
        if what.taps is not None and Anatomy.of(model).n_layer_trunk in what.taps:
            self._last = _last_norm(model)
        self._launch = launch
        taps = None if what.taps is None else list(what.taps)
        more = {"taps": taps, "with_last": self._last is not None, "top_k": what.top_k, "slot_ctx": launch.n_ctx}
        self._running = engine.running(launch, "nextn.training.engine_child", more)

    def ends(self) -> frozenset[int]:
        """Tokens at which an answer ends. Raises EngineFailed."""
        return frozenset(int(one) for one in self._running.ask("/ends", {})["ids"])

    def write(self, jobs: Sequence[Job], tick: Callable[[int], bool]) -> list[WrittenAnswer]:
        """See `StatesReader.write`. Raises EngineFailed."""
        self._running.ask("/start", {"jobs": [asdict(job) for job in jobs]})
        try:
            done = False
            while not done:
                went = self._running.ask("/go", {"seconds": _TURN_S})
                done = bool(went["done"]) or tick(int(went["n_tokens"]))
            with scratch_folder("states") as folder:
                path = folder / "answers.safetensors"
                taken = self._running.ask("/take", {"file": os.fspath(path)})
                n_clamped = int(taken["n_clamped"])
                if not taken["n_answers"]:
                    return []
                arrays = {name: array.copy() for name, array in read_arrays(path).items()}
            if self._last is not None:
                arrays["features"][:, -1] /= self._last
            return parted(arrays, n_clamped)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineFailed(f"{self._launch.model}: the engine's states cannot be read ({error!r})") from error

    def __enter__(self) -> EngineReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.stop()


def _last_norm(model: Model) -> Array:
    """The weights of the last norm, f32 [n_embd]. Raises UnsupportedModel for a model without such a norm."""
    found = model.tensors.get("output_norm.weight")
    if found is None or "output_norm.bias" in model.tensors:
        raise UnsupportedModel(f"{model.entry}: what its last layer puts out cannot be read back from its last norm.")
    with Reader() as reader:
        rows = np.concatenate(list(GGUFRows(*found).chunks(reader))).reshape(-1)
    return np.where(rows == 0, np.float32(1), rows)
