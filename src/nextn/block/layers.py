"""The layers of a model by number, with the names of their tensors: made from the headers when they are asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Set

from ..gguf.names import decoded
from ..gguf.sets import SetTensors
from .model import MARK, split_name


class Layers(Mapping[int, Set[str]]):
    """Layer -> its tensors' names without `blk.N.`.

    A layer is a chain of rows of the tensor table, so that a file with a layer per tensor does not take a set for each.
    """

    def __init__(self, tensors: SetTensors, marked: set[int]) -> None:
        """Layers with a tensor that only an MTP block has are added to `marked`."""
        self._tensors = tensors
        self._last: dict[int, int] = {}  # layer -> its last row
        self._before = array("i", [-1]) * len(tensors)  # row -> the layer's row before it, -1 for none
        last, before = self._last, self._before
        for row, name in enumerate(tensors.names()):
            layer, suffix = split_name(name)
            if layer is None:
                continue
            before[row] = last.get(layer, -1)
            last[layer] = row
            if suffix.startswith(MARK):
                marked.add(layer)

    def __len__(self) -> int:
        return len(self._last)

    def __iter__(self) -> Iterator[int]:
        return iter(self._last)

    def __contains__(self, layer: object) -> bool:
        return layer in self._last

    def __getitem__(self, layer: int) -> Set[str]:
        row, found, n_prefix = self._last[layer], set(), len(f"blk.{layer}.")
        while row >= 0:
            found.add(decoded(self._tensors.name_of(row))[n_prefix:])
            row = self._before[row]
        return found

    def __repr__(self) -> str:
        return f"Layers({len(self):,} layers)"
