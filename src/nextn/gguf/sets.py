"""Sets of shards: their tensors seen as one table, and what shows that files do not belong together."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from ..errors import IncompleteModel
from ..printable import printable
from .names import NameIndex, StoredNames, all_decoded, decoded
from .tensors import TensorInfo

if TYPE_CHECKING:
    from .files import GGUFFile

SPLIT_NO = "split.no"
SPLIT_COUNT = "split.count"
SPLIT_TENSORS_COUNT = "split.tensors.count"
SPLIT_KEYS = (SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS_COUNT)
_NORMS = ("attn_norm.weight", "output_norm.weight", "ffn_norm.weight")


class SetTensors:
    """The tensors of all files of a set, in the order of the files: a row is counted through all of them."""

    def __init__(self, files: tuple[GGUFFile, ...]) -> None:
        self._files = files
        self._ends = array("Q", accumulate(len(file.header.tensors) for file in files))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @cached_property
    def index(self) -> NameIndex:
        """For lookups by name."""
        names = (name for file in self._files for name in file.header.tensors.raw_names())
        return NameIndex(names, self.name_of)

    def _place(self, row: int) -> tuple[GGUFFile, int]:
        no = bisect_right(self._ends, row)
        return self._files[no], row - (self._ends[no - 1] if no else 0)

    def file_of(self, row: int) -> GGUFFile:
        """The file that holds a row."""
        return self._place(row)[0]

    def name_of(self, row: int) -> bytes:
        """A tensor's name as it is stored."""
        file, own = self._place(row)
        return file.header.tensors.raw_name(own)

    def __getitem__(self, row: int) -> tuple[GGUFFile, TensorInfo]:
        file, own = self._place(row)
        return file, file.header.tensors[own]

    def find(self, name: str) -> tuple[GGUFFile, TensorInfo] | None:
        """The tensor with this name, and its file."""
        row = self.row(name)
        return None if row is None else self[row]

    def row(self, name: str) -> int | None:
        """The row of the tensor with this name, or None."""
        return self._files[0].header.tensors.row(name) if len(self._files) == 1 else self.index.find(name)

    def stored_names(self) -> Iterator[StoredNames]:
        """The names of each file."""
        return (file.header.tensors.stored_names for file in self._files)

    def names_ending_with(self, suffix: str) -> Iterator[str]:
        """The names that end with `suffix`, in order."""
        return all_decoded(chain.from_iterable(names.ending_with(suffix.encode()) for names in self.stored_names()))

    def names(self) -> Iterator[str]:
        """The names in order."""
        return chain.from_iterable(file.header.tensors.names() for file in self._files)

    def __iter__(self) -> Iterator[tuple[GGUFFile, TensorInfo]]:
        return ((file, info) for file in self._files for info in file.header.tensors)


def check_set(files: tuple[GGUFFile, ...]) -> None:
    """Refuse a set that an engine would refuse, or that is mixed from two models."""
    first = files[0]
    for i, file in enumerate(files):
        no = file.header.integer(SPLIT_NO)
        if no != i:
            raise IncompleteModel(
                f"{file.path}: 'split.no' is {no}, but the name says shard {i + 1} (split.no {i}); "
                "the file was renamed or belongs to another set."
            )
    count = first.header.integer(SPLIT_COUNT)
    if count != len(files):
        raise IncompleteModel(
            f"{first.path}: 'split.count' is {count}, but the names say {len(files)} shards; "
            "the set is mixed from two models or was renamed."
        )
    tensors = SetTensors(files)
    if (row := tensors.index.twice) is not None:
        name = decoded(tensors.name_of(row))
        other = next(file for file in files if file.header.tensors.find(name) is not None)
        raise IncompleteModel(
            f"{tensors.file_of(row).path}: tensor '{printable(name)}' is also in {other.path.name}; "
            "the set is mixed from two models."
        )
    total = first.header.integer(SPLIT_TENSORS_COUNT)
    if total is not None and total != len(tensors):
        raise IncompleteModel(
            f"{first.path}: the set should hold {total:,} tensors but holds {len(tensors):,}; "
            "it is mixed from two models, or a shard was replaced."
        )
    check_one_model(files)


def check_one_model(files: tuple[GGUFFile, ...]) -> None:
    """Refuse shards whose tensors cannot belong to one model: another hidden size, another architecture."""
    first = files[0]
    arch = first.header.get("general.architecture")
    hidden = first.header.integer(f"{arch}.embedding_length")
    for file in files[1:]:
        other = file.header.get("general.architecture")
        if other is not None and other != arch:
            raise IncompleteModel(
                f"{file.path}: its architecture is '{printable(str(other))}', but the first shard's is "
                f"'{printable(str(arch))}'; "
                "the set is mixed from two models."
            )
    norms: dict[int, GGUFFile] = {}  # hidden size -> the first file with such a norm
    for file in files:
        for row, name in enumerate(file.header.tensors.names()):
            if name.endswith(_NORMS) and (ne := file.header.tensors[row].ne):
                norms.setdefault(ne[0], file)
    strange = [size for size in norms if hidden is not None and size != hidden]
    if len(norms) > 1 and strange:
        raise IncompleteModel(
            f"{norms[strange[0]].path}: its layers have hidden size {strange[0]:,}, but the first shard says "
            f"{hidden:,}; the set is mixed from two models."
        )
