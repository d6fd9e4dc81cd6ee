"""All rows of the registry, and the page that is made from them."""

from __future__ import annotations

import wild
import wild_files
import wild_sick
from wild import NOT_LOADED, Wild

BUILD = "xllamacpp 2026.10.11549"
OWN_ROWS: tuple[Wild, ...] = (*wild_files.ROWS, *wild_sick.ROWS)  # tests/verbs/test_wild.py tests those of `wild`
ROWS: tuple[Wild, ...] = (*wild_files.ROWS, *wild.WILD, *wild_sick.ROWS)

HEAD = f"""\
# Which files exist in the wild, and what nextn does

Each row is a kind of file that people have, rebuilt small by the tests. For every row a test checks what inspect and
doctor say (tests/inspection/test_wild_rows.py, tests/verbs/test_wild.py), and another starts the engine on it and
checks that no sentence of theirs contradicts what the engine does (tests/compat/test_wild_engine.py). The findings are
explained in [doctor.md](doctor.md). What the engine does was measured with {BUILD} (llama.cpp
b11549): asked to draft, and where a file is a model by itself, also without MTP.

This page is made by scripts/make_docs.py from tests/support/wild.py and its siblings.
"""


def row_id(row: Wild) -> str:
    """The row's name among tests."""
    return f"{row.group}: {row.name}".replace(" ", "-")


def page() -> str:
    """docs/wild-files.md."""
    parts = [HEAD]
    for group in dict.fromkeys(row.group for row in ROWS):
        parts.append(f"\n## {group}\n\n| what people have | what nextn does | doctor finds | llama.cpp |\n")
        parts.append("| --- | --- | --- | --- |\n")
        parts += [_line(row) for row in ROWS if row.group == group]
    return "".join(parts)


def _line(row: Wild) -> str:
    found = ", ".join(f"[`{each}`](doctor.md#{each})" for each in row.found)
    if row.refused:
        found = f"\"{row.refused}...\""
    return f"| {row.what} | {row.nextn} | {found or 'nothing wrong'} | {_engine(row)} |\n"


def _engine(row: Wild) -> str:
    if row.engine == NOT_LOADED:
        return "drafts with what attach makes" if "" in row.attach.values() else "-"
    if row.shape == "sidecar":
        return f"{row.engine} beside its trunk"
    if row.engine == row.without_mtp:
        return row.engine
    return f"{row.engine}; without MTP {row.without_mtp}"
