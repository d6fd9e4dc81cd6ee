"""What `nextn verify --json` found, for the model card."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ..errors import FormatError, UnsupportedFormat, UsageError
from ..gguf.files import open_regular, os_error

_LARGEST_BYTES = 16 << 20
_WORDS = {"passed": "passed", "failed": "FAILED", "cannot_tell": "cannot tell"}


@dataclass(frozen=True)
class Verified:
    """One verdict."""

    model: str  # file name of the model that was verified
    sidecar: str | None  # file name
    verdict: str
    engine: str  # name and version; '' when only files were compared
    same_text: bool | None
    acceptance: Mapping[str, Sequence[float]]  # n_max -> share accepted by position
    control: float | None  # accepted with the block's weights shuffled
    tps_off: float | None
    tps_on: Mapping[str, float]
    reasons: Sequence[str]


def read_verified(path: Path, names: Collection[str]) -> Verified:
    """The verdict in `path`, which must be about one of the files `names`.

    Raises FormatError, UnsupportedFormat, StorageError, and UsageError when it is about another model.
    """
    fd, size = open_regular(path)
    try:
        with open(fd, "rb") as file:  # noqa: PTH123 - the descriptor is already there
            if size > _LARGEST_BYTES:
                raise FormatError("this is too large to be a verdict of 'nextn verify --json'", path=path)
            value = json.load(file)
    except OSError as error:
        raise os_error(error, path, "read it") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"this is no valid JSON ({error})", path=path) from error
    if not isinstance(value, dict) or "verdict" not in value:
        raise FormatError("this is not what 'nextn verify --json' prints", path=path)
    if value.get("version") != 1:
        raise UnsupportedFormat(f"the verdict has version {value.get('version')!r}, and 1 is read here", path=path)
    try:
        found = _read(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"the verdict is damaged ({error!r})", path=path) from error
    foreign = [name for name in (found.model, found.sidecar) if name is not None and name not in names]
    if foreign:
        raise UsageError(
            f"{path}: the verdict is about '{foreign[0]}', and no file of that name is published here; verify what "
            "is published."
        )
    return found


def _read(value: dict[str, Any]) -> Verified:
    engine, tps, control = (value.get(key) or {} for key in ("engine", "tps", "control"))
    if value["verdict"] not in _WORDS:
        raise ValueError(value["verdict"])
    return Verified(
        model=PurePath(value["model"]).name,
        sidecar=PurePath(value["sidecar"]).name if value.get("sidecar") else None,
        verdict=_WORDS[value["verdict"]],
        engine=f"{engine['name']} {engine['version']}" if engine else "",
        same_text=value["same_text"],
        acceptance={str(n): [float(share) for share in some] for n, some in value["acceptance"].items()},
        control=None if control.get("acceptance") is None else float(control["acceptance"]),
        tps_off=None if tps.get("off") is None else float(tps["off"]),
        tps_on={str(n): float(speed) for n, speed in (tps.get("on") or {}).items()},
        reasons=[str(reason) for reason in value["reasons"]],
    )
