"""Was this file made from that trunk? By headers and samples of the data: reading all of it is for `verify --trunk`."""

from __future__ import annotations

import glob
from pathlib import Path

from ..block.anatomy import Anatomy
from ..errors import NextnError, OutputExists
from ..gguf.files import GGUFFile, Model, open_sound
from ..gguf.tensors import TensorInfo
from ..layouts import naming
from ..layouts.attach import default_entry
from ..sources.ranges import FileRange, Reader
from .file_check import FileReport, check_kvs

_SAMPLE_BYTES = 4096  # from the middle of a tensor
_N_SAMPLES = 64  # tensors, spread over the file


def made_before(trunk: Model, layout: str, engine: str | None, out: str | Path | None = None) -> Path | None:
    """The "bundle" or "shards" that attach would write, to `out`, if it is there and right; None: it is not."""
    place = default_entry(trunk, layout, engine)
    folder, name = naming.resolve_output(out, place.parent, place.name)
    place = folder / name
    try:
        first = f"{glob.escape(place.stem)}-00001-of-*.gguf"
        paths = [place] if layout == "bundle" else sorted(place.parent.glob(first))
        for path in paths:
            if path.is_file() and is_made_from(found := open_sound(path), trunk):
                return found.entry
    except (NextnError, OSError):
        pass
    return None


def is_made_from(model: Model, trunk: Model) -> bool:
    """Whether `model` has a block, and apart from it the pairs, the tensors and samples of the data of `trunk`.

    Raises FormatError and StorageError for files that cannot be read.
    """
    seen = Anatomy.of(model)
    if seen.shape != "bundled":
        return False
    report = FileReport()
    check_kvs(model, trunk, report)
    own = [name for name in model.tensors if seen.of_trunk(name)]
    rows = list(trunk.items())
    if report.problems or len(own) != len(rows):
        return False
    step = max(1, len(rows) // _N_SAMPLES)
    with Reader() as reader:
        for number, (file, info) in enumerate(rows):
            mine = model.tensors.get(info.name)
            if mine is None or (mine[1].ne, mine[1].type_id) != (info.ne, info.type_id):
                return False
            if number % step == 0 and _sample(reader, *mine) != _sample(reader, file, info):
                return False
    return True


def made_in_the_way(error: OutputExists, model: Model) -> Path | None:
    """The file that is in the way of a detach, if it is what the detach would write."""
    path = Path(str(error).partition(": ")[0])
    try:
        return path if path.is_file() and is_made_from(model, open_sound(path)) else None
    except (NextnError, OSError):
        return None


def _sample(reader: Reader, file: GGUFFile, info: TensorInfo) -> bytearray:
    start, end = file.tensor_range(info)
    middle = max(start, (start + end - _SAMPLE_BYTES) // 2)
    return reader.read(FileRange.of(file, middle, min(end, middle + _SAMPLE_BYTES)))
