"""Weights from headers: which tensors an engine loads, on which device, and which ones the CPU keeps a second copy of.

Sources: llama.cpp b11549, `src/llama-model.cpp` (placement of layers, buffer types), `src/models/*.cpp` (which tensors
of a block are skipped without MTP), `ggml/src/ggml-cpu/repack.cpp` (types that the CPU rearranges).
"""

from __future__ import annotations

import platform
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count, islice, repeat
from operator import add
from pathlib import Path

from ..archs import memory_of
from ..archs.hparams import MAX_LAYERS
from ..block.anatomy import Anatomy
from ..block.layers import ROOT
from ..block.model import DRAFT_ROOTS, suffix_of
from ..gguf.files import Model
from ..gguf.names import LARGE, decoded, encoded
from ..gguf.tensors import TensorInfo, TensorTable
from ..gguf.types import parse_type_name
from ..layouts.parts import KeptTensors

HOST, GPU = "Host", "GPU"
EMBEDDINGS, HEAD = "token_embd.weight", "output.weight"

# Read by rows, or small: never in a matrix product that the CPU rearranges weights for.
_NOT_MULTIPLIED = (EMBEDDINGS.encode(), b"nextn.embed_tokens.weight", b"ssm_conv1d.weight")

# A tensor's code: where it is placed, times _MARKS, plus marks.
_MARKS, _REPACKED, _NOT_ALWAYS = 4, 1, 2  # rearranged by the CPU; loaded only to draft
_HEAD_PLACE = MAX_LAYERS + 1  # a layer's place is its number; models have fewer layers
_EMBEDDINGS_PLACE, _ROOT_PLACE = _HEAD_PLACE + 1, _HEAD_PLACE + 2
_SPECIAL_ROOTS = (b"output", EMBEDDINGS.encode(), *map(str.encode, DRAFT_ROOTS))
_LEFT_OUT = 0xFFFF  # the engine reported it as unused


@dataclass(frozen=True)
class Weights:
    """Bytes of weights on one device."""

    weights_bytes: int = 0  # every loaded tensor once
    repacked_bytes: int = 0  # of these, what the CPU rearranges
    mapped_bytes: int = 0  # what is mapped from the files, in main memory only


@dataclass
class Tally:
    """A model's tensors by what decides their place in memory."""

    groups: dict[tuple[int, int], tuple[int, int, int]] = field(default_factory=dict)  # see `add`
    codes: list[array[int]] = field(default_factory=list)  # of each file's existing tensors, in the table's order
    has_head: bool = False
    head_is_repacked: bool = False  # the embeddings, if they are the head

    def add(
        self, no: int, codes: Iterable[int], offsets: Sequence[int], sizes: Sequence[int], data_offset: int
    ) -> None:
        """Add tensors of file `no` in any order: (file, code) -> bytes, first start, last end."""
        if isinstance(codes, array) and len(codes) >= LARGE and max(sizes) * len(sizes) < 1 << 63:
            from ..gguf import bulk  # loads numpy

            for group in bulk.grouped(codes, offsets, sizes):
                self._add_group(no, *group, data_offset)
            return
        found: dict[int, list[int]] = {}
        for code, start, size, end in zip(codes, offsets, sizes, map(add, offsets, sizes), strict=True):
            known = found.get(code)
            if known is None:
                found[code] = [size, start, end]
                continue
            known[0] += size
            if start < known[1]:
                known[1] = start
            if end > known[2]:
                known[2] = end
        for code, (size, start, end) in found.items():
            self._add_group(no, code, size, start, end, data_offset)

    def _add_group(self, no: int, code: int, size: int, start: int, end: int, data_offset: int) -> None:
        if code == _LEFT_OUT:
            return
        start, end = start + data_offset, end + data_offset
        known, first, last = self.groups.get((no, code), (0, start, end))
        self.groups[no, code] = known + size, min(first, start), max(last, end)


