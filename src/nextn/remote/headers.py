"""What servers say in headers, read without trusting any of it: numbers, ranges, dates, addresses, failures."""

from __future__ import annotations

import email.utils
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urljoin, urlsplit

import httpx2
from huggingface_hub.errors import OfflineModeIsEnabled

from ..errors import NoConnection, RemoteError

MAX_FILE_BYTES = 1 << 50  # 1 PiB: no file is larger, and most file systems have a lower limit
MAX_WAIT_S = 1e9  # longer than any wait that is accepted
_NUMBER = re.compile(r"[0-9]{1,16}", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,16})-([0-9]{1,16})/([0-9]{1,16}|\*)", re.ASCII)
_LIMIT = re.compile(r"r\s*=\s*0\s*;\s*t\s*=\s*([0-9]{1,9})\b", re.ASCII)
# Failures that retrying cannot change (OpenSSL reasons).
_LASTING = frozenset({"WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE"})


def number(text: str | None) -> int | None:
    """A plain decimal number of bytes up to `MAX_FILE_BYTES`, or None for anything else."""
    if text is None or _NUMBER.fullmatch(text.strip()) is None:
        return None
    value = int(text)
    return value if value <= MAX_FILE_BYTES else None


def content_range(headers: Mapping[str, str]) -> tuple[int, int, int | None] | None:
    """Start, end (exclusive) and the whole file's size (None: `*`) of a Content-Range; None if it is not valid."""
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    if match is None:
        return None
    first, last, total = int(match[1]), int(match[2]) + 1, None if match[3] == "*" else int(match[3])
    return (first, last, total) if max(last, total or 0) <= MAX_FILE_BYTES else None


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host, port. Raises ValueError for an invalid address."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def redirected(url: str, location: str, label: str) -> str:
    """Where a redirect leads. Raises RemoteError for an invalid address, or one that is less safe than `url`."""
    try:
        there = urljoin(url, location)
        _, host, _ = origin_of(there)
        httpx2.URL(there)
        host.encode("idna")
        if not there.isascii() or not there.isprintable() or not host:
            raise ValueError(there)
    except (ValueError, httpx2.InvalidURL) as error:  # UnicodeError is a ValueError
        raise RemoteError(f"{label}: the server redirects to what is not an address; not followed.") from error
    if urlsplit(there).scheme not in ("http", "https") or (url.startswith("https:") and there[:6] != "https:"):
        raise RemoteError(f"{label}: the server redirects to an address that is not secure; not followed.")
    return there


def bare_etag(etag: str | None) -> str:
    """A validator without quotes and weakness prefix."""
    return (etag or "").strip().removeprefix("W/").strip('"')


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: Retry-After as a number or a date, or the Hub's `ratelimit` header."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), MAX_WAIT_S)
    if value:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError, OSError):
            return None
        return min(max(0.0, seconds), MAX_WAIT_S)
    limit = _LIMIT.search(headers.get("ratelimit", ""))
    return float(limit[1]) if limit else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def refused_certificate(error: Exception, label: str) -> RemoteError | None:
    """A connection failure that no retry would help, as one sentence; None for any other."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return RemoteError(
                f"{label}: the server's certificate is not accepted ({cause.verify_message.rstrip('.')}), so nothing "
                "was requested from it; if your own proxy signs, name its certificate with SSL_CERT_FILE."
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in _LASTING:
            return RemoteError(f"{label}: no secure connection to the server is possible ({cause.reason}).")
    return None


def no_contact(where: str, error: Exception | None, waited_s: float, label: str) -> NoConnection:
    """That no connection to the host `where` could be made, as one sentence; `error` None: it does not answer."""
    why, more = f"it does not answer within {waited_s:g} s", ", give a slow network more time with HF_HUB_ETAG_TIMEOUT"
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            why = "its name cannot be resolved"
        elif isinstance(cause, ConnectionRefusedError):
            why = "it refuses the connection"
        elif isinstance(cause, OSError) and cause.strerror:
            why = cause.strerror[0].lower() + cause.strerror[1:]
        else:
            continue
        more = ""
        break
    return NoConnection(
        f"{label}: no connection to {where} ({why}); check the network and proxy settings{more}, or name a local file."
    )


def explain_network(error: Exception, label: str) -> RemoteError:
    """A failure below the HTTP level as one sentence."""
    if isinstance(error, OfflineModeIsEnabled):
        return NoConnection(
            f"{label}: HF_HUB_OFFLINE is set, and the cache does not have everything that is needed; "
            "unset it, or name a local file."
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, httpx2.ProxyError):
        return RemoteError(f"{label}: {_refused_proxy(reason)}.")
    return RemoteError(f"{label}: {reason.rstrip('.')}.")


def _refused_proxy(reason: str) -> str:
    """What is wrong with the proxy, and what to do; its address may hold a password and is not repeated."""
    if reason.startswith("407"):
        return (
            "the proxy asks for a name and a password, or refuses those that it was given; write them as in "
            "HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT"
        )
    if reason == "socks":
        return (
            "the proxy settings (HTTPS_PROXY, ALL_PROXY) name a SOCKS proxy, which needs the package 'socksio' beside "
            "nextn (pipx inject nextn socksio); install it, or name an HTTP proxy"
        )
    if reason == "invalid":
        return "the proxy settings (HTTPS_PROXY, ALL_PROXY) hold no valid address; write http://HOST:PORT"
    return f"the proxy refuses ({reason.rstrip('.')}); check the proxy settings (HTTPS_PROXY, ALL_PROXY)"
