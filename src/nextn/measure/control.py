"""The control that must fail: the same model with its block's weights shuffled.

A draft that is accepted as often with shuffled weights proves nothing about the block. The shuffle permutes
complete quantization blocks within a tensor, so all values stay valid; vectors (norms) stay as they are.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from .. import oscalls
from ..block.anatomy import Anatomy
from ..block.from_gguf import block_from_model
from ..errors import NoSpace
from ..gguf.files import GGUFFile, Model, open_model, read_header
from ..gguf.tensors import TensorInfo
from ..layouts.extract import plan_extract
from ..layouts.options import ExtractOptions
from ..writing.execute import execute
from ..writing.system import free_bytes

_CHUNK_BYTES = 8 << 20
SEED = 20_240_601


def make_control(
    model: Model, sidecar: Path | None, folder: Path, *, takes_sidecar: bool = True
) -> tuple[Path, Path | None]:
    """A temporary copy in `folder` whose block is shuffled: (path to load, sidecar or None).

    Only files that hold the block are copied: a sidecar, or the shards with the block; from a bundled single file
    the block is extracted into a sidecar, which the engine prefers over the file's own. An engine that takes no
    sidecar (`takes_sidecar` false) needs a copy of the complete file.
    Raises NoSpace.
    """
    if sidecar is not None:
        return model.entry, _shuffled_copy(read_header(sidecar), folder)
    if len(model.files) == 1 and takes_sidecar:
        plan = plan_extract(block_from_model(model), ExtractOptions(out=folder / "mtp-control.gguf"))
        check_room(folder, plan.bytes_written)
        execute(plan)
        made = plan.folder / "mtp-control.gguf"
        _shuffle(read_header(made))
        return model.entry, made
    for file in model.files:
        if Anatomy.of(model).holds_block(file):
            _shuffled_copy(file, folder, model)
        else:
            (folder / file.path.name).symlink_to(file.path.resolve())
    return folder / model.entry.name, None


def check_room(folder: Path, need: int, what: str = "the control") -> None:
    """Raise NoSpace when a temporary file of `need` bytes does not fit; `what` names it in the message."""
    free = free_bytes(folder)
    if need > free:
        raise NoSpace(
            f"{folder}: {what} needs {need:,} bytes and {free:,} are free; set TMPDIR to a folder with room."
        )


def _shuffled_copy(file: GGUFFile, folder: Path, model: Model | None = None) -> Path:
    check_room(folder, file.size_bytes)
    target = folder / file.path.name
    shutil.copyfile(file.path, target)
    _shuffle(read_header(target), model)
    return target


def _shuffle(file: GGUFFile, model: Model | None = None) -> None:
    """Shuffle the block's matrices in place (the file is our own copy); `model`: the set that it is a shard of."""
    seen = Anatomy.of(model or open_model(file.path))
    rng = np.random.default_rng(SEED)
    fd = os.open(file.path, os.O_RDWR)
    try:
        for info in file.header.tensors:
            if len(info.ne) > 1 and 0 not in info.ne and seen.of_block(info.name):
                _shuffle_tensor(fd, file, info, rng)
    finally:
        os.close(fd)


def _shuffle_tensor(fd: int, file: GGUFFile, info: TensorInfo, rng: np.random.Generator) -> None:
    start, end = file.tensor_range(info)
    unit = _unit_bytes(info, end - start)
    step = max(1, _CHUNK_BYTES // unit) * unit
    for pos in range(start, end, step):
        size = min(step, end - pos)
        units = np.frombuffer(oscalls.pread(fd, size, pos), np.uint8)[: size // unit * unit].reshape(-1, unit)
        oscalls.pwrite(fd, units[rng.permutation(len(units))].tobytes(), pos)


def _unit_bytes(info: TensorInfo, size_bytes: int) -> int:
    """Bytes that must stay together: a quantization block, or a row for types that store values per row."""
    kind = info.type
    if kind is None or kind.type_size is None:
        return max(1, size_bytes // max(1, info.n_elements // info.ne[0]))
    if kind.row_meta_bytes:
        return size_bytes // (info.n_elements // info.ne[0])
    return kind.type_size
