"""The table of what survives what names tests that are there."""

from __future__ import annotations

import re

from conftest import ROOT


def test_every_test_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "durability.md").read_text()
    file, n_named = "", 0
    for name, test in re.findall(r"`((?:tests/)?[\w/]*(?:\.py)?)::(test_\w+)`", page):
        file = name or file
        path = ROOT / file if file.startswith("tests/") else ROOT / "tests" / "writing" / file
        assert f"def {test}(" in path.read_text(), (file, test)
        n_named += 1
    assert n_named > 15
