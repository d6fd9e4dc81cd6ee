"""Small untrusted files, read within bounds: never more bytes than such a file has, and no JSON that overflows."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from . import oscalls
from .absent import not_regular, nothing_at
from .errors import FormatError, StorageError

MIB = 1 << 20
MOST_CONFIG = 4 * MIB  # config.json and the like; real ones are about 10 kB
MOST_INDEX = 64 * MIB  # of a checkpoint's shards: 15 MB for 200,000 tensors
MOST_TOKENIZER = 96 * MIB  # tokenizer.json: 35 MB for 260,000 tokens
MOST_DOCUMENT = 32 * MIB  # what --json prints
_MOST_DIGITS = 20
_MOST_DEPTH = 64


def read_bounded(path: Path, most: int, doing: str = "read it") -> bytes:
    """The bytes of a regular file of at most `most` bytes; links are followed, pipes never block.

    Raises FormatError for a larger file, of which nothing is read, and StorageError.
    """
    try:
        fd = oscalls.open_file(path, oscalls.READ)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise StorageError(f"{path}: cannot {doing}: {not_regular(found.st_mode)}.")
            if found.st_size > most:
                raise FormatError(
                    "the file is too large to be what its name says, so it was not read",
                    path=path, expected=f"at most {most:,} bytes", found=f"{found.st_size:,}",
                )  # fmt: skip
            out = bytearray()
            while len(out) <= most and (piece := os.read(fd, most + 1 - len(out))):
                out += piece
            return bytes(out[:most])
        finally:
            os.close(fd)
    except FileNotFoundError as error:
        raise StorageError(nothing_at(path)) from error
    except OSError as error:
        raise StorageError(f"{path}: cannot {doing}: {error.strerror or error}.") from error


def read_text(path: Path, most: int) -> str:
    """A text file. Raises what `read_bounded` raises, and FormatError for bytes that are not UTF-8."""
    try:
        return read_bounded(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        what = "this is not UTF-8 text, so it is not valid JSON or a template"
        raise FormatError(what, path=path, offset=error.start) from error


def parse_json(data: bytes | str, path: Path | str) -> Any:
    """A JSON value. Raises FormatError for invalid JSON, for numbers with very many digits and for deep nesting."""
    try:
        value = json.loads(data, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"this is not valid JSON ({error})", path=path) from error
    check_depth(value, path)
    return value


def check_depth(value: Any, path: Path | str) -> None:
    """Raise FormatError for a value that is nested more deeply than any legitimate one."""
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level:
        if depth >= _MOST_DEPTH:
            raise FormatError(f"this JSON is nested more than {_MOST_DEPTH} deep", path=path)
        inner: list[Any] = []
        for each in level:
            inner += each.values() if isinstance(each, dict) else each
        level, depth = [each for each in inner if isinstance(each, dict | list)], depth + 1


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)
