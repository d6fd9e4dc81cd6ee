"""What a reader is asked for and what it gives: answers of the trunk with the states that a draft sees.

Both ways of reading, the engine's process and torch, write these as safetensors (format description of safetensors:
u64 length, JSON table, data), the engine's process for its parent and the stage for the folder of states.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import FormatError
from ..sources.safetensors import read_safetensors

Array = npt.NDArray[Any]
DTYPES = {"I64": "<i8", "I32": "<i4", "F32": "<f4", "F16": "<f2"}
_NAMES = {value: key for key, value in DTYPES.items()}
_ALIGNMENT = 64
MOST_F16 = 65504.0  # the largest finite value of float16
N_CHOICE = 40  # the most likely tokens, of which one is drawn

# Which arrays there are, and their types; the first axis is tokens, except for the first three.
FIELDS = {
    "starts": "<i8", "n_prompt": "<i4", "prompt_id": "<i4", "ids": "<i4", "features": "<f2", "top_ids": "<i4",
    "top_logits": "<f2", "log_sum": "<f4",
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A prompt to answer, or with `n_predict` 0 only to read."""

    prompt_id: int
    ids: tuple[int, ...]
    n_predict: int
    temperature: float  # 0: the most likely token each time
    seed: int


def job_seed(seed: int, place: int) -> int:
    """The seed of the job at a place, from that of the run."""
    return seed * 1_000_003 + place


@dataclass(frozen=True)
class WrittenAnswer:
    """A prompt with what the trunk wrote after it."""

    prompt_id: int
    n_prompt: int  # tokens of the prompt
    ids: Array  # int32 [tokens]
    features: Array  # f16 [tokens, taps, n_embd]
    top_ids: Array  # int32 [tokens, top_k], best first
    top_logits: Array  # f16 [tokens, top_k]
    log_sum: Array  # f32 [tokens]: the logarithm of the sum of exponentials of all logits
    n_clamped: int = 0  # values that float16 cannot hold

    @property
    def n_tokens(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.ids)

    @property
    def n_bytes(self) -> int:
        """Bytes of its arrays, with its share of the table of sequences."""
        own = sum(one.nbytes for one in (self.ids, self.features, self.top_ids, self.top_logits, self.log_sum))
        return own + 16

    def cut(self, n_tokens: int) -> WrittenAnswer:
        """Its first tokens."""
        arrays = (self.ids, self.features, self.top_ids, self.top_logits, self.log_sum)
        ids, features, top_ids, top_logits, log_sum = (one[:n_tokens] for one in arrays)
        n_prompt = min(self.n_prompt, n_tokens)
        return WrittenAnswer(self.prompt_id, n_prompt, ids, features, top_ids, top_logits, log_sum, self.n_clamped)


class StatesReader(Protocol):
    """A way to let the trunk write; a context manager."""

    name: str  # "engine" or "torch"
    n_workers: int  # calls of `write` that may run at the same time

    def write(self, jobs: Sequence[Job], tick: Callable[[int], bool]) -> list[WrittenAnswer]:
        """WrittenAnswer prompts; the answers are in their order.

        `tick(n)` is called now and then with the number of tokens since the last call; when it is true, answers end
        where they are.
        """

    def __enter__(self) -> StatesReader: ...

    def __exit__(self, *_: object) -> None: ...


def as_f16(values: Array) -> tuple[Array, int]:
    """Values as float16, those beyond its range made the largest finite ones, and their number."""
    outside = ~(np.abs(values) <= MOST_F16)
    n = int(outside.sum())
    if n:
        values = np.clip(np.nan_to_num(values, nan=0.0, posinf=MOST_F16, neginf=-MOST_F16), -MOST_F16, MOST_F16)
    return values.astype(np.float16), n


def joined(answers: Sequence[WrittenAnswer]) -> dict[str, Array]:
    """The arrays of several answers, one after the other, as a chunk holds them."""
    lengths = [answer.n_tokens for answer in answers]
    arrays: dict[str, Array] = {
        "starts": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype("<i8"),
        "n_prompt": np.array([answer.n_prompt for answer in answers], "<i4"),
        "prompt_id": np.array([answer.prompt_id for answer in answers], "<i4"),
    }
    for name in ("ids", "features", "top_ids", "top_logits", "log_sum"):
        arrays[name] = np.concatenate([getattr(answer, name) for answer in answers]).astype(FIELDS[name], copy=False)
    return arrays


def parted(arrays: Mapping[str, Array], n_clamped: int = 0) -> list[WrittenAnswer]:
    """The answers of a chunk; `n_clamped` counts for the first."""
    out = []
    starts = arrays["starts"]
    for number, (start, end) in enumerate(pairwise(starts)):
        parts = [arrays[name][start:end] for name in ("ids", "features", "top_ids", "top_logits", "log_sum")]
        ids, features, top_ids, top_logits, log_sum = parts
        out.append(
            WrittenAnswer(
                int(arrays["prompt_id"][number]), int(arrays["n_prompt"][number]), ids, features, top_ids, top_logits,
                log_sum, n_clamped if number == 0 else 0,
            )
        )  # fmt: skip
    return out


def pieces(arrays: Mapping[str, Array], notes: Mapping[str, str] | None = None) -> Iterable[bytes | memoryview]:
    """A safetensors file in pieces."""
    table: dict[str, Any] = {} if notes is None else {"__metadata__": dict(notes)}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        table[name] = {"dtype": _NAMES[array.dtype.str], "shape": list(array.shape), "data_offsets": [start, end]}
    head = json.dumps(table).encode()
    head += b" " * (-(8 + len(head)) % _ALIGNMENT)
    yield struct.pack("<Q", len(head)) + head
    for array in arrays.values():
        if array.nbytes:
            yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read_arrays(path: Path, names: Iterable[str] = FIELDS) -> dict[str, Array]:
    """Arrays of a safetensors file, mapped, not read. Raises FormatError, StorageError."""
    found = read_safetensors(path)
    out: dict[str, Array] = {}
    for name in names:
        entry = found.get(name)
        if entry is None or entry.dtype not in DTYPES:
            what = "is missing" if entry is None else f"is of type {entry.dtype}"
            raise FormatError(f"the array '{name}' {what}; this is not a chunk of states", path=path)
        kind = np.dtype(DTYPES[entry.dtype])
        if 0 in entry.shape:
            out[name] = np.zeros(entry.shape, kind)
        else:
            out[name] = np.memmap(path, kind, "r", entry.where.start, entry.shape)
    return out


def drawn(ids: Array, logits: Array, temperature: Array, noise: Array) -> Array:
    """The next token of each row: ids and logits [rows, k] best first, temperature and noise in [0, 1) [rows].

    A temperature of 0 takes the first; else one of the `N_CHOICE` best is drawn.
    """
    ids, logits = ids[:, :N_CHOICE], logits[:, :N_CHOICE].astype(np.float64)
    warm = np.where(temperature > 0, temperature, 1.0)[:, None]
    weights = np.exp((logits - logits[:, :1]) / warm)
    sums = weights.cumsum(1)
    at = (sums < (noise * sums[:, -1])[:, None]).sum(1)
    at = np.where(temperature > 0, np.minimum(at, ids.shape[1] - 1), 0)
    chosen: Array = ids[np.arange(len(ids)), at]
    return chosen
