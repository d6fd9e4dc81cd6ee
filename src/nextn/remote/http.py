"""Byte ranges over HTTP: asked for, checked, asked for again; a wrong byte count never gets through.

All requests go through huggingface_hub's session, so that its settings (proxies, certificates, a client factory,
`HF_HUB_OFFLINE`) hold for every server. Redirects are followed here: credentials are sent to the origin (scheme, host
and port) that they were meant for and to no other, and a signed address is used again until it expires.

Sources: RFC 9110 (14.2 Range, 15.3.7 206, 15.5.17 416, 10.2.3 Retry-After).
"""

from __future__ import annotations

import email.utils
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import httpx2
from huggingface_hub import constants, get_session
from huggingface_hub.errors import OfflineModeIsEnabled

from ..errors import NextnError, RemoteError

CHUNK_BYTES = 1 << 16
MAX_REDIRECTS = 10
PROGRESS_BYTES = 1 << 18  # so much between two failures, and the count of failures starts anew
NOTE_BYTES = 1 << 20  # so often arrived bytes are noted
RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
EXPIRED_STATUS = frozenset({400, 401, 403, 404, 410})  # what storage says of a signed address that is too old
_CONTENT_RANGE = re.compile(r"^bytes (\d+)-(\d+)/(\d+|\*)$")


class NotThere(RemoteError):
    """There is no such file (404)."""


@dataclass(frozen=True)
class Options:
    """How to move bytes."""

    n_streams: int = 4  # at once
    n_retries: int = 5  # failures in a row, without progress between them
    backoff_s: float = 0.5  # first wait; doubles
    max_wait_s: float = 120.0  # a Retry-After beyond it ends the run
    limit_rate: float | None = None  # bytes per second, all streams together
    timeout_s: float | None = None  # for one read; None: HF_HUB_DOWNLOAD_TIMEOUT


@dataclass
class Traffic:
    """What went over the wire."""

    n_requests: int = 0
    bytes_received: int = 0  # bodies
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, n_requests: int = 0, bytes_received: int = 0) -> None:
        """Count."""
        with self._lock:
            self.n_requests += n_requests
            self.bytes_received += bytes_received


class Sink(Protocol):
    """Where a range goes."""

    pos: int  # next byte wanted

    def write(self, data: bytes) -> None:
        """Bytes from `pos` on."""

    def commit(self) -> None:
        """What was written is good."""

    def discard(self, to: int | None = None) -> None:
        """What was written since the last commit is not; with `to`, go on from there."""


@dataclass
class Target:
    """A file on a server."""

    url: str  # where to ask
    label: str  # for people: without credentials and signatures
    size_bytes: int = -1  # -1: not known yet
    etag: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # sent to the origin of `url` only
    is_hub: bool = False  # whether the origin speaks the Hub's headers
    refused: Callable[[int, Mapping[str, str]], NextnError | None] | None = None  # a status as a sentence
    signed: str | None = None  # where the last redirect led

    def check_hub(self, headers: Mapping[str, str]) -> None:
        """Raise RemoteError when the Hub answers with another file than the one that was opened."""
        etag, size = headers.get("x-linked-etag"), headers.get("x-linked-size")
        if self.is_hub and (
            (etag and self.etag and bare_etag(etag) != self.etag) or (size and size != str(self.size_bytes))
        ):
            raise self.changed()

    def changed(self) -> RemoteError:
        """The file is another one now."""
        return RemoteError(
            f"{self.label}: the file changed on the server while it was read; nothing was written, run it again."
        )


@dataclass(frozen=True)
class Probe:
    """What a server says of a file."""

    size_bytes: int
    etag: str


class Again(Exception):
    """Worth another attempt, after `wait_s` if the server says so."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Stopped(Exception):
    """Another stream failed."""


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host, port."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def bare_etag(etag: str | None) -> str:
    """A validator without quotes and weakness."""
    return (etag or "").strip().removeprefix("W/").strip('"')


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: Retry-After as a number or a date, or the Hub's `ratelimit` header."""
    value = headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    if value:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except (TypeError, ValueError):
            return None
    limit = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("ratelimit", ""))
    return float(limit[1]) if limit else None


