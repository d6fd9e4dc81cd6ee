"""Which kind of draft a sidecar is, as llama.cpp's --spec-type names it: read from its header."""

from __future__ import annotations

from pathlib import Path

from nextn.archs.drafts import kind_of
from nextn.errors import NextnError
from nextn.gguf.files import read_header

MTP = "draft-mtp"


def spec_type(sidecar: Path | None) -> str:
    """The value for --spec-type; that of MTP blocks without a sidecar, and for one that only an engine can judge."""
    if sidecar is None:
        return MTP
    try:
        header = read_header(sidecar).header
    except NextnError:
        return MTP
    kind = kind_of(header.get("general.architecture"), {info.name for info in header.tensors})
    return MTP if kind is None else kind.spec_type
