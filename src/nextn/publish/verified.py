"""What `nextn verify --json` found, for the model card."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import cast

from ..bounded import read_bounded
from ..errors import UsageError
from ..schemas.reading import decode_document
from ..schemas.verify import VerifyDocument

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
    control: float | None  # acceptance with the block's weights shuffled
    tps_off: float | None
    tps_on: Mapping[str, float]
    reasons: Sequence[str]


def read_verified(path: Path, names: Collection[str]) -> Verified:
    """The verdict in `path`, which must be about one of the files `names`.

    Raises FormatError, StorageError, and UsageError when it is about another model.
    """
    data = read_bounded(path, _LARGEST_BYTES)
    found = _read(cast(VerifyDocument, decode_document(data, path, ["verify"])))
    foreign = [name for name in (found.model, found.sidecar) if name is not None and name not in names]
    if foreign:
        raise UsageError(
            f"{path}: the verdict is about '{foreign[0]}', and no file of that name is published here; verify what "
            "is published."
        )
    return found


def _read(found: VerifyDocument) -> Verified:
    tps = found.tps or None
    return Verified(
        model=PurePath(found.model).name,
        sidecar=PurePath(found.sidecar).name if found.sidecar else None,
        verdict=_WORDS[found.verdict],
        engine=f"{found.engine.name} {found.engine.version}" if found.engine else "",
        same_text=found.same_text,
        acceptance=found.acceptance,
        control=None if found.control is None else found.control.acceptance,
        tps_off=None if tps is None else tps.off,
        tps_on={} if tps is None else tps.on,
        reasons=found.reasons,
    )
