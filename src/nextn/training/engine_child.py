"""The process in which llama.cpp's library writes answers and shows its states: run with `python -m`.

It loads the model as `engines.child` would, prints `nextn: listening on port N` to standard error, and answers on the
loopback interface until SIGTERM:

    GET  /health
    POST /start {"jobs": [{"prompt_id", "ids", "n_predict", "temperature", "seed"}, ...]} -> {}
    POST /go    {"seconds": S}     -> {"n_tokens": new ones, "done": whether nothing is left to do}
    POST /ends  {} -> {"ids": tokens at which an answer ends}
    POST /take  {"file": path}     -> {"n_answers", "n_clamped": values beyond float16}; answers so far, as safetensors

States are the inputs of tapped layers (`llama_set_embeddings_layer_inp`), or the state that the MTP graph gets
(`llama_set_embeddings_nextn`): C++ functions of llama.cpp's src/llama-ext.h, under their mangled names.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nextn.engines.child import configure, put
from nextn.engines.child_http import Answers, serve
from nextn.engines.llama_library import Functions, Library, LibraryUnsuitable
from nextn.training.answers import Array, Job, WrittenAnswer, as_f16, drawn, joined, pieces

_P, _I32, _F32S = ctypes.c_void_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_float)
SET_TAP = "_Z30llama_set_embeddings_layer_inpP13llama_contextjb"
GET_TAP = "_Z30llama_get_embeddings_layer_inpP13llama_contextj"
SET_NEXTN = "_Z26llama_set_embeddings_nextnP13llama_contextbb"
GET_NEXTN = "_Z26llama_get_embeddings_nextnP13llama_context"
FUNCTIONS: Functions = {
    SET_TAP: (None, (_P, ctypes.c_uint32, ctypes.c_bool)),
    GET_TAP: (_F32S, (_P, ctypes.c_uint32)),
    SET_NEXTN: (None, (_P, ctypes.c_bool, ctypes.c_bool)),
    GET_NEXTN: (_F32S, (_P,)),
    "llama_set_embeddings": (None, (_P, ctypes.c_bool)),
    "llama_get_embeddings": (_F32S, (_P,)),
    "llama_get_logits": (_F32S, (_P,)),
    "llama_vocab_n_tokens": (_I32, (_P,)),
    "llama_vocab_is_eog": (ctypes.c_bool, (_P, _I32)),
    "llama_model_n_embd": (_I32, (_P,)),
}
_BATCH = 512  # most tokens decoded at a time
_LOGITS_BYTES = 256 << 20  # most memory of their logits
_GROUP = 64  # logits of which only the best is looked at first


class Growing:
    """One answer while it is written."""

    def __init__(self, job: Job) -> None:
        self.job, self.ids, self.noise = job, list(job.ids), np.random.default_rng(job.seed)
        self.n_read = 0  # tokens that were decoded
        self.parts: list[tuple[Array, Array, Array, Array]] = []  # features, top ids and logits, log-sums
        self.n_clamped = 0

    def answer(self) -> WrittenAnswer | None:
        """What was decoded; None when nothing was."""
        if not self.parts:
            return None
        features, top_ids, top_logits, log_sum = (np.concatenate(one) for one in zip(*self.parts, strict=True))
        ids = np.array(self.ids[: self.n_read], np.int32)
        n_prompt = min(len(self.job.ids), self.n_read)
        return WrittenAnswer(self.job.prompt_id, n_prompt, ids, features, top_ids, top_logits, log_sum, self.n_clamped)


class Writer:
    """A loaded model that answers prompts, as many at a time as it has slots."""

    def __init__(self, wheel: ModuleType, setup: dict[str, Any]) -> None:
        """Raises LibraryUnsuitable, and RuntimeError or MemoryError when the model does not load."""
        self._lib = lib = Library(wheel, FUNCTIONS)
        params = configure(wheel, {**setup, "n_max": 0})
        put(params, _BATCH, "n_batch")
        put(params, _BATCH, "n_ubatch")
        lib.choose_threads(params)
        model = lib.load(params)
        self._vocab = _P(lib.llama_model_get_vocab(model))
        self.n_vocab = int(lib.llama_vocab_n_tokens(self._vocab))
        self.n_embd = int(lib.llama_model_n_embd(model))
        self._context = lib.context(model, lib.context_params(params))
        self._memory = _P(lib.llama_get_memory(self._context))
        self.n_batch = max(16, min(_BATCH, _LOGITS_BYTES // (4 * self.n_vocab)))
        self._batch = lib.llama_batch_init(self.n_batch, 0, 1)
        self.taps: list[int] | None = setup["taps"]
        self._layers = list(self.taps or [])
        if setup["with_last"]:
            del self._layers[-1:]  # what comes after the last norm is not a layer's input
        for tap in self._layers:
            lib[SET_TAP](self._context, tap, True)
        if setup["with_last"]:
            lib.llama_set_embeddings(self._context, True)
        if self.taps is None:
            lib[SET_NEXTN](self._context, True, False)
        self.slots, self.top_k, self.n_ctx = int(setup["slots"]), int(setup["top_k"]), int(setup["slot_ctx"])
        self.start([])

    def start(self, jobs: list[Job]) -> None:
        """Begin with other prompts."""
        self._lib.llama_memory_clear(self._memory, True)
        self.all = [Growing(job) for job in jobs]
        self._waiting = list(reversed(self.all))
        self._active: dict[int, Growing] = {}
        self._free = list(range(self.slots))

    def go(self, seconds: float) -> tuple[int, bool]:
        """Write for some seconds, one batch at least: the number of new tokens, and whether all is written."""
        end, n = time.monotonic() + seconds, 0
        while self._active or self._waiting:
            while self._free and self._waiting:
                self._active[self._free.pop()] = self._waiting.pop()
            n += self._step()
            if time.monotonic() >= end:
                break
        return n, not self._active and not self._waiting

    def _step(self) -> int:
        """Decode one batch: whatever the active answers have not decoded, as far as it fits."""
        rows: list[tuple[int, Growing, int]] = []  # slot, answer, tokens
        room = self.n_batch
        for slot, one in self._active.items():
            n = min(room, len(one.ids) - one.n_read)
            if n > 0:
                rows.append((slot, one, n))
                room -= n
        features, logits = self._decode(rows)
        ids, best, sums = top_of(logits, max(self.top_k, min(40, self.n_vocab)))
        best16, _ = as_f16(best)
        at, ready = 0, []
        for slot, one, n in rows:
            kept, n_clamped = as_f16(features[at : at + n])
            one.parts.append(
                (kept, ids[at : at + n, : self.top_k], best16[at : at + n, : self.top_k], sums[at : at + n])
            )
            one.n_clamped += n_clamped
            one.n_read += n
            at += n
            if one.n_read == len(one.ids):
                ready.append((slot, one, at - 1))
        self._choose(ready, ids, best)
        return at

    def _choose(self, ready: list[tuple[int, Growing, int]], ids: Array, best: Array) -> None:
        """The next token of each answer whose tokens are all decoded; those that are at their end leave their slots."""
        if not ready:
            return
        rows = np.array([row for _, _, row in ready])
        warm = np.array([one.job.temperature for _, one, _ in ready])
        noise = np.array([one.noise.random() for _, one, _ in ready])
        for (slot, one, _), token in zip(ready, drawn(ids[rows], best[rows], warm, noise), strict=True):
            room = min(len(one.job.ids) + one.job.n_predict, self.n_ctx)
            if len(one.ids) >= room or self._lib.llama_vocab_is_eog(self._vocab, int(token)):
                del self._active[slot]
                self._free.append(slot)
                self._lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
            else:
                one.ids.append(int(token))

    def _decode(self, rows: list[tuple[int, Growing, int]]) -> tuple[Array, Array]:
        """Features f32 [tokens, taps, n_embd] and logits f32 [tokens, n_vocab] of a batch."""
        batch, at = self._batch, 0
        for slot, one, n in rows:
            for pos in range(one.n_read, one.n_read + n):
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = one.ids[pos], pos, 1
                batch.seq_id[at][0], batch.logits[at] = slot, True
                at += 1
        batch.n_tokens = at
        code = self._lib.llama_decode(self._context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code} for a batch of {at} tokens")
        logits = np.ctypeslib.as_array(self._lib.llama_get_logits(self._context), (at, self.n_vocab))
        lib, context, shape = self._lib, self._context, (at, self.n_embd)
        found = [lib[GET_NEXTN](context)] if self.taps is None else [lib[GET_TAP](context, tap) for tap in self._layers]
        if self.taps is not None and len(self._layers) < len(self.taps):
            found.append(lib.llama_get_embeddings(context))
        if not all(found):
            raise RuntimeError("llama.cpp's graph of this architecture shows no such state")
        return np.stack([np.ctypeslib.as_array(one, shape) for one in found], 1), logits

    def ends(self) -> list[int]:
        """Tokens at which an answer ends."""
        return [token for token in range(self.n_vocab) if self._lib.llama_vocab_is_eog(self._vocab, token)]

    def take(self, file: str) -> tuple[int, int]:
        """Write the answers so far: their number, and that of values that float16 cannot hold. No file if none."""
        answers = [answer for one in self.all if (answer := one.answer()) is not None]
        if not answers:
            return 0, 0
        with Path(file).open("wb") as out:
            for piece in pieces(joined(answers)):
                out.write(piece)
        return len(answers), sum(answer.n_clamped for answer in answers)


def top_of(logits: Array, k: int) -> tuple[Array, Array, Array]:
    """The best tokens of each row: ids int32 [rows, k], logits f32 [rows, k] best first, and log-sums f32 [rows].

    The k largest are in the k groups with the largest maxima, so that only those are searched. The columns of a group
    are far apart, which lets a CPU look at many groups at once.
    """
    rows, n = logits.shape
    n_groups, columns = n // _GROUP, None
    if n_groups >= 2 * k:
        maxima = logits[:, : n_groups * _GROUP].reshape(rows, _GROUP, n_groups).max(1)
        groups = np.argpartition(maxima, n_groups - k, 1)[:, -k:]
        columns = (groups[..., None] + n_groups * np.arange(_GROUP)).reshape(rows, -1)
        rest = np.broadcast_to(np.arange(n_groups * _GROUP, n), (rows, n - n_groups * _GROUP))
        columns = np.concatenate([columns, rest], 1)
    found = logits if columns is None else np.take_along_axis(logits, columns, 1)
    at = np.argpartition(found, found.shape[1] - k, 1)[:, -k:]
    best = np.take_along_axis(found, at, 1)
    order = np.argsort(-best, 1, kind="stable")
    best, at = np.take_along_axis(best, order, 1), np.take_along_axis(at, order, 1)
    ids = at if columns is None else np.take_along_axis(columns, at, 1)
    sums = best[:, 0] + np.log(np.exp(logits - best[:, :1]).sum(1))
    return ids.astype(np.int32), best, sums.astype(np.float32)


def answers_of(writer: Writer) -> Answers:
    """What this process does for each path."""

    def start(asked: dict[str, Any]) -> dict[str, Any]:
        writer.start([Job(**{**job, "ids": tuple(job["ids"])}) for job in asked["jobs"]])
        return {}

    def go(asked: dict[str, Any]) -> dict[str, Any]:
        n_tokens, done = writer.go(float(asked["seconds"]))
        return {"n_tokens": n_tokens, "done": done}

    def take(asked: dict[str, Any]) -> dict[str, Any]:
        n_answers, n_clamped = writer.take(asked["file"])
        return {"n_answers": n_answers, "n_clamped": n_clamped}

    def ends(asked: dict[str, Any]) -> dict[str, Any]:
        return {"ids": writer.ends()}

    return {"/start": start, "/go": go, "/take": take, "/ends": ends}


def main(argv: list[str]) -> int:
    """Write answers with one model."""
    import xllamacpp  # type: ignore[import-not-found,unused-ignore]

    try:
        writer = Writer(xllamacpp, json.loads(argv[0]))
    except (LibraryUnsuitable, RuntimeError, MemoryError) as error:
        sys.stderr.write(f"nextn: {error}\n")
        return 1
    serve(answers_of(writer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
