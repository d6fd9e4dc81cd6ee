"""The command line in a process and a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def attach(endpoint: str, home: Path, *args: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "NEXTN_CACHE": str(home / "cache")}
    env.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "nextn", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=env)
