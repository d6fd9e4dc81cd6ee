"""The layers of a model by number, with the names of their tensors: made from the headers when they are asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Set

from ..gguf.names import decoded
from ..gguf.sets import SetTensors
from .model import MARK, split_name

ROOT, FAR = -1, (1 << 31) - 1


class Layers(Mapping[int, Set[str]]):
    """Layer -> its tensors' names without `blk.N.`.

    A layer is a chain of rows of the tensor table, so that a file with a layer per tensor does not take a set for each.
    """

    def __init__(self, tensors: SetTensors, marked: set[int]) -> None:
        """Layers with a tensor that only an MTP block has are added to `marked`."""
        self._tensors = tensors
        self._last: dict[int, int] = {}  # layer -> its last row
        self._before = array("i", [-1]) * len(tensors)  # row -> the layer's row before it, -1 for none
        self.of_rows = array("i", [ROOT]) * len(tensors)  # row -> its layer, ROOT for none, at most FAR
        last, before, of_rows = self._last, self._before, self.of_rows
        for row, name in enumerate(tensors.names()):
            layer, suffix = split_name(name)
            if layer is None:
                continue
            before[row] = last.get(layer, -1)
            last[layer] = row
            of_rows[row] = layer if layer < FAR else FAR
            if suffix.startswith(MARK):
                marked.add(layer)

    def __len__(self) -> int:
        return len(self._last)

    def __iter__(self) -> Iterator[int]:
        return iter(self._last)

    def __contains__(self, layer: object) -> bool:
        return layer in self._last

    def __getitem__(self, layer: int) -> Set[str]:
        n_prefix = len(f"blk.{layer}.")
        return {decoded(self._tensors.name_of(row))[n_prefix:] for row in self.rows(layer)}

    def rows(self, layer: int) -> Iterator[int]:
        """The rows of a layer's tensors, from the last to the first."""
        row = self._last[layer]
        while row >= 0:
            yield row
            row = self._before[row]

    @property
    def roots(self) -> Iterator[int]:
        """The rows of tensors that belong to no layer, in order."""
        return (row for row, layer in enumerate(self.of_rows) if layer == ROOT)

    def __repr__(self) -> str:
        return f"Layers({len(self):,} layers)"
