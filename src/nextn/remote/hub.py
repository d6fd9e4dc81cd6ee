"""Where remote files are: a model repository on the Hub, pinned to a commit, or a folder of any HTTP server.

The Hub is asked through huggingface_hub: it handles tokens, `HF_ENDPOINT`, `HF_HUB_OFFLINE` and the user's cache.
One request returns a repository's commit, files, sizes and hashes. What the user's Hub cache already has is linked
from there; nothing in it is ever changed.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ..errors import NextnError, RemoteError, UsageError
from ..gguf.files import os_error
from ..version import __version__
from ..workfile import Folder, private_folder
from .headers import bare_etag
from .http import Fetcher
from .listing import COMMIT, HubFile, Listing, is_safe_name, read_listing
from .target import NotThere, Target

_LISTING = "listing.json"
_MAX_LISTING_BYTES = 64 << 20  # 250,000 files


class Gated(RemoteError):
    """The repository exists, but this user has no access to its files."""


class Place(Protocol):
    """A folder of remote files."""

    root: Path  # the folder that the user chose for local copies
    folder: Path  # below it: where the local copies of its files are
    origin: str  # for display and provenance
    revision: str | None  # the commit, where there is one

    def address(self, name: str) -> str:
        """The displayed address of a file or folder; with an empty name, a prefix to which one can be appended."""

    def names(self) -> list[str] | None:
        """All files, or None when the server does not list them."""

    def sizes(self) -> dict[str, int]:
        """Sizes of the files in bytes, as far as the server gave them."""

    def target(self, name: str) -> Target | None:
        """Where to request a file, or None if none has that name."""

    def local(self, name: str) -> Path | None:
        """A complete local copy that the user already has."""

    def check(self, name: str, path: Path) -> str | None:
        """Why the complete file is not what the server says, or None."""


def _headers() -> dict[str, str]:
    """Who asks, and the user's token.

    The library's own headers say more (which programs run it), and to find that out they ask its server once more.
    """
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return {"user-agent": f"nextn/{__version__}"} | ({"authorization": f"Bearer {token}"} if token else {})


class HubRepo:
    """A model repository, pinned to a commit when it is opened."""

    def __init__(
        self, repo_id: str, revision: str | None, fetcher: Fetcher, root: Path, endpoint: str | None = None,
        remark: str = "",
    ) -> None:
        """`endpoint` None: HF_ENDPOINT. `remark` is added when there is no such repository."""
        from huggingface_hub import constants

        self.repo_id, self.remark, self.fetcher = repo_id, remark, fetcher
        # The environment as it is now; the library reads it once, when it is imported.
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        if not self.endpoint.startswith(("http://", "https://")):
            raise UsageError(f"HF_ENDPOINT: '{self.endpoint}' is not an address; write https://HOST, or unset it.")
        self._asked = revision or "main"
        self.root = root
        self._parts = ("hub", "models--" + repo_id.replace("/", "--"))
        self.listing = self._open()
        self.revision: str | None = self.listing.commit
        self.origin = f"hf:{repo_id}@{self.listing.commit}"
        self.folder = root.joinpath(*self._parts, self.listing.commit, repo_id.rpartition("/")[2])

    # -- commit and files ---------------------------------------------------------------------------------------------

    def _open(self) -> Listing:
        from huggingface_hub import is_offline_mode

        if COMMIT.fullmatch(self._asked) and (known := self._stored(self._asked)):
            return known
        if not is_offline_mode():
            return self._ask()
        commit = self._kept("refs", self._ref_name)
        if commit is not None and (known := self._stored(commit.decode("utf-8", "replace").strip())):
            return known
        if known := self._from_hub_cache():
            return known
        raise RemoteError(
            f"hf:{self.repo_id}: HF_HUB_OFFLINE is set, and nothing of '{self._asked}' is in the cache; unset it, or "
            "name a local file."
        )

    @property
    def _ref_name(self) -> str:
        return quote(self._asked, safe="")

    def _kept(self, folder: str, name: str) -> bytes | None:
        """A small file that `_keep` stored in our cache."""
        try:
            with private_folder(self.root, (*self._parts, folder)) as home:
                return None if home is None else home.read(name, _MAX_LISTING_BYTES)
        except OSError:
            return None

    def _keep(self, folder: str, name: str, data: bytes) -> None:
        try:
            with Folder.private(self.root, (*self._parts, folder), make=True) as home:
                home.write(name, data)
        except OSError as error:
            raise os_error(error, self.root.joinpath(*self._parts, folder, name), "write it") from error

    def _stored(self, commit: str) -> Listing | None:
        found = self._kept(commit, _LISTING) if COMMIT.fullmatch(commit) else None
        try:
            data = json.loads(found or b"")
            return Listing(commit, {str(name): HubFile(*entry) for name, entry in data["files"].items()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def _ask(self) -> Listing:
        """Commit, names, sizes and hashes, in one request."""
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise UsageError(f"'{self.repo_id}' is not a repository name on the Hub (ORG/NAME).") from error
        url = f"{self.endpoint}/api/models/{self.repo_id}/revision/{quote(self._asked, safe='')}?blobs=True"
        target = Target(url, f"hf:{self.repo_id}", headers=_headers(), refused=partial(self._refused, None))
        listing = read_listing(self.fetcher.small(target, _MAX_LISTING_BYTES), self.endpoint)
        table = {name: [file.size_bytes, file.sha256, file.blob_id] for name, file in listing.files.items()}
        self._keep(listing.commit, _LISTING, json.dumps({"version": 1, "files": table}).encode())
        if self._asked != listing.commit:
            self._keep("refs", self._ref_name, listing.commit.encode())
        return listing

    def _from_hub_cache(self) -> Listing | None:
        """What the user's Hub cache knows about the revision, for offline work."""
        from huggingface_hub import constants

        base = Path(constants.HF_HUB_CACHE) / self._parts[-1]
        commit = self._asked
        with contextlib.suppress(OSError):
            commit = (base / "refs" / self._asked).read_text().strip()
        snapshot = base / "snapshots" / commit
        if not COMMIT.fullmatch(commit) or not snapshot.is_dir():
            return None
        paths = [path for path in snapshot.rglob("*") if path.is_file()]
        return Listing(
            commit, {path.relative_to(snapshot).as_posix(): HubFile(path.stat().st_size, None, None) for path in paths}
        )

    # -- files --------------------------------------------------------------------------------------------------------

    def address(self, name: str) -> str:
        """hf:ORG/NAME@COMMIT:FILE."""
        return f"{self.origin}:{name}"

    def names(self) -> list[str]:
        """All files at the commit."""
        return sorted(self.listing.files)

    def sizes(self) -> dict[str, int]:
        """Sizes of all files at the commit, in bytes."""
        return {name: file.size_bytes for name, file in self.listing.files.items()}

    def target(self, name: str) -> Target | None:
        """Where to request a file."""
        from huggingface_hub import hf_hub_url

        file = self.listing.files.get(name)
        if file is None:
            return None
        return Target(
            url=hf_hub_url(self.repo_id, name, revision=self.listing.commit, endpoint=self.endpoint),
            label=f"{self.origin[: -len(self.listing.commit) + 8]}:{name}",
            size_bytes=file.size_bytes,
            etag=file.etag,
            headers=_headers(),
            is_hub=True,
            refused=partial(self._refused, name),
        )

    def local(self, name: str) -> Path | None:
        """The file in the user's Hub cache, if present at this commit and complete."""
        from huggingface_hub import try_to_load_from_cache

        with contextlib.suppress(OSError, ValueError):  # a name that the Hub's client rejects
            found = try_to_load_from_cache(self.repo_id, name, revision=self.listing.commit)
            if isinstance(found, str) and os.stat(found).st_size == self.listing.files[name].size_bytes:  # noqa: PTH116
                return Path(found)
        return None

    def check(self, name: str, path: Path) -> str | None:
        """Compare a complete file with the hash given by the Hub."""
        file = self.listing.files[name]
        want = file.sha256 or file.blob_id
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size_bytes)
        if want is None:
            return None
        with path.open("rb") as data:
            for chunk in iter(lambda: data.read(1 << 20), b""):
                digest.update(chunk)
        if digest.hexdigest() == want:
            return None
        kind = "sha256" if file.sha256 else "git hash"
        return f"its {kind} is {digest.hexdigest()[:12]}..., and the Hub says {want[:12]}..."

    def _refused(self, name: str | None, status: int, headers: Mapping[str, str]) -> NextnError:
        """A refusal by the Hub as one sentence that says what to do."""
        code, repo = headers.get("x-error-code", ""), f"hf:{self.repo_id}"
        if code == "GatedRepo":
            return Gated(
                f"{repo}: this repository is gated: accept its conditions at {self.endpoint}/{self.repo_id}, then log "
                "in with 'hf auth login' or set HF_TOKEN."
            )
        if code == "RevisionNotFound":
            return RemoteError(f"{repo}: there is no branch, tag or commit '{self._asked}' in this repository.")
        if code == "EntryNotFound" and name is not None:
            return NotThere(f"{repo}: there is no file '{name}' at {self._asked}.")
        if code == "RepoNotFound" or status in (401, 404):
            return NotThere(
                f"{repo}: there is no such model repository at {self.endpoint}, or it is private{self.remark}; check "
                "the name, or log in with 'hf auth login' or HF_TOKEN."
            )
        if status == 403:
            return RemoteError(f"{repo}: the Hub refuses access (403); check what your token is allowed to read.")
        why = headers.get("x-error-message") or f"it answers {status}"
        return RemoteError(f"{repo}: the Hub refuses: {' '.join(why.split()).rstrip('.')}.")


