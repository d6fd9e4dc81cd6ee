"""A repository's listing as models: quants, shard sets and sidecars, identified by names and then by headers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..block.anatomy import Anatomy
from ..block.draft import Draft
from ..block.model import marks_block
from ..discovery import llama_cpp_names as hf_rules
from ..gguf.files import GGUFFile, Model, shard_name, split_shard_name
from ..layouts.draft_fit import misfits
from ..layouts.naming import split_quant
from ..layouts.pack import MTP, PLAIN

_MARK_BEHIND = re.compile(r"[-_.]mtp\Z", re.IGNORECASE)
_MOST_SHARDS = 4096
BROKEN, BLOCK_ONLY = "broken", "block only"


@dataclass(frozen=True)
class Listed:
    """A file of a repository."""

    path: str
    size_bytes: int
    sha256: str | None = None  # hex, where the server gives it

    @property
    def content(self) -> str:
        """Equal for files with equal bytes, as far as the server reports."""
        return self.sha256 or self.path


Headers = Callable[[str], GGUFFile]  # path in the repository -> its header


@dataclass(frozen=True)
class Group:
    """A model of the repository: one file, or a shard set in order."""

    label: str  # its quant, as far as names show
    files: tuple[Listed, ...]
    lacking: tuple[str, ...] = ()  # shards that are not in the repository

    @property
    def entry(self) -> str:
        """The path to load."""
        return self.files[0].path

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


def label_of(path: str) -> str:
    """The quant that a path names: in the file name, else in the folder name; '' if in neither."""
    where = PurePosixPath(path)
    shard = split_shard_name(where.name)
    base = _MARK_BEHIND.sub("", shard[0] if shard else where.name.removesuffix(".gguf"))
    for text in (base, base.rpartition(".")[2], base.rpartition("_")[2], where.parent.name):
        if tag := split_quant(f"x-{text}")[1]:
            return tag
    return ""


def groups(files: Iterable[Listed]) -> list[Group]:
    """The models of a repository by name, in the listing's order; without sidecars and projectors."""
    listing = {file.path: file for file in sorted(files, key=lambda file: file.path)}
    found: dict[str, Group] = {}
    for path, file in listing.items():
        if not hf_rules.is_main_name(path):
            continue
        label = label_of(path)
        shard = split_shard_name(PurePosixPath(path).name)
        if shard is None:
            found[path] = Group(label, (file,))
            continue
        prefix, _, count = shard
        folder = PurePosixPath(path).parent
        key = f"{folder}/{prefix}\0{count}"
        if key in found:
            continue
        if not 1 <= count <= _MOST_SHARDS:  # no set has that many, and file names are untrusted
            found[key] = Group(label, (file,), (f"{count:,} shards",))
            continue
        names = [(folder / shard_name(prefix, i + 1, count)).as_posix() for i in range(count)]
        there = tuple(listing[name] for name in names if name in listing)
        lacking = tuple(name for name in names if name not in listing)
        found[key] = Group(label, there, lacking)
    return list(found.values())


def _has_marks(file: GGUFFile) -> bool:
    return any(marks_block(info.name) for info in file.header.tensors)


def kind_of(group: Group, header: Headers) -> str:
    """PLAIN, MTP, BLOCK_ONLY, or BROKEN: its metadata promises a block that none of its files contains.

    Reads the first header; those of the other shards, last one first, only when a block is promised.
    """
    first = header(group.entry)
    arch = first.header.get("general.architecture")
    promised = first.header.get(f"{arch}.nextn_predict_layers")
    found = _has_marks(first)
    if found and len(group.files) == 1 and arch and Anatomy.of(Model((first,))).is_block_only:
        return BLOCK_ONLY
    if not promised:
        return BROKEN if found else PLAIN
    rest: Sequence[Listed] = () if found else group.files[:0:-1]
    for file in rest:
        if _has_marks(header(file.path)):
            return MTP
    return MTP if found else BROKEN


def is_sidecar_of(sidecar: GGUFFile, model: GGUFFile) -> bool:
    """Whether an engine could draft with `sidecar` beside `model`, as far as their headers show."""
    draft = Draft.of(Model((sidecar,)))
    if draft is not None:  # of a set only the first shard is here, so its layers are not counted
        found = {each.id for each in misfits(draft, Model((model,)))}
        return not found - {"target-layers-out-of-range"}
    arch = model.header.get("general.architecture")
    same = all(
        sidecar.header.get(key) == model.header.get(key) for key in ("general.architecture", f"{arch}.embedding_length")
    )
    if not arch or not same:
        return False
    beside = Anatomy.of(Model((sidecar,)))
    here = Anatomy.of(Model((model,)))  # the first shard of a set, so its header counts
    fits = beside.shape == "sidecar" and beside.home == here.declared_trunk
    return fits and "token_embd.weight" in sidecar.header.by_name
