"""A repository's commit and files, from the Hub's response: every value is checked before it is used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ..errors import RemoteError
from .headers import MAX_FILE_BYTES

COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at a commit."""

    size_bytes: int
    sha256: str | None  # of the content, for files kept in LFS or Xet
    blob_id: str | None  # git's hash, for all others

    @property
    def etag(self) -> str:
        """The ETag that the Hub sends for the file."""
        return self.sha256 or self.blob_id or ""


@dataclass(frozen=True)
class Listing:
    """A repository at a commit."""

    commit: str
    files: Mapping[str, HubFile]


def is_safe_name(name: str) -> bool:
    """Whether a name from a server stays inside its target folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name and "\0" not in name


def read_listing(data: bytes, endpoint: str) -> Listing:
    """What the Hub says about a repository at a commit. Raises RemoteError for an invalid response."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RemoteError(f"{endpoint}: the server does not answer like a Hub; check HF_ENDPOINT.") from error
    siblings = value.get("siblings") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(siblings, list | None):
        raise RemoteError(f"{endpoint}: the server does not answer like a Hub; check HF_ENDPOINT.")
    commit = value.get("sha")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise RemoteError(f"{endpoint}: the server does not name a commit; check HF_ENDPOINT.")
    files: dict[str, HubFile] = {}
    for item in siblings or []:
        try:
            name, file = _file(item)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RemoteError(
                f"{endpoint}: the server's description of a file is not valid; check HF_ENDPOINT."
            ) from error
        if file is not None and is_safe_name(name):
            files[name] = file
    return Listing(commit, files)


def _file(item: Any) -> tuple[str, HubFile | None]:
    """A file's name, size and hashes; None: no size is given. Raises ValueError and others for nonsensical data."""
    name, size, blob, lfs = item["rfilename"], item.get("size"), item.get("blobId"), item.get("lfs")
    name.encode()  # raises for lone surrogates, which JSON may contain
    if size is None:
        return name, None
    sha256 = None if lfs is None else lfs["sha256"]
    if type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
        raise ValueError(size)
    for digest, form in ((sha256, _SHA256), (blob, COMMIT)):
        if digest is not None and not form.fullmatch(digest):
            raise ValueError(digest)
    return name, HubFile(size, sha256, blob)
