"""Runs by tensor and type, kept on disk as they are made, so that a search that was stopped goes on, and their tables.

The tables have the form of GGUF-Tool-Suite's calibration data: a first column QTYPE, a column per tensor, a row per
type.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..bounded import read_bounded
from ..errors import FormatError, OutputExists
from ..gguf.files import os_error
from ..schemas.base import plain
from ..schemas.tensors import TensorRun, TensorSettings

_LARGEST_BYTES = 64 << 20
_DIGITS = 6


class TensorLog:
    """A file of lines in JSON: first the settings, then a run each. Lines are only added to it."""

    def __init__(self, path: Path, settings: TensorSettings) -> None:
        """Read what is there. Raises OutputExists if it was made with other settings, FormatError, StorageError."""
        self.path, self.settings = path, settings
        self.runs: list[TensorRun] = []
        self._whole = True  # whether the file ends with a complete line
        if not os.path.lexists(path):
            self._add(plain(settings))
            return
        data = read_bounded(path, _LARGEST_BYTES)
        first, *rest = data.split(b"\n")
        try:
            known = msgspec.json.decode(first, type=TensorSettings)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"this is not a list of runs by tensor ({error})", path=path) from None
        if known != settings:
            names = [name for name in settings.__struct_fields__ if getattr(known, name) != getattr(settings, name)]
            raise OutputExists(
                f"{path}: these runs were made with other settings ({', '.join(names)}); use the same ones to go on, "
                "or choose another file."
            )
        self._whole = not rest[-1]
        for line in rest:
            try:
                self.runs.append(msgspec.json.decode(line, type=TensorRun))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # the last line of a run that was killed

    def find(self, tensor: str | None, type_name: str | None) -> TensorRun | None:
        """The run that was made; of the base with both None."""
        return next(
            (one for one in self.runs if one.tensor == tensor and type_name in (None, one.type)), None
        )

    def add(self, run: TensorRun) -> None:
        """A run that was made, on disk when this returns. Raises StorageError."""
        self._add(plain(run))
        self.runs.append(run)

    def _add(self, value: object) -> None:
        start = "" if self._whole else "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(f"{start}{json.dumps(value)}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise os_error(error, self.path, "write it") from error
        self._whole = True


def table(settings: TensorSettings, base: TensorRun, runs: Sequence[TensorRun], *, loss: bool) -> str:
    """CSV of acceptance, or of how much less it is than the base's; cells without a figure are empty."""
    known = {(one.type, one.tensor): one.acceptance for one in runs}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["QTYPE", *settings.tensors])
    for kind in settings.types:
        row = []
        for name in settings.tensors:
            value = known.get((kind, name))
            if loss and value is not None:
                value = None if base.acceptance is None else base.acceptance - value
            row.append("" if value is None else f"{value:.{_DIGITS}f}")
        writer.writerow([kind, *row])
    return out.getvalue()
