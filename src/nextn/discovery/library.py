"""Where people keep models: the Hub's cache, LM Studio's, ollama's and llama.cpp's folders, and folders they name.

Only folders are listed and files' sizes asked for; nothing is opened except ollama's manifests. Shards of a set are
one entry. A file that is reached twice, by links or through two snapshots of a repository, is listed each time, with
what identifies it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..absent import nothing_at
from ..errors import StorageError, UsageError
from ..gguf import strangers
from ..gguf.files import os_error, split_shard_name
from ..layouts.places import snapshots
from ..layouts.programs import lm_studio_folders, ollama_folder
from ..shell import shell
from ..units import counted
from .nearby import hub_cache, hub_name
from .ollama import BLOBS, MANIFESTS, ollama_models

HUB, LM_STUDIO, OLLAMA, LLAMA_CPP, FOLDER = "hub", "lmstudio", "ollama", "llama.cpp", "folder"
MOST_ENTRIES = 1_000_000  # at most this many entries of folders are looked at
_MOST_REFUSED = 5  # folders that cannot be listed are named up to here
_GGUF = ".gguf"
_NAMED_GGUF = re.compile(r"\.gguf(?:$|[.-])", re.IGNORECASE)  # also in front of what marks an unfinished download

Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True)
class LibraryFile:
    """A file by its name."""

    path: Path
    size_bytes: int
    identity: Identity


@dataclass(frozen=True)
class LibraryEntry:
    """A GGUF, or the shards of a set that are there."""

    files: tuple[LibraryFile, ...]  # in order
    place: str  # HUB, LM_STUDIO, OLLAMA, LLAMA_CPP or FOLDER
    name: str  # what the program, or the Hub, calls it; its path in a plain folder
    projectors: tuple[Path, ...] = ()  # those that ollama lists for it
    adapters: tuple[Path, ...] = ()  # those that ollama applies to it

    @property
    def path(self) -> Path:
        """The path to load."""
        return self.files[0].path

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def identity(self) -> tuple[Identity, ...]:
        """Equal for entries that are the same files."""
        return tuple(file.identity for file in self.files)


@dataclass(frozen=True)
class Spoilt:
    """A file that is no model, or not yet."""

    path: Path
    size_bytes: int
    what: str  # what is wrong, and what to do
    unfinished: bool = False
    refused: bool = False  # nothing is known of it: the system does not let it be read


@dataclass
class ModelLibrary:
    """Everything that was found."""

    entries: list[LibraryEntry] = field(default_factory=list)
    spoilt: list[Spoilt] = field(default_factory=list)
    roots: list[tuple[str, Path]] = field(default_factory=list)  # the places that exist
    notes: list[str] = field(default_factory=list)


def llama_cpp_folders() -> list[Path]:
    """Where llama.cpp puts what it downloads (b11549, common/common.cpp and common/hf-cache.cpp)."""
    own = os.environ.get("LLAMA_CACHE")
    if own:
        return [Path(own)]
    base = os.environ.get("XDG_CACHE_HOME")
    return [(Path(base) if base else Path.home() / ".cache") / "llama.cpp"]


def places() -> list[tuple[str, Path]]:
    """The programs' own folders, whether they exist or not."""
    return [
        (HUB, hub_cache()),
        *((LM_STUDIO, path) for path in lm_studio_folders()),
        (OLLAMA, ollama_folder()),
        *((LLAMA_CPP, path) for path in llama_cpp_folders()),
    ]


def library(folders: Sequence[str | Path] = (), *, only: bool = False) -> ModelLibrary:
    """What is in the programs' folders (with `only`, not there) and in and below `folders`.

    Raises UsageError for a file in place of a folder, StorageError for one that is not there or cannot be listed.
    """
    found = ModelLibrary()
    walk = _Walk(found)
    for place, root in () if only else places():
        if os.path.isdir(root):  # noqa: PTH112 - Path.is_dir may raise
            found.roots.append((place, root))
            walk.below(root, place, root)
    for named in map(Path, folders):
        named = named.expanduser()
        if not os.path.exists(named):  # noqa: PTH110 - never raises
            raise StorageError(nothing_at(named))
        if not named.is_dir():
            raise UsageError(
                f"{named}: this is a file, not a folder; to scan its folder: {shell('nextn', 'scan', named.parent)}; "
                f"to look at this file: {shell('nextn', 'inspect', named)}"
            )
        try:
            os.listdir(named)  # noqa: PTH208 - one that cannot be listed is said, unlike those below it
        except OSError as error:
            raise os_error(error, named, "list the folder") from error
        found.roots.append((FOLDER, named))
        walk.below(named, FOLDER, named)
    more = len(walk.refused) - _MOST_REFUSED
    found.notes += [text.rstrip(".") for text in walk.refused[:_MOST_REFUSED]]
    found.notes += [f"{counted(more, 'other folder')} cannot be listed either"] if more > 0 else []
    found.entries.sort(key=lambda each: (each.place, each.name, each.path))
    found.spoilt.sort(key=lambda each: each.path)
    return found


