"""`SHA256SUMS`: hashes of complete files, each inode read once, in the format that `sha256sum -c` reads."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import oscalls
from ..errors import FormatError
from ..gguf.files import open_regular, os_error

NAME = "SHA256SUMS"
MOST_BYTES = 64 << 20
_CHUNK = 4 << 20
_LINE = re.compile(rb"(\\?)([0-9a-f]{64})  (.+)", re.DOTALL)
_ESCAPES = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}
_ESCAPED = re.compile(rb"\\[\\nr]")

Advance = Callable[[int], None]  # number of bytes just hashed


def file_sha256(path: Path, advance: Advance | None = None) -> str:
    """SHA-256 of the complete file, hex. Raises StorageError."""
    digest = hashlib.sha256()
    fd, _ = open_regular(path)
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    try:
        with open(fd, "rb", buffering=0) as file:  # noqa: PTH123 - the descriptor is already open
            while n := file.readinto(buffer):
                digest.update(view[:n])
                if advance is not None:
                    advance(n)
    except OSError as error:
        raise os_error(error, path, "read it") from error
    return digest.hexdigest()


def identity(path: Path) -> tuple[int, int]:
    """What all names of the same file share: device and inode. Raises StorageError."""
    try:
        found = os.stat(path)  # noqa: PTH116 - links are followed
    except OSError as error:
        raise os_error(error, path, "read it") from error
    return found.st_dev, found.st_ino


@dataclass
class Hasher:
    """Hashes files; one with several names is hashed once."""

    advance: Advance | None = None
    bytes_hashed: int = 0
    _known: dict[tuple[int, int], str] = field(default_factory=dict)

    def digest(self, path: Path) -> str:
        """The file's SHA-256, hex. Raises StorageError."""
        key = identity(path)
        if key not in self._known:
            self._known[key] = file_sha256(path, self._count)
        return self._known[key]

    def add_range(self, digest: hashlib._Hash, path: Path, start: int, end: int) -> None:
        """Add the bytes of a file from `start` to `end` to a digest. Raises StorageError, FormatError."""
        fd, _ = open_regular(path)
        try:
            while start < end:
                data = oscalls.pread(fd, min(_CHUNK, end - start), start)
                if not data:
                    raise FormatError("the file ends too early: it was changed while it was read", path=path)
                digest.update(data)
                start += len(data)
                self._count(len(data))
        except OSError as error:
            raise os_error(error, path, "read it") from error
        finally:
            os.close(fd)

    def _count(self, n: int) -> None:
        self.bytes_hashed += n
        if self.advance is not None:
            self.advance(n)


def unique_bytes(paths: Iterable[Path]) -> int:
    """Bytes read to hash these files."""
    return sum({identity(path): path.stat().st_size for path in paths}.values())


def encode(hashes: Mapping[str, str]) -> bytes:
    """The file's bytes; their number does not depend on the hashes. Names that need it are escaped as in coreutils."""
    return b"".join(_line(name, digest) for name, digest in sorted(hashes.items()))


def decode(data: bytes) -> dict[str, str]:
    """File name -> SHA-256, from what `encode` writes; other lines are ignored."""
    found = {}
    for line in data.split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is not None:
            name = _ESCAPED.sub(lambda part: _ESCAPES[part[0]], match[3]) if match[1] else match[3]
            found[os.fsdecode(name)] = match[2].decode()
    return found


def _line(name: str, digest: str) -> bytes:
    raw = os.fsencode(name)
    escaped = raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"\\" if escaped != raw else b""
    return mark + digest.encode() + b"  " + escaped + b"\n"
