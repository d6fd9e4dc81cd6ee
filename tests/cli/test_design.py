"""docs/design.md names the rooms of the import contract, in its order."""

from __future__ import annotations

import re

import pytest

from conftest import ROOT

tomllib = pytest.importorskip("tomllib")  # Python 3.11


def test_the_rooms_of_the_page_are_those_of_the_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]
    layers = [name.strip("() ") for layer in contract["layers"] for name in layer.split("|")]
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = page.partition("## Rooms")[2].partition("## The plan")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    shown = [name.rstrip("/") for row in rows for name in re.findall(r"`([a-z_]+/?)`", row)]
    assert sorted(shown) == sorted(layers)
    assert [name for name in shown if layers.index(name) < 20] == layers[:20]
    assert contract["name"] in table
