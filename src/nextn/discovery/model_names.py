"""What a user calls a model: a path, or its name in LM Studio, in ollama or on the Hub. One resolver for all of them.

In this order: an existing path; what programs keep on this machine under that name; a repository on the Hub.
`lmstudio:`, `ollama:` and `hf:` in front say where to look.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..absent import nothing_at, similar
from ..errors import NextnError, StorageError, UsageError
from ..gguf.files import AUXILIARY_MARKS, open_sound, set_prefix
from ..layouts.naming import bundled_base
from ..layouts.places import cached_commit, hub_repository
from ..layouts.programs import ollama_folder
from ..printable import printable
from ..remote.address import HubSource, UrlSource, choose_gguf, is_on_hub_host, parse_source
from .library import HUB, LLAMA_CPP, LM_STUDIO, OLLAMA, LibraryEntry, library
from .ollama import is_called, ollama_models

_TITLES = {HUB: "the Hub's cache", LM_STUDIO: "LM Studio", OLLAMA: "ollama", LLAMA_CPP: "llama.cpp's cache"}
_PREFIXES = {"lmstudio:": LM_STUDIO, "ollama:": OLLAMA}
_GGUF_TAIL = re.compile(r"[-_.]gguf$", re.IGNORECASE)
_FILE_ON_HUB = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)/(?P<file>.+\.gguf)", re.IGNORECASE)
_SHOWN = 4


@dataclass(frozen=True)
class NamedModel:
    """What a name stands for: exactly one of `path` and `hub` is set."""

    path: Path | None  # on this machine
    hub: HubSource | None = None  # on the Hub, and not on this machine
    place: str = ""  # whose name it is: HUB, LM_STUDIO, OLLAMA or LLAMA_CPP; "": it is a path
    name: str = ""  # the complete name there
    adapters: tuple[Path, ...] = ()  # those that ollama applies to it

    @property
    def said(self) -> str | None:
        """How the name was understood, as a sentence's end; None for a path."""
        if self.path is None:
            return f"{self.hub} on the Hub"
        return f"{printable(self.name, 400)} of {_TITLES[self.place]}, {self.path}" if self.place else None


def resolve(text: str | Path, quant: str | None = None) -> NamedModel:
    """What `text` names; `quant`: which of several. Nothing is opened, and no server is asked.

    Raises UsageError for a name that nothing or several models have, StorageError for a path that does not exist.
    """
    if isinstance(text, Path):
        return _of_path(text)
    path = Path(text).expanduser()
    place = next((each for prefix, each in _PREFIXES.items() if text.startswith(prefix)), None)
    name = text if place is None else text.partition(":")[2]
    if place is None and (os.path.lexists(path) or text.startswith((".", "/", "~"))):
        return _of_path(path)
    if place is None and "://" in text and isinstance(address := parse_source(text), UrlSource):
        raise UsageError(f"{address.url}: a model must be a local file or on the Hub; download this one first.")
    everything = library().entries
    entries = [entry for entry in everything if not _is_auxiliary(entry)]
    wanted = [LM_STUDIO, OLLAMA] if place is None else [place]
    wanted = [] if text.startswith("hf:") else wanted
    found = [entry for entry in entries if entry.place in wanted and _has_name(entry, name, quant)]
    if not found and OLLAMA in wanted:
        _check_ollama(text, name)
    if not found and LM_STUDIO in wanted:
        _check_auxiliary(text, [entry for entry in everything if entry.place == LM_STUDIO and _has_name(entry, name)])
    if place is None and (source := _hub_source(text, bool(found), quant)) is not None:
        cached = _cached(source, entries)
        found += [] if cached is None else [cached]
        if not found:
            return NamedModel(None, source)
    if not found and place is None and text.lower().endswith(".gguf"):
        match = _FILE_ON_HUB.fullmatch(text)
        source = None if match is None else HubSource(match["repo"], None, match["file"])
        cached = None if source is None else _cached(source, entries)
        if cached is None:
            return _of_path(path, source)
        found = [cached]
    if not found:
        raise _unknown(text, name, entries if place is None else [each for each in entries if each.place == place])
    entry = _only(text, found)
    return NamedModel(entry.path, None, entry.place, entry.name, entry.adapters)


def _of_path(path: Path, on_hub: HubSource | None = None) -> NamedModel:
    if not os.path.exists(path):  # noqa: PTH110 - never raises
        hint = "" if on_hub is None else f"; a file on the Hub would be {on_hub}"
        raise StorageError(f"{nothing_at(path).rstrip('.')}{hint}.")
    return NamedModel(path)


def _check_auxiliary(text: str, found: Sequence[LibraryEntry]) -> None:
    """Raise UsageError for a name under which LM Studio has sidecars or projectors only."""
    if found:
        files = ", ".join(printable(str(entry.path), 400) for entry in found[:_SHOWN])
        raise UsageError(
            f"{text}: LM Studio has no model of this name, only what belongs to one ({files}); name the model, and a "
            "sidecar with --sidecar."
        )


