"""safetensors files: names, dtypes, shapes and byte ranges; data is never read here.

Format: u64 header length, a JSON object name -> {dtype, shape, data_offsets}, data. Offsets are relative to
the end of the header. Source: the safetensors format description.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..gguf.files import open_regular, os_error
from ..gguf.strangers import MOST_BYTES, by_content, cut_short
from ..workfile import Stamp
from .ranges import FileRange

MAX_HEADER_BYTES = 100_000_000  # the reference implementation's limit
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
}


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of a checkpoint: where its bytes are and what they mean."""

    name: str
    dtype: str  # safetensors' name: BF16, F16, F32, ...
    shape: tuple[int, ...]  # slowest axis first
    where: FileRange

    @property
    def row_length(self) -> int:
        """Elements per row (the last axis)."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        """Number of rows when all leading axes are folded into one."""
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Stored bytes per row."""
        return self.row_length * DTYPE_BYTES[self.dtype]

    def rows(self, start: int, end: int) -> FileRange:
        """The byte range of rows `start` to `end`."""
        return self.where.part(start * self.row_bytes, end * self.row_bytes)


_READ_AHEAD = 1 << 13  # Python 3.14 would read 128 KiB of data with a header of a few


def read_safetensors(path: Path) -> dict[str, SourceTensor]:
    """All tensors of one file by name.

    Raises FormatError for a damaged or truncated file, StorageError when it cannot be read.
    """
    fd, size = open_regular(path)
    stamp = Stamp.of(os.fstat(fd))
    try:
        with open(fd, "rb", buffering=_READ_AHEAD) as file:  # noqa: PTH123 - Path.open would wait for a pipe
            head = file.read(8)
            if len(head) < 8:
                what = by_content(head) or "this is not a safetensors file: it has fewer than 8 bytes"
                raise FormatError(what, path=path, offset=0 if head else None)
            (length,) = struct.unpack("<Q", head)
            known = by_content(head + file.read(MOST_BYTES)) if length > min(size - 8, MAX_HEADER_BYTES) else None
            if known is not None:
                raise FormatError(known, path=path)
            if length > MAX_HEADER_BYTES:
                raise FormatError(
                    "this is not a safetensors file: its header would be too long",
                    path=path,
                    offset=0,
                    expected=f"at most {MAX_HEADER_BYTES:,} bytes",
                    found=f"{length:,}",
                )
            if length > size - 8:
                raise FormatError(cut_short(size, None, "its header", path.name), path=path)
            file.seek(8)
            raw = file.read(length)
            if len(raw) < length:
                raise FormatError("the file shrank while it was read", path=path, offset=8 + len(raw))
    except OSError as error:
        raise os_error(error, path, "read it") from error
    return _parse(raw, 8 + length, size, path, stamp)


_METADATA = "__metadata__"  # an entry that is not a tensor


def _whole_bytes(table: dict[str, Any], data_start: int) -> int | None:
    """The length of the complete file according to its table; None if an entry is damaged."""
    try:
        return data_start + max(index(entry["data_offsets"][1]) for name, entry in table.items() if name != _METADATA)
    except (KeyError, TypeError, IndexError, ValueError):
        return None


def _parse(raw: bytes, data_start: int, size: int, path: Path, stamp: Stamp) -> dict[str, SourceTensor]:
    try:
        table: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError("the safetensors header is not JSON: the file is damaged", path=path, offset=8) from error
    if not isinstance(table, dict):
        raise FormatError("the safetensors header is not a JSON object", path=path, offset=8)
    tensors: dict[str, SourceTensor] = {}
    for name, entry in table.items():
        if name == _METADATA:
            continue
        try:
            dtype, shape = str(entry["dtype"]), tuple(index(n) for n in entry["shape"])
            start, end = (index(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"the entry of tensor '{name}' is damaged", path=path, offset=8) from error
        width = DTYPE_BYTES.get(dtype)
        known = width is not None and math.prod(shape) * width == end - start
        if start < 0 or end < start or (width is not None and not known) or min(shape, default=0) < 0:
            raise FormatError(
                f"the size of tensor '{name}' does not fit its shape {list(shape)}", path=path, offset=8
            )
        if data_start + end > size:
            whole = _whole_bytes(table, data_start)
            raise FormatError(cut_short(size, whole, f"tensor '{name}'", path.name), path=path)
        where = FileRange(path, data_start + start, data_start + end, stamp)
        tensors[name] = SourceTensor(name, dtype, shape, where)
    return tensors
