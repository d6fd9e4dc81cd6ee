"""`nextn explode --json`."""

from __future__ import annotations

from typing import Literal

from .written import WritingDocument


class ExplodeDocument(WritingDocument, tag="explode", kw_only=True):
    """What nextn explode did, or in a dry run would do."""

    verb: Literal["explode"] = "explode"
    layout: Literal["shards"]
