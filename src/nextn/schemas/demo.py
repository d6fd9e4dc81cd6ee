"""`nextn demo --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from .base import Bytes, Document, DocumentPart, Seconds, Share, doc


class DemoRow(DocumentPart):
    """One layout: what it took and what the engine said."""

    layout: Literal["shards", "sidecar", "bundle"]
    bytes_written: Bytes
    wall_s: Annotated[Seconds, doc("attaching")]
    verdict: Literal["passed", "failed", "cannot_tell"]
    same_text: bool | None
    acceptance: Annotated[dict[str, list[Share]], doc("n_max -> share accepted at position 1, 2, ...")]
    tps_off: Annotated[float, doc("decoded tokens per second without MTP")]
    tps_on: Annotated[dict[str, float], doc("the same by n_max")]


class DemoDocument(Document, tag="demo", kw_only=True):
    """The shipped model through all layouts, on an engine."""

    engine: Annotated[str, doc("name and version")]
    refusal: Annotated[str, doc("the engine's message when it is asked to draft with only the trunk")]
    passed: bool
    rows: list[DemoRow]
