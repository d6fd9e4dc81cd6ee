"""A local server that speaks the Hub's HTTP well enough for the real client, with faults to switch on.

Two listeners on 127.0.0.1: the Hub (model info, tree, resolve), and the host that its redirects lead to ("CDN"),
which knows signed addresses and byte ranges. Any path under `/plain/` of the second is a plain web server. Every
request is recorded with the bytes that were sent in answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_BYTES = 10_000  # larger files, and all weights, are kept in LFS
LFS_SUFFIXES = (".gguf", ".safetensors")


@dataclass(frozen=True)
class Blob:
    """A file's content."""

    data: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_id


@dataclass
class Repo:
    """A model repository: commits and names for them."""

    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None  # without it the repository does not seem to exist
    gated_for: str | None = None  # without this token files are refused, while model info is open

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        blobs = {
            name: Blob(data, len(data) > LFS_BYTES or name.endswith(LFS_SUFFIXES)) for name, data in files.items()
        }
        text = json.dumps({name: blob.etag for name, blob in blobs.items()}, sort_keys=True)
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = blobs
        self.refs[ref] = sha
        return sha

    def find(self, revision: str) -> str | None:
        sha = self.refs.get(revision, revision)
        return sha if sha in self.commits else None


@dataclass
class Fault:
    """Something that goes wrong in answers whose path matches, a number of times.

    Kinds: "status" (`status`, `headers`), "whole" (200 and everything), "drop" (after `after` bytes), "short" and
    "long" (a chunked body of the wrong length), "length" (Content-Length and body agree, the range does not),
    "range" (Content-Range of other bytes), "total" (another file size), "no-range" (206 without Content-Range),
    "part" (half of the range, rightly announced), "corrupt" (a byte is wrong), "etag" (another validator), "slow"
    (`after` seconds), "gzip" (says that it is compressed), "html" (200 and a page), "redirect" (to `headers`'
    location), "answer" (`status`, `headers` and `body`, whatever was asked for), "header" (the right body under
    `headers`), "drip" (the body, a byte every `after` seconds), "drip-head" (a head like that).
    """

    kind: str
    path: str = ""  # regular expression searched in host/path: "hub/api/...", "hub/ORG/...", "cdn/...", "cdn/plain/..."
    times: int = 1
    skip: int = 0  # requests that match and go well before
    after: float = 0
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Seen:
    """A request, and what was sent."""

    host: str  # "hub" or "cdn"
    method: str
    path: str
    query: str
    headers: dict[str, str]
    status: int
    n_bytes: int  # of the body


