"""What passed `verify` on an engine, kept in nextn's data folder so that `up` does not prove it again.

A record holds for exactly these files (path, size, time of the last change, header) and this engine build.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from pathlib import Path

from ..bounded import read_bounded
from ..engines.base import Engine
from ..errors import NextnError
from ..gguf.files import GGUFFile, Model
from ..layouts.places import data_root, header_sha256
from ..writing.durable import write_file

_DIGITS = 32
_MOST_BYTES = 1 << 16


def _path(model: Model, sidecar: Model | None, engine: Engine) -> Path:
    files = [*model.files, *(() if sidecar is None else sidecar.files)]
    text = json.dumps([engine.name, engine.version, *map(_identity, files)])
    return data_root() / "verified" / f"{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}.json"


def _identity(file: GGUFFile) -> list[object]:
    changed = None if file.stamp is None else file.stamp.mtime_ns
    return [str(file.path.absolute()), file.size_bytes, changed, header_sha256(file)]


def verified_on(model: Model, sidecar: Model | None, engine: Engine) -> str | None:
    """The day on which these files passed on this engine; None: they did not."""
    try:
        found = json.loads(read_bounded(_path(model, sidecar, engine), _MOST_BYTES))
        return str(found["passed"])[:10] if found["version"] == 1 else None
    except (NextnError, ValueError, KeyError, TypeError, RecursionError):
        return None


def keep_verified(model: Model, sidecar: Model | None, engine: Engine) -> None:
    """Record that these files passed on this engine; without room for the record nothing happens."""
    path = _path(model, sidecar, engine)
    data = {"version": 1, "passed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "model": str(model.entry)}
    with contextlib.suppress(OSError, NextnError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        write_file(path, json.dumps(data).encode() + b"\n")