def _check_ollama(text: str, name: str) -> None:
    """Raise UsageError for a model that ollama lists and that is not here to load."""
    for each in ollama_models(ollama_folder()):
        if is_called(each.name, name) and (why := each.lacking) is not None:
            raise UsageError(f"{text}: {each.name} of ollama: {why}.")


def earlier_download(folder: Path, quant: str | None) -> Path | None:
    """The model that an earlier run downloaded into `folder`, if it is the only one and has this quant."""
    with suppress(NextnError):
        entry = open_sound(folder).entry
        return entry if (quant or "").lower() in entry.name.lower() else None
    return None


def _is_auxiliary(entry: LibraryEntry) -> bool:
    return any(mark in PurePosixPath(entry.name).name for mark in AUXILIARY_MARKS)


# -- names ------------------------------------------------------------------------------------------------------------


def _has_name(entry: LibraryEntry, text: str, quant: str | None = None) -> bool:
    if entry.place == OLLAMA:
        return is_called(entry.name, text)
    wanted, _, after = text.lower().partition("@")  # LM Studio's way to name one of several quants
    return wanted in _names(entry) and (after or (quant or "").lower()) in PurePosixPath(entry.name).name.lower()


def _names(entry: LibraryEntry) -> set[str]:
    """The names of a model in LM Studio, in lower case: PUBLISHER/REPOSITORY, the file in it, and parts of both."""
    path = PurePosixPath(entry.name.lower())
    folder, file = str(path.parent), path.name
    bare, stem = _GGUF_TAIL.sub("", folder), file.removesuffix(".gguf")
    repositories = {PurePosixPath(one).name for one in (folder, bare)}
    return {str(path), folder, bare, *repositories, file, stem, f"{folder}/{stem}"}


def _hub_source(text: str, known: bool, quant: str | None) -> HubSource | None:
    """The repository that a name may be; where the name is known already, what forbids it is no error."""
    if known and is_on_hub_host(text):  # as ollama calls what it has from the Hub
        return None
    try:
        source = parse_source(text)
    except UsageError:
        if known:
            return None
        raise
    if not isinstance(source, HubSource):
        return None
    return source if source.file is not None else replace(source, file=quant)


def _cached(source: HubSource, entries: Iterable[LibraryEntry]) -> LibraryEntry | None:
    """The model of a repository that is in the Hub's or llama.cpp's cache; None: it is not, or not the one named.

    Raises UsageError where several match.
    """
    prefixes = {HUB: f"hf:{source.repo_id}:", LLAMA_CPP: f"{source.repo_id.replace('/', '_')}_"}
    there: dict[str, LibraryEntry] = {}
    for entry in entries:
        prefix = prefixes.get(entry.place, "")
        if not prefix or not entry.name.lower().startswith(prefix.lower()):
            continue
        repository = hub_repository(entry.path)
        if (
            source.revision is None
            or repository is None
            or cached_commit(repository, source.revision) in entry.path.parts
        ):
            there.setdefault(entry.name[len(prefix) :], entry)
    if not there:
        return None
    wanted = source.file or ""
    if wanted in there:
        return there[wanted]
    if wanted and not any(wanted.lower() in name.lower() for name in there):
        return None
    return there[choose_gguf(source, there, wanted)]


# -- choosing ---------------------------------------------------------------------------------------------------------


def _only(text: str, found: Sequence[LibraryEntry]) -> LibraryEntry:
    made = {(folder, bundled_base(base)) for folder, base in map(_base, found) if bundled_base(base) != base}
    found = [entry for entry in found if _base(entry) not in made] or found
    different = {entry.identity: entry for entry in reversed(found)}
    if len(different) == 1:
        return found[0]
    some = "; ".join(
        f"{printable(entry.name, 200)} of {_TITLES[entry.place]}" for entry in list(different.values())[::-1][:_SHOWN]
    )
    more = "; ..." if len(different) > _SHOWN else ""
    raise UsageError(
        f"{text}: {len(different)} models have this name ({some}{more}); name one of them in full, or its file."
    )


def _base(entry: LibraryEntry) -> tuple[Path, str]:
    """Folder, and name without shard numbers; what nextn made of a model beside it is not another of that name."""
    return entry.path.parent, set_prefix(entry.path.name)


def _unknown(text: str, name: str, entries: Iterable[LibraryEntry]) -> NextnError:
    known: dict[str, str] = {}  # in lower case -> as it is shown
    for entry in entries:
        shown = entry.name if entry.place != LM_STUDIO else str(PurePosixPath(entry.name).parent)
        bare = entry.name.partition(":")[0]
        more = _names(entry) if entry.place == LM_STUDIO else {bare.rpartition("/")[2]}
        for one in {entry.name, bare, *more}:
            known.setdefault(one.lower(), shown)
    near = difflib.get_close_matches(name.lower(), known, 1, 0.7)
    files = similar(Path(text)) if name == text else []
    if files and not near:
        return StorageError(nothing_at(text))
    hint = f"; did you mean {printable(known[near[0]], 200)}?" if near else "; 'nextn scan' lists what is here."
    return UsageError(f"{text}: there is no such file, and no model of LM Studio or ollama has this name{hint}")
