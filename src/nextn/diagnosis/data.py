"""Where tensor data is: all within the file, one tensor after another, under names that engines accept."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..errors import FormatError
from ..gguf.files import Model
from ..gguf.header import pad_to
from ..gguf.names import decoded
from ..gguf.tensors import UNKNOWN
from .finding import Finding

_MOST_NAME_BYTES = 63  # GGML_MAX_NAME minus the terminating zero


def check_whole(model: Model) -> list[Finding]:
    """At most one finding: a file ends before its tensors do."""
    try:
        model.check_whole()
    except FormatError as error:
        return [
            Finding(
                "file-cut-short", "error", f"{error.what}.", os.fspath(error.path or model.entry),
                "llama.cpp refuses to load it: 'tensor ... data is not within the file bounds'",
                "get this file again from its source",
            )
        ]  # fmt: skip
    return []


def check_data(model: Model) -> Iterator[Finding]:
    """Holes between tensors, data in another order than the table, and names that are too long."""
    for file in model.files:
        header = file.header
        at, tensors = 0, header.tensors
        if tensors.is_contiguous(header.alignment, file.size_bytes - header.data_offset):
            continue
        for row, (offset, size) in enumerate(zip(tensors.offsets, tensors.sizes, strict=True)):
            if offset != at:
                info = tensors[row]
                yield Finding(
                    "data-not-contiguous",
                    "error",
                    f"{file.path.name}: tensor '{info.name}' starts at byte {info.offset:,} of the data section "
                    f"instead of {at:,}: there is a gap, or the data is in a different order.",
                    info.name,
                    "llama.cpp refuses to load it: 'tensor ... has offset ..., expected ...'",
                    "get this file again from its source",
                )
                break
            if size == UNKNOWN:
                after = header.stored_size(tensors[row])
                if after is None:
                    break
                size = after
            at += pad_to(size, header.alignment)
    tables = (file.header.tensors.stored_names for file in model.files)
    long = next((decoded(name) for names in tables for name in names.longer_than(_MOST_NAME_BYTES)), None)
    if long is not None:
        yield Finding(
            "tensor-name-too-long",
            "error",
            f"the tensor name '{long[:40]}...' has more than {_MOST_NAME_BYTES} bytes.",
            long,
            "llama.cpp refuses to load it: 'tensor name ... is too long'",
            "get this file again from its source",
        )
