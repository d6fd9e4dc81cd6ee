"""GGUF files on disk: one file, or a set of shards seen as one model.

Shard names are `PREFIX-00001-of-0000N.gguf`; `split.no` (u16, from 0), `split.count` (u16) and
`split.tensors.count` (i32) are the engine's keys. Engines read count and total from the first shard only, so
stale ones in later shards are fine.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import add
from pathlib import Path
from typing import Any

from .. import oscalls
from ..absent import not_regular, nothing_at, whose
from ..brief import Brief
from ..errors import FormatError, IncompleteModel, StorageError, UsageError
from ..printable import printable
from ..units import are, them
from ..workfile import Stamp
from . import strangers
from .header import MAGIC, Header, pad_to
from .known import ARCHITECTURE, Kind, Misfit
from .kv_table import KVTable
from .names import OnDemand
from .reading import header_at
from .sets import SPLIT_COUNT, SPLIT_KEYS, SPLIT_NO, SetTensors, check_set
from .tensors import UNKNOWN, TensorInfo, TensorTable

_SHARD_NAME = re.compile(r"^(?P<prefix>.+)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf$", re.DOTALL)
# Name parts that engines never accept in a main model.
AUXILIARY_MARKS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")


@dataclass(frozen=True)
class GGUFFile(Brief):
    """One GGUF file: its path, its header, its size."""

    path: Path
    header: Header
    size_bytes: int
    stamp: Stamp | None = field(default=None, compare=False, repr=False)  # of the file when its header was read

    def tensor_range(self, info: TensorInfo) -> tuple[int, int]:
        """Absolute `start, end` of the tensor's stored bytes, padding not included."""
        return self.header.data_range(info, self.size_bytes)

    def ranges(self, tensors: TensorTable | None = None) -> Iterator[tuple[TensorInfo, int, int]]:
        """Every tensor (of `tensors`, some of the file's) with its absolute `start, end`, padding not included."""
        table = self.header.tensors if tensors is None else tensors
        first = self.header.data_offset
        for info, size in zip(table, table.sizes, strict=True):
            start = first + info.offset
            if size == UNKNOWN or start + size > self.size_bytes:
                start, end = self.tensor_range(info)
                yield info, start, end
            else:
                yield info, start, start + size

    def end_of(self, tensors: TensorTable) -> int:
        """Absolute end of some of its tensors, at least one. Raises FormatError when the file ends before."""
        first = self.header.data_offset
        if tensors.is_within(self.size_bytes - first):
            last: int = max(map(add, tensors.offsets, tensors.sizes))
            return first + last
        return max(end for _, _, end in self.ranges(tensors))

    def value_range(self, info: TensorInfo) -> tuple[int, int]:
        """The same for a tensor that will be read row by row. Raises FormatError for one without rows or values."""
        if not info.ne or 0 in info.ne:
            shape = f"has {' x '.join(map(str, info.ne))} values" if info.ne else "has no axes"
            what = f"tensor '{printable(info.name)}' {shape}, so nothing can be read from it; get the model again"
            raise FormatError(what, path=self.path)
        return self.tensor_range(info)

    def stored_size(self, info: TensorInfo) -> int:
        """Stored bytes of the tensor, padding not included."""
        start, end = self.tensor_range(info)
        return end - start

    def check_whole(self) -> None:
        """Raise FormatError when the file ends before one of its tensors does."""
        header, room = self.header, self.size_bytes - self.header.data_offset
        tensors = header.tensors
        if tensors.is_within(room):
            return
        for row, (offset, size) in enumerate(zip(tensors.offsets, tensors.sizes, strict=True)):
            if size == UNKNOWN:
                size = header.stored_size(tensors[row]) or 0
            if offset + size > room:
                self.tensor_range(tensors[row])


def shard_name(prefix: str, number: int, count: int) -> str:
    """The file name of shard `number` (from 1) of `count`."""
    return f"{prefix}-{number:05d}-of-{count:05d}.gguf"


def split_shard_name(name: str) -> tuple[str, int, int] | None:
    """(prefix, number from 1, count) of a shard's file name, or None for any other name."""
    match = _SHARD_NAME.match(name)
    return None if match is None else (match["prefix"], int(match["no"]), int(match["count"]))


def plain_stem(name: str) -> str:
    """A file's name without `.gguf`, in any letter case."""
    return re.sub(r"\.gguf\Z", "", name, flags=re.IGNORECASE)


def set_prefix(name: str) -> str:
    """The prefix of a shard set from a file name with or without shard numbers."""
    parts = split_shard_name(name)
    return parts[0] if parts else plain_stem(name)


def os_error(error: OSError, path: Path, doing: str) -> StorageError:
    """The operating system's error as one sentence."""
    if isinstance(error, FileNotFoundError):
        return StorageError(nothing_at(path))
    reason = error.strerror or str(error)
    owner = whose(path) if isinstance(error, PermissionError) else ""
    return StorageError(f"{path}: cannot {doing}: {reason}{owner}.")


