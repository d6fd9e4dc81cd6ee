"""Donors on this machine beyond the trunk's own folder: checkpoint folders near it, caches and other programs' folders.

Only names and headers are read, and nothing is written. Looked through are: the trunk's folder and the one above it,
with their folders; the Hub's cache; LM Studio's models; ollama's, by their manifests.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..archs import family_of
from ..block.from_checkpoint import block_from_checkpoint
from ..block.from_gguf import block_from_model
from ..block.model import Block
from ..donors.infer import Guess, Strength, confirm, names_of, same_name
from ..errors import NextnError
from ..gguf.files import Model, open_model, split_shard_name
from ..layouts.donor_check import check_fit, differences
from ..layouts.places import in_store, real_place, snapshots
from ..layouts.programs import lm_studio_folders, ollama_folder
from ..sources.checkpoint import CONFIG, Checkpoint, open_checkpoint
from .ollama import ollama_models
from .once import Asking, each_time
from .sidecars import base_of

MOST_FOLDERS = 256  # at most this many entries of a folder are looked at
MOST_HEADERS = 64  # at most this many checkpoints and GGUF files have their headers read


@dataclass(frozen=True)
class Nearby:
    """A donor whose block fits by its header."""

    path: Path
    what: str  # what it is and where, as part of a sentence
    agreed: str  # what was compared
    is_named: bool  # it bears the model's name; otherwise taking it is a guess


def hub_cache() -> Path:
    """The folder of the Hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


# -- what fits --------------------------------------------------------------------------------------------------------


class _Evidence:
    """A local checkpoint's headers, each read on demand."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @property
    def config(self) -> Mapping[str, Any]:
        return self._checkpoint.config

    @property
    def tensor_names(self) -> Collection[str]:
        return self._checkpoint.weight_map.keys()

    @property
    def vocabulary(self) -> Mapping[int, str] | None:
        return self._checkpoint.vocabulary


def evidence(trunk: Model, folder: Path, ask: Asking = each_time) -> _Evidence | None:
    """The headers of a checkpoint folder whose block could be attached to `trunk`; None for any other."""
    try:
        found = ask(open_checkpoint, folder)
        fits = _fits(trunk, block_from_checkpoint(found))
    except (NextnError, OSError):
        return None
    return _Evidence(found) if fits else None


def checkpoint_fits(trunk: Model, folder: Path, ask: Asking = each_time) -> str | None:
    """What agrees between a checkpoint folder and `trunk`; None if its block does not fit."""
    guess = Guess(str(folder), "", Strength.NAME)
    try:
        found = confirm(trunk, guess, _Evidence(ask(open_checkpoint, folder)))
    except (NextnError, OSError):
        return None
    return found.reason if found.fits and evidence(trunk, folder, ask) is not None else None


def _gguf_fits(trunk: Model, path: Path, ask: Asking) -> bool:
    try:
        return _fits(trunk, block_from_model(ask(open_model, path)))
    except (NextnError, OSError):
        return False


def _fits(trunk: Model, block: Block) -> bool:
    """Whether the block was made for such a trunk: one of another depth is for the user to name."""
    check_fit(block, trunk, family_of(trunk.architecture, trunk.entry))
    return not differences(block, trunk)


# -- where to look ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Something that may be a donor, by its name."""

    path: Path
    what: str  # what it is and where, as part of a sentence
    names: tuple[str, ...]
    is_checkpoint: bool = False

    def bears(self, names: Mapping[str, str]) -> str | None:
        """The first of its names that is one of the model's."""
        return next((each for each in self.names if _bears(each, names)), None)


def nearby(trunk: Model, ask: Asking = each_time) -> list[Nearby]:
    """Every donor found, in the order of the places; those near the trunk end the search if one bears its name."""
    names = names_of(trunk)
    found: list[Nearby] = []
    left = MOST_HEADERS
    seen: set[Path] = set()
    own = {file.path.resolve() for file in trunk.files}
    for listed in (_near(trunk, ask), [*ask(_hub_and_lm_studio), *_of_ollama(names, ask)]):
        known = [(place, place.bears(names)) for place in listed]
        known = [(place, name) for place, name in known if place.is_checkpoint or name is not None]
        for place, name in sorted(known, key=lambda one: one[1] is None):  # of very many, those of its name
            real = Path(os.path.realpath(place.path))
            if real in seen or real in own:
                continue
            seen.add(real)
            if (left := left - 1) < 0:
                break
            if place.is_checkpoint:
                agreed = checkpoint_fits(trunk, place.path, ask)
            else:
                agreed = "header and tokens fit" if _gguf_fits(trunk, place.path, ask) else None
            if agreed is not None:
                found.append(Nearby(place.path, place.what, agreed, name is not None))
        if any(each.is_named for each in found):
            break
    return found


