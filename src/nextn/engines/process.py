"""A guarded engine process and its log, whose first and last bytes are kept in memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nextn import oscalls
from nextn.engines.deaths import named, signal_of
from nextn.engines.ring import Drain, LogFile, Ring, refuse_without_groups
from nextn.errors import EngineMissing

STOP_GRACE_S = 5.0  # seconds an engine has between SIGTERM and SIGKILL
_LAST_WORDS_S = 1.0  # how long a process left by an engine that has ended may hold its output open
GUARD = Path(__file__).with_name("guard.py")  # the script between nextn and an engine


class EngineProcess:
    """One engine under its guard, in a session of its own: Ctrl-C reaches nextn only, which then stops it.

    Its log is kept in memory (see `Ring`) and becomes a file when requested, or at the end when `log` names it.

    Raises StorageError when the log cannot be written, EngineMissing when no process can be started.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
    ) -> None:
        refuse_without_groups()
        self._file = LogFile(log)
        self._settled = self._stopped = False
        output, handle = os.pipe()
        guard = [sys.executable, "-I", "-S", str(GUARD), str(STOP_GRACE_S)]
        try:
            self._guard = subprocess.Popen(
                [*guard, *(os.fspath(part) for part in command)],
                stdin=subprocess.PIPE,
                stdout=handle,
                stderr=handle,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            os.close(output)
            self._file.discard()
            raise EngineMissing(f"cannot start a process for {command[0]}: {error}") from error
        finally:
            os.close(handle)
        self._drain = Drain(output, Ring())

    @property
    def log(self) -> Path:
        """The log as a file, as far as the engine has printed it; `stop` completes it. Raises StorageError."""
        return self._file.save(self._drain.ring.read(), whole=self._stopped)

    @property
    def pid(self) -> int:
        """The guard's process id, which is also its session."""
        return self._guard.pid

    def ended(self) -> str | None:
        """How the engine ended ("exit code 1", "signal 6 (SIGABRT)"), or None while it runs."""
        code = self._guard.poll()
        if code is None:
            return None
        self._settle()
        return f"exit code {code}" if self.signal is None else named(self.signal)

    @property
    def signal(self) -> int | None:
        """The number of the signal that ended the engine; None while it runs, or if it exited by itself."""
        code = self._guard.poll()
        return None if code is None else signal_of(code)

    def wait_ended(self, timeout_s: float) -> str | None:
        """Like `ended`, giving a dying engine up to `timeout_s` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(timeout_s)
        return self.ended()

    def read_log(self, start: int = 0) -> str:
        """What is kept of the log from byte `start` on."""
        return self._drain.ring.read(start).decode("utf-8", "replace")

    def log_size(self) -> int:
        """Bytes that the engine has printed so far, however many of them are kept."""
        return self._drain.ring.size

    def _settle(self) -> None:
        """Collect the last output of an engine that has ended."""
        if not self._settled:
            self._settled = True
            self._drain.wait(_LAST_WORDS_S)

    def stop(self) -> None:
        """End the engine's process group and reap the guard; safe to call twice. The log stays."""
        if self._guard.stdin is not None:
            with contextlib.suppress(OSError):
                self._guard.stdin.close()
        deadline = time.monotonic() + STOP_GRACE_S + 3
        interrupted: KeyboardInterrupt | None = None
        while self._guard.poll() is None:
            try:
                self._drain.wait(_LAST_WORDS_S)  # ends with the guard; `Popen.wait` looks only every 50 ms
                self._guard.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    oscalls.kill_group(self._guard.pid)
                self._guard.wait()
            except KeyboardInterrupt as error:  # a second Ctrl-C must not leave the engine behind
                interrupted = error
                deadline = min(deadline, time.monotonic() + STOP_GRACE_S + 1)
        self._settle()
        self._stopped = True
        if self._file.path is not None:
            self._file.save(self._drain.ring.read(), whole=True)
        if interrupted is not None:
            raise interrupted

    def discard_log(self) -> None:
        """Delete the log unless the caller named it."""
        self._file.discard()
