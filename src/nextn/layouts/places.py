"""Where a model is, and where new files go when nothing may be put beside it.

Nothing is ever put into a cache whose file names are hashes: the Hub's, ollama's, our own. A new model then goes into
the current folder. A sidecar for a model in a cache, or in a folder that this user cannot write to, goes into its own
folder under `$NEXTN_DATA`, or `nextn` in `$XDG_DATA_HOME`, or `~/.local/share/nextn`: `sidecars/NAME-HASH`, where
HASH is the first 16 digits of the sha256 of the model's header. The header identifies a model, whichever path, link
or blob it is opened by.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from ..absent import as_given, is_address
from ..errors import UsageError
from ..gguf.files import GGUFFile, Model
from ..remote.cache import in_own_cache

_DIGEST = re.compile(r"(?:sha256[-:])?[0-9a-f]{40,64}\Z")
_N_DIGITS = 16  # of a header's sha256, in the name of a folder
_MOST_NAME = 80  # characters of a model's name, in the name of a folder


def hub_repository(path: Path) -> Path | None:
    """The folder `models--ORG--NAME` of the Hub cache that contains `path`, given a snapshot's path or a blob's."""
    return next(
        (
            folder.parent
            for folder in path.parents
            if (folder.name == "snapshots" and (folder.parent / "blobs").is_dir())
            or (folder.name == "blobs" and (folder.parent / "snapshots").is_dir())
        ),
        None,
    )


def cached_commit(repository: Path, revision: str) -> str:
    """The commit that a branch or tag of a cached repository was when it was downloaded; else `revision` itself."""
    try:
        return (repository / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):  # there is none, it is not text, or it cannot be a path
        return revision


def snapshots(repository: Path) -> list[Path]:
    """The snapshots of a cached repository: `main`'s first, then the newest."""
    main = cached_commit(repository, "main")
    try:
        found = [(path.name != main, -path.stat().st_mtime, path) for path in (repository / "snapshots").iterdir()]
    except OSError:
        return []
    return [path for _, _, path in sorted(found)]


def is_named_by_hash(path: Path) -> bool:
    """Whether a file's name is its hash: a blob of ollama or of the Hub's cache."""
    return path.parent.name == "blobs" and _DIGEST.match(path.name) is not None


def in_store(path: Path) -> bool:
    """Whether a file is in a cache that belongs to a program: nothing is ever put beside it."""
    place = real_place(path)
    return hub_repository(place) is not None or is_named_by_hash(place) or in_own_cache(place) or in_own_cache(path)


def check_folder(folder: Path) -> Path:
    """The folder, for new files.

    Raises UsageError for an address, for one in the Hub's cache, and for ollama's, which cleans up.
    """
    if is_address(folder):
        raise UsageError(f"{as_given(folder)}: nothing is written to an address; name a folder with -o.")
    real = Path(os.path.realpath(folder))
    for each in (real, *real.parents):
        if each.name == "blobs" and os.path.isdir(each.parent / "manifests"):  # noqa: PTH112 - never raises
            raise UsageError(
                f"{folder}: this folder is ollama's, which deletes files there that it does not know when it starts; "
                "name another one with -o."
            )
    if hub_repository(real / "file") is not None:
        raise UsageError(
            f"{folder}: this folder is in the Hub's cache, where nothing else is put; name another one with -o."
        )
    return folder


def real_place(path: Path) -> Path:
    """The path in its real folder; if the file itself is a link, that link is not followed."""
    return Path(os.path.realpath(path.parent), path.name)


def may_write_beside(path: Path) -> bool:
    """Whether a new file may be put into the folder of `path`."""
    return not in_store(path) and os.access(path.parent, os.W_OK | os.X_OK)


def data_root() -> Path:
    """The folder for what nextn keeps for a user: `$NEXTN_DATA`, or `nextn` in the user's data folder."""
    own = os.environ.get("NEXTN_DATA")
    if own:
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "nextn"


def sidecars_root() -> Path:
    """The parent of the folders with sidecars for models in caches and read-only folders."""
    return data_root() / "sidecars"


def header_sha256(file: GGUFFile) -> str:
    """sha256 over a file's key-value pairs and tensor table, in hex; its data is not read."""
    digest = hashlib.sha256()
    for piece in (*file.header.kvs.pieces(), *file.header.tensors.pieces()):
        digest.update(piece)
    return digest.hexdigest()


def model_name(model: Model) -> str:
    """The file's base name; for a file named by its hash, the model's name in its metadata."""
    if not _DIGEST.match(model.base_name):
        return model.base_name
    name = model.header.get("general.name")
    return plain(name) if isinstance(name, str) and plain(name) else "model"


def plain(text: str) -> str:
    """A name of letters, digits, dots and dashes only, as every program takes it; may be empty."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:_MOST_NAME]


def kept_folder(model: Model) -> Path:
    """The folder used instead of the model's own where that cannot be written to; it need not exist."""
    root, digits = sidecars_root(), header_sha256(model.files[0])[:_N_DIGITS]
    try:
        there = sorted(name for name in os.listdir(root) if name.endswith(f"-{digits}"))  # noqa: PTH208
    except OSError:
        there = []
    return root / (there[0] if there else f"{plain(model_name(model)) or 'model'}-{digits}")


def default_folder(model: Model) -> Path:
    """Where new models go without `-o`: beside the model, or into the current folder if that would be in a cache."""
    return Path.cwd() if in_store(model.entry) else model.entry.parent


def sidecar_folder(model: Model) -> Path:
    """Where a new sidecar goes without `-o`: beside the model, or to the other place where every verb looks for it."""
    return model.entry.parent if may_write_beside(model.entry) else kept_folder(model)
