"""Sidecars that attach wrote outside their model's folder: found again by the model's header.

Below `places.sidecars_root()` each model has a folder named after its header's hash. The sidecar is in that folder if
attach chose the place, or anywhere else if `-o` named it; a note in the folder says which file belongs to which model,
and records its header's hash. A note whose file is gone or has been replaced is stale and is ignored.

A note is JSON: version, kind, model (path), place (its repository's folder or its own), model_sha256 and
sidecar_sha256 (of headers), sidecar (path).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import NextnError
from ..gguf.files import Model, open_model, os_error
from ..layouts.places import header_sha256, hub_repository, is_named_by_hash, kept_folder, real_place, sidecars_root
from ..workfile import Folder, NotOurs
from ..writing.durable import write_file
from .once import Asking, each_time

NOTE_SUFFIX = ".note.json"
_VERSION, _KIND = 1, "kept-sidecar"
_MAX_NOTE_BYTES = 1 << 20


@dataclass(frozen=True)
class Note:
    """Which sidecar belongs to which model."""

    path: Path  # of the note itself
    sidecar: Path
    sidecar_sha256: str  # of its header
    model: Path  # as the user named it
    model_sha256: str  # of its first file's header
    place: str  # the cached repository, or the folder, that the model is in

    @property
    def is_stale(self) -> bool:
        """Whether the sidecar is gone or has been replaced."""
        try:
            return header_sha256(open_model(self.sidecar).files[0]) != self.sidecar_sha256
        except NextnError:
            return True

    @property
    def is_ours(self) -> bool:
        """Whether the sidecar is in nextn's own folder, not where the user put it."""
        return self.sidecar.parent == self.path.parent


def place_of(model: Model) -> str:
    """What a model and its neighbours have in common: the cached repository, or the folder."""
    place = real_place(model.entry)
    repository = hub_repository(place)
    if repository is None and is_named_by_hash(place):
        return os.fspath(place)  # a store that holds every model
    return os.fspath(repository or place.parent)


def note_down(model: Model, sidecar: Path) -> Note:
    """Record that `sidecar`, wherever it is, was made for `model`. Raises StorageError, NoSpace."""
    sidecar = sidecar.absolute()
    folder = kept_folder(model)
    mark = hashlib.sha256(os.fsencode(sidecar)).hexdigest()[:8]
    note = Note(
        folder / f"{sidecar.name}-{mark}{NOTE_SUFFIX}", sidecar, header_sha256(open_model(sidecar).files[0]),
        model.entry.absolute(), header_sha256(model.files[0]), place_of(model),
    )  # fmt: skip
    for old in notes(folder):
        if old.path == note.path or (old.is_stale and not old.sidecar.exists()):
            _unlink(old.path)
    data = {"version": _VERSION, "kind": _KIND, **{key: str(value) for key, value in asdict(note).items()}}
    del data["path"]
    write_file(note.path, json.dumps(data, indent=1).encode() + b"\n")
    return note


def notes(folder: Path | None = None) -> list[Note]:
    """The notes in a model's folder, or all notes; files that cannot be read as notes are skipped."""
    found = sorted(sidecars_root().glob(f"*/*{NOTE_SUFFIX}") if folder is None else folder.glob(f"*{NOTE_SUFFIX}"))
    return [note for path in found if (note := _read(path)) is not None]


def _read(path: Path) -> Note | None:
    try:
        with Folder.chosen(path.parent) as folder:
            data = json.loads(folder.read(path.name, _MAX_NOTE_BYTES))
        if data["version"] != _VERSION or data["kind"] != _KIND:
            return None
        texts = [data[key] for key in ("sidecar", "sidecar_sha256", "model", "model_sha256", "place")]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, NotOurs):
        return None
    if not all(isinstance(text, str) for text in texts):
        return None
    sidecar, sidecar_sha256, model, model_sha256, place = texts
    return Note(path, Path(sidecar), sidecar_sha256, Path(model), model_sha256, place)


def kept_for(model: Model, ask: Asking = each_time) -> tuple[list[Path], list[Path]]:
    """Sidecars written for exactly this model, and those written for others in the same place."""
    digest, place = header_sha256(model.files[0]), place_of(model)
    own: dict[Path, None] = {}
    others: dict[Path, None] = {}
    for note in ask(notes):
        if note.model_sha256 == digest:
            here = own
        elif note.place == place:
            here = others
        else:
            continue
        if not note.is_stale:
            here[note.sidecar] = None
    for path in sorted(kept_folder(model).glob("*.gguf")):  # in case a run ended before writing its note
        own[path] = None
    return list(own), [path for path in others if path not in own]


@dataclass(frozen=True)
class Kept:
    """A sidecar in nextn's own folder, or a note of one elsewhere."""

    sidecar: Path
    model: Path | None  # None: no note exists
    size_bytes: int  # freed by removing it
    used_s: float  # seconds since 1970
    stale: bool
    ours: tuple[Path, ...]  # what removing it removes


def all_kept() -> list[Kept]:
    """Everything below nextn's folder of sidecars, by path."""
    out: dict[Path, Kept] = {}
    for note in notes():
        out[note.sidecar] = _kept(note.sidecar, note)
    for path in sidecars_root().glob("*/*.gguf"):
        out.setdefault(path, _kept(path, None))
    return [out[path] for path in sorted(out)]


def _kept(sidecar: Path, note: Note | None) -> Kept:
    ours = ([] if note is None else [note.path]) + ([sidecar] if note is None or note.is_ours else [])
    there = [path.lstat() for path in ours if path.exists() or path.is_symlink()]
    size = sum(found.st_size for found in there)
    used = max((found.st_mtime for found in there), default=0.0)
    return Kept(sidecar, note.model if note else None, size, used, note is not None and note.is_stale, tuple(ours))


def remove(chosen: Iterable[Kept]) -> int:
    """Remove sidecars in nextn's own folder, and notes of others, whose files stay; returns the bytes freed."""
    freed = 0
    for kept in chosen:
        for path in reversed(kept.ours):  # the note last: what an interrupted run leaves is still known
            _unlink(path)
        freed += kept.size_bytes
        with contextlib.suppress(OSError):  # not empty: another sidecar of the model
            kept.ours[0].parent.rmdir()
    return freed


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise os_error(error, path, "remove it") from error
