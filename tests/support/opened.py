"""What tests open and the library opens in steps: a header in memory, the block of a path."""

from __future__ import annotations

from pathlib import Path

from nextn.block.model import Block
from nextn.block.opening import block_of
from nextn.errors import FormatError
from nextn.gguf.header import Header
from nextn.gguf.parser import HeaderParser
from nextn.remote.opening import opened


def open_donor(path: Path | str) -> Block:
    """The block of a checkpoint folder, a GGUF, a shard, or a folder with one set."""
    with opened(Path(path)) as source:
        return block_of(source)


def parse_header(buffer: bytes, file_size: int | None = None, path: Path | None = None) -> Header:
    """The header that lies in `buffer`, whose length is the file's."""
    header = HeaderParser(len(buffer) if file_size is None else file_size, path).feed(buffer)
    if header is None:
        raise FormatError("the buffer ends inside the header", path=path, offset=len(buffer))
    return header