def open_regular(path: Path) -> tuple[int, int]:
    """A read-only descriptor of a regular file (links are followed), and the file's size.

    Raises StorageError; pipes and devices are refused without waiting for them.
    """
    try:
        fd = oscalls.open_file(path, oscalls.READ)
    except OSError as error:
        raise os_error(error, path, "open it") from error
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise StorageError(f"{path}: {not_regular(found.st_mode)}.")
    return fd, found.st_size


def read_header(path: Path) -> GGUFFile:
    """Read a file's header; that of a file that has not changed is the one that somebody still holds.

    Raises FormatError, UnsupportedFormat, StorageError.
    """
    fd, _ = open_regular(path)
    try:
        found = os.fstat(fd)
        return GGUFFile(path, header_at(fd, found, path), found.st_size, Stamp.of(found))
    except OSError as error:
        raise os_error(error, path, "read it") from error
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Model(Brief):
    """A model as an engine loads it: one file, or all shards of a set in order."""

    files: tuple[GGUFFile, ...]

    @property
    def entry(self) -> Path:
        """The path to load."""
        return self.files[0].path

    @property
    def header(self) -> Header:
        """The first file's header: the only one whose KV engines read."""
        return self.files[0].header

    @property
    def is_sharded(self) -> bool:
        """Whether the model is a set of shards (even of one)."""
        return len(self.files) > 1 or bool(self.header.get(SPLIT_COUNT, 0))

    @property
    def base_name(self) -> str:
        """File name without `.gguf` and shard numbers."""
        return (set_prefix if self.is_sharded else plain_stem)(self.entry.name)

    @property
    def architecture(self) -> str:
        """`general.architecture`. Raises FormatError when it is missing."""
        value = self.header.get(ARCHITECTURE)
        if value is None:
            what = "this is not a language model's GGUF"
            if any(name.startswith("blk.") and ".nextn." in name for name in self.tensors):
                what = "it holds an MTP block but no key that says for which model; 'nextn attach' needs none"
            wrong = any(misfit.kv.key == ARCHITECTURE for misfit in self.header.misfits)
            found = f" or not {Kind.NAME.value}" if wrong else ""
            raise FormatError(f"'{ARCHITECTURE}' is missing{found}: {what}", path=self.entry)
        return str(value)

    @property
    def kvs(self) -> KVTable:
        """The model's KV pairs, split keys included."""
        return self.header.kvs

    def arch_value(self, suffix: str, default: Any = None) -> Any:
        """The value of `{architecture}.{suffix}`."""
        return self.header.get(f"{self.architecture}.{suffix}", default)

    def arch_int(self, suffix: str, default: int = 0) -> int:
        """The integer value of `{architecture}.{suffix}`; `default` when it is missing or not a number."""
        value = self.arch_value(suffix, default)
        return int(value) if isinstance(value, int) else default

    @cached_property
    def table(self) -> SetTensors:
        """The tensors of all files as one table."""
        return SetTensors(self.files)

    @cached_property
    def worked_out(self) -> dict[str, Any]:
        """What others worked out from the headers, by name, so that it is done once for a model."""
        return {}

    @cached_property
    def tensors(self) -> Mapping[str, tuple[GGUFFile, TensorInfo]]:
        """All tensors by name, in the order of the files."""
        table = self.table
        return OnDemand(len(table), table.names, table.find, table.__iter__)

    def items(self) -> Iterator[tuple[GGUFFile, TensorInfo]]:
        """All tensors in the order of the files."""
        return iter(self.tensors.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def header_bytes(self) -> int:
        """Bytes of all headers."""
        return sum(file.header.data_offset for file in self.files)

    def check_whole(self) -> None:
        """Raise FormatError when a file is shorter than its tensors."""
        for file in self.files:
            file.check_whole()

    @property
    def misfits(self) -> list[Misfit]:
        """Misfit keys: any of the first file, and of the others only those that say which shard it is."""
        later = (misfit for file in self.files[1:] for misfit in file.header.misfits if misfit.kv.key in SPLIT_KEYS)
        return [*self.header.misfits, *later]

    def check_known(self) -> None:
        """Raise FormatError for the first key that is not what engines need it to be."""
        wrong = next((misfit for misfit in self.misfits if misfit.for_engines), None)
        if wrong is not None:
            what = f"{wrong.what}; 'nextn doctor' lists everything that is wrong"
            raise FormatError(what, path=self.entry, offset=wrong.kv.start)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere, such as to itself: whoever opens it says so
        return False


def model_candidates(folder: Path) -> list[Path]:
    """The models in a folder: single files and first shards, sorted; sidecars and projectors left out.

    A folder that holds nothing but one sidecar yields that sidecar.
    """
    try:
        names = sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.name.endswith(".gguf") and not entry.name.startswith(".") and not _is_folder(entry)
        )
    except OSError as error:
        raise os_error(error, folder, "list the folder") from error
    main = [name for name in names if not any(mark in name for mark in AUXILIARY_MARKS)] or names
    found: dict[str, Path] = {}
    for name in main:
        parts = split_shard_name(name)
        key = f"{parts[0]}\0{parts[2]}" if parts else name
        found.setdefault(key, folder / name)
    return list(found.values())


