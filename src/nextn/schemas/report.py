"""`nextn report --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import field

from .base import Document, DocumentPart, doc


class ReportTable(DocumentPart):
    """A table of text cells."""

    caption: str
    head: list[str]
    rows: list[list[str]]


class ReportSection(DocumentPart):
    """What one document says."""

    title: str
    badge: Annotated[str, doc("the verdict in a word or two; empty: nothing is judged")]
    tone: Annotated[Literal["good", "bad", "unclear", "plain"], doc("what the verdict means for the user")]
    summary: list[str]
    commands: list[str]
    tables: list[ReportTable]


class ReportDocument(Document, tag="report", kw_only=True):
    """Documents as sections of tables."""

    answer: Annotated[str, doc("the sentence with which the page opens")]
    badge: Annotated[str, doc("the verdict before it")]
    facts: Annotated[dict[str, str], doc("date, versions, engine and machine, as far as they are known")]
    left_out: Annotated[list[str], doc("a sentence about each .json file in a folder that is not a document")] = field(
        default_factory=list
    )
    sections: list[ReportSection]
