"""Parts of remote files kept on disk: sparse files, and a note beside each of which bytes are there.

A file `NAME` of which only some bytes were fetched lies in the cache with its full size, holes where nothing was
fetched, and a note `.NAME.nextn-extents`: one line that says what remote file it is (origin, size, validator), then
one line per range with the checksum of its bytes. A range counts as there only when its line is whole; ranges from
earlier runs are checked against their checksums before they are used, so neither a killed run nor a power cut can
leave bytes that pass for others. `guard_of` refuses every read that touches a hole. All of these files lie in private
folders (see `workfile`), and none of them is taken when it is a link or has another name.

Layout: `hub/models--ORG--NAME/COMMIT/NAME/...`, `http/HOST--HASH/...`, under `$NEXTN_CACHE`, or `nextn` in
`$XDG_CACHE_HOME`, or `~/.cache/nextn`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import NextnError, NoSpace, StorageError
from ..gguf.files import os_error
from ..workfile import At, Folder, private_folder, read_beside

NOTE_SUFFIX = ".nextn-extents"
PART_SUFFIX = ".nextn-part"
MAX_NOTE_BYTES = 256 << 20  # of the note of one file: a line of 45 bytes per MiB, so 5 TiB
_BLOCK = 1 << 20

Range = tuple[int, int]  # start, end (exclusive)


def cache_root() -> Path:
    """The folder that holds everything: `$NEXTN_CACHE`, or `nextn` in the user's cache folder."""
    own = os.environ.get("NEXTN_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nextn"


def in_own_cache(path: Path) -> bool:
    """Whether a path lies in our cache: nothing is ever put beside it."""
    return path.absolute().is_relative_to(cache_root().absolute())


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Sorted, disjoint ranges; those that touch become one."""
    out: list[Range] = []
    for start, end in sorted(ranges):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        elif end > start:
            out.append((start, end))
    return out


def gaps(there: list[Range], start: int, end: int) -> list[Range]:
    """What of `start, end` the merged ranges `there` do not cover."""
    out: list[Range] = []
    at = max(0, bisect_right(there, (start, start)) - 1)
    for low, high in there[at:]:
        if low >= end:
            break
        if low > start:
            out.append((start, low))
        start = max(start, high)
    if start < end:
        out.append((start, end))
    return out


@dataclass(frozen=True)
class Identity:
    """What tells a version of a remote file from every other: bytes of another identity are never used."""

    origin: str  # hf:ORG/NAME@COMMIT:FILE, or an address without its query
    size_bytes: int
    etag: str  # the server's validator; may be empty


@dataclass(frozen=True)
class Piece:
    """A range that is there."""

    start: int
    end: int
    crc: int  # crc32 of its bytes

    def line(self) -> str:
        """Its line in the note, closed by a checksum of the line itself."""
        text = f"{self.start} {self.end} {self.crc:08x}"
        return f"{text} {zlib.crc32(text.encode()):08x}\n"


def _failed(error: OSError, path: Path) -> NextnError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"{path}: the disk is full (or a quota is reached); free some room ('nextn cache --clear'), or set "
            "NEXTN_CACHE to a folder elsewhere."
        )
    return os_error(error, path, "write it")


def _note_name(name: str) -> str:
    return f".{name}{NOTE_SUFFIX}"


def _part_name(name: str) -> str:
    return f".{name}{PART_SUFFIX}"


def note_of(path: Path) -> Path:
    """Where the note of a partial file lies."""
    return path.with_name(_note_name(path.name))


def read_note(data: bytes) -> tuple[Identity | None, list[Piece]]:
    """Identity and whole lines; torn lines are skipped."""
    identity: Identity | None = None
    pieces: list[Piece] = []
    for line in data.split(b"\n"):
        body, _, check = line.rpartition(b" ")
        with contextlib.suppress(ValueError, TypeError):
            if not body or int(check, 16) != zlib.crc32(body):
                continue
            if identity is None:
                identity = Identity(**json.loads(body))
            else:
                start, end, crc = body.split()
                pieces.append(Piece(int(start), int(end), int(crc, 16)))
    return identity, pieces


# Partial files that this process can fill: real path -> have this range there.
_fillers: dict[Path, Callable[[int, int], None]] = {}


@dataclass
class Guard:
    """Keeps holes from being read as zeros: fetches them while the source is open, refuses them otherwise."""

    path: Path
    _there: list[Range] = field(default_factory=list)

    def check(self, start: int, end: int) -> None:
        """Have the range there. Raises StorageError when a byte of it is a hole, RemoteError when it does not come."""
        if not gaps(self._there, start, end):
            return
        if fill := _fillers.get(self.path):
            fill(start, end)
        try:
            _, pieces = read_note(read_beside(note_of(self.path), MAX_NOTE_BYTES))
        except OSError as error:
            raise os_error(error, note_of(self.path), "read it") from error
        self._there = merged((piece.start, piece.end) for piece in pieces)
        if holes := gaps(self._there, start, end):
            raise StorageError(
                f"{self.path}: bytes {holes[0][0]:,} to {holes[0][1]:,} were never fetched: this is a part of a remote "
                "file that nextn keeps for itself; name the remote file, or a whole copy of it."
            )


def guard_of(path: Path) -> Guard | None:
    """The guard of a partial file (links are followed), or None for any other file."""
    real = path.resolve()
    return Guard(real) if _has_note(real) else None


def _has_note(real: Path) -> bool:
    return os.path.lexists(note_of(real))


def refuse_partial(path: Path) -> None:
    """Raise StorageError when `path` is a partial file: for verbs that link a file or give it to an engine."""
    real = path.resolve()
    if _has_note(real):
        try:
            _, pieces = read_note(read_beside(note_of(real), MAX_NOTE_BYTES))
        except OSError as error:
            raise os_error(error, note_of(real), "read it") from error
        if gaps(merged((piece.start, piece.end) for piece in pieces), 0, real.stat().st_size):
            raise StorageError(
                f"{path}: this holds only parts of a remote file, which nextn keeps for itself; name a whole "
                "copy of it."
            )


def fill_with(path: Path, fill: Callable[[int, int], None] | None) -> None:
    """From now on holes of this partial file are filled by `fill`; None ends that."""
    if fill is None:
        _fillers.pop(path.resolve(), None)
    else:
        _fillers[path.resolve()] = fill


class PartialFile:
    """A sparse local copy of a remote file, and the note of what is in it.

    It gets its name with `publish`, called once what readers look at first (a header, or all of it) is there.
    Threads may write different ranges at once. A shared lock on the note tells `clear` that it is in use.
    """

    def __init__(self, home: Folder, name: str, identity: Identity) -> None:
        """`name` in the open folder `home`, which outlives this; what belongs to another version is dropped.

        Raises StorageError, NoSpace, and NotOurs when one of its names is taken by something else.
        """
        self.path = home.path / name
        self.identity = identity
        self._home = home
        self._lock = threading.Lock()
        self._pieces: list[Piece] = []
        self._unchecked: set[Piece] = set()
        self._there: list[Range] = []
        self._name, self._part, self._note = name, _part_name(name), _note_name(name)
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
        """Whether it is open; False asks for another go."""
        self._note_fd = self._home.open_or_create(self._note, os.O_RDWR | os.O_APPEND)
        with contextlib.suppress(OSError):  # file systems without locks
            fcntl.flock(self._note_fd, fcntl.LOCK_SH)
        found = os.fstat(self._note_fd)
        if found.st_nlink == 0:  # cleared between the two calls
            self.close()
            return False
        identity: Identity | None = None
        pieces: list[Piece] = []
        data = b""
        if found.st_size <= MAX_NOTE_BYTES:
            data = os.pread(self._note_fd, found.st_size, 0)
            identity, pieces = read_note(data)
        stale = identity is not None and identity != self.identity
        lost = bool(pieces) and not any(map(self._home.is_file, (self._name, self._part)))
        linked = self._home.readlink(self._name) is not None  # to a copy elsewhere that is no longer whole
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
        """What of the range is not there. What earlier runs left in it is checked first, once."""
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
        """The note without the pieces that are damaged."""
        body = json.dumps(asdict(self.identity)).encode()
        try:
            os.ftruncate(self._note_fd, 0)
            self._append(b"%b %08x\n" % (body, zlib.crc32(body)))
            self._append("".join(piece.line() for piece in self._pieces).encode())
        except OSError as error:
            raise _failed(error, self._home.path / self._note) from error

    def read(self, start: int, end: int) -> bytes:
        """Bytes that `missing` said are there."""
        try:
            with self._data() as fd:
                data = os.pread(fd, end - start, start)
        except OSError as error:
            raise os_error(error, self.path, "read it") from error
        return data + bytes(end - start - len(data))  # shorter only when something cut it: then no checksum fits

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes in their place; they count only after `note`."""
        view = memoryview(data)
        try:
            with self._data() as fd:
                while view:
                    n = os.pwrite(fd, view, offset)
                    view, offset = view[n:], offset + n
        except OSError as error:
            raise _failed(error, self.path) from error

    def note(self, start: int, end: int, crc: int) -> None:
        """From now on this range is there."""
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
        """Where its bytes lie now."""
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
        """Let go of it; other processes may clear it now."""
        fd, self._note_fd = self._note_fd, -1
        if fd >= 0:
            os.close(fd)


def bytes_left(root: Path, parts: Sequence[str], identity: Identity) -> int:
    """What of the file `parts` below `root` is still to be fetched, by its note alone. Raises NotOurs."""
    known: Identity | None = None
    pieces: list[Piece] = []
    with contextlib.suppress(OSError), private_folder(root, parts[:-1]) as home:
        if home is not None:
            known, pieces = read_note(home.read(_note_name(parts[-1]), MAX_NOTE_BYTES))
    if known != identity:
        return identity.size_bytes
    there = merged((piece.start, piece.end) for piece in pieces)
    return sum(end - start for start, end in gaps(there, 0, identity.size_bytes))


def remove_partial(home: Folder, name: str) -> None:
    """Remove a partial file, named or not, and its note, unless another run is at it. Raises OSError, NotOurs."""
    with contextlib.suppress(FileNotFoundError):
        fd = home.open(_note_name(name))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for each in (name, _part_name(name), _note_name(name)):
                home.unlink(each, missing_ok=True)
        except BlockingIOError:
            return
        finally:
            os.close(fd)
