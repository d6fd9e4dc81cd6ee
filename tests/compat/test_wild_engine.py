"""No sentence of inspect or doctor contradicts the engine: it is started on every file of the registry."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from wild import NOT_LOADED, Given, Parts, Wild
from wild_engine import ABORTS, DRAFTS, REFUSES, Did, run
from wild_page import BUILD, ROWS, row_id

import nextn
from conftest import need
from nextn.archs.engines import LLAMA_CPP_BUILD
from nextn.engines import Xllamacpp
from nextn.inspection.shard_set import SetInspection

LOADED = [row for row in ROWS if row.engine != NOT_LOADED]
FAILS = (REFUSES, ABORTS)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    assert BUILD == LLAMA_CPP_BUILD == f"xllamacpp {Xllamacpp.find().version}"
    return Parts(tmp_path_factory.mktemp("parts"))


def check(expected: str, did: Did) -> None:
    """A row says that the engine refuses where it may also abort; that it aborts where it does."""
    assert did.what == expected or (expected == REFUSES and did.what == ABORTS), did


def contradicted(said: str, drafting: Did, plain: Did | None) -> bool:
    """Whether a sentence about llama.cpp, of a finding or of inspect, is not what happened."""
    at_load = drafting if plain is None else plain
    if "refuses to load it" in said or "aborts when it loads" in said:
        kinds = {REFUSES} if "refuses to load it" in said else set()
        kinds |= {ABORTS} if re.search(r"abort|crash", said) else set()
        only_drafting = "when it drafts" in said  # loads after all, where that is what is missing
        return at_load.what not in kinds and not (only_drafting and drafting.what in FAILS)
    if "refuses to draft" in said or "when it drafts" in said or "it aborts or refuses" in said:
        return drafting.what not in FAILS
    if said.startswith("drafts") or "llama.cpp ignores" in said or "llama.cpp drafts" in said:
        return drafting.what != DRAFTS
    if said.startswith("not as it is"):
        return drafting.what == DRAFTS and (plain is None or plain.what not in FAILS)
    return False


@pytest.mark.engine
@pytest.mark.parametrize("row", LOADED, ids=row_id)
def test_nothing_is_said_that_the_engine_does_not_do(row: Wild, parts: Parts, tmp_path: Path) -> None:
    given: Given = row.make(parts, tmp_path)
    model, sidecar = given.launch
    drafting = run(model, sidecar, mtp=True)
    check(row.engine, drafting)
    plain = run(model, None, mtp=False) if sidecar is None else None
    if plain is not None:
        check(row.without_mtp, plain)
    diagnosis = nextn.doctor(given.path, trunk=given.trunk).before
    for finding in diagnosis.findings:
        assert not contradicted(finding.engine, drafting, plain), (finding.id, finding.engine, drafting, plain)
    errors = [each.id for each in diagnosis.findings if each.severity == "error"]
    assert bool(errors) <= (drafting.what in FAILS or (plain is not None and plain.what in FAILS)), errors
    if drafting.what in FAILS:
        assert diagnosis.problems, "doctor finds nothing wrong, and the engine fails"
    seen = nextn.inspect(given.path)
    said = None if isinstance(seen, SetInspection) else seen.runs_on.get("llama.cpp")
    assert said is None or not contradicted(said, drafting, plain), (said, drafting, plain)
    if said is not None and drafting.what == DRAFTS and not errors:
        assert said.startswith("drafts"), said
