"""Settings that `nextn tune` found, kept in a file beside the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from .bounded import MOST_DOCUMENT, read_bounded
from .errors import FormatError
from .schemas.tune import TunedSettings

TUNED_SUFFIX = ".tune.json"  # after a model's base name: the result of `nextn tune` that serve picks up automatically


@dataclass(frozen=True)
class Tuned:
    """What `nextn tune` found fastest on this machine."""

    path: Path
    n_max: int | None = None  # maximum number of tokens drafted at a time; 0: leave MTP off
    p_min: float | None = None
    threads: int | None = None
    args: tuple[str, ...] = ()  # further engine arguments
    sidecar: Path | None = None  # the file to draft with; None: as without tuned settings
    engine: str | None = None  # the engine that `args` are for; None: not known


def read_tuned(path: Path) -> Tuned:
    """A result of `nextn tune`, or an object with any of its settings; other keys are ignored.

    Raises FormatError, StorageError.
    """
    try:
        found = msgspec.json.decode(read_bounded(path, MOST_DOCUMENT, "read the tuned settings"), type=TunedSettings)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        words = str(error).replace("`", "'")
        what = f"these are not settings that 'nextn tune' wrote ({words}); run it again"
        raise FormatError(what, path=path) from error
    return Tuned(
        path,
        found.n_max,
        found.p_min,
        found.threads,
        tuple(found.args or ()),
        None if found.sidecar is None else Path(found.sidecar),
        None if found.engine is None else found.engine.name,
    )
