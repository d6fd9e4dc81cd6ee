"""Where tensor data is: all within the file, one tensor after another, under names that engines accept."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..errors import FormatError
from ..gguf.files import Model
from ..gguf.header import pad_to
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
        at = 0
        for info in header.tensors:
            if info.offset != at:
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
            size = header.stored_sizes[info.name]
            if size is None:
                break
            at += pad_to(size, header.alignment)
    n_bytes = ((name, len(name.encode("utf-8", "surrogateescape"))) for name in model.tensors)
    long = next((name for name, size in n_bytes if size > _MOST_NAME_BYTES), None)
    if long is not None:
        yield Finding(
            "tensor-name-too-long",
            "error",
            f"the tensor name '{long[:40]}...' has more than {_MOST_NAME_BYTES} bytes.",
            long,
            "llama.cpp refuses to load it: 'tensor name ... is too long'",
            "get this file again from its source",
        )
