"""Settings that `nextn tune` found, kept in a file beside the model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import FormatError, StorageError

TUNED_SUFFIX = ".tune.json"
"""Behind a model's base name: the result of `nextn tune` that serve takes by itself."""


@dataclass(frozen=True)
class Tuned:
    """What `nextn tune` found fastest on this machine."""

    path: Path
    n_max: int | None = None
    """The most tokens drafted at a time; 0: leave MTP off."""
    p_min: float | None = None
    threads: int | None = None
    args: tuple[str, ...] = ()
    """Further engine arguments."""
    sidecar: Path | None = None
    """The file to draft with; None: as without tuned settings."""
    engine: str | None = None
    """The engine that `args` are for; None: not told."""


def read_tuned(path: Path) -> Tuned:
    """A result of `nextn tune`: an object with any of n_max, p_min, threads, args, sidecar and engine.

    Other keys are left alone.

    Raises FormatError, StorageError.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path}: cannot read the tuned settings: {error.strerror or error}.") from error
    except ValueError as error:
        raise FormatError("this is no JSON; name a file that 'nextn tune --json' wrote", path=path) from error
    if not isinstance(data, dict) or data.get("version", 1) != 1:
        raise FormatError("these are no tuned settings of version 1; run 'nextn tune' again", path=path)

    def number(key: str, least: float, most: float) -> Any:
        value = data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise FormatError(f"'{key}' must be a number from {least:g} to {most:g}", path=path)
        return value

    args = data.get("args") or []
    if not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
        raise FormatError("'args' must be a list of strings", path=path)
    n_max, threads = number("n_max", 0, 1024), number("threads", 1, 65536)
    sidecar, engine = data.get("sidecar"), data.get("engine")
    if sidecar is not None and not isinstance(sidecar, str):
        raise FormatError("'sidecar' must be the path of a file", path=path)
    name = engine.get("name") if isinstance(engine, dict) else None
    return Tuned(
        path,
        None if n_max is None else int(n_max),
        number("p_min", 0, 1),
        None if threads is None else int(threads),
        tuple(args),
        None if sidecar is None else Path(sidecar),
        name if isinstance(name, str) else None,
    )
