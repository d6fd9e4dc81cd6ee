"""The first 24 bytes of a GGUF: magic number, version, counts."""

from __future__ import annotations

import struct
from pathlib import Path

from ..errors import FormatError, UnsupportedFormat
from .header import FIXED_BYTES, MAGIC, UNREADABLE
from .names import Buffer
from .strangers import as_model

VERSIONS = (2, 3)
_MIN_KV_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8


def check_magic(head: bytes, path: Path | None) -> None:
    """Raise FormatError for a file that begins with `head` if that is not a GGUF's beginning, saying what it is."""
    magic = head[: len(MAGIC)]
    if magic == UNREADABLE:
        what = "a change in place of this file was interrupted or is under way: end it with 'nextn recover'"
        raise FormatError(what, path=path, offset=0)
    if magic != MAGIC:
        known = as_model(head)
        if known is not None:
            raise FormatError(known, path=path)
        raise FormatError("this is not a GGUF file", path=path, offset=0, expected="'GGUF'", found=repr(magic))


def read_counts(buffer: Buffer, file_size: int, path: Path | None) -> tuple[int, int, int]:
    """Version, number of tensors, number of key-value pairs.

    Raises UnsupportedFormat for version 1 and big-endian files, FormatError for counts that no file of this size has.
    """
    version, n_tensors, n_kv = struct.unpack_from("<IQQ", buffer, 4)
    if version == 1:
        what = "GGUF version 1 is not supported: convert the model again with a current converter"
        raise UnsupportedFormat(what, path=path, offset=4)
    if version and version & 0xFFFF == 0:
        what = "big-endian GGUF is not supported: use a little-endian copy of the model"
        raise UnsupportedFormat(what, path=path, offset=4)
    if version not in VERSIONS:
        raise UnsupportedFormat("unknown GGUF version", path=path, offset=4, expected="2 or 3", found=str(version))
    room = file_size - FIXED_BYTES
    for count, least, what, offset in (
        (n_tensors, _MIN_TENSOR_BYTES, "tensors", 8),
        (n_kv, _MIN_KV_BYTES, "key-value pairs", 16),
    ):
        if count * least > room:
            raise FormatError(
                f"the header promises more {what} than the file can hold: the download is incomplete, or the file "
                "is damaged",
                path=path,
                offset=offset,
                expected=f"at most {room // least:,}",
                found=f"{count:,}",
            )
    return version, n_tensors, n_kv
