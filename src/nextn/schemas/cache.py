"""`nextn cache --json`."""

from __future__ import annotations

from typing import Annotated

from .base import Bytes, Document, DocumentPart, doc


class KeptModel(DocumentPart):
    """Parts of one version of one remote source; with --sidecars a sidecar."""

    name: Annotated[str, doc("hf:ORG/NAME@COMMIT, or the address; with --sidecars the sidecar's path")]
    path: Annotated[str, doc("the folder that holds it; with --sidecars the sidecar's path")]
    size_bytes: Annotated[Bytes, doc("its size on disk")]
    used: Annotated[str, doc("when it was last written to, UTC, as 2026-01-31T23:59:59Z")]
    model: Annotated[str | None, doc("with --sidecars the model that it belongs to; null: not known")]
    stale: Annotated[bool, doc("with --sidecars: the file is gone or was replaced")]


class CacheDocument(Document, tag="cache", kw_only=True):
    """What is kept of remote models, or with --sidecars of sidecars."""

    folder: str
    freed_bytes: Annotated[Bytes, doc("with --clear: what was removed")]
    entries: Annotated[list[KeptModel], doc("what is kept; with --clear: what was left, since another run uses it")]
