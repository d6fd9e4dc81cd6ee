"""An engine's output, bounded: its first and last bytes, however much it prints in between."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nextn import oscalls
from nextn.errors import EngineMissing, StorageError

HEAD_BYTES = 1 << 20
TAIL_BYTES = 7 << 20
PROBE_BYTES = 1 << 20  # of a short command's output
_CHUNK = 1 << 16


class Ring:
    """The first `head` and the last `tail` bytes of a stream; threads may write and read concurrently."""

    def __init__(self, head: int = HEAD_BYTES, tail: int = TAIL_BYTES) -> None:
        self._n_head, self._n_tail = head, tail
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._kept = 0  # bytes in `_tail`
        self._lock = threading.Lock()
        self.size = 0  # bytes of the stream so far

    def write(self, data: bytes) -> None:
        """Add the stream's next bytes."""
        with self._lock:
            self.size += len(data)
            room = self._n_head - len(self._head)
            self._head += data[:room]
            rest = data[room:] if room < len(data) else b""
            for start in range(0, len(rest), _CHUNK):
                piece = rest[start : start + _CHUNK]
                self._tail.append(piece)
                self._kept += len(piece)
            while self._tail and self._kept - len(self._tail[0]) >= self._n_tail:
                self._kept -= len(self._tail.popleft())

    def read(self, start: int = 0) -> bytes:
        """The stream from byte `start` on; a line in brackets marks where bytes were dropped."""
        with self._lock:
            head, tail, size = bytes(self._head), b"".join(self._tail), self.size
        first = size - len(tail)  # where the tail begins
        if start >= len(head):
            return tail[max(0, start - first) :]
        gone = first - len(head)
        mark = b"\n[%d bytes of the log are left out here]\n" % gone if gone else b""
        return head[start:] + mark + tail


class Drain:
    """Empties a pipe into a ring, in a thread of its own, until the last writer has closed it."""

    def __init__(self, fd: int, ring: Ring) -> None:
        """Takes over `fd`."""
        self.ring = ring
        self._thread = threading.Thread(target=self._run, args=(fd,), name="nextn-engine-log", daemon=True)
        self._thread.start()

    def _run(self, fd: int) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := os.read(fd, _CHUNK):
                    self.ring.write(data)
        finally:
            os.close(fd)

    def wait(self, timeout_s: float) -> None:
        """Wait until the pipe is empty and closed, or for `timeout_s` seconds."""
        self._thread.join(timeout_s)


class LogFile:
    """A log on disk: created at once when the caller names it, otherwise when it is first saved."""

    def __init__(self, named: Path | None) -> None:
        """Raises StorageError when the named file cannot be written."""
        self._named, self._fd = named is not None, -1
        self.path = named
        if named is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
            with _writing(named):
                self._fd = os.open(named, flags, 0o600)

    def save(self, data: bytes, *, whole: bool) -> Path:
        """Write `data` to the file; with `whole` nothing follows, and later calls change nothing.

        Raises StorageError.
        """
        if self.path is None:
            with _writing(Path(tempfile.gettempdir())):
                self._fd, name = tempfile.mkstemp(prefix="nextn-engine-", suffix=".log")
                self.path = Path(name)
        if self._fd >= 0:
            with _writing(self.path):
                os.ftruncate(self._fd, 0)
                done = 0
                while done < len(data):
                    done += oscalls.pwrite(self._fd, data[done:], done)
            if whole:
                self._close()
        return self.path

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def discard(self) -> None:
        """Delete the file unless the caller named it."""
        self._close()
        if self.path is not None and not self._named:
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot write the engine's log: {error.strerror or error}.") from error


def refuse_without_groups() -> None:
    """Raise EngineMissing where no guard can end an engine with nextn: one left behind keeps its memory."""
    if not oscalls.can_guard_processes():
        raise EngineMissing(
            "nextn starts engines only on Linux and macOS; here, start llama-server yourself with the line that attach "
            "prints"
        )


def ask(
    command: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str], timeout_s: float,
    cwd: str | os.PathLike[str] | None = None,
) -> tuple[int, str]:  # fmt: skip
    """The exit code of a short command and its output, at most `PROBE_BYTES` of it.

    Raises OSError, EngineMissing, and subprocess.TimeoutExpired when it takes too long or does not stop printing.
    """
    refuse_without_groups()
    process = subprocess.Popen(
        [*command], env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    drain = Drain(os.dup(process.stdout.fileno()), Ring(PROBE_BYTES // 2, PROBE_BYTES // 2))
    process.stdout.close()
    deadline = time.monotonic() + timeout_s
    try:
        process.wait(timeout_s)
        drain.wait(max(0.0, min(1.0, deadline - time.monotonic())))
    finally:
        process.kill()
        process.wait()
    return process.returncode, drain.ring.read().decode("utf-8", "replace")