class WebFolder:
    """A folder of any HTTP server; its files are named by address, never listed."""

    revision: str | None = None

    def __init__(self, url: str, fetcher: Fetcher, root: Path) -> None:
        """`url` names a file or, with a trailing slash, the folder; a query belongs to that file only."""
        parts = urlsplit(url)
        self._folder_path, _, self.name = parts.path.rpartition("/")
        self._query, self._host = parts.query, parts.netloc.rpartition("@")[2]
        self._scheme, self.fetcher = parts.scheme, fetcher
        self.name = unquote(self.name)
        self.root = root
        self._headers: dict[str, str] = {}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers = {"authorization": "Basic " + base64.b64encode(user.encode()).decode()}
        self.origin = self.address(self.name)
        key = hashlib.sha256(self.address("").encode()).hexdigest()[:16]
        host = re.sub(r"[^\w.-]", "_", self._host)
        last = unquote(self._folder_path).rpartition("/")[2]
        self.folder = root / "http" / f"{host}--{key}" / (last if is_safe_name(last) else "files")
        self._found: dict[str, Target | None] = {}

    def address(self, name: str, query: str = "") -> str:
        """Without credentials."""
        return urlunsplit((self._scheme, self._host, f"{self._folder_path}/{quote(name)}", query, ""))

    def names(self) -> None:
        """None: plain servers have no listing."""
        return

    def sizes(self) -> dict[str, int]:
        """Sizes of the files requested so far, in bytes."""
        return {name: target.size_bytes for name, target in self._found.items() if target is not None}

    def target(self, name: str) -> Target | None:
        """Asks the server once; size and validator then stay fixed."""
        if name not in self._found:
            query = self._query if name == self.name else ""
            target = Target(self.address(name, query), self.address(name), headers=self._headers)
            try:
                probe = self.fetcher.probe(target)
            except NotThere:
                self._found[name] = None
                if name == self.name:
                    raise
            else:
                target.size_bytes, target.etag = probe.size_bytes, bare_etag(probe.etag)
                self._found[name] = target
        return self._found[name]

    def local(self, name: str) -> Path | None:
        """None: there is no other cache."""
        return None

    def check(self, name: str, path: Path) -> str | None:
        """None: plain servers give no hashes."""
        return None
