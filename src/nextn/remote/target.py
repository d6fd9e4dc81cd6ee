"""A file on a server, what a server says of it, and where its bytes go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import NextnError, RemoteError
from .headers import bare_etag


class NotThere(RemoteError):
    """There is no such file (404)."""


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
