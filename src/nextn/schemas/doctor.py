"""`nextn doctor --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from .base import Bytes, Document, DocumentPart, Seconds, doc
from .written import WrittenFile


class FindingEntry(DocumentPart):
    """One thing that is wrong, or worth knowing."""

    id: Annotated[str, doc("a heading of docs/doctor.md")]
    severity: Annotated[
        Literal["error", "warning", "note"],
        doc(
            "error: an engine refuses it, aborts, or has its drafts rejected; warning: it works when named by hand, or "
            "on one engine; note: nothing is wrong"
        ),
    ]
    what: Annotated[str, doc("one sentence")]
    where: Annotated[str, doc("file, key or tensor")]
    engine: Annotated[str, doc("which engine fails how; empty for notes")]
    mend: Annotated[str, doc("a command, or what to get from where")]
    fixable: Annotated[bool, doc("--fix can fix it with what was given")]


class SkippedCheck(DocumentPart):
    """A check that was not made."""

    check: str
    why: str


class Mended(DocumentPart):
    """What --fix wrote, or in a dry run would write."""

    dry_run: Annotated[bool, doc("true: nothing was written")]
    verb: Literal["doctor", "attach"]
    layout: str
    entry: Annotated[str, doc("path to load")]
    sidecar: str | None
    bytes_read: Bytes
    bytes_written: Bytes
    bytes_linked: Bytes
    peak_memory_bytes: Annotated[Bytes, doc("upper estimate")]
    files: list[WrittenFile]
    notes: list[str]
    links: Annotated[dict[str, Literal["hard", "symlink"]], doc("file name -> how it got its new name")]
    wall_s: Seconds
    remaining: Annotated[list[FindingEntry], doc("problems left in what was written")]


class DoctorDocument(Document, tag="doctor", kw_only=True):
    """What is wrong with a model."""

    path: Annotated[str, doc("a path, or an address with its commit")]
    shape: Annotated[
        Literal["bundled", "trunk-only", "sidecar", "donor", "checkpoint", "set"],
        doc("set: shards that cannot be opened as one model"),
    ]
    architecture: str | None
    findings: list[FindingEntry]
    skipped: Annotated[list[SkippedCheck], doc("checks that were not run")]
    notes: list[str]
    mended: Annotated[Mended | None, doc("null: no --fix, or nothing to fix")]
