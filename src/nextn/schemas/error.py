"""What any command prints with --json when it fails."""

from __future__ import annotations

from typing import Annotated

from .base import Document, doc


class ErrorDocument(Document, tag="error", kw_only=True):
    """Why there is no result."""

    verb: Annotated[str | None, doc("the command; null: the words begin with none")]
    error: Annotated[
        str,
        doc("the class in nextn.errors; or Interrupted, Declined, OutOfMemory, and Bug for a mistake in nextn itself"),
    ]
    exit_code: Annotated[int, doc("of the process")]
    message: Annotated[str, doc("one sentence, as on standard error; it may change in any version")]