class _Walk:
    """Goes through folders, each once, whatever links lead to it."""

    def __init__(self, found: ModelLibrary) -> None:
        self.found, self.left = found, MOST_ENTRIES
        self.seen: set[Identity] = set()
        self.refused: list[str] = []
        self.has_stopped = False

    def below(self, root: Path, place: str, top: Path) -> None:
        """Everything in and below a folder."""
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            if (identity := _identity(folder)) is None or identity in self.seen:
                continue
            self.seen.add(identity)
            files: list[os.DirEntry[str]] = []
            folders: list[Path] = []
            for entry in self._listed(folder):
                is_folder = _is_folder(entry)
                if is_folder and not entry.name.startswith("."):
                    folders.append(Path(entry.path))
                elif not is_folder:
                    files.append(entry)
            names = {path.name for path in folders}
            if {MANIFESTS, BLOBS} <= names:
                self._ollama(folder)
                folders = [path for path in folders if path.name not in (MANIFESTS, BLOBS)]
            elif {"snapshots", BLOBS} <= names and (repo := hub_name(folder)) is not None:
                self._repository(folder, repo)
                continue
            self._files(files, place, partial(_name, place, top))
            waiting += sorted(folders, reverse=True)

    def _listed(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not self.left:
                        note = f"stopped at {folder}, after {MOST_ENTRIES:,} files and folders: name folders below it"
                        if not self.has_stopped:
                            self.found.notes.append(note)
                        self.has_stopped = True
                        return
                    self.left -= 1
                    yield entry
        except FileNotFoundError:  # removed since it was listed
            return
        except OSError as error:
            self.refused.append(str(os_error(error, folder, "list the folder")))

    def _files(
        self, entries: Sequence[os.DirEntry[str]], place: str, named: Callable[[Path], str], *, blobs: bool = False
    ) -> None:
        """GGUF files of one folder, and what is unfinished there."""
        there = {entry.name for entry in entries}
        sets: dict[tuple[str, int], list[LibraryFile]] = {}
        for entry in sorted(entries, key=lambda each: each.name):
            name, path = entry.name, Path(entry.path)
            if name.startswith(".") or not (blobs or _NAMED_GGUF.search(name)):
                continue
            if (piece := strangers.by_name(name)) is not None:
                self._spoil(path, piece)
            elif strangers.is_unfinished(name):
                self._spoil(path, "this download is not finished; resume it, or delete the file", unfinished=True)
            elif name.lower().endswith(_GGUF):
                control = f"{name}.aria2"
                if control in there:
                    self._spoil(path, f"this download is not finished, as {control} beside it shows", unfinished=True)
                    continue
                file = _file(path)
                if file is None:
                    self._spoil(path, "this link leads nowhere; get the file again, or delete the link")
                    continue
                parts = split_shard_name(name)
                sets.setdefault((parts[0], parts[2]) if parts else (name, 0), []).append(file)
        for files in sets.values():
            self.found.entries.append(LibraryEntry(tuple(files), place, named(files[0].path)))

    def _spoil(self, path: Path, what: str, *, unfinished: bool = False) -> None:
        try:
            size = path.stat().st_size
        except OSError:
            size = 0
        self.found.spoilt.append(Spoilt(path, size, what, unfinished))

    def _repository(self, folder: Path, repo: str) -> None:
        """A repository of the Hub's cache: all snapshots, `main`'s first, and blobs that are not complete."""
        for snapshot in snapshots(folder):
            waiting = [snapshot]
            while waiting:
                here = waiting.pop()
                entries = list(self._listed(here))
                waiting += [Path(entry.path) for entry in entries if _is_folder(entry)]
                files = [entry for entry in entries if not _is_folder(entry)]
                self._files(files, HUB, partial(_hub_address, repo, snapshot))
        self._blobs(folder / BLOBS, HUB)

    def _blobs(self, folder: Path, place: str) -> None:
        """Blobs that are not complete; the parts of one (ollama's `-partial-N`) are not listed as well."""
        found = [entry for entry in self._listed(folder) if strangers.is_unfinished(entry.name)]
        self._files([entry for entry in found if not entry.name.rpartition("-")[2].isdigit()], place, str, blobs=True)

    def _ollama(self, root: Path) -> None:
        """ollama's models, and blobs that are not complete."""
        for each in ollama_models(root):
            blob = each.blob
            if not each.is_readable:
                self._spoil(each.manifest, f"this manifest of ollama cannot be read; {each.get_again}")
            file = None if blob is None else _file(blob)
            if blob is None or file is None:
                if blob is not None:
                    self._spoil(blob, f"'{each.name}' of ollama lacks this file; {each.get_again}")
                continue
            beside = tuple(each.projectors), tuple(each.adapters)
            self.found.entries.append(LibraryEntry((file,), OLLAMA, each.name, *beside))
        self._blobs(root / BLOBS, OLLAMA)


def _hub_address(repo: str, snapshot: Path, path: Path) -> str:
    return f"hf:{repo}:{path.relative_to(snapshot).as_posix()}"


def _name(place: str, top: Path, path: Path) -> str:
    below = path.relative_to(top)
    return str(below) if place in (LM_STUDIO, LLAMA_CPP) else str(path)


def _file(path: Path) -> LibraryFile | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return LibraryFile(path, found.st_size, (found.st_dev, found.st_ino))


def _identity(folder: Path) -> Identity | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
