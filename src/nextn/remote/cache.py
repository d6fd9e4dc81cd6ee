"""Parts of remote files kept on disk: sparse files, each with a note of which bytes are present (see `partial`).

A partially fetched file `NAME` is kept in the cache with its full size, holes where nothing was
fetched, and its note. Ranges from earlier runs are checked against their checksums before they are used, so neither a
killed run nor a power cut can leave bytes that pass for others. All of these files are in private folders (see
`workfile`), and none of them is used if it is a link or has another name.

Layout: `hub/models--ORG--NAME/COMMIT/NAME/...`, `http/HOST--HASH/...`, under `$NEXTN_CACHE`, or `nextn` in
`$XDG_CACHE_HOME`, or `~/.cache/nextn`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from .. import oscalls
from ..errors import NextnError, NoSpace
from ..gguf.files import os_error
from ..partial import MAX_NOTE_BYTES, Identity, Piece, Range, gaps, merged, note_name, read_note
from ..workfile import At, Folder, private_folder

PART_SUFFIX = ".nextn-part"
_BLOCK = 1 << 20

def cache_root() -> Path:
    """The folder that holds everything: `$NEXTN_CACHE`, or `nextn` in the user's cache folder."""
    own = os.environ.get("NEXTN_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nextn"


def in_own_cache(path: Path) -> bool:
    """Whether a path is in our cache: nothing is ever put beside it."""
    return path.absolute().is_relative_to(cache_root().absolute())


def _part_name(name: str) -> str:
    return f".{name}{PART_SUFFIX}"


def _failed(error: OSError, path: Path) -> NextnError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"{path}: the disk is full (or a quota is reached); free some room ('nextn cache --clear'), or set "
            "NEXTN_CACHE to a folder elsewhere."
        )
    return os_error(error, path, "write it")