class Coder:
    """Gives a model's tensors their codes, and notes in the tally what is said of its head."""

    def __init__(self, seen: Anatomy, tally: Tally) -> None:
        self._tally, self._blocks = tally, frozenset(seen.blocks)
        self._anyway = memory_of(seen.arch).loaded_anyway
        self._repacked = {parse_type_name(name).id: multiple for name, multiple in repacked_types().items()}

    def code(self, layer: int | None, info: TensorInfo) -> int:
        """The code of a tensor in `layer`."""
        marks = _REPACKED if info.type_id in self._repacked and is_repacked(info) else 0
        if layer is not None:
            marks += _NOT_ALWAYS if layer in self._blocks and self._is_left_out(info.name) else 0
            return min(layer, MAX_LAYERS) * _MARKS + marks
        marks += _NOT_ALWAYS if info.name in DRAFT_ROOTS else 0
        if info.name == EMBEDDINGS:
            self._tally.head_is_repacked = is_repacked(TensorInfo(HEAD, info.ne, info.type_id, 0))
            return _EMBEDDINGS_PLACE * _MARKS + marks
        self._tally.has_head |= info.name == HEAD
        return (_HEAD_PLACE if info.name.startswith("output") else _ROOT_PLACE) * _MARKS + marks

    def _is_left_out(self, name: str) -> bool:
        """Whether a block's tensor is not loaded without MTP."""
        return not (self._anyway and suffix_of(name).startswith(self._anyway))

    def rows(self, table: TensorTable, layers: Iterable[int]) -> Iterator[int]:
        """The codes of a table; `layers` as `Layers.of_rows` has them. An info is only made where it matters."""
        if len(table) >= LARGE:
            yield from self._many_rows(table, array("q", layers))
            return
        plain = [layer * _MARKS for layer in range(MAX_LAYERS + 1)]
        columns = zip(layers, table.raw_names(), self._marks(table), strict=True)
        for row, (layer, name, mark) in enumerate(columns):
            if layer == ROOT:
                yield self.code(None, table[row]) if name.startswith(_SPECIAL_ROOTS) else _ROOT_PLACE * _MARKS + mark
            else:
                left_out = layer in self._blocks and self._is_left_out(decoded(name))
                yield plain[min(layer, MAX_LAYERS)] + mark + (_NOT_ALWAYS if left_out else 0)

    def _many_rows(self, table: TensorTable, layers: array[int]) -> array[int]:
        """The same for a large table."""
        from ..gguf import bulk  # loads numpy

        names = table.stored_names
        multiples = array("B", map(self._repacked.get, table.type_ids, repeat(0)))
        n_axes = bulk.n_axes_at(names.buffer, names.starts, multiples)
        codes = bulk.scaled(layers, MAX_LAYERS, _ROOT_PLACE, _MARKS)
        for row in bulk.rows_between(n_axes, 2, 3):
            codes[row] += _REPACKED if _is_multiplied(n_axes[row], names.name_of(row)) else 0
        for row in bulk.rows_among(layers, self._blocks):
            codes[row] += _NOT_ALWAYS if self._is_left_out(decoded(names.name_of(row))) else 0
        for row in {row for prefix in _SPECIAL_ROOTS for row in names.starting_with(prefix)}:
            codes[row] = self.code(None, table[row]) if layers[row] == ROOT else codes[row]
        return codes

    def _marks(self, table: TensorTable) -> Iterable[int]:
        """_REPACKED or 0 for each tensor of a table."""
        kinds = zip(table.type_ids, count(), strict=False)
        return (_REPACKED if kind in self._repacked and is_repacked(table[row]) else 0 for kind, row in kinds)


def _is_multiplied(n_axes: int, name: bytes) -> bool:
    """Whether a tensor of so many axes longer than one is a matrix, or a stack of experts' ones, for products."""
    return (n_axes == 2 or (n_axes == 3 and b"_exps" in name)) and not name.endswith(_NOT_MULTIPLIED)


def tally_of(model: Model) -> Tally:
    """The model's tensors, counted once."""
    known: Tally | None = model.worked_out.get("weights")
    if known is None:
        known = model.worked_out["weights"] = _counted(model, frozenset())
    return known


