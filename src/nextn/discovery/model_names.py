"""What a user calls a model: a path, or its name in LM Studio, in ollama or on the Hub. One resolver for all of them.

In this order: an existing path; what programs keep on this machine under that name; a repository on the Hub.
`lmstudio:`, `ollama:` and `hf:` in front say where to look.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..absent import nothing_at, similar
from ..errors import NextnError, StorageError, UsageError
from ..gguf.files import AUXILIARY_MARKS
from ..printable import printable
from ..remote.address import HubSource, UrlSource, choose_gguf, parse_source
from .library import HUB, LM_STUDIO, OLLAMA, LibraryEntry, library

_TITLES = {HUB: "the Hub's cache", LM_STUDIO: "LM Studio", OLLAMA: "ollama"}
_PREFIXES = {"lmstudio:": LM_STUDIO, "ollama:": OLLAMA}
_GGUF_TAIL = re.compile(r"[-_.]gguf$", re.IGNORECASE)
_SHOWN = 4


@dataclass(frozen=True)
class NamedModel:
    """What a name stands for: exactly one of `path` and `hub` is set."""

    path: Path | None  # on this machine
    hub: HubSource | None = None  # on the Hub, and not on this machine
    place: str = ""  # whose name it is: HUB, LM_STUDIO or OLLAMA; "": it is a path
    name: str = ""  # the complete name there

    @property
    def said(self) -> str | None:
        """How the name was understood, as a sentence's end; None for a path."""
        if self.path is None:
            return f"{self.hub} on the Hub"
        return f"{printable(self.name, 400)} of {_TITLES[self.place]}, {self.path}" if self.place else None


def resolve(text: str | Path) -> NamedModel:
    """What `text` names. Nothing is opened, and no server is asked.

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
    entries = [entry for entry in library().entries if not _is_auxiliary(entry)]
    wanted = [LM_STUDIO, OLLAMA] if place is None else [place]
    wanted = [] if text.startswith("hf:") else wanted
    found = [entry for entry in entries if entry.place in wanted and _has_name(entry, name)]
    if place is None and (source := _hub_source(text, bool(found))) is not None:
        cached = _cached(source, entries)
        found += [] if cached is None else [cached]
        if not found:
            return NamedModel(None, source)
    if not found and place is None and text.endswith(".gguf"):
        return _of_path(path)
    if not found:
        raise _unknown(text, name, entries if place is None else [each for each in entries if each.place == place])
    entry = _only(text, found)
    return NamedModel(entry.path, None, entry.place, entry.name)


def _of_path(path: Path) -> NamedModel:
    if not os.path.exists(path):  # noqa: PTH110 - never raises
        raise StorageError(nothing_at(path))
    return NamedModel(path)


def _is_auxiliary(entry: LibraryEntry) -> bool:
    return any(mark in PurePosixPath(entry.name).name for mark in AUXILIARY_MARKS)


# -- names ------------------------------------------------------------------------------------------------------------


def _has_name(entry: LibraryEntry, text: str) -> bool:
    wanted = text.lower()
    if entry.place == OLLAMA:
        return entry.name.lower() in (wanted, f"{wanted}:latest")
    wanted, _, quant = wanted.partition("@")  # LM Studio's way to name one of several quants
    return wanted in _names(entry) and quant in PurePosixPath(entry.name).name.lower()


def _names(entry: LibraryEntry) -> set[str]:
    """The names of a model in LM Studio, in lower case: PUBLISHER/REPOSITORY, the file in it, and parts of both."""
    path = PurePosixPath(entry.name.lower())
    folder, file = str(path.parent), path.name
    bare, stem = _GGUF_TAIL.sub("", folder), file.removesuffix(".gguf")
    repositories = {PurePosixPath(one).name for one in (folder, bare)}
    return {str(path), folder, bare, *repositories, file, stem, f"{folder}/{stem}"}


def _hub_source(text: str, known: bool) -> HubSource | None:
    """The repository that a name may be; where the name is known already, what forbids it is no error."""
    try:
        source = parse_source(text)
    except UsageError:
        if known:
            return None
        raise
    return source if isinstance(source, HubSource) else None


def _cached(source: HubSource, entries: Iterable[LibraryEntry]) -> LibraryEntry | None:
    """The model of a repository that is in the Hub's cache; None: it is not, or not the one that was named.

    Raises UsageError where several match.
    """
    prefix = f"hf:{source.repo_id}:"
    there: dict[str, LibraryEntry] = {}
    for entry in entries:
        if entry.place != HUB or not entry.name.lower().startswith(prefix.lower()):
            continue
        if source.revision is None or source.revision in entry.path.parts:
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


def _unknown(text: str, name: str, entries: Iterable[LibraryEntry]) -> NextnError:
    known: dict[str, str] = {}  # in lower case -> as it is shown
    for entry in entries:
        shown = entry.name if entry.place != LM_STUDIO else str(PurePosixPath(entry.name).parent)
        for one in {entry.name, entry.name.partition(":")[0], *(_names(entry) if entry.place == LM_STUDIO else ())}:
            known.setdefault(one.lower(), shown)
    near = difflib.get_close_matches(name.lower(), known, 1, 0.7)
    files = similar(Path(text)) if name == text else []
    if files and not near:
        return StorageError(nothing_at(text))
    hint = f"; did you mean {printable(known[near[0]], 200)}?" if near else "; 'nextn scan' lists what is here."
    return UsageError(f"{text}: there is no such file, and no model of LM Studio or ollama has this name{hint}")
