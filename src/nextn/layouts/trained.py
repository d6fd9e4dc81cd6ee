"""A trained draft under its final name: the candidate's tensors, with what is known of them in the header."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import FormatError
from ..gguf.files import Model
from ..gguf.kv import KV
from ..gguf.kv_table import edit
from ..writing.plan import NewFile, Plan
from .parts import data_segments, new_header, trunk_parts


def plan_trained(candidate: Model, pairs: Sequence[KV], folder: Path, name: str) -> Plan:
    """The plan that writes `candidate`, a sidecar in one file, as `name` with these pairs added to its header.

    Raises FormatError for a candidate that is incomplete.
    """
    if len(candidate.files) != 1:
        raise FormatError("a trained draft is a single file", path=candidate.entry)
    candidate.check_whole()
    file = candidate.files[0]
    parts = trunk_parts([file])
    header = new_header(edit(candidate.kvs, put=pairs), parts, file.header.version, file.header.alignment)
    segments = (header, *data_segments(parts, file.header.alignment, [file]))
    return Plan(
        verb="train", layout="sidecar", folder=folder, outputs=(NewFile(name, segments),), entry=folder / name,
        sidecar=folder / name, header_bytes=candidate.header_bytes,
    )  # fmt: skip
