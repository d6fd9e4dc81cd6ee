"""A server started by the user: it uses the terminal, receives the signals nextn receives, and cannot outlive nextn.

The guard of `process.py` sits in between here too: it ends the server when nextn is gone, even after `kill -9`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from nextn import oscalls
from nextn.engines.process import GUARD, STOP_GRACE_S
from nextn.engines.ring import refuse_without_groups
from nextn.errors import EngineMissing

PASSED_ON = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def run_foreground(
    command: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> int:
    """Run `command` until it ends; SIGINT, SIGTERM and SIGHUP are passed on to it as they arrive.

    `env`: variables added to the environment. Returns its exit code; 128 + n when signal n ended it, 126 when it
    could not be started. Call it in the main thread. Raises EngineMissing when no process can be started.
    """
    refuse_without_groups()
    guard: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        if guard is not None:
            guard.send_signal(number)

    command_line = [sys.executable, "-I", "-S", str(GUARD), str(STOP_GRACE_S), "--pass-on"]
    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    oscalls.block_signals(PASSED_ON)  # the guard takes them once it can pass them on
    try:
        try:
            guard = subprocess.Popen(
                [*command_line, *(os.fspath(part) for part in command)],
                stdin=subprocess.PIPE,
                env=None if env is None else {**os.environ, **env},
                cwd=cwd,
                start_new_session=True,  # Ctrl-C reaches only nextn, and the server once, through nextn
            )
        except OSError as error:
            raise EngineMissing(f"cannot start a process for {command[0]}: {error}") from error
        finally:
            oscalls.unblock_signals(PASSED_ON)
        code = guard.wait()
    finally:
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
