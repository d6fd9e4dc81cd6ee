"""What inspect and doctor say of every file of the registry, and the page that is made from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from wild import Given, Parts, Wild
from wild_page import OWN_ROWS, ROWS, page, row_id

import nextn
from conftest import ROOT
from nextn.errors import NextnError


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(params=OWN_ROWS, ids=row_id)
def made(request: pytest.FixtureRequest, parts: Parts, tmp_path: Path) -> tuple[Wild, Given]:
    row: Wild = request.param
    return row, row.make(parts, tmp_path)


def test_inspect_and_doctor_say_what_the_page_says(made: tuple[Wild, Given]) -> None:
    row, given = made
    if row.refused:
        for verb in (nextn.inspect, nextn.doctor):
            with pytest.raises(NextnError) as refused:
                verb(given.path)
            assert row.refused in str(refused.value) and str(given.path) in str(refused.value)
        return
    found = nextn.doctor(given.path).before
    assert tuple(each.id for each in found.findings if each.is_problem) == row.found
    assert nextn.inspect(given.path).shape == found.shape == row.shape


def test_the_page_is_that_of_the_registry() -> None:
    assert (ROOT / "docs" / "wild-files.md").read_text("utf-8") == page()


def test_rows_have_names_of_their_own() -> None:
    assert len({row_id(row) for row in ROWS}) == len(ROWS) > 60
