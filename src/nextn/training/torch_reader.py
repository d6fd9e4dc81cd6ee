"""Answers and states from torch: the user's own quant, dequantized, many sequences at once.

Each worker is one thread with one thread of torch, since torch's threads wait for each other after every small
operation. Answers of one call begin together; one that ends gives its row of the cache to the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..gguf.files import Model
from .answers import N_CHOICE, Answer, Array, Job, as_f16, drawn
from .dense import Cache, Dense

Tensor: TypeAlias = Any  # torch.Tensor; torch is imported only where it is used, and may be missing

PREFILL = 2048  # tokens, padding included, that are read together


class TorchReader:
    """A dense model in torch as a `StatesReader`."""

    name = "torch"

    def __init__(self, model: Model, taps: Sequence[int], top_k: int, ends: frozenset[int], n_workers: int) -> None:
        """Read and dequantize the model. `ends`: tokens at which an answer ends. Raises NotDense."""
        self._dense = Dense(model, taps, n_workers)
        self._top_k, self._ends = min(top_k, self._dense.n_vocab), ends
        self.n_workers = n_workers

    def write(self, jobs: Sequence[Job], tick: Callable[[int], bool]) -> list[Answer]:
        """See `StatesReader.write`."""
        import torch

        torch.set_num_threads(1)
        with torch.inference_mode():
            cohort = _Cohort(self._dense, jobs, self._top_k, self._ends)
            stop = cohort.begin(tick)
            while not stop and cohort.active:
                stop = tick(cohort.step())
            return cohort.answers()

    def __enter__(self) -> TorchReader:
        return self

    def __exit__(self, *_: object) -> None:
        return


class _Cohort:
    """Answers that begin together."""

    def __init__(self, dense: Dense, jobs: Sequence[Job], top_k: int, ends: frozenset[int]) -> None:
        self._dense, self._jobs, self._top_k, self._ends = dense, jobs, top_k, ends
        self._n_best = max(top_k, min(N_CHOICE, dense.n_vocab))
        longest = max(len(job.ids) + job.n_predict for job in jobs)
        self._cache = Cache(dense.sizes, len(jobs), longest)
        self._noise = [np.random.default_rng(job.seed) for job in jobs]
        shape = (len(jobs), longest)
        self._ids = np.zeros(shape, np.int32)
        self._features = np.zeros((*shape, len(dense.taps), dense.sizes.n_embd), np.float16)
        self._top_ids = np.zeros((*shape, top_k), np.int32)
        self._top_logits = np.zeros((*shape, top_k), np.float16)
        self._log_sum = np.zeros(shape, np.float32)
        self._lengths = np.zeros(len(jobs), np.int64)
        self._clamped = np.zeros(len(jobs), np.int64)
        self._next = np.zeros(len(jobs), np.int64)
        self.active: list[int] = []  # the job in each row of the cache

    def begin(self, tick: Callable[[int], bool]) -> bool:
        """Read all prompts; true when `tick` says so."""
        import torch

        longest = max(len(job.ids) for job in self._jobs)
        group = max(1, PREFILL // longest)
        for first in range(0, len(self._jobs), group):
            jobs = self._jobs[first : first + group]
            length = max(len(job.ids) for job in jobs)
            ids = np.zeros((len(jobs), length), np.int64)
            for row, job in enumerate(jobs):
                ids[row, : len(job.ids)] = job.ids
            seen = self._dense.first(torch.from_numpy(ids), self._cache, first)
            rows = np.concatenate([row * length + np.arange(len(job.ids)) for row, job in enumerate(jobs)])
            who = np.repeat(np.arange(first, first + len(jobs)), [len(job.ids) for job in jobs])
            where = np.concatenate([np.arange(len(job.ids)) for job in jobs])
            at = torch.from_numpy(rows)
            best_ids, best = self._keep(who, where, ids.reshape(-1)[rows], seen.taps[at], seen.last[at])
            last = np.cumsum([len(job.ids) for job in jobs]) - 1
            self._lengths[first : first + len(jobs)] = [len(job.ids) for job in jobs]
            self._choose(np.arange(first, first + len(jobs)), best_ids[last], best[last])
            if tick(len(rows)):
                self.active = []
                return True
        self.active = list(range(len(self._jobs)))
        self._leave()
        return False

    def step(self) -> int:
        """One more token of every answer that goes on; the number of tokens."""
        import torch

        who = np.array(self.active)
        ids, where = self._next[who], self._lengths[who]
        seen = self._dense.step(torch.from_numpy(ids), torch.from_numpy(where), self._cache)
        best_ids, best = self._keep(who, where, ids, seen.taps, seen.last)
        self._lengths[who] += 1
        self._choose(who, best_ids, best)
        self._leave()
        return len(who)

    def _keep(self, who: Array, where: Array, ids: Array, taps: Tensor, last: Tensor) -> tuple[Array, Array]:
        """Note what was seen at tokens `where` of jobs `who`; the best tokens after each and their logits."""
        best_ids, best, sums = (one.numpy() for one in self._dense.top(last, self._n_best))
        kept, n_clamped = as_f16(taps.numpy())
        if n_clamped:
            self._clamped[who[0]] += n_clamped
        self._ids[who, where], self._features[who, where] = ids, kept
        self._top_ids[who, where] = best_ids[:, : self._top_k]
        self._top_logits[who, where] = as_f16(best[:, : self._top_k])[0]
        self._log_sum[who, where] = sums
        return best_ids, best

    def _choose(self, who: Array, best_ids: Array, best: Array) -> None:
        """The next token of each of the jobs; a negative one where an answer is at its end."""
        warm = np.array([self._jobs[one].temperature for one in who])
        noise = np.array([self._noise[one].random() for one in who])
        for one, token in zip(who, drawn(best_ids, best, warm, noise), strict=True):
            full = self._lengths[one] >= len(self._jobs[one].ids) + self._jobs[one].n_predict
            self._next[one] = -1 if full or int(token) in self._ends else token

    def _leave(self) -> None:
        """Answers at their end give their rows to the last ones."""
        row = 0
        while row < len(self.active):
            if self._next[self.active[row]] >= 0:
                row += 1
                continue
            last = self.active.pop()
            if row < len(self.active):
                self._cache.move(len(self.active), row, int(self._lengths[last]))
                self.active[row] = last

    def answers(self) -> list[Answer]:
        """What was written of each, by job."""
        out = []
        for number, job in enumerate(self._jobs):
            n = int(self._lengths[number])
            if n:
                out.append(
                    Answer(
                        job.prompt_id, min(len(job.ids), n), self._ids[number, :n], self._features[number, :n],
                        self._top_ids[number, :n], self._top_logits[number, :n], self._log_sum[number, :n],
                        int(self._clamped[number]),
                    )
                )  # fmt: skip
        return out
