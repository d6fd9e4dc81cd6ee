"""kv_cache and recurrent state from a header: how much each layer of each context keeps.

Sources: llama.cpp b11549, `src/llama-model.cpp` (create_memory: a context of the target keeps the trunk's layers, a
context for drafting the blocks'), `src/llama-kv-cache.cpp` (one row of keys and one of values per cell and layer, no
values for MLA), `src/llama-kv-cache-iswa.cpp` (cells of a sliding window), `src/llama-kv-cache-dsa.cpp` (an indexer's
keys beside the latent ones), `src/llama-memory-recurrent.cpp` (rows of the recurrent state).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..archs import memory_of
from ..errors import UsageError
from ..gguf.types import TensorType, row_size
from .settings import N_UBATCH, Settings, padded
from .shape import Layer, Shape

TARGET, DRAFT = "target", "draft"
FULL, WINDOW, INDEXER = "full", "window", "indexer"


@dataclass(frozen=True)
class CachePart:
    """Layers of one context on one device that keep the same number of cells."""

    context: str  # "target" or "draft"
    kind: str  # "full", "window" or "indexer"
    device: str
    n_layers: int
    bytes_per_cell: int  # all its layers together
    max_cells: int | None  # per sequence; None: as many as the context has

    def cells(self, n_ctx_seq: int) -> int:
        """Cells of one sequence."""
        return n_ctx_seq if self.max_cells is None else min(padded(n_ctx_seq), self.max_cells)

    def size_bytes(self, settings: Settings) -> int:
        """Bytes for all sequences."""
        return self.bytes_per_cell * self.cells(settings.n_ctx_seq) * settings.n_parallel


def _row(type: TensorType, n: int, what: str) -> int:
    if type.block_size and n % type.block_size:
        raise UsageError(
            f"the {what} of this model have {n} values per row, which {type.name} cannot hold (it packs "
            f"{type.block_size}); use --kv-type f16."
        )
    return row_size(type, n)


def _bytes(layer: Layer, kind: str, settings: Settings) -> int:
    if kind == INDEXER:
        return _row(settings.kv_type_k, layer.indexer, "indexer keys")
    keys = _row(settings.kv_type_k, layer.n_embd_k, "keys")
    return keys + (_row(settings.kv_type_v, layer.n_embd_v, "values") if layer.n_embd_v else 0)


def _context_layers(shape: Shape, context: str) -> Iterable[tuple[Layer, str]]:
    """The layers that a context keeps, with the kind of cache."""
    for layer in shape.layers:
        of_block = layer.index >= shape.n_layer
        also = of_block and context == TARGET and memory_of(shape.arch).block_in_target
        if layer.recurrent or not (of_block == (context == DRAFT) or also):
            continue
        if layer.n_embd_k:
            yield layer, WINDOW if layer.window else FULL
        if layer.indexer:
            yield layer, INDEXER


def cache_parts(shape: Shape, settings: Settings, contexts: Iterable[str], devices: list[str]) -> list[CachePart]:
    """The kv_cache by context, kind and device; `devices` has one entry per layer.

    Raises UsageError for a type that the rows do not fit.
    """
    # One sequence's cells of a sliding window: the window, plus one batch before it is cut off.
    window = padded(shape.n_window + N_UBATCH)
    sums: dict[tuple[str, str, str], tuple[int, int]] = {}
    for context in contexts:
        for layer, kind in _context_layers(shape, context):
            key = (context, kind, devices[layer.index])
            n, total = sums.get(key, (0, 0))
            sums[key] = (n + 1, total + _bytes(layer, kind, settings))
    return [
        CachePart(context, kind, device, n, total, window if kind == WINDOW else None)
        for (context, kind, device), (n, total) in sums.items()
    ]


def state_bytes(shape: Shape, devices: list[str]) -> dict[str, int]:
    """Bytes of one copy of one sequence's recurrent state, by device; states are f32."""
    out: dict[str, int] = {}
    for layer in shape.layers:
        if layer.recurrent:
            out[devices[layer.index]] = out.get(devices[layer.index], 0) + 4 * shape.n_embd_state
    return out


def state_copies(shape: Shape, settings: Settings, mtp: bool) -> int:
    """Copies of the recurrent state that the engine keeps for each sequence."""
    return 1 + (settings.n_max if mtp and shape.rolls_back else 0)
