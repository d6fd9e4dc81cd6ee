"""A model as it will be after fixing: headers changed in memory, data still where it is.

Checks and layouts treat it like any other model, so a fix is diagnosed before a byte is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..block.model import split_name
from ..gguf.files import GGUFFile, Model
from ..gguf.kv import KV
from ..gguf.kv_table import edit
from ..gguf.tensors import TensorInfo, TensorTable

if TYPE_CHECKING:
    from ..layouts.parts import Part
    from ..shell import Command
from ..shell import Command
from ..writing.plan import Segment


@dataclass(frozen=True)
class Patient:
    """A model and the changes to make to it."""

    model: Model  # with the changed headers
    origin: Mapping[str, str] = field(default_factory=dict)  # new tensor name -> old one, where they differ
    replaced: Mapping[str, tuple[Segment, ...]] = field(default_factory=dict)  # tensor -> its new bytes, same length
    added: tuple[Part, ...] = ()  # further tensors
    base_name: str | None = None  # a better file name, without `.gguf` and shard numbers
    folder: str | None = None  # a better folder, when the file's own is what hides it

    def with_kvs(self, put: Sequence[KV] = (), drop: Iterable[str] = ()) -> Patient:
        """The same with pairs set in and dropped from the first header."""
        first, *others = self.model.files
        header = replace(first.header, kvs=edit(first.header.kvs, put=put, drop=drop))
        return replace(self, model=Model((replace(first, header=header), *others)))

    def with_tensors(self, new: Callable[[TensorInfo], TensorInfo | None]) -> Patient:
        """The same with every tensor info replaced by `new(info)`, which keeps its place; None leaves it out."""
        files, origin = [], dict(self.origin)
        for file in self.model.files:
            infos = []
            for info in file.header.tensors:
                changed = new(info)
                if changed is None:
                    continue
                if changed.name != info.name:
                    origin[changed.name] = origin.pop(info.name, info.name)
                infos.append(changed)
            files.append(_with_infos(file, infos))
        return replace(self, model=Model(tuple(files)), origin=origin)

    def without(self, names: Iterable[str]) -> Patient:
        """The same without some tensors."""
        gone = set(names)
        return self.with_tensors(lambda info: None if info.name in gone else info)

    def moved(self, layers: Mapping[int, int]) -> Patient:
        """The same with layers renumbered."""

        def new(info: TensorInfo) -> TensorInfo:
            layer, suffix = split_name(info.name)
            if layer is None or layer not in layers:
                return info
            return replace(info, name=f"blk.{layers[layer]}.{suffix}")

        return self.with_tensors(new)

    def with_bytes(self, name: str, segments: Sequence[Segment]) -> Patient:
        """The same with new content, of the same length, for one tensor."""
        return replace(self, replaced={**self.replaced, name: tuple(segments)})


def _with_infos(file: GGUFFile, infos: Sequence[TensorInfo]) -> GGUFFile:
    if file.header.tensors == infos:
        return file
    return replace(file, header=replace(file.header, tensors=TensorTable.of(infos)))



def fix_command(path: object, *more: object) -> Command:
    """The command that fixes what is at `path`."""
    return Command.of("nextn", "doctor", path, "--fix", *more)
