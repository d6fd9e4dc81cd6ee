"""`nextn attach --json`."""

from __future__ import annotations

from typing import Literal

from .written import WritingDocument


class AttachDocument(WritingDocument, tag="attach", kw_only=True):
    """What nextn attach did, or in a dry run would do."""

    verb: Literal["attach"] = "attach"
    layout: Literal["shards", "sidecar", "bundle", "in-place"]
