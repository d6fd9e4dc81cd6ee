"""What verbs that write files report about them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, UnsetType

from .base import Bytes, Document, DocumentPart, Seconds, Sha256, doc

Kind: TypeAlias = Literal["linked", "copied", "kept", "block", "new"]


class ByteRange(DocumentPart):
    """Neighbouring bytes of one kind in a file."""

    what: Annotated[
        Kind,
        doc(
            "block: tensors of the block or a sidecar, carried or converted; new: headers; kept: what was already there"
        ),
    ]
    size_bytes: Bytes


class WrittenFile(DocumentPart):
    """A file that was written or linked, or in a dry run would be."""

    path: str
    size_bytes: Bytes
    how: Annotated[Literal["write", "link", "change"], doc("change: an existing file, in place")]
    source: Annotated[str | None, doc("the file that a link leads to")]
    ranges: Annotated[list[ByteRange], doc("the file from its first byte on")]


class DonorSource(DocumentPart):
    """Where a block came from."""

    name: Annotated[str, doc("a file or folder name, or an address with its commit")]
    revision: Annotated[str | None, doc("the commit")]
    sha256: Annotated[
        Sha256 | None,
        doc(
            "of the source bytes of what was taken; for a complete block, the value for --expect; null after a dry run"
        ),
    ]
    why: Annotated[str | None, doc("how it was chosen; null: it was named")]


class WritingDocument(Document, kw_only=True):
    """What attach, detach or extract did, or in a dry run would do."""

    dry_run: Annotated[bool, doc("true: nothing was written, figures are the plan's")]
    entry: Annotated[str, doc("path to load")]
    sidecar: Annotated[str | None, doc("path to pass with -md")]
    bytes_read: Annotated[Bytes, doc("from inputs, copies inside the kernel included")]
    bytes_written: Annotated[Bytes, doc("bytes of new files")]
    bytes_linked: Annotated[Bytes, doc("bytes of existing files under new names")]
    peak_memory_bytes: Annotated[Bytes, doc("upper estimate")]
    files: list[WrittenFile]
    notes: list[str]
    wall_s: Seconds
    tensor_sha256: Annotated[dict[str, Sha256], doc("attached tensor -> sha256 of its stored bytes")]
    links: Annotated[dict[str, Literal["hard", "symlink", "moved"]], doc("file name -> how it got its new name")]
    donor: Annotated[DonorSource | None, doc("where the block came from; null for detach")]
    bytes_downloaded: Annotated[Bytes, doc("from servers, headers included")]
    bytes_to_download: Annotated[Bytes, doc("bytes that a dry run did not download")]
    steps: Annotated[list[str] | UnsetType, doc("only in place: what is done to the files, in order")] = UNSET