def open_model(path: Path | str) -> Model:
    """Open a single GGUF, any shard of a set, or a folder with one set: headers only.

    Raises UsageError (nothing there, or several models in a folder), IncompleteModel (shards missing or of
    two models), FormatError, UnsupportedFormat, StorageError.
    """
    path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir may raise
        candidates = model_candidates(path)
        if not candidates:
            raise UsageError(f"{path}: {strangers.no_gguf(path)}.")
        if len(candidates) > 1:
            names = ", ".join(candidate.name for candidate in candidates[:4]) + ", ..." * (len(candidates) > 4)
            raise UsageError(f"{path}: this folder holds {len(candidates)} models ({names}); name one of them.")
        path = candidates[0]
    elif not os.path.lexists(path):
        raise StorageError(nothing_at(path))
    check_name(path)
    model = _open_named(path)
    check_kind(model.files[0], path)
    return model


def check_name(path: Path) -> None:
    """Raise FormatError for a piece of a file that was cut."""
    piece = strangers.by_name(path.name)
    if piece is not None:
        raise FormatError(piece, path=path)


class NotALanguageModel(UsageError):
    """A sound GGUF of another kind; `kind` names it, with its article."""

    def __init__(self, path: Path, kind: str) -> None:
        self.kind = kind
        super().__init__(f"{path}: this is {kind}, not a language model; name the model that it belongs to.")


def check_kind(file: GGUFFile, path: Path) -> None:
    """Raise UsageError for a file that holds no language model, FormatError for a set that was joined byte by byte."""
    count = file.header.integer(SPLIT_COUNT)
    if count is not None and count > 1 and split_shard_name(path.name) is None and _goes_on(file):
        raise FormatError(strangers.joined(count), path=path)
    kind = strangers.by_kind(file.header.get("general.type"), file.header.get("general.architecture"))
    if kind is not None:
        raise NotALanguageModel(path, kind)


def stranger_of(path: Path) -> str | None:
    """What a GGUF is that holds no language model, as a clause; None for one that does. Raises what reading raises."""
    header = read_header(path).header
    return strangers.by_kind(header.get("general.type"), header.get(ARCHITECTURE))


def open_sound(path: Path | str) -> Model:
    """The same for what will be written, planned or served.

    Raises FormatError for a file that ends too early, and for a misfit among the known keys.
    """
    model = open_model(path)
    model.check_whole()
    model.check_known()
    return model


def _open_named(path: Path) -> Model:
    """The file, or the set to which it belongs as a shard."""
    parts = split_shard_name(path.name)
    if parts is None:
        file = read_header(path)
        count = file.header.integer(SPLIT_COUNT)
        if count is not None and count > 1:
            check_kind(file, path)
            raise IncompleteModel(
                f"{path}: this is one of {count} shards, but its name does not say which; "
                f"rename the set to NAME-00001-of-{count:05d}.gguf and so on."
            )
        return Model((file,))
    return _open_set(path, *parts)


def _goes_on(file: GGUFFile) -> bool:
    """Whether another GGUF begins where the file's own tensor data ends."""
    end = file.header.data_end
    if end is None:
        return False
    at = pad_to(end, file.header.alignment)
    fd, _ = open_regular(file.path)
    try:
        return MAGIC in (oscalls.pread(fd, len(MAGIC), at), oscalls.pread(fd, len(MAGIC), end))
    except OSError as error:
        raise os_error(error, file.path, "read it") from error
    finally:
        os.close(fd)


def _open_set(path: Path, prefix: str, number: int, count: int) -> Model:
    own = read_header(path)
    if not 1 <= number <= count:
        if SPLIT_COUNT not in own.header.by_key:
            return Model((own,))
        raise IncompleteModel(
            f"{path}: the name says shard {number} of {count}, which is impossible; the file was renamed."
        )
    if SPLIT_COUNT not in own.header.by_key or (count == 1 and own.header.integer(SPLIT_COUNT) in (0, 1)):
        if SPLIT_NO in own.header.by_key and count > 1:
            raise IncompleteModel(f"{path}: 'split.no' is present without 'split.count'; the set is damaged.")
        return Model((own,))  # a name that only looks like a shard's
    folder = path.parent
    paths = [folder / shard_name(prefix, i + 1, count) for i in range(count)]
    missing = [each.name for each in paths if not os.path.exists(each)]  # noqa: PTH110 - never raises
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise IncompleteModel(
            f"{folder}: {len(missing)} of {count} shards {are(len(missing))} missing "
            f"({', '.join(missing[:3])}{more}); get {them(len(missing))} from the same place as the others."
        )
    files = tuple(own if i + 1 == number else read_header(each) for i, each in enumerate(paths))
    check_set(files)
    return Model(files)
