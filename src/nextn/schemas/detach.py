"""`nextn detach --json`."""

from __future__ import annotations

from typing import Literal

from .written import WritingDocument


class DetachDocument(WritingDocument, tag="detach", kw_only=True):
    """What nextn detach did, or in a dry run would do."""

    verb: Literal["detach"] = "detach"
    layout: Literal["trunk-only", "in-place"]
