"""Byte ranges over HTTP: requested, checked, retried; a wrong byte count never gets through.

All requests go through huggingface_hub's session, so that its settings (proxies, certificates, a client factory,
`HF_HUB_OFFLINE`) apply to every server. Redirects are followed here: credentials are sent to the origin (scheme, host
and port) that they were meant for and to no other, and a signed address is reused until it expires.

Sources: RFC 9110 (14.2 Range, 15.3.7 206, 15.5.17 416, 10.2.3 Retry-After).
"""

from __future__ import annotations

import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import httpx2
from huggingface_hub import constants, get_session
from huggingface_hub.errors import OfflineModeIsEnabled

from ..errors import RemoteError
from ..units import counted
from .attempts import Again, NoContact, Stopped, contact_limit
from .headers import (
    bare_etag,
    content_range,
    explain_network,
    no_contact,
    number,
    origin_of,
    redirected,
    refused_certificate,
    retry_after,
)
from .target import NotThere, Probe, Sink, Target
from .within import First, TooSlow, within

CHUNK_BYTES = 1 << 16
MAX_REDIRECTS = 10
PROGRESS_BYTES = 1 << 18  # this much progress between two failures resets the failure count
NOTE_BYTES = 1 << 20  # arrived bytes are noted at this interval
RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
EXPIRED_STATUS = frozenset({400, 401, 403, 404, 410})  # what storage answers for an expired signed address


@dataclass(frozen=True)
class Options:
    """How to transfer bytes."""

    n_streams: int = 4  # in parallel
    n_retries: int = 5  # consecutive failures without progress between them
    backoff_s: float = 0.5  # first wait; doubles
    max_wait_s: float = 120.0  # a longer Retry-After ends the run
    limit_rate: float | None = None  # bytes per second, all streams together
    timeout_s: float | None = None  # for one read; None: HF_HUB_DOWNLOAD_TIMEOUT
    contact_s: float | None = None  # for the first connection, name resolution included; None: see `contact_limit`
    head_s: float = 60.0  # for a response's complete head, even if bytes keep trickling in
    least_rate: float = 1000.0  # minimum bytes per second of a body,
    slow_s: float = 60.0  # measured over this many seconds


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


