"""The layers of a model by number, with the names of their tensors: made from the headers when they are asked for."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import chain

from ..gguf.names import LARGE, StoredNames, decoded
from ..gguf.sets import SetTensors
from .model import MARK, split_name

ROOT = -1


class LayerNames(Set[str]):
    """A layer's tensors' names without `blk.N.`; looked up in the model's table, not kept."""

    def __init__(self, tensors: SetTensors, layer: int, rows: array[int]) -> None:
        self._tensors, self._prefix, self._rows = tensors, f"blk.{layer}.", rows

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._tensors.row(self._prefix + name) is not None

    def __iter__(self) -> Iterator[str]:
        n_prefix = len(self._prefix)
        return (decoded(self._tensors.name_of(row))[n_prefix:] for row in self._rows)

    @classmethod
    def _from_iterable(cls, names: Iterable[str]) -> Set[str]:  # type: ignore[override]
        return frozenset(names)

    __hash__ = None  # type: ignore[assignment]


class Layers(Mapping[int, Set[str]]):
    """Layer -> its tensors' names without `blk.N.`, in the order of the layers.

    A layer is a part of a list of rows, so that a file with a layer per tensor does not take a set for each.
    """

    def __init__(self, tensors: SetTensors, marked: set[int]) -> None:
        """Layers with a tensor that only an MTP block has are added to `marked`."""
        self._tensors = tensors
        self.of_rows = array("q")  # row -> its layer, ROOT for none
        for names in tensors.stored_names():
            layers, found = _layers_of(names)
            self.of_rows.extend(layers)
            marked.update(found)
        self._numbers, self._begins, self._rows = _by_layer(self.of_rows)

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and self._place(layer) is not None

    def __getitem__(self, layer: int) -> LayerNames:
        return LayerNames(self._tensors, layer, self.rows(layer))

    def _place(self, layer: int) -> int | None:
        at = bisect_left(self._numbers, layer)
        return at if at < len(self._numbers) and self._numbers[at] == layer else None

    def rows(self, layer: int) -> array[int]:
        """The rows of a layer's tensors, in order."""
        at = self._place(layer)
        if at is None:
            raise KeyError(layer)
        end = self._begins[at + 1] if at + 1 < len(self._begins) else len(self._rows)
        return self._rows[self._begins[at] : end]

    def __repr__(self) -> str:
        return f"Layers({len(self):,} layers)"


def _layers_of(names: StoredNames) -> tuple[array[int], Iterable[int]]:
    """The layer of each name, and the layers that a block's mark is in."""
    if len(names.starts) >= LARGE:
        from ..gguf import bulk  # loads numpy

        return bulk.layers_at(names.buffer, names.starts, MARK.encode())
    layers, marked = array("q"), set()
    for name in map(decoded, names):
        layer, suffix = split_name(name)
        layers.append(ROOT if layer is None else layer)
        if layer is not None and suffix.startswith(MARK):
            marked.add(layer)
    return layers, marked


def _by_layer(of_rows: array[int]) -> tuple[array[int], array[int], array[int]]:
    """The layers in order, where the rows of each begin in the list of those that have one, and that list."""
    if len(of_rows) >= LARGE:
        from ..gguf import bulk  # loads numpy

        return bulk.sorted_layers(of_rows)
    rows: dict[int, list[int]] = {}
    for row, layer in enumerate(of_rows):
        if layer != ROOT:
            rows.setdefault(layer, []).append(row)
    numbers, begins, n = array("q", sorted(rows)), array("I"), 0
    for layer in numbers:
        begins.append(n)
        n += len(rows[layer])
    return numbers, begins, array("I", chain.from_iterable(map(rows.__getitem__, numbers)))
