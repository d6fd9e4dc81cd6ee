"""One self-contained page: tables written here, plots drawn by the embedded Chart.js, without any network request."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from ..printable import one_line
from .answer import Answer, answer_of
from .section import Section, TextTable

_DATA = Path(__file__).with_name("page_data")
_WORDS = {
    "memory": "Memory by setup, stacked; the table below has the figures",
    "acceptance": "Acceptance by draft position; the table below has the figures",
    "speed": "Speed of each setup with its spread; the table below has the figures",
    "curve": "Cost of batches, with the line below which a perfect draft pays; the table below has the figures",
    "bytes": "Byte ranges of each file: linked, copied, block, new; the table below has the figures",
}


_PARTS = ("setup", "weights", "KV cache", "recurrent", "compute", "total")
# A figure, with or without a unit: such cells are right-aligned.
_FIGURE = re.compile(r"[-+]?[\d][\d.,]*( ?(%|[KMGT]?B|m?s|t/s|x))?")


def contexts(n_ctx: int, n_ctx_train: int) -> list[int]:
    """The context lengths, in tokens, at which the slider stops: powers of two, the plan's own and the model's."""
    most = max(n_ctx_train or 131072, n_ctx, 512)
    stops = {512 << i for i in range(most.bit_length()) if 512 << i <= most}
    return sorted(stops | {most, n_ctx} | ({n_ctx_train} if n_ctx_train else set()))


def page(sections: Sequence[Section]) -> bytes:
    """The page as UTF-8.

    Every string of a result is escaped: as HTML, and what a browser would not show as itself (control characters,
    direction marks, invisible characters, lone surrogates) by its number, as on a terminal.
    """
    scripts = [(_DATA / name).read_text(encoding="utf-8") for name in ("chart.umd.min.js", "page.js")]
    style = (_DATA / "page.css").read_text(encoding="utf-8")
    # "<" must not appear inside a script element, whatever a model's name contains.
    sections = [_shown(replace(section, plots=tuple(map(_with_stops, section.plots)))) for section in sections]
    data = json.dumps([section.plots for section in sections]).replace("<", "\\u003c")
    allowed = " ".join(_hash(script) for script in scripts)
    policy = f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    opening = _opening(answer_of(sections))
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    tags = "".join(f"<script>{script}</script>" for script in scripts)
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>nextn report</title>'
        f"<style>{style}</style></head><body><header><h1>nextn report</h1>"
        '<button id="theme" type="button">Light or dark</button></header>'
        f'<main>{opening}{body}</main><p id="status" role="status"></p>'
        f'<script type="application/json" id="results">{data}</script>{tags}</body></html>\n'
    )
    return text.encode("utf-8", "replace")


def _opening(answer: Answer) -> str:
    """The answer, then where and when it was found."""
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in answer.facts
    )
    return (
        f'<div id="answer"><p class="badge {answer.tone}">{escape(answer.badge)}</p>'
        f"<p>{escape(answer.line)}</p><dl>{facts}</dl></div>"
    )


def _shown(section: Section) -> Section:
    """The section, its strings without anything that is not shown as itself."""
    tables = [TextTable(one_line(one.caption), _line(one.head), tuple(map(_line, one.rows))) for one in section.tables]
    return replace(
        section,
        title=one_line(section.title),
        summary=_line(section.summary),
        tables=tuple(tables),
        plots=tuple(map(_plain, section.plots)),
        commands=_line(section.commands),
        badge=one_line(section.badge),
        engine=one_line(section.engine),
        machine=one_line(section.machine),
    )


def _line(cells: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(one_line, cells))


def _plain(value: Any) -> Any:
    """A value of JSON with all strings, keys too, as `one_line` shows them."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, dict):
        return {one_line(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _with_stops(plot: dict[str, Any]) -> dict[str, Any]:
    if plot["kind"] != "memory":
        return plot
    return {**plot, "contexts": contexts(int(plot["n_ctx"]), int(plot["n_ctx_train"] or 0))}


def _section(index: int, section: Section) -> str:
    plots = "".join(_plot(f"plot-{index}-{i}", plot) for i, plot in enumerate(section.plots))
    commands = "".join(
        f'<div class="command"><pre tabindex="0">{escape(line)}</pre>'
        '<button type="button" class="copy">Copy</button></div>'
        for line in section.commands
    )
    said = "".join(f"<p>{escape(line)}</p>" for line in section.summary if line.upper() != section.badge)
    tables = "".join(map(_table, section.tables))
    badge = f'<p class="badge {section.tone}">{escape(section.badge)}</p>' if section.badge else ""
    return f"<section><h2>{escape(section.title)}</h2>{badge}{said}{commands}{plots}{tables}</section>"


def _plot(name: str, plot: dict[str, Any]) -> str:
    slider = ""
    if plot["kind"] == "memory":
        stops = plot["contexts"]
        slider = (
            f'<label for="{name}-ctx">Context length</label> <output for="{name}-ctx"></output>'
            f'<input id="{name}-ctx" type="range" min="0" max="{len(stops) - 1}" step="1" '
            f'value="{stops.index(int(plot["n_ctx"]))}">'
            '<div class="scroll" tabindex="0" role="region" aria-label="Memory by setup at this context length">'
            '<table class="wide">'
            "<caption>Memory by setup at this context length</caption><thead><tr>"
            + "".join(f'<th scope="col"{_number(i > 0)}>{x}</th>' for i, x in enumerate(_PARTS))
            + "</tr></thead><tbody></tbody></table></div>"
        )
    return (
        f'<div id="{name}">{slider}<div class="plot"><canvas role="img" aria-label="{_WORDS[plot["kind"]]}"></canvas>'
        "</div></div>"
    )


def _table(table: TextTable) -> str:
    wide = ' class="wide"' if len(table.head) > 3 else ""  # on a narrow screen each of its rows becomes a list
    flush = [_is_figures(table, column) for column in range(len(table.head))]
    head = "".join(
        f'<th scope="col"{_number(right)}>{escape(cell)}</th>' for cell, right in zip(table.head, flush, strict=True)
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(
            f'<td data-label="{escape(name)}"{_number(right)}>{escape(cell)}</td>'
            for name, cell, right in zip(table.head[1:], row[1:], flush[1:], strict=False)
        )
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.caption)}">'
        f"<table{wide}><caption>{escape(table.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _number(right: bool) -> str:
    return ' class="number"' if right else ""


def _is_figures(table: TextTable, column: int) -> bool:
    """Whether a column holds nothing but figures; never true in a table of names and values, whatever the values."""
    if column == 0 or len(table.head) < 3:
        return False
    cells = [row[column] for row in table.rows if column < len(row) and row[column] not in ("", "-", "none")]
    return bool(cells) and all(map(_FIGURE.fullmatch, cells))
