"""`nextn report`: documents that other verbs wrote, as tables or as one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..results.answer import answer_of
from ..results.section import Section
from ..results.sections import read_sections
from ..schemas.base import Documented
from ..schemas.report import ReportDocument, ReportSection, ReportTable


@dataclass(frozen=True)
class ReportResult(Documented):
    """What the documents say."""

    sections: tuple[Section, ...]  # first what the model is, last how it is served
    left_out: tuple[str, ...] = ()  # a sentence about each .json file in a folder that is not a document
    page_path: Path | None = None  # None: no page was asked for
    dry_run: bool = False
    page: bytes = field(default=b"", repr=False)  # the page as UTF-8

    @property
    def when_unprinted(self) -> str:
        """Whether the page was written."""
        return "nothing was written" if self.page_path is None or self.dry_run else f"{self.page_path} is complete"

    @property
    def document(self) -> ReportDocument:
        """What --json prints."""
        found = answer_of(self.sections)
        return ReportDocument(
            answer=found.line,
            badge=found.badge,
            facts=dict(found.facts),
            left_out=list(self.left_out),
            sections=[
                ReportSection(
                    title=section.title,
                    badge=section.badge,
                    tone=section.tone,
                    summary=list(section.summary),
                    commands=list(section.commands),
                    tables=[
                        ReportTable(one.caption, list(one.head), list(map(list, one.rows))) for one in section.tables
                    ],
                )
                for section in self.sections
            ]
        )


def report(
    results: Sequence[str | Path], *, out: str | Path | None = None, dry_run: bool = False
) -> ReportResult:
    """The results that other verbs wrote with --json, as tables; with `out`, also as one HTML page written there.

    A folder among `results` stands for all documents in it; `left_out` of the result names its other .json files.

    The page needs no network. `dry_run`: the page is made but not written.

    Raises FormatError for a file that is not a nextn document, StorageError, and for the page OutputExists and NoSpace.
    """
    left_out: list[str] = []
    sections = tuple(read_sections(results, left_out))
    if out is None:
        return ReportResult(sections, tuple(left_out))
    from ..results.page import page
    from ..writing.durable import write_file

    made = page(sections)
    if not dry_run:
        write_file(Path(out), made)
    return ReportResult(sections, tuple(left_out), Path(out), dry_run, made)
