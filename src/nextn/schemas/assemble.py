"""`nextn assemble --json`."""

from __future__ import annotations

from typing import Literal

from .written import WritingDocument


class AssembleDocument(WritingDocument, tag="assemble", kw_only=True):
    """What nextn assemble did, or in a dry run would do."""

    verb: Literal["assemble"] = "assemble"
    layout: Literal["single", "shards"]
