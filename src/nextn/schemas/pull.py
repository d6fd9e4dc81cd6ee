"""`nextn pull --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from .base import Bytes, Document, DocumentPart, Seconds, Sha256, doc


class PulledFile(DocumentPart):
    """One file of the variant."""

    path: str
    source: Annotated[str, doc("path in the repository")] = field(name="from")
    size_bytes: Bytes
    sha256: Sha256 | None
    state: Annotated[
        Literal["present", "cached", "download"],
        doc("before this run: in the folder; in the Hub cache, or in the folder under another name; not here"),
    ]


class PullDocument(Document, tag="pull", kw_only=True):
    """The files of one variant of one quant."""

    dry_run: Annotated[bool, doc("true: something is missing and was not downloaded")]
    verb: Literal["pull"] = "pull"
    repo: str
    commit: str
    quant: str
    variant: Literal["plain", "mtp"]
    why: Annotated[str, doc("how the files were chosen")]
    entry: Annotated[str, doc("path to load")]
    sidecar: Annotated[str | None, doc("path to pass with -md")]
    bytes_downloaded: Annotated[
        Bytes,
        doc(
            "of the variant's files; equal ones count once, parts that an earlier run left do not count; after a dry "
            "run: what is missing"
        ),
    ]
    size_bytes: Annotated[Bytes, doc("of the whole variant")]
    wall_s: Seconds
    files: Annotated[list[PulledFile], Meta(min_length=1)]
    links: Annotated[
        dict[str, Literal["hard", "symlink", "moved"]],
        doc("moved: a file that was downloaded, where there are no hard links"),
    ]