def _counted(model: Model, unused: frozenset[str]) -> Tally:
    tally, seen = Tally(), Anatomy.of(model)
    coder, layers = Coder(seen, tally), iter(seen.layers.of_rows)
    for no, file in enumerate(model.files):
        table = file.header.tensors
        codes = array("H", coder.rows(table, islice(layers, len(table))))
        if unused:
            for row, name in enumerate(table.names()):
                codes[row] = _LEFT_OUT if name in unused else codes[row]
        tally.add(no, codes, table.offsets, KeptTensors(file, table).sizes, file.header.data_offset)
        tally.codes.append(codes)
    return tally


def layer_devices(n_layer_all: int, n_gpu_layers: int | None) -> list[str]:
    """The device of each layer, then that of the head; the engine fills the GPU from the last layer backwards.

    None (the engine's choice) counts as none: without an engine nothing is known about a GPU.
    """
    first = max(0, n_layer_all + 1 - (n_gpu_layers or 0))
    return [GPU if i >= first else HOST for i in range(n_layer_all + 1)]


@cache
def repacked_types() -> dict[str, int]:
    """Types that this machine's CPU rearranges for speed, each with the multiple that their rows must come in."""
    flags = _cpu_flags()
    found: dict[str, int] = {}
    if "avx2" in flags:
        found |= dict.fromkeys(("q4_0", "q4_K", "iq4_nl", "mxfp4"), 8)
        found |= {"q2_K": 8} if "avx512f" in flags else {}
    elif "asimddp" in flags:
        found |= dict.fromkeys(("q4_0", "iq4_nl", "mxfp4", "q8_0"), 4) | dict.fromkeys(("q4_K", "q5_K", "q6_K"), 8)
    return found


def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: a Mac's ARM cores have the dot product
        return frozenset(("asimddp",) if platform.machine() == "arm64" else ())
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def is_repacked(info: TensorInfo) -> bool:
    """Whether the CPU keeps a rearranged copy: for matrices and stacked experts of certain types."""
    multiple = repacked_types().get(info.type_name)
    if multiple is None or len(info.ne) < 2 or info.ne[1] % multiple:
        return False
    n_axes = max((axis for axis, n in enumerate(info.ne, 1) if n > 1), default=1)
    return _is_multiplied(n_axes, encoded(info.name) or b"")


def weights(
    model: Model, devices: list[str], *, mtp: bool, has_gpu: bool, unused: frozenset[str] | None = None
) -> dict[str, Weights]:
    """Weights by device of the tensors that the engine allocates; `devices` as `layer_devices` gives them.

    `unused`: those it reported as left out; None: by the families' rules.
    """
    tally = tally_of(model) if unused is None else _counted(model, unused)
    sums: dict[str, list[int]] = {HOST: [0, 0, 0]}
    mapped: dict[int, tuple[int, int]] = {}
    for (no, code), (n_bytes, start, end) in tally.groups.items():
        place, marks = divmod(code, _MARKS)
        if marks & _NOT_ALWAYS and unused is None and not mtp:
            continue
        device = devices[min(place, len(devices) - 1)] if place <= _HEAD_PLACE else HOST
        own = sums.setdefault(device, [0, 0, 0])
        own[0] += n_bytes
        if device == HOST and not has_gpu and marks & _REPACKED:
            own[1] += n_bytes
            continue
        if device == HOST:
            first, last = mapped.get(no, (start, end))
            mapped[no] = min(first, start), max(last, end)
        if place != _EMBEDDINGS_PLACE or tally.has_head:
            continue
        if devices[-1] != HOST:  # the head is a separate copy on the GPU
            sums.setdefault(devices[-1], [0, 0, 0])[0] += n_bytes
        elif not has_gpu and tally.head_is_repacked:
            own[0] += n_bytes
            own[1] += n_bytes
    sums[HOST][2] = sum(last - first for first, last in mapped.values())
    return {device: Weights(*values) for device, values in sums.items()}
