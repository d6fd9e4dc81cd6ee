"""What a user may name: a local path, a repository on the Hub, an address. Nothing is opened or requested here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import UsageError
from ..gguf.files import AUXILIARY_MARKS, split_shard_name
from ..progress import LOGGER

_REPO = r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[^:]+))?(?::(?P<file>.+))?"
_BARE, _HF = re.compile(_REPO), re.compile(rf"hf:(?://)?{_REPO}")
_HUB_PAGE = re.compile(
    r"/(?P<repo>[^/:@]+/[^/:@]+)"
    r"(?:/(?:resolve|blob|tree|raw)/(?P<revision>[^/]+)(?:/(?P<file>.+?))?|/(?:discussions|commits?)(?:/.*)?)?/?"
)
_HUB_NAME = re.compile(r"\w(?:[\w.-]*\w)?/\w(?:[\w.-]{0,94}\w)?", re.ASCII)  # of a repository that can be made
_HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})


@dataclass(frozen=True)
class HubSource:
    """`hf:ORG/NAME[@REVISION][:FILE]`."""

    repo_id: str
    revision: str | None = None
    file: str | None = None  # a file, a folder, or a part of a GGUF's name such as Q4_K_M
    bare: bool = False  # written without `hf:`, so a local path may have been meant

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repo_id}{at}" + (f":{self.file}" if self.file else "")


@dataclass(frozen=True)
class UrlSource:
    """An address on any HTTP server."""

    url: str


SourceAddress: TypeAlias = "Path | HubSource | UrlSource"


def parse_source(text: str | Path, *, maybe_local: bool = True) -> SourceAddress:
    """What a user names: a local path, a repository on the Hub (`ORG/NAME`, `hf:...`, an address of it), an address.

    What exists locally is local; with `maybe_local` False no path is meant, and ORG/NAME is a repository. Raises
    UsageError for an invalid `hf:` name, and for `FOLDER/NAME` without a file of that name in a folder that exists: a
    mistyped path is not taken for a repository.
    """
    if isinstance(text, Path):
        return text
    there = maybe_local and os.path.lexists(text)
    if "://" not in text and is_on_hub_host(text) and not there:  # as browsers show it, and ollama's names of models
        text = f"https://{text}"
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme in ("http", "https"):
        return _from_address(text)
    if text.startswith("hf:"):
        match = _HF.fullmatch(text.rstrip("/"))
        if match is None:
            raise UsageError(f"'{text}' is not a name on the Hub; write hf:ORG/NAME, hf:ORG/NAME@REVISION:FILE.gguf.")
        return HubSource(match["repo"], match["revision"], match["file"])
    if there or text.startswith((".", "/", "~")):
        return Path(text)
    match = _BARE.fullmatch(text.rstrip("/"))
    if match is None or match["repo"].endswith((".gguf", ".safetensors", ".json")):
        return Path(text)
    folder = match["repo"].partition("/")[0]
    if maybe_local and os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir may raise
        raise UsageError(
            f"{text}: the folder '{folder}' has no file or folder of that name; check the path, or write hf:{text} for "
            "the repository on the Hub."
        )
    return HubSource(match["repo"], match["revision"], match["file"], bare=True)


def check_hub_name(name: str, option: str) -> str:
    """The name of a repository with its owner, as huggingface_hub's `validate_repo_id` takes it.

    Raises UsageError, with a name to write.
    """
    if _is_hub_name(name):
        return name
    page = _HUB_PAGE.fullmatch(urlsplit(name).path) if "://" in name else None
    text = re.sub(r"[^A-Za-z0-9._/]+|--+", "-", page["repo"] if page else name.removeprefix("hf:"))
    parts = [re.sub(r"\.\.+", ".", part.removesuffix(".git")).strip("-.") for part in text.split("/")]
    near = "/".join(parts) if _is_hub_name("/".join(parts)) else f"ORG/{parts[-1] or 'NAME'}"
    raise UsageError(f"{option}: '{name}' is not the name of a repository on the Hub; write it as {near}.")


def _is_hub_name(name: str) -> bool:
    return bool(_HUB_NAME.fullmatch(name)) and not any(bad in name for bad in ("--", "..")) and name[-4:] != ".git"


@cache
def say_bare(source: HubSource) -> None:
    """Say, once, that a name without `hf:` was taken for a repository, because a local path may have been meant."""
    if source.bare:
        LOGGER.warning("%s: there is no local path of this name, so it is %s on the Hub", source.repo_id, source)


def is_on_hub_host(text: str) -> bool:
    """Whether a name begins with the Hub's host, with or without a scheme in front."""
    host, slash, _ = re.sub(r"^https?://", "", text).partition("/")
    return bool(slash) and host.lower() in _HUB_HOSTS


def _from_address(url: str) -> SourceAddress:
    parts = urlsplit(url)
    own = urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc
    if parts.netloc.lower() in _HUB_HOSTS | ({own.lower()} if own else set()):
        if match := _HUB_PAGE.fullmatch(parts.path):
            shown = parse_qs(parts.query).get("show_file_info", [None])[0]  # a page on which a file is looked into
            revision, file = (part and unquote(part) for part in match.group("revision", "file"))
            return HubSource(unquote(match["repo"]), revision, file or shown)
        if match := _BARE.fullmatch(unquote(parts.path).strip("/")):
            return HubSource(match["repo"], match["revision"], match["file"])
    try:
        sound = bool(parts.hostname) and (parts.port or 1) > 0 and bool(str(parts.hostname).encode("idna"))
    except ValueError:  # an invalid port, or a label that is too long
        sound = False
    if not sound:
        raise UsageError(f"'{url}' has no host; write https://HOST/FILE.gguf.")
    return UrlSource(url)


def choose_gguf(source: HubSource, names: Iterable[str], wanted: str) -> str:
    """The one GGUF of `names` that matches: by its folder's name or as part of its own. Raises UsageError."""
    found: dict[str, str] = {}
    ggufs = [name for name in sorted(names) if name.endswith(".gguf")]
    main = [name for name in ggufs if not any(mark in name for mark in AUXILIARY_MARKS)] or ggufs
    for name in main:
        if not wanted or name.startswith(f"{wanted}/") or wanted.lower() in name.rpartition("/")[2].lower():
            shard = split_shard_name(name)
            found.setdefault(f"{shard[0]}\0{shard[2]}" if shard else name, name)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        some = ", ".join(list(found.values())[:4]) + (", ..." if len(found) > 4 else "")
        raise UsageError(f"{source}: this matches {len(found)} models ({some}); name one: hf:{source.repo_id}:FILE.")
    what = f"nothing named '{wanted}'" if wanted else "neither a safetensors checkpoint nor a GGUF"
    raise UsageError(f"{source}: there is {what} in this repository.")
