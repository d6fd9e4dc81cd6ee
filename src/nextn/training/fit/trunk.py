"""The trunk's matrices that a draft reads, as float32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import FormatError
from ...ggml.quantize import dequantize, fallback_type, quantize
from ...gguf.files import Model
from ...gguf.types import TensorType
from ...sources.ranges import Reader
from ...sources.rows import GGUFRows, RowSource

_EMBEDDINGS, _HEAD, _NORM = "token_embd.weight", "output.weight", "output_norm.weight"
_LARGE = 64 << 20  # values, from which on a frozen matrix is kept in bfloat16


def matrix(rows: RowSource, chosen: NDArray[np.int64] | None = None, kept_as: TensorType | None = None) -> Tensor:
    """Rows (of `chosen`, ascending; None: all), [n, n_per_row], as they are after being stored in `kept_as`."""
    n = rows.n_rows if chosen is None else len(chosen)
    out = torch.empty(n, rows.n_per_row, dtype=torch.bfloat16 if n * rows.n_per_row > _LARGE else torch.float32)
    first = done = 0
    for chunk in _chunks(rows):
        some = chunk if chosen is None else chunk[chosen[(chosen >= first) & (chosen < first + len(chunk))] - first]
        if len(some):
            out[done : done + len(some)] = torch.from_numpy(np.array(_stored(some, kept_as)))
        done += len(some)
        first += len(chunk)
    return out


def _chunks(rows: RowSource) -> Iterator[NDArray[np.float32]]:
    with Reader() as reader:
        yield from rows.chunks(reader)


def _stored(rows: NDArray[np.float32], kind: TensorType | None) -> NDArray[np.float32]:
    if kind is None:
        return rows
    kind = fallback_type(kind, rows.shape[1])
    return dequantize(quantize(np.ascontiguousarray(rows), kind).tobytes(), kind, rows.shape[1])


def embeddings(model: Model, kept_as: TensorType | None = None) -> Tensor:
    """[V, E]. Raises FormatError."""
    return matrix(rows_of(model, _EMBEDDINGS), None, kept_as)


def head(model: Model, chosen: NDArray[np.int64] | None = None, kept_as: TensorType | None = None) -> Tensor:
    """[tokens, E]: the output head, or the embeddings where they are tied. Raises FormatError."""
    return matrix(rows_of(model, _HEAD if _HEAD in model.tensors else _EMBEDDINGS), chosen, kept_as)


def output_norm(model: Model) -> Tensor:
    """[E]. Raises FormatError."""
    return matrix(rows_of(model, _NORM))[0]


def rows_of(model: Model, name: str) -> GGUFRows:
    found = model.tensors.get(name)
    if found is None:
        raise FormatError(f"the model has no '{name}', which a draft reads", path=model.entry)
    file, info = found
    file.value_range(info)
    return GGUFRows(file, info)


def largest(value: object, default: int) -> int:
    """A header's count, or the largest of one per layer."""
    counts = value if isinstance(value, list) else [value]
    found = [n for n in counts if isinstance(n, int) and not isinstance(n, bool) and n > 0]
    return max(found, default=default)