class Fetcher:
    """Requests with retries; one for all streams of a run."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.traffic = Traffic()
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._reached = False  # a connection was made: from then on failures are worth another attempt

    # -- waiting ------------------------------------------------------------------------------------------------------

    def _throttle(self, n: int) -> None:
        if self.options.limit_rate:
            with self._lock:
                now = time.monotonic()
                self._free_at = max(self._free_at, now) + n / self.options.limit_rate
                wait = self._free_at - now
            self.stop.wait(wait)

    def attempts(self, label: str, act: Callable[[], bool], pos: Callable[[], int] = lambda: 0) -> None:
        """Call `act` until it reports that it is done. Raises RemoteError when it fails too often without progress.

        Without a first contact there is no other attempt.
        """
        n_failed, mark = 0, pos()
        while True:
            if self.stop.is_set():
                raise Stopped
            try:
                if act():
                    return
                continue
            except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
                if (lasting := refused_certificate(error, label)) is not None:
                    raise lasting from error
                again = Again(" ".join(str(error).split()) or type(error).__name__)
            except NoContact as error:
                raise no_contact(error.where, error.error, error.waited_s, label) from error
            except TooSlow:
                again = Again("its response headers take too long")
            except (httpx2.HTTPError, httpx2.InvalidURL, OfflineModeIsEnabled, UnicodeError) as error:
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
                    f"{label}: given up after {counted(n_failed, 'attempt')}: {str(again).rstrip('.')}{later}; what "
                    "was downloaded is kept, so run it again later."
                ) from again
            self.stop.wait(wait)

    # -- one file -----------------------------------------------------------------------------------------------------

    def probe(self, target: Target) -> Probe:
        """Size and validator of a file, by requesting its first byte. Raises NotThere, RemoteError."""
        found: list[Probe] = []

        def act() -> bool:
            with self._send(target, "bytes=0-0") as response:
                self._check_status(target, response)
                size = number(response.headers.get("content-length")) if response.status_code == 200 else None
                if response.status_code == 206:
                    span = content_range(response.headers)
                    size = span[2] if span else None
                if size is None:
                    raise RemoteError(
                        f"{target.label}: the server does not state the file's size; download the file and name the "
                        "local copy."
                    )
                etag = bare_etag(response.headers.get("etag")) or response.headers.get("last-modified", "")
                found.append(Probe(size, etag))
                self.traffic.add(bytes_received=1 if response.status_code == 206 else 0)
                return True

        self.attempts(target.label, act)
        return found[0]

    def read(self, target: Target, start: int, end: int, sink: Sink) -> None:
        """Read bytes `start` to `end` into `sink`, all of them, or raise RemoteError."""

        def act() -> bool:
            whole = start == 0 and end == target.size_bytes and sink.pos == 0
            with self._send(target, None if whole else f"bytes={sink.pos}-{end - 1}") as response:
                self._check_status(target, response)
                self._body(target, response, start, end, sink)
            return sink.pos >= end

        sink.discard(start)
        self.attempts(target.label, act, lambda: sink.pos)

    def _send(self, target: Target, byte_range: str | None) -> _Stream:
        """The response to a GET after all redirects; to be closed."""
        url = target.signed or target.url
        for _ in range(MAX_REDIRECTS):
            headers = {"accept-encoding": "identity"}
            if origin_of(url) == origin_of(target.url):
                headers.update(target.headers)
            if byte_range is not None:
                headers["range"] = byte_range
            self.traffic.add(n_requests=1)
            timeout = self.options.timeout_s or constants.HF_HUB_DOWNLOAD_TIMEOUT
            head_s = max(self.options.head_s, timeout)
            response = self._answer(url, headers, timeout, head_s)
            if not response.has_redirect_location:
                if url != target.url and response.is_success:
                    target.signed = url
                return _Stream(response)
            response.close()
            target.check_hub(response.headers)
            url = redirected(url, response.headers["location"], target.label)
        raise RemoteError(f"{target.label}: the server redirects more than {MAX_REDIRECTS} times.")

    def _answer(self, url: str, headers: Mapping[str, str], timeout: float, head_s: float) -> httpx2.Response:
        """A response's head. Raises TooSlow, what httpx2 raises, and NoContact when nothing was ever reached."""
        try:
            session = get_session()
        except (ImportError, ValueError) as error:  # the proxy settings name one that cannot be used
            raise httpx2.ProxyError("socks" if isinstance(error, ImportError) else "invalid") from error
        limit_s = self.options.contact_s or contact_limit()
        first = None if self._reached else First(limit_s)
        where = origin_of(url)[1]

        def trace(event: str, info: Mapping[str, object]) -> None:
            nonlocal where
            if first is not None and event == "connection.connect_tcp.started":  # the server's name, or the proxy's
                first.began, where = True, str(info.get("host", where))
            elif first is not None and not event.startswith("connection.connect_tcp.failed"):
                self._reached = True
                first.finish()

        extensions = {} if first is None else {"trace": trace}
        request = session.build_request("GET", url, headers=headers, timeout=timeout, extensions=extensions)
        send = partial(session.send, request, stream=True, auth=None, follow_redirects=False)
        try:
            response = within(head_s, send, httpx2.Response.close, first)
        except (TooSlow, httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if first is None or first.done or not first.began:
                raise
            cause = None if isinstance(error, TooSlow | httpx2.ConnectTimeout) else error
            raise NoContact(where, cause, limit_s) from error
        self._reached = True
        return response

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
        """Where the body ends; it must begin at `sink.pos`, otherwise raises Again or RemoteError."""
        headers, length = response.headers, response.headers.get("content-length")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RemoteError(
                f"{target.label}: the server compresses what it sends, which does not work with byte ranges."
            )
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
            if length is not None and number(length) != target.size_bytes:
                raise target.changed()
            return end
        span = content_range(headers)
        if span is None:
            raise Again("the server does not say which bytes it sends")
        first, last, total = span
        if total not in (None, target.size_bytes):
            raise target.changed()
        if first != sink.pos or not first < last <= end:
            raise Again(f"the server sends bytes {first:,} to {last:,}, asked for {sink.pos:,} to {end:,}")
        if length is not None and number(length) != last - first:
            raise Again(f"the server announces another length than that of its range of {last - first:,} bytes")
        return last

    def _body(self, target: Target, response: httpx2.Response, start: int, end: int, sink: Sink) -> None:
        """Stream a checked body into the sink."""
        last = self._span(target, response, start, end, sink)
        announced = "content-length" in response.headers  # then the transport itself detects a wrong length
        mark, held = sink.pos, bytearray()

        def put() -> None:
            nonlocal mark
            data = bytes(held)
            held.clear()  # first: a write that fails must not be repeated at the end
            sink.write(data)
            if announced and sink.pos - mark >= NOTE_BYTES:
                sink.commit()
                mark = sink.pos

        try:
            for piece in self._pieces(response):
                if sink.pos + len(held) + len(piece) > last:
                    held.clear()
                    sink.discard()
                    raise Again("the server sends more bytes than it announced")
                held += piece
                if len(held) >= CHUNK_BYTES:
                    put()
                if self.stop.is_set():
                    raise Stopped
                self._throttle(len(piece))
        finally:
            if held:
                put()
            if announced:
                sink.commit()
        if sink.pos < last:
            sink.discard()
            raise Again(f"the body ends {last - sink.pos:,} bytes too early")
        sink.commit()

    def _pieces(self, response: httpx2.Response, *, counted: bool = True) -> Iterator[bytes]:
        """The body as it arrives; counted if it is a file's. Raises Again when it is slower than `least_rate`."""
        least = self.options.least_rate
        since, n_bytes, n_waited = time.monotonic(), 0, 0.0
        for piece in response.iter_raw():
            now = time.monotonic()
            n_bytes += len(piece)
            self.traffic.add(bytes_received=len(piece) if counted else 0)
            if now - since - n_waited > self.options.slow_s:
                if n_bytes < least * self.options.slow_s:
                    raise Again(f"the server sends fewer than {least:,.0f} bytes per second")
                since, n_bytes, n_waited = now, 0, 0.0
            before = time.monotonic()
            yield piece
            n_waited += time.monotonic() - before  # the reader's own time does not count as server slowness

    def small(self, target: Target, limit: int) -> bytes:
        """All of a small response, decompressed. Raises RemoteError when it has more than `limit` bytes."""
        found: list[bytes] = []

        def act() -> bool:
            with self._send(target, None) as response:
                status, headers = response.status_code, response.headers
                if status in RETRY_STATUS:
                    raise Again(f"the server answers {status}", retry_after(headers))
                if status != 200:
                    sentence = target.refused(status, headers) if target.refused is not None else None
                    raise sentence or RemoteError(f"{target.label}: the server answers {status}.")
                found.append(self._whole(target, response, limit))
            return True

        self.attempts(target.label, act)
        return found[0]

    def _whole(self, target: Target, response: httpx2.Response, limit: int) -> bytes:
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip", "deflate"):
            raise RemoteError(f"{target.label}: the server compresses its answer in a way that was not requested.")
        unpack = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
        out = bytearray()
        for piece in self._pieces(response, counted=False):  # a listing, not a file
            try:
                out += piece if unpack is None else unpack.decompress(piece, limit + 1 - len(out))
            except zlib.error as error:
                raise Again("the answer is damaged") from error
            if len(out) > limit:
                raise RemoteError(f"{target.label}: the server's answer has more than {limit:,} bytes; not read.")
        return bytes(out)


class _Stream:
    """A response as a context."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response

    def __enter__(self) -> httpx2.Response:
        return self.response

    def __exit__(self, *_: object) -> None:
        self.response.close()
