"""`nextn extract --json`."""

from __future__ import annotations

from typing import Literal

from .written import WritingDocument


class ExtractDocument(WritingDocument, tag="extract", kw_only=True):
    """What nextn extract did, or in a dry run would do."""

    verb: Literal["extract"] = "extract"
    layout: Literal["sidecar", "donor"]
