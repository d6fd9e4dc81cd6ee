"""One self-contained page: tables written here, plots drawn by the embedded Chart.js, no request ever made."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from .results import Section, Table

_DATA = Path(__file__).with_name("page_data")
_WORDS = {
    "memory": "Memory by setup, stacked; the table below has the figures",
    "acceptance": "Acceptance by draft position; the table below has the figures",
    "speed": "Speed of each setup with its spread; the table below has the figures",
    "bytes": "Byte ranges of each file: linked, copied, block, new; the table below has the figures",
}


def page(sections: Sequence[Section]) -> bytes:
    """The page as UTF-8; every string of a result is escaped."""
    scripts = [(_DATA / name).read_text(encoding="utf-8") for name in ("chart.umd.min.js", "page.js")]
    style = (_DATA / "page.css").read_text(encoding="utf-8")
    # "<" cannot stand in a script element, whatever a model's name holds.
    data = json.dumps([list(section.plots) for section in sections]).replace("<", "\\u003c")
    allowed = " ".join(_hash(script) for script in scripts)
    policy = f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    tags = "".join(f"<script>{script}</script>" for script in scripts)
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>nextn report</title>'
        f"<style>{style}</style></head><body><header><h1>nextn report</h1>"
        '<button id="theme" type="button">Light or dark</button></header>'
        f'<main>{body}</main><p id="status" role="status"></p>'
        f'<script type="application/json" id="results">{data}</script>{tags}</body></html>\n'
    )
    return text.encode("utf-8", "replace")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _section(index: int, section: Section) -> str:
    plots = "".join(_plot(f"plot-{index}-{i}", plot) for i, plot in enumerate(section.plots))
    commands = "".join(
        f'<div class="command"><pre tabindex="0">{escape(line)}</pre>'
        '<button type="button" class="copy">Copy</button></div>'
        for line in section.commands
    )
    said = "".join(f"<p>{escape(line)}</p>" for line in section.summary)
    tables = "".join(map(_table, section.tables))
    return f"<section><h2>{escape(section.title)}</h2>{said}{commands}{plots}{tables}</section>"


def _plot(name: str, plot: dict[str, Any]) -> str:
    slider = ""
    if plot["kind"] == "memory":
        most = max(int(plot["n_ctx_train"]) or 131072, int(plot["n_ctx"]), 512)
        slider = (
            f'<label for="{name}-ctx">Context length</label> <output for="{name}-ctx"></output>'
            f'<input id="{name}-ctx" type="range" min="9" max="{max(10, math.ceil(math.log2(most)))}" step="0.25" '
            f'value="{math.log2(max(1, int(plot["n_ctx"]))):.4f}">'
            '<div class="scroll" tabindex="0"><table><caption>Memory at this context length</caption><thead><tr>'
            + "".join(f'<th scope="col">{x}</th>' for x in ("setup", "weights", "KV cache", "recurrent", "compute"))
            + '<th scope="col">total</th></tr></thead><tbody></tbody></table></div>'
        )
    return (
        f'<div id="{name}">{slider}<div class="plot"><canvas role="img" aria-label="{_WORDS[plot["kind"]]}"></canvas>'
        "</div></div>"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{escape(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
