"""A file on a server, what the server says about it, and where its bytes go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import NextnError, RemoteError
from .headers import bare_etag


class NotThere(RemoteError):
    """There is no such file (404)."""


class Sink(Protocol):
    """Where a range is written."""

    pos: int  # next byte wanted

    def write(self, data: bytes) -> None:
        """Write bytes from `pos` on."""

    def commit(self) -> None:
        """Accept what was written."""

    def discard(self, to: int | None = None) -> None:
        """Reject what was written since the last commit; with `to`, continue from there."""


@dataclass
class Target:
    """A file on a server."""

    url: str  # where to request it
    label: str  # for display: without credentials and signatures
    size_bytes: int = -1  # -1: not known yet
    etag: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # sent to the origin of `url` only
    is_hub: bool = False  # whether the origin sends the Hub's headers
    refused: Callable[[int, Mapping[str, str]], NextnError | None] | None = None  # a status as a sentence
    signed: str | None = None  # where the last redirect led

    def check_hub(self, headers: Mapping[str, str]) -> None:
        """Raise RemoteError when the Hub responds with a file other than the one that was opened."""
        etag, size = headers.get("x-linked-etag"), headers.get("x-linked-size")
        if self.is_hub and (
            (etag and self.etag and bare_etag(etag) != self.etag) or (size and size != str(self.size_bytes))
        ):
            raise self.changed()

    def changed(self) -> RemoteError:
        """The error for a file that has changed since."""
        return RemoteError(
            f"{self.label}: the file changed on the server while it was read; nothing was written, run it again."
        )


@dataclass(frozen=True)
class Probe:
    """What a server says about a file."""

    size_bytes: int
    etag: str