def explain_network(error: Exception, label: str) -> RemoteError:
    """A failure below HTTP as one sentence."""
    if isinstance(error, OfflineModeIsEnabled):
        return RemoteError(
            f"{label}: HF_HUB_OFFLINE is set, and the cache does not have all that is needed; "
            "unset it, or name a local file."
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    return RemoteError(f"{label}: {reason}.")


class Fetcher:
    """Requests with retries; one for all streams of a run."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.traffic = Traffic()
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._free_at = 0.0

    # -- waiting ------------------------------------------------------------------------------------------------------

    def _throttle(self, n: int) -> None:
        if self.options.limit_rate:
            with self._lock:
                now = time.monotonic()
                self._free_at = max(self._free_at, now) + n / self.options.limit_rate
                wait = self._free_at - now
            self.stop.wait(wait)

    def attempts(self, label: str, act: Callable[[], bool], pos: Callable[[], int] = lambda: 0) -> None:
        """Call `act` until it says that it is done. Raises RemoteError when it fails too often without progress."""
        n_failed, mark = 0, pos()
        while True:
            if self.stop.is_set():
                raise Stopped
            try:
                if act():
                    return
                continue
            except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
                again = Again(" ".join(str(error).split()) or type(error).__name__)
            except (httpx2.HTTPError, httpx2.InvalidURL, OfflineModeIsEnabled) as error:
                raise explain_network(error, label) from error
            except Again as error:
                again = error
            if pos() - mark >= PROGRESS_BYTES:
                n_failed = 0
            mark = pos()
            n_failed += 1
            wait = self.options.backoff_s * 2 ** (n_failed - 1) * random.uniform(0.75, 1.25)
            if again.wait_s is not None:
                wait = again.wait_s
            if n_failed > self.options.n_retries or wait > self.options.max_wait_s:
                later = f" (it asks to wait {wait:,.0f} s)" if wait > self.options.max_wait_s else ""
                raise RemoteError(
                    f"{label}: given up after {n_failed} attempt(s): {again}{later}; what has arrived is kept, "
                    "so run it again later."
                ) from again
            self.stop.wait(wait)

    # -- one file -----------------------------------------------------------------------------------------------------

    def probe(self, target: Target) -> Probe:
        """Size and validator of a file, by asking for its first byte. Raises NotThere, RemoteError."""
        found: list[Probe] = []

        def act() -> bool:
            with self._send(target, "bytes=0-0") as response:
                self._check_status(target, response)
                size = response.headers.get("content-length") if response.status_code == 200 else None
                if response.status_code == 206:
                    match = _CONTENT_RANGE.match(response.headers.get("content-range", "").strip())
                    size = match[3] if match else None
                if size is None or not size.isdigit():
                    raise RemoteError(
                        f"{target.label}: the server does not tell the file's size; download the file and name the "
                        "local copy."
                    )
                etag = bare_etag(response.headers.get("etag")) or response.headers.get("last-modified", "")
                found.append(Probe(int(size), etag))
                self.traffic.add(bytes_received=1 if response.status_code == 206 else 0)
                return True

        self.attempts(target.label, act)
        return found[0]

    def read(self, target: Target, start: int, end: int, sink: Sink) -> None:
        """Bytes `start` to `end` into `sink`, every one of them, or RemoteError."""

        def act() -> bool:
            whole = start == 0 and end == target.size_bytes and sink.pos == 0
            with self._send(target, None if whole else f"bytes={sink.pos}-{end - 1}") as response:
                self._check_status(target, response)
                self._body(target, response, start, end, sink)
            return sink.pos >= end

        sink.discard(start)
        self.attempts(target.label, act, lambda: sink.pos)

    def _send(self, target: Target, byte_range: str | None) -> _Stream:
        """The answer to a GET behind all redirects; to be closed."""
        url = target.signed or target.url
        for _ in range(MAX_REDIRECTS):
            headers = {"accept-encoding": "identity"}
            if origin_of(url) == origin_of(target.url):
                headers.update(target.headers)
            if byte_range is not None:
                headers["range"] = byte_range
            self.traffic.add(n_requests=1)
            timeout = self.options.timeout_s or constants.HF_HUB_DOWNLOAD_TIMEOUT
            session = get_session()
            request = session.build_request("GET", url, headers=headers, timeout=timeout)
            response = session.send(request, stream=True, auth=None, follow_redirects=False)
            if not response.has_redirect_location:
                if url != target.url and response.is_success:
                    target.signed = url
                return _Stream(response)
            response.close()
            target.check_hub(response.headers)
            there = urljoin(url, response.headers["location"])
            if urlsplit(there).scheme not in ("http", "https") or (url.startswith("https:") and there[:6] != "https:"):
                raise RemoteError(f"{target.label}: the server redirects to an address that is not safe; not followed.")
            url = there
        raise RemoteError(f"{target.label}: the server redirects more than {MAX_REDIRECTS} times.")

    def _check_status(self, target: Target, response: httpx2.Response) -> None:
        """Raises Again or RemoteError for everything but 200 and 206."""
        status = response.status_code
        if status in (200, 206):
            return
        redirected = str(response.request.url) != str(httpx2.URL(target.url))
        if redirected and status in EXPIRED_STATUS:
            was_good, target.signed = target.signed is not None, None
            raise Again(
                f"the storage host refuses the address that the server gave ({status})", 0.0 if was_good else None
            )
        if status in RETRY_STATUS:
            raise Again(f"the server answers {status}", retry_after(response.headers))
        if status == 416:
            raise target.changed()
        sentence = target.refused(status, response.headers) if target.refused is not None else None
        if sentence is not None:
            raise sentence
        if status in (404, 410):
            raise NotThere(f"{target.label}: there is no such file on the server ({status}).")
        if status in (401, 403):
            raise RemoteError(
                f"{target.label}: the server refuses access ({status}); if the address is signed it may have expired, "
                "so get a new one."
            )
        raise RemoteError(f"{target.label}: the server answers {status} {response.reason_phrase}.".replace(" .", "."))

    def _span(self, target: Target, response: httpx2.Response, start: int, end: int, sink: Sink) -> int:
        """Where the body ends; the body begins at `sink.pos`. Raises Again or RemoteError when it does not."""
        headers, length = response.headers, response.headers.get("content-length")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RemoteError(f"{target.label}: the server compresses what it sends, which ranges cannot bear.")
        etag = bare_etag(headers.get("etag")) or headers.get("last-modified", "")
        if not target.is_hub and target.etag and etag and etag != target.etag:
            raise target.changed()
        if response.status_code == 200:
            if start != 0 or end != target.size_bytes:
                raise RemoteError(
                    f"{target.label}: the server sends whole files only (it answers 200 to a byte range); download the "
                    "file and name the local copy."
                )
            sink.discard(0)
            if length is not None and int(length) != target.size_bytes:
                raise target.changed()
            return end
        match = _CONTENT_RANGE.match(headers.get("content-range", "").strip())
        if match is None:
            raise Again("the server does not say which bytes it sends")
        first, last, total = int(match[1]), int(match[2]) + 1, match[3]
        if total not in ("*", str(target.size_bytes)):
            raise target.changed()
        if first != sink.pos or not first < last <= end:
            raise Again(f"the server sends bytes {first:,} to {last:,}, asked for {sink.pos:,} to {end:,}")
        if length is not None and int(length) != last - first:
            raise Again(f"the server announces {int(length):,} bytes for a range of {last - first:,}")
        return last

    def _body(self, target: Target, response: httpx2.Response, start: int, end: int, sink: Sink) -> None:
        """Stream a checked body into the sink."""
        last = self._span(target, response, start, end, sink)
        announced = "content-length" in response.headers  # then the transport itself finds a body too short or long
        mark = sink.pos
        try:
            for chunk in response.iter_raw(CHUNK_BYTES):
                self.traffic.add(bytes_received=len(chunk))
                if sink.pos + len(chunk) > last:
                    sink.discard()
                    raise Again("the server sends more bytes than it said")
                sink.write(chunk)
                if announced and sink.pos - mark >= NOTE_BYTES:
                    sink.commit()
                    mark = sink.pos
                if self.stop.is_set():
                    raise Stopped
                self._throttle(len(chunk))
        finally:
            if announced:
                sink.commit()
        if sink.pos < last:
            sink.discard()
            raise Again(f"the body ends {last - sink.pos:,} bytes too early")
        sink.commit()


class _Stream:
    """A response as a context."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response

    def __enter__(self) -> httpx2.Response:
        return self.response

    def __exit__(self, *_: object) -> None:
        self.response.close()
