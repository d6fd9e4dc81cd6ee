"""`nextn serve --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .base import Count, Document, EngineName, Positive, Share, doc


class ServeDocument(Document, tag="serve", kw_only=True):
    """How a model is served."""

    model: Annotated[str, doc("path to load")]
    layout: Annotated[Literal["bundled", "shards", "sidecar", "none"], doc("none: without MTP")]
    sidecar: str | None
    n_max: Annotated[Count | None, doc("0: without MTP; null: the engine's default")]
    p_min: Annotated[Share | None, doc("null: the engine's default")]
    threads: Annotated[Positive | None, doc("null: the engine's default")]
    engine: EngineName
    command: Annotated[list[str], Meta(min_length=1)]
    env: Annotated[dict[str, str], doc("additional environment variables that it needs")]
    shell: Annotated[str, doc("variables and command as one line for a POSIX shell")]
    notes: list[str]
