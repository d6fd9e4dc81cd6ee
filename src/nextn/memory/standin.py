"""Stand-ins: a plan's files with their real headers and lengths but no data, for readers of headers only.

An engine that only accounts for memory reads nothing but headers, so a setup that does not exist yet, or whose
files total 600 GB, can be given to it as sparse files that take a few blocks on disk.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import StorageError
from ..gguf.files import Model, open_model, os_error
from ..writing.plan import LateHeader, Link, NewBytes, NewFile, Plan, Segment

_NO_HASH = "0" * 64


class _Blank(dict[str, str]):
    """Every tensor's hash, not yet known."""

    def __missing__(self, name: str) -> str:
        return _NO_HASH


def _bytes_of(segment: Segment) -> bytes | None:
    if isinstance(segment, NewBytes):
        return segment.data
    if isinstance(segment, LateHeader):
        return segment.build(_Blank(), _NO_HASH)
    return None


def sparse_file(path: Path, head: bytes, size_bytes: int) -> None:
    """A file that begins with `head` and is `size_bytes` long, the rest being a hole. Raises StorageError."""
    try:
        with path.open("xb") as file:
            file.write(head)
            os.ftruncate(file.fileno(), size_bytes)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot make a stand-in of {size_bytes:,} bytes: {error.strerror or error}; name another place "
            "for it with TMPDIR."
        ) from error


def stand_in(plan: Plan, folder: Path) -> Model:
    """The plan's entry (for a sidecar: the sidecar) as it would be written, made of sparse files in `folder`.

    Raises StorageError.
    """
    try:
        folder.mkdir(parents=True)
        for out in plan.outputs:
            path = folder / out.name
            if isinstance(out, Link):
                path.symlink_to(out.source.resolve())
                continue
            assert isinstance(out, NewFile)
            head = _bytes_of(out.segments[0])
            sparse_file(path, b"" if head is None else head, out.size_bytes)
    except OSError as error:
        raise os_error(error, folder, "make stand-ins") from error
    entry = plan.sidecar if plan.layout == "sidecar" and plan.sidecar is not None else plan.entry
    return open_model(folder / entry.name)