class HubServer:
    """Use it as a context manager; `endpoint` is what HF_ENDPOINT should be."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.plain: dict[str, bytes] = {}  # path behind /plain/ -> content
        self.plain_etag = True
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.signed_after = 0  # signatures up to this number have expired
        self._n_signed = 0
        self._lock = threading.Lock()
        self._quiet = threading.Condition()
        self._n_busy = 0
        self.most_at_once = 0  # requests in work at one time
        self._hosts = {name: self._listen(name) for name in ("hub", "cdn")}

    def _listen(self, name: str) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self, "host": name})
        server = _Quiet(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    def __enter__(self) -> HubServer:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._hosts.values():
            server.shutdown()
            server.server_close()

    def address(self, host: str) -> str:
        return f"http://127.0.0.1:{self._hosts[host].server_address[1]}"

    @property
    def endpoint(self) -> str:
        return self.address("hub")

    def repo(self, repo_id: str) -> Repo:
        return self.repos.setdefault(repo_id, Repo())

    def add_folder(self, repo_id: str, folder: Path, ref: str = "main") -> str:
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        return self.repo(repo_id).commit({name: path.read_bytes() for name, path in sorted(files.items())}, ref)

    def serve_plain(self, name: str, data: bytes) -> str:
        self.plain[name] = data
        return f"{self.address('cdn')}/plain/{name}"

    # -- what tests ask ------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget requests and faults."""
        self.requests()
        with self._lock:
            self.seen.clear()
            self.faults.clear()

    def requests(self, pattern: str = "") -> list[Seen]:
        """Requests so far, in the order in which they were done with; those under way are waited for."""
        with self._quiet:
            self._quiet.wait_for(lambda: self._n_busy == 0, timeout=2)
        with self._lock:
            return [seen for seen in self.seen if re.search(pattern, f"{seen.host}{seen.path}")]

    def file_bytes(self) -> int:
        """Bytes of file contents that were sent, whatever came of them."""
        return sum(seen.n_bytes for seen in self.requests(r"^cdn/|^hub/.*/resolve/") if seen.status in (200, 206))

    def expire_signatures(self) -> None:
        with self._lock:
            self.signed_after = self._n_signed

    # -- what the handler asks -----------------------------------------------------------------------------------------

    def sign(self) -> int:
        with self._lock:
            self._n_signed += 1
            return self._n_signed

    def fault(self, host: str, path: str, method: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if method == "GET" and fault.times > 0 and re.search(fault.path, f"{host}{path}"):
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        with self._quiet:
            self._n_busy += 1
            self.most_at_once = max(self.most_at_once, self._n_busy)
        try:
            yield
        finally:
            with self._quiet:
                self._n_busy -= 1
                self._quiet.notify_all()

    def note(self, seen: Seen) -> None:
        with self._lock:
            self.seen.append(seen)


class _Quiet(ThreadingHTTPServer):
    """A server that says nothing of clients that hang up."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    host: str

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        with self.hub.busy():
            self._answer()

    def do_GET(self) -> None:
        with self.hub.busy():
            self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        self.route, self.query, self.n_bytes, self.sent = unquote(parts.path), parts.query, 0, 0
        fault = self.hub.fault(self.host, self.route, self.command)
        with contextlib.suppress(ConnectionError, TimeoutError):
            if fault is not None and fault.kind == "slow":
                time.sleep(fault.after)
                fault = None
            if fault is not None and fault.kind == "status":
                self._text(fault.status, "sent on purpose", fault.headers)
            elif fault is not None and fault.kind == "redirect":
                self._text(302, "", fault.headers)
            elif fault is not None and fault.kind == "answer":
                self._head(fault.status, {**fault.headers, "Content-Length": str(len(fault.body))})
                self.wfile.write(fault.body)
            elif fault is not None and fault.kind == "drip-head":
                for byte in b"HTTP/1.1 206 Partial Content\r\n" + b"X-Y: z\r\n" * 1000:
                    self.wfile.write(bytes([byte]))
                    time.sleep(fault.after)
            elif fault is not None and fault.kind == "html":
                self._text(200, "<!doctype html><title>log in to this network</title>", {"Content-Type": "text/html"})
            elif self.host == "hub":
                self._hub(fault)
            else:
                self._cdn(fault)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.note(Seen(self.host, self.command, self.route, self.query, headers, self.sent, self.n_bytes))

    # -- Hub -----------------------------------------------------------------------------------------------------------

    def _refuse(self, status: int, code: str, text: str) -> None:
        self._text(status, json.dumps({"error": text}), {"X-Error-Code": code, "X-Error-Message": text})

    @property
    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _repo(self, repo_id: str) -> Repo | None:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.token is not None and self._token != repo.token):
            self._refuse(404 if self._token else 401, "RepoNotFound", "Repository not found")
            return None
        return repo

    def _hub(self, fault: Fault | None) -> None:
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/(.+?))?/?", self.route):
            self._api(match[1], match[2] or "revision", match[3] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.route):
            self._resolve(match[1], match[2], match[3], fault)
        else:
            self._text(404, "not found")

    def _api(self, repo_id: str, what: str, rest: str) -> None:
        repo = self._repo(repo_id)
        if repo is None:
            return
        revision, _, folder = rest.partition("/") if what == "tree" else (rest, "", "")
        sha = repo.find(revision)
        if sha is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = repo.commits[sha]
        if what == "tree":
            inside = {name: blob for name, blob in files.items() if name.startswith(f"{folder}/" if folder else "")}
            self._json([self._entry(name, blob) for name, blob in sorted(inside.items())])
            return
        blobs = parse_qs(self.query).get("blobs") in (["true"], ["True"])
        siblings = []
        for name, blob in sorted(files.items()):
            sibling: dict[str, Any] = {"rfilename": name}
            if blobs:
                sibling |= {"size": len(blob.data), "blobId": blob.git_id}
                if blob.is_lfs:
                    sibling["lfs"] = {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": 134}
            siblings.append(sibling)
        gated = "manual" if repo.gated_for else False
        self._json({"_id": "0" * 24, "id": repo_id, "modelId": repo_id, "sha": sha, "private": bool(repo.token),
                    "gated": gated, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})  # fmt: skip

    def _entry(self, name: str, blob: Blob) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "oid": blob.git_id, "size": len(blob.data), "path": name}
        if blob.is_lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 134}
        return entry

    def _resolve(self, repo_id: str, revision: str, name: str, fault: Fault | None) -> None:
        repo = self._repo(repo_id)
        if repo is None:
            return
        sha = repo.find(revision)
        if sha is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        if repo.gated_for is not None and self._token != repo.gated_for:
            status = 403 if self._token else 401
            self._refuse(status, "GatedRepo", "Access to this model is restricted.")
            return
        blob = repo.commits[sha].get(name)
        if blob is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if not blob.is_lfs:
            self._content(blob.data, blob.etag, fault, headers)
            return
        etag = "0" * 64 if fault is not None and fault.kind == "etag" else blob.etag
        there = f"{self.hub.address('cdn')}/blob/{blob.sha256}?sig={self.hub.sign()}"
        headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(blob.data)), "Location": there}
        self._text(302, "Found. Redirecting", headers)

    # -- CDN and plain web ---------------------------------------------------------------------------------------------

    def _cdn(self, fault: Fault | None) -> None:
        if self.route.startswith("/plain/"):
            data = self.hub.plain.get(self.route.removeprefix("/plain/"))
            if data is None:
                self._text(404, "not found")
            else:
                etag = hashlib.md5(data).hexdigest() if self.hub.plain_etag else None
                self._content(data, etag, fault, {})
            return
        signature = int(parse_qs(self.query).get("sig", ["0"])[0])
        if signature <= self.hub.signed_after:
            self._text(403, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
            return
        name = self.route.removeprefix("/blob/")
        for repo in self.hub.repos.values():
            for files in repo.commits.values():
                for blob in files.values():
                    if blob.is_lfs and blob.sha256 == name:
                        self._content(blob.data, hashlib.md5(blob.data).hexdigest(), fault, {})
                        return
        self._text(404, "not found")

    def _content(self, data: bytes, etag: str | None, fault: Fault | None, headers: dict[str, str]) -> None:
        kind = fault.kind if fault is not None else ""
        if etag is not None:
            headers["ETag"] = '"changed"' if kind == "etag" else f'"{etag}"'
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end, status = 0, len(data), 200
        if match and kind != "whole":
            start, end = int(match[1]), min(int(match[2]) + 1 if match[2] else len(data), len(data))
            status = 206
            if start >= len(data):
                self._text(416, "", {"Content-Range": f"bytes */{len(data)}"})
                return
            if kind == "part" and end - start > 1:
                end = start + (end - start) // 2
            shift = 1 if kind == "range" else 0
            total = len(data) + 1 if kind == "total" else len(data)
            headers["Content-Range"] = f"bytes {start + shift}-{end - 1 + shift}/{total}"
            if kind == "no-range":
                del headers["Content-Range"]
        if kind == "header" and fault is not None:
            headers |= fault.headers
        body = memoryview(data)[start:end]
        if kind == "corrupt":
            body = memoryview(bytes([body[0] ^ 255]) + bytes(body[1:]))
        if kind == "gzip":
            headers["Content-Encoding"] = "gzip"
        if kind in ("short", "long"):
            self._chunked(status, bytes(body[: len(body) // 2]) if kind == "short" else bytes(body) + b"more", headers)
            return
        if kind == "length":
            body = body[: len(body) // 2]
        self._head(status, {**headers, "Content-Length": str(len(body))})
        if self.command == "HEAD":
            return
        if kind == "drop" and fault is not None:
            body = body[: int(fault.after)]
            self.close_connection = True
        step = 1 if kind == "drip" else 1 << 16
        for low in range(0, len(body), step):
            self.wfile.write(body[low : low + step])
            if kind == "drip" and fault is not None:
                time.sleep(fault.after)
                self.n_bytes += 1
                continue
            self.n_bytes += len(body[low : low + (1 << 16)])

    def _chunked(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, {**headers, "Transfer-Encoding": "chunked"})
        for low in range(0, len(body), 1 << 16):
            piece = body[low : low + (1 << 16)]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.n_bytes += len(piece)
        self.wfile.write(b"0\r\n\r\n")

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.sent = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _text(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        self._head(status, {"Content-Type": "text/plain", **(headers or {}), "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any) -> None:
        self._text(200, json.dumps(value), {"Content-Type": "application/json"})


@contextlib.contextmanager
def running() -> Iterator[HubServer]:
    """A server for the length of a test."""
    with HubServer() as server:
        yield server
