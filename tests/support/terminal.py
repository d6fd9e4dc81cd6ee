"""The command line on a terminal that is ours: what it shows, and answers to what it asks."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys


def on_a_terminal(answers: str, *args: object, **env: str) -> tuple[int, str, str]:
    """Exit code, what the terminal showed, standard output; `env` is added to the environment."""
    here, there = pty.openpty()
    command = [sys.executable, "-m", "nextn", *map(str, args)]
    run = subprocess.Popen(
        command, stdin=there, stderr=there, stdout=subprocess.PIPE, text=True, close_fds=True, env=os.environ | env
    )
    os.close(there)
    os.write(here, answers.encode())
    shown = b""
    while run.poll() is None or select.select([here], [], [], 0)[0]:
        if select.select([here], [], [], 0.1)[0]:
            try:
                piece = os.read(here, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            shown += piece
    out = run.communicate(timeout=30)[0]
    os.close(here)
    return run.returncode, shown.decode(errors="replace"), out
