"""A guarded engine process and its log file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nextn.engines.deaths import named, signal_of
from nextn.errors import EngineMissing, StorageError

STOP_GRACE_S = 5.0
"""Seconds an engine has between SIGTERM and SIGKILL."""
GUARD = Path(__file__).with_name("guard.py")
"""The script between nextn and an engine."""


class EngineProcess:
    """One engine under its guard, in a session of its own: Ctrl-C reaches nextn only, which then stops it.

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
        self._keep_always = log is not None
        try:
            if log is None:
                handle, name = tempfile.mkstemp(prefix="nextn-engine-", suffix=".log")
                self.log = Path(name)
            else:
                self.log = log
                handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"cannot write the engine's log {log or tempfile.gettempdir()}: {error}") from error
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
            self.log.unlink(missing_ok=True)
            raise EngineMissing(f"cannot start a process for {command[0]}: {error}") from error
        finally:
            os.close(handle)

    @property
    def pid(self) -> int:
        """The guard's process id, which is also its session."""
        return self._guard.pid

    def ended(self) -> str | None:
        """How the engine ended ("exit code 1", "signal 6 (SIGABRT)"), or None while it runs."""
        code = self._guard.poll()
        if code is None:
            return None
        return f"exit code {code}" if self.signal is None else named(self.signal)

    @property
    def signal(self) -> int | None:
        """The number of the signal that ended the engine; None while it runs, or when it ended by itself."""
        code = self._guard.poll()
        return None if code is None else signal_of(code)

    def wait_ended(self, timeout_s: float) -> str | None:
        """Like `ended`, giving a dying engine up to `timeout_s` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(timeout_s)
        return self.ended()

    def read_log(self, start: int = 0) -> str:
        """The log from byte `start` on; "" when there is none any more."""
        try:
            with self.log.open("rb") as file:
                file.seek(start)
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def log_size(self) -> int:
        """The log's size in bytes."""
        try:
            return self.log.stat().st_size
        except OSError:
            return 0

    def stop(self) -> None:
        """End the engine's whole group and reap the guard; harmless twice. The log stays."""
        if self._guard.stdin is not None:
            with contextlib.suppress(OSError):
                self._guard.stdin.close()
        deadline = time.monotonic() + STOP_GRACE_S + 3
        interrupted: KeyboardInterrupt | None = None
        while self._guard.poll() is None:
            try:
                self._guard.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._guard.pid, signal.SIGKILL)
                self._guard.wait()
            except KeyboardInterrupt as error:  # a second Ctrl-C must not leave the engine behind
                interrupted = error
                deadline = min(deadline, time.monotonic() + STOP_GRACE_S + 1)
        if interrupted is not None:
            raise interrupted

    def discard_log(self) -> None:
        """Delete the log unless the caller named it."""
        if not self._keep_always:
            self.log.unlink(missing_ok=True)
