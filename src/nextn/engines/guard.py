"""The guard: a small process between nextn and an engine, so that no engine outlives nextn.

    python -I -S guard.py GRACE_S [--pass-on] COMMAND...

Run by its path and with the standard library only, so that it starts in milliseconds. It starts COMMAND in a
process group of its own and ends that group (SIGTERM, then SIGKILL after GRACE_S seconds) when its standard
input closes (the kernel closes it however nextn ends), when nextn is no longer its parent, or on SIGTERM.
With --pass-on a SIGINT, SIGTERM or SIGHUP is forwarded to the command's group, and how to end is up to the
command. On Linux the engine also dies with the guard. Exit code: the command's, 128 + n when signal n ended it, 126
when it could not be started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType

assert sys.platform != "win32"  # which has no process groups: see `refuse_without_groups`

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor wakes the loop."""


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    guard = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def in_engine() -> None:
        os.setpgid(0, 0)
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != guard:  # the guard died before the call
                os._exit(126)
        with contextlib.suppress(ImportError, ValueError, OSError):
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an aborting engine would dump gigabytes of core

    return subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=in_engine)  # one thread: safe


def _signal_group(group: int, number: int) -> bool:
    """Signal every process of the group; False if none is left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _end(engine: subprocess.Popen[bytes], grace_s: float) -> None:
    deadline = time.monotonic() + grace_s
    _signal_group(engine.pid, signal.SIGTERM)
    while time.monotonic() < deadline:
        engine.poll()
        if not _signal_group(engine.pid, 0):
            return
        time.sleep(0.01)
    _signal_group(engine.pid, signal.SIGKILL)
    engine.wait()


def main(argv: list[str]) -> int:
    """Guard one engine until it ends; returns the exit code described above."""
    grace_s, pass_on = float(argv[0]), argv[1] == "--pass-on"
    command = argv[2:] if pass_on else argv[1:]
    parent = os.getppid()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, *_ENDING):
        signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)  # blocked by a caller that must not lose one
    try:
        engine = _start(command)
    except OSError as error:
        sys.stderr.write(f"nextn: cannot run {command[0]}: {error.strerror}\n")
        return 126
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    poll.register(wake_read, select.POLLIN)
    stopped = False
    while engine.poll() is None and not stopped:
        ready = dict(poll.poll(1000))
        news = os.read(wake_read, 64) if wake_read in ready else b""
        ending = [number for number in news if number in _ENDING]
        if pass_on:
            for passed in ending:
                _signal_group(engine.pid, passed)
            ending = []
        stopped = 0 in ready or os.getppid() != parent or bool(ending)
    if stopped:
        _end(engine, grace_s)
    else:
        _signal_group(engine.pid, signal.SIGKILL)  # whatever it has left behind
    code = engine.wait()
    if code >= 0:
        return code
    if not stopped and not pass_on:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
        sys.stderr.write(f"nextn: the engine was ended by signal {-code} ({name})\n")
    return 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
