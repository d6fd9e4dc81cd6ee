"""`nextn report --json`."""

from __future__ import annotations

from .base import Document, Part


class ReportTable(Part):
    """A table of text cells."""

    caption: str
    head: list[str]
    rows: list[list[str]]


class ReportSection(Part):
    """What one document says."""

    title: str
    summary: list[str]
    commands: list[str]
    tables: list[ReportTable]


class Report(Document, tag="report", kw_only=True):
    """Documents as sections of tables."""

    sections: list[ReportSection]
