"""`nextn pack --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .base import Bytes, Document, DocumentPart, Seconds, Sha256, doc
from .written import ByteRange


class PackedFile(DocumentPart):
    """A file of the folder."""

    path: str
    size_bytes: Bytes
    how: Literal["write", "link"]
    source: Annotated[str | None, doc("the file that a link leads to")]
    ranges: Annotated[list[ByteRange], doc("the file from its first byte on")]
    sha256: Annotated[Sha256 | None, doc("null: after a dry run, and for SHA256SUMS itself")]


class PackedVariant(DocumentPart):
    """How one variant is loaded."""

    entry: Annotated[str, doc("file to load")]
    sidecar: Annotated[str | None, doc("file to pass with -md")]


class PackedQuant(DocumentPart):
    """One quant of the folder, with and without its block."""

    quant: str
    layout: Literal["shards", "sidecar"]
    variants: dict[Literal["plain", "mtp"], PackedVariant]


class PackDocument(Document, tag="pack", kw_only=True):
    """A folder to publish."""

    dry_run: Annotated[bool, doc("true: nothing was written, figures are the plan's")]
    verb: Literal["pack"] = "pack"
    folder: Annotated[str, doc("to publish")]
    manifest: Annotated[str, doc("path of nextn.json")]
    bytes_read: Annotated[Bytes, doc("hashing included")]
    bytes_hashed: Annotated[Bytes, doc("files with several names count once")]
    bytes_written: Bytes
    bytes_linked: Annotated[Bytes, doc("once for each new name")]
    bytes_downloaded: Annotated[Bytes, doc("from servers, headers included")]
    why: Annotated[
        str | None, doc("how the block's donor was chosen; null: it was named, or the models carry the block")
    ]
    peak_memory_bytes: Annotated[Bytes, doc("upper estimate")]
    wall_s: Seconds
    kept: Annotated[list[str], doc("quants that the folder had already, with the same SHA-256")]
    upload: Annotated[list[str], doc("the command that uploads the folder, as arguments")]
    files: Annotated[list[PackedFile], doc("written or linked by this run")]
    quants: Annotated[list[PackedQuant], Meta(min_length=1)]
    links: Annotated[dict[str, Literal["hard", "symlink"]], doc("file name -> how it got its new name")]
    notes: list[str]
