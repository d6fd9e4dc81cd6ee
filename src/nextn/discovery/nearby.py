"""Donors on this machine beyond the trunk's own folder: checkpoint folders near it, caches and other programs' folders.

Only names and headers are read, and nothing is written. Looked through are: the trunk's folder and the one above it,
with their folders; the Hub's cache; LM Studio's models; ollama's, by their manifests.
"""

from __future__ import annotations

import json
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
from ..layouts.places import in_store, real_place
from ..layouts.programs import lm_studio_folders, ollama_folder
from ..sources.checkpoint import CONFIG, Checkpoint, open_checkpoint
from .sidecars import base_of, snapshots

MOST_FOLDERS = 256  # at most this many entries of a folder are looked at
MOST_HEADERS = 64  # at most this many checkpoints and GGUF files have their headers read
_MANIFEST_BYTES = 1 << 20
_MODEL_LAYER = "application/vnd.ollama.image.model"


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


def evidence(trunk: Model, folder: Path) -> _Evidence | None:
    """The headers of a checkpoint folder whose block could be attached to `trunk`; None for any other."""
    try:
        found = open_checkpoint(folder)
        fits = _fits(trunk, block_from_checkpoint(found))
    except (NextnError, OSError):
        return None
    return _Evidence(found) if fits else None


def checkpoint_fits(trunk: Model, folder: Path) -> str | None:
    """What agrees between a checkpoint folder and `trunk`; None if its block does not fit."""
    guess = Guess(str(folder), "", Strength.NAME)
    try:
        found = confirm(trunk, guess, _Evidence(open_checkpoint(folder)))
    except (NextnError, OSError):
        return None
    return found.reason if found.fits and evidence(trunk, folder) is not None else None


def _gguf_fits(trunk: Model, path: Path) -> bool:
    try:
        return _fits(trunk, block_from_model(open_model(path)))
    except (NextnError, OSError):
        return False


def _fits(trunk: Model, block: Block) -> bool:
    """Whether the block was made for such a trunk: one of another depth is for the user to name."""
    check_fit(block, trunk, family_of(trunk.architecture, trunk.entry))
    return not differences(block, trunk)


# -- where to look ----------------------------------------------------------------------------------------------------


def nearby(trunk: Model) -> list[Nearby]:
    """Every donor found, in the order of the places; those near the trunk end the search if one bears its name."""
    names = names_of(trunk)
    found: list[Nearby] = []
    left = MOST_HEADERS
    seen: set[Path] = set()
    for listed in (_near(trunk), _in_caches(names)):
        places = sorted(listed, key=lambda place: not _bears(place[2], names))  # of very many, those of its name
        for path, what, name in places:
            real = Path(os.path.realpath(path))
            if real in seen or any(real == file.path.resolve() for file in trunk.files):
                continue
            seen.add(real)
            if (left := left - 1) < 0:
                break
            is_named = _bears(name, names)
            if path.is_dir():
                agreed = checkpoint_fits(trunk, path)
            else:
                agreed = "header and tokens fit" if _gguf_fits(trunk, path) else None
            if agreed is not None:
                found.append(Nearby(path, what, agreed, is_named))
        if any(each.is_named for each in found):
            break
    return found


def _near(trunk: Model) -> Iterator[tuple[Path, str, str]]:
    """Checkpoint folders: the trunk's own, those in it, the one above, those beside it."""
    entry = Path(os.path.abspath(trunk.entry))  # noqa: PTH100 - links are kept here, not resolved
    places = [entry] if real_place(entry) == entry else [entry, real_place(entry)]
    for place in places:
        if in_store(place):
            continue
        folder = place.parent
        rows = [(folder, "is the model's own folder"), *((each, "lies beside the model") for each in _folders(folder))]
        if folder.parent != folder:
            rows += [(folder.parent, "is the folder above the model's")]
            rows += [(each, "lies beside the model's folder") for each in _folders(folder.parent)]
        for path, where in rows:
            if _exists(path / CONFIG):
                yield path, f"the checkpoint folder {path}, which {where}", path.name


def _in_caches(names: Mapping[str, str]) -> Iterator[tuple[Path, str, str]]:
    """Checkpoints and GGUF files with a block, as far as their names say so, in folders of other programs."""
    for repository in _folders(hub_cache()):
        repo = hub_name(repository)
        for snapshot in snapshots(repository)[:1] if repo is not None else ():
            if _exists(snapshot / CONFIG):
                yield snapshot, f"hf:{repo} in the Hub's local cache", str(repo)
            for path in _ggufs(snapshot, names):
                yield path, f"{path.name} of hf:{repo} in the Hub's local cache", base_of(path.name)
    for root in lm_studio_folders():
        for publisher in _folders(root):
            for repository in _folders(publisher):
                where = f"{publisher.name}/{repository.name} in LM Studio's models"
                for path in _ggufs(repository, names):
                    yield path, f"{path.name} of {where}", base_of(path.name)
    yield from _of_ollama(names)


def _of_ollama(names: Mapping[str, str]) -> Iterator[tuple[Path, str, str]]:
    root = ollama_folder()
    manifests = root / "manifests"
    for folder, below, files in os.walk(manifests):
        below.sort()
        for file in sorted(files):
            parts = Path(folder, file).relative_to(manifests).parts
            if len(parts) < 2:
                continue
            known = next((each for each in (parts[-2], f"{parts[-2]}-{file}") if _bears(each, names)), None)
            blob = None if known is None else _model_blob(Path(folder, file), root)
            if blob is not None and known is not None and blob.is_file():
                yield blob, f"the model '{'/'.join(parts[1:-1])}:{file}' of ollama", known


def _model_blob(manifest: Path, root: Path) -> Path | None:
    """The GGUF that a manifest of ollama names: its layer of the media type of models."""
    try:
        if manifest.stat().st_size > _MANIFEST_BYTES:
            return None
        layers = json.loads(manifest.read_bytes())["layers"]
        digest = next(str(each["digest"]) for each in layers if each["mediaType"] == _MODEL_LAYER)
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError):
        return None
    name = digest.replace(":", "-")
    return root / "blobs" / name if "/" not in name and name.startswith("sha256-") else None


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


def _ggufs(folder: Path, names: Mapping[str, str]) -> list[Path]:
    """GGUF files in and below a folder that bear one of `names`, of a set only the first shard."""
    try:
        found = [path for path in sorted(folder.rglob("*.gguf"))[:MOST_FOLDERS] if path.is_file()]
        first = [path for path in found if (split_shard_name(path.name) or ("", 1, 1))[1] == 1]
        return [path for path in first if _bears(base_of(path.name), names)]
    except OSError:
        return []


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
