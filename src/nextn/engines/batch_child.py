"""The process that times batches in xllamacpp's library: `python -m nextn.engines.batch_child SETUP_JSON`.

It loads the model as the server of `engines.child` would, prints `nextn: listening on port N` to standard error, and
answers on the loopback interface until SIGTERM:

    GET  /health
    POST /prefix {"text": ..., "depth": N}                 -> {"depth": N}
    POST /pass   {"sizes": [...], "repeats": N, "start": N} -> {"seconds": [[...], ...], "state_seconds": [...]}

`seconds` holds one list per size. Sizes take turns, every second round in reverse. `start` chooses the text of the
batches. `state_seconds`: saving and restoring the recurrent state once per round, where the engine must.
"""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn

from nextn.engines.child import configure
from nextn.engines.child_http import serve
from nextn.engines.llama_library import BatchModel, LibraryUnsuitable

_SINGLE = 32  # tokens that are decoded one after the other before the context is cut back


class Batches:
    """What is asked of a loaded model."""

    def __init__(self, model: BatchModel) -> None:
        self._model = model
        self._tokens: list[int] = []
        self._depth = 0

    def prefix(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Decode a text of `depth` tokens; what follows in the text is what batches are made of."""
        tokens = self._model.tokenize(asked["text"])
        self._depth = int(asked["depth"])
        while len(tokens) < 2 * self._depth + 64:
            tokens += tokens
        self._tokens = tokens
        self._model.prefill(tokens[: self._depth])
        return {"depth": self._depth}

    def one_pass(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Time batches of all sizes."""
        sizes: list[int] = asked["sizes"]
        found: dict[int, list[float]] = {size: [] for size in sizes}
        state: list[float] = []
        for number in range(int(asked["repeats"])):
            for size in sizes if number % 2 == 0 else reversed(sizes):
                found[size].append(self._timed(size, int(asked["start"]) + number))
            if self._model.saves_state:
                context = self._model.verifying
                state.append(context.save() + context.restore())
        return {"seconds": [found[size] for size in sizes], "state_seconds": state}

    def _timed(self, size: int, number: int) -> float:
        if size == 1:
            return self._model.timed_singly(self._some(_SINGLE, number))
        return self._model.timed(self._some(size, number))

    def _some(self, size: int, number: int) -> list[int]:
        """The next tokens of the text; other ones each time, since experts are chosen by token."""
        room = len(self._tokens) - self._depth - size
        at = self._depth + (17 * number) % max(1, room)
        return self._tokens[at : at + size]


def _give_up(why: object) -> NoReturn:
    sys.stderr.write(f"nextn: {why}\n")
    sys.exit(1)


def main(argv: list[str]) -> int:
    """Serve batches of one model."""
    import xllamacpp  # type: ignore[import-not-found,unused-ignore]

    setup = json.loads(argv[0])
    try:
        params, drafting = (configure(xllamacpp, {**setup, "n_max": n}) for n in (0, setup["n_snapshots"]))
        drafting.load_mtp = False  # only the snapshots of recurrent state that drafting needs
        model = BatchModel(xllamacpp, params, drafting, setup["slots"], setup["settle_s"])
    except LibraryUnsuitable as error:
        _give_up(f"batches cannot be timed in this xllamacpp ({error}); name a llama-server with --engine")
    except (RuntimeError, MemoryError) as error:
        _give_up(error)
    batches = Batches(model)
    serve({"/prefix": batches.prefix, "/pass": batches.one_pass})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