def _near(trunk: Model, ask: Asking) -> list[_Place]:
    """Checkpoint folders: the trunk's own, those in it, the one above, those beside it."""
    entry = Path(os.path.abspath(trunk.entry))  # noqa: PTH100 - links are kept here, not resolved
    found = []
    for place in [entry] if real_place(entry) == entry else [entry, real_place(entry)]:
        if in_store(place):
            continue
        folder = place.parent
        rows = [(folder, "is the model's own folder")] if _exists(folder / CONFIG) else []
        rows += [(each, "is beside the model") for each in ask(_checkpoints, folder)]
        if folder.parent != folder:
            rows += [(folder.parent, "is the folder above the model's")] if _exists(folder.parent / CONFIG) else []
            rows += [(each, "is beside the model's folder") for each in ask(_checkpoints, folder.parent)]
        for path, where in rows:
            found.append(_Place(path, f"the checkpoint folder {path}, which {where}", (path.name,), True))
    return found


def _hub_and_lm_studio() -> list[_Place]:
    """Checkpoints and GGUF files in the Hub's cache and in LM Studio's folders."""
    found = []
    for repository in _folders(hub_cache()):
        repo = hub_name(repository)
        for snapshot in snapshots(repository)[:1] if repo is not None else ():
            where = f"hf:{repo} in the Hub's local cache"
            if _exists(snapshot / CONFIG):
                found.append(_Place(snapshot, where, (str(repo),), True))
            found += [_Place(path, f"{path.name} of {where}", (base_of(path.name),)) for path in _ggufs(snapshot)]
    for root in lm_studio_folders():
        for publisher in _folders(root):
            for repository in _folders(publisher):
                where = f"{publisher.name}/{repository.name} in LM Studio's models"
                found += [_Place(path, f"{path.name} of {where}", (base_of(path.name),)) for path in _ggufs(repository)]
    return found


def _of_ollama(names: Mapping[str, str], ask: Asking) -> Iterator[_Place]:
    """ollama's models that bear one of `names`; only their manifests are read."""
    for each in ask(ollama_models, ollama_folder()):
        known = (each.last, f"{each.last}-{each.tag}")
        if any(_bears(name, names) for name in known) and (blob := each.blob) is not None and blob.is_file():
            yield _Place(blob, f"the model '{each.name}' of ollama", known)


def hub_name(repository: Path) -> str | None:
    """ORG/NAME of a folder of the Hub's cache; None for any other folder."""
    kind, *parts = repository.name.split("--")
    return "/".join(parts) if kind == "models" and len(parts) == 2 else None


def cached_snapshot(repo: str) -> Path | None:
    """The newest snapshot of a repository in the Hub's local cache that has a config.json."""
    folder = hub_cache() / ("models--" + repo.replace("/", "--"))
    return next((path for path in snapshots(folder) if _exists(path / CONFIG)), None)


def _bears(name: str, names: Mapping[str, str]) -> bool:
    return any(same_name(name, each) for each in names)


def _ggufs(folder: Path) -> list[Path]:
    """GGUF files in and below a folder, of a set only the first shard."""
    try:
        found = [path for path in sorted(folder.rglob("*.gguf"))[:MOST_FOLDERS] if path.is_file()]
        return [path for path in found if (split_shard_name(path.name) or ("", 1, 1))[1] == 1]
    except OSError:
        return []


def _checkpoints(folder: Path) -> list[Path]:
    """The folders in a folder that have a config.json."""
    return [path for path in _folders(folder) if _exists(path / CONFIG)]


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; none if it cannot be listed."""
    found: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_dir():
                    found.append(Path(entry.path))
                if len(found) >= MOST_FOLDERS:
                    break
    except OSError:
        return []
    return sorted(found)


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists may raise
