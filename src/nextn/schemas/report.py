"""`nextn report --json`."""

from __future__ import annotations

from .base import Document, DocumentPart


class ReportTable(DocumentPart):
    """A table of text cells."""

    caption: str
    head: list[str]
    rows: list[list[str]]


class ReportSection(DocumentPart):
    """What one document says."""

    title: str
    summary: list[str]
    commands: list[str]
    tables: list[ReportTable]


class ReportDocument(Document, tag="report", kw_only=True):
    """Documents as sections of tables."""

    sections: list[ReportSection]
