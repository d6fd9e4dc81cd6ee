"""How a process was killed by a signal, in words."""

from __future__ import annotations

import signal

_SHELL = 128  # shells and the guard answer 128 + n where signal n ended the program
_KNOWN = frozenset(signal.Signals)
_WHY = {
    "SIGILL": ": the program was built for another CPU; use a build for this one",
    "SIGKILL": ", as when memory runs out",
}


def signal_of(code: int) -> int | None:
    """The signal that an exit code stands for, -n as in `subprocess` or 128 + n; None: it exited by itself."""
    number = -code if code < 0 else code - _SHELL
    return number if number in _KNOWN else None


def named(number: int) -> str:
    """ "signal 6 (SIGABRT)"."""
    return f"signal {number} ({signal.Signals(number).name})"


def explained(number: int) -> str:
    """The signal and what it means for the user, where that is known."""
    return named(number) + _WHY.get(signal.Signals(number).name, "")