class PartialFile:
    """A sparse local copy of a remote file, and the note of what is in it.

    It gets its name with `publish`, called once what readers look at first (a header, or all of it) has arrived.
    Threads may write different ranges concurrently. A shared lock on the note shows `clear` that it is in use.
    """

    def __init__(self, home: Folder, name: str, identity: Identity) -> None:
        """`name` in the open folder `home`, which outlives this object; data of another version is dropped.

        Raises StorageError, NoSpace, and NotOurs when one of its names is taken by something else.
        """
        self.path = home.path / name
        self.identity = identity
        self._home = home
        self._lock = threading.Lock()
        self._pieces: list[Piece] = []
        self._unchecked: set[Piece] = set()
        self._there: list[Range] = []
        self._name, self._part, self._note = name, _part_name(name), note_name(name)
        self._note_fd = -1
        try:
            while not self._open():
                pass
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise _failed(error, self.path) from error
            raise

    def _open(self) -> bool:
        """Whether it is open; False means try again."""
        self._note_fd = self._home.open_or_create(self._note, os.O_RDWR | os.O_APPEND)
        with contextlib.suppress(OSError):  # file systems without locks
            oscalls.lock(self._note_fd, shared=True, wait=True)
        found = os.fstat(self._note_fd)
        if found.st_nlink == 0:  # cleared between the two calls
            self.close()
            return False
        identity: Identity | None = None
        pieces: list[Piece] = []
        data = b""
        if found.st_size <= MAX_NOTE_BYTES:
            data = oscalls.pread(self._note_fd, found.st_size, 0)
            identity, pieces = read_note(data)
        stale = identity is not None and identity != self.identity
        lost = bool(pieces) and not any(map(self._home.is_file, (self._name, self._part)))
        linked = self._home.readlink(self._name) is not None  # to a copy elsewhere that is no longer complete
        if stale or lost or linked or found.st_size > MAX_NOTE_BYTES:
            self.close()
            for old in (self._name, self._part, self._note):
                self._home.unlink(old, missing_ok=True)
            return False
        if identity is None:
            body = json.dumps(asdict(self.identity)).encode()
            self._append(b"%b%b %08x\n" % (b"\n" if data else b"", body, zlib.crc32(body)))
        elif not data.endswith(b"\n"):
            self._append(b"\n")
        with self._data(make=True) as fd:
            if os.fstat(fd).st_size != self.identity.size_bytes:
                os.ftruncate(fd, self.identity.size_bytes)
        self._pieces, self._unchecked = pieces, set(pieces)
        self._there = merged((piece.start, piece.end) for piece in pieces)
        return True

    @contextlib.contextmanager
    def _data(self, *, make: bool = False) -> Iterator[int]:
        """A descriptor of the data, for one call: a set may have more shards than a process may have open files."""
        try:
            fd = self._home.open(self._name)
        except FileNotFoundError:  # not published yet, or just being so
            try:
                fd = self._home.open_or_create(self._part) if make else self._home.open(self._part)
            except FileNotFoundError:
                fd = self._home.open(self._name)
        try:
            yield fd
        finally:
            os.close(fd)

    def _append(self, data: bytes) -> None:
        if os.write(self._note_fd, data) != len(data):
            raise OSError(errno.ENOSPC, "the line was cut short")

    def missing(self, start: int, end: int) -> list[Range]:
        """The parts of the range that are missing. What earlier runs left in it is checked first, once."""
        with self._lock:
            bad = [piece for piece in self._unchecked if piece.start < end and piece.end > start]
            bad = [piece for piece in bad if not self._is_sound(piece)]
            if bad:
                self._pieces = [piece for piece in self._pieces if piece not in bad]
                self._there = merged((piece.start, piece.end) for piece in self._pieces)
                self._rewrite()
            return gaps(self._there, start, end)

    def _is_sound(self, piece: Piece) -> bool:
        self._unchecked.discard(piece)
        crc = 0
        for start in range(piece.start, piece.end, _BLOCK):
            crc = zlib.crc32(self.read(start, min(start + _BLOCK, piece.end)), crc)
        return crc == piece.crc

    def _rewrite(self) -> None:
        """Write the note again without the damaged pieces."""
        body = json.dumps(asdict(self.identity)).encode()
        try:
            os.ftruncate(self._note_fd, 0)
            self._append(b"%b %08x\n" % (body, zlib.crc32(body)))
            self._append("".join(piece.line() for piece in self._pieces).encode())
        except OSError as error:
            raise _failed(error, self._home.path / self._note) from error

    def read(self, start: int, end: int) -> bytes:
        """Bytes that `missing` reported as present."""
        try:
            with self._data() as fd:
                data = oscalls.pread(fd, end - start, start)
        except OSError as error:
            raise os_error(error, self.path, "read it") from error
        return data + bytes(end - start - len(data))  # shorter only if it was truncated: then no checksum matches

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes at their offset; they count only after `note`."""
        view = memoryview(data)
        try:
            with self._data() as fd:
                while view:
                    n = oscalls.pwrite(fd, view, offset)
                    view, offset = view[n:], offset + n
        except OSError as error:
            raise _failed(error, self.path) from error

    def note(self, start: int, end: int, crc: int) -> None:
        """Mark this range as present from now on."""
        piece = Piece(start, end, crc)
        try:
            with self._lock:
                self._append(piece.line().encode())
                self._pieces.append(piece)
                self._there = merged([*self._there, (start, end)])
        except OSError as error:
            raise _failed(error, self._home.path / self._note) from error

    def drop(self) -> None:
        """Forget all bytes: they are not what they should be."""
        with self._lock:
            self._pieces, self._there = [], []
            self._unchecked.clear()
            self._rewrite()

    @property
    def content_path(self) -> Path:
        """Where its bytes are now."""
        return self._home.path / (self._part if self._home.is_file(self._part) else self._name)

    def publish(self) -> None:
        """Give it its name. Raises StorageError."""
        try:
            with self._lock, contextlib.suppress(FileNotFoundError):
                os.close(self._home.open(self._part))
                self._home.rename(self._part, At(self._home, self._name))
        except OSError as error:
            raise os_error(error, self.path, "give it its name") from error

    def close(self) -> None:
        """Release it; other processes may now clear it."""
        fd, self._note_fd = self._note_fd, -1
        if fd >= 0:
            os.close(fd)


def bytes_left(root: Path, parts: Sequence[str], identity: Identity) -> int:
    """What is still to be fetched of the file `parts` below `root`, judged only by its note. Raises NotOurs."""
    known: Identity | None = None
    pieces: list[Piece] = []
    with contextlib.suppress(OSError), private_folder(root, parts[:-1]) as home:
        if home is not None:
            known, pieces = read_note(home.read(note_name(parts[-1]), MAX_NOTE_BYTES))
    if known != identity:
        return identity.size_bytes
    there = merged((piece.start, piece.end) for piece in pieces)
    return sum(end - start for start, end in gaps(there, 0, identity.size_bytes))


def remove_partial(home: Folder, name: str) -> None:
    """Remove a partial file, named or not, and its note, unless another run is using it. Raises OSError, NotOurs."""
    with contextlib.suppress(FileNotFoundError):
        fd = home.open(note_name(name))
        try:
            oscalls.lock(fd)
            for each in (name, _part_name(name), note_name(name)):
                home.unlink(each, missing_ok=True)
        except BlockingIOError:
            return
        finally:
            os.close(fd)
