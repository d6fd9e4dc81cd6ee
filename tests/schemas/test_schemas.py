"""Every document has one definition: schema files are made of it, and what verbs print is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from documents import ENGINE, FILES, masked, prepare, run_all, shape
from hub_server import HubServer
from schema_check import validate

from conftest import DATA, DEMO, TRUNKS
from make_schemas import FOLDER, encoded, schemas
from nextn.errors import FormatError, StorageError
from nextn.schemas import KINDS, document_type
from nextn.schemas.base import plain
from nextn.schemas.reading import read_document

SAMPLES = DATA / "documents"


def test_schema_files_are_those_of_the_definitions() -> None:
    made = {name: encoded(schema) for name, schema in schemas().items()}
    assert made == {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_document_says_kind_and_version(kind: str) -> None:
    schema = schemas()[f"{kind}.json"]
    assert schema["properties"]["kind"] == {"enum": [kind]} and schema["properties"]["version"] == {"enum": [1]}
    assert {"kind", "version"} <= set(schema["required"])
    assert '"additionalProperties": false' not in encoded(schema)  # a later version may add fields
    assert document_type(kind).__struct_config__.tag == kind


def check(name: str, document: dict[str, Any], folder: Path) -> None:
    """Against the schema of its kind, and read back as `report` reads it."""
    kind = document["kind"]
    validate(document, json.loads((FOLDER / f"{kind}.json").read_text()))
    if kind in KINDS:
        (folder / f"{name}.json").write_text(json.dumps(document))
        assert type(read_document(folder / f"{name}.json")) is document_type(kind)


def sample(name: str) -> dict[str, Any]:
    """What the verb printed when documents had no kinds and were written by hand."""
    found: dict[str, Any] = masked(json.loads((SAMPLES / f"{name}.json").read_text()), Path("<folder>"), "<hub>")
    return found


@pytest.mark.slow
def test_every_key_means_what_it_meant(tmp_path: Path, hub: HubServer) -> None:
    folder = tmp_path.resolve()
    prepare(folder, DEMO, TRUNKS)
    made = run_all(FILES, folder, hub)
    assert {*made, *ENGINE} == {path.stem for path in SAMPLES.glob("*.json")}
    for name, document in made.items():
        check(name, document, folder)
        assert sample(name) == cut_to(sample(name), masked(document, folder, hub.endpoint)), name
        assert document["kind"] == name.partition("-")[0]


def cut_to(old: Any, new: Any) -> Any:
    """The new document without what has come since."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {name: cut_to(each, new[name]) for name, each in old.items() if name in new}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [cut_to(*pair) for pair in zip(old, new, strict=True)]
    return new


@pytest.mark.engine
def test_every_key_means_what_it_meant_on_an_engine(tmp_path: Path, hub: HubServer) -> None:
    folder = tmp_path.resolve()
    prepare(folder, DEMO, TRUNKS)
    made = run_all({"attach-bundle": FILES["attach-bundle"], **ENGINE}, folder, hub)
    for name in ENGINE:
        check(name, made[name], folder)
        old, new = shape_keys(shape(sample(name))), shape_keys(shape(masked(made[name], folder, hub.endpoint)))
        assert old == cut_to(old, new), name


def shape_keys(value: Any) -> Any:
    """The keys of a shape; what was empty or null in one of two runs is left to the schema."""
    if isinstance(value, dict):
        return {name: found for name, each in value.items() if (found := shape_keys(each))}
    return [shape_keys(each) for each in value if isinstance(each, dict)] if isinstance(value, list) else None


PLAN = {"kind": "plan", "version": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no json", "this is not JSON"),
        ("[" * 100_000, "this is not JSON"),
        ("\xff", "this is not JSON"),
        ("[]", "not a nextn document"),
        ('{"kind": "plan"}', "not a nextn document"),
        ('{"version": 2, "kind": "plan"}', "the document has version 2, and this nextn reads 1"),
        ('{"version": 1, "verdict": "passed"}', "has no 'kind', so an older nextn wrote it; make it again"),
        ('{"version": 1, "kind": "teach"}', "this is a document of kind 'teach', and inspect, "),
        ('{"version": 1, "kind": []}', "this is a document of kind \\[\\]"),
        (json.dumps(PLAN), "this is not what 'nextn plan --json' prints .*missing required field 'model'"),
        (json.dumps({**PLAN, "model": 1}), "Expected 'str', got 'int' - at '\\$.model'"),
    ],
)
def test_what_is_no_document(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError, match=says) as caught:
        read_document(tmp_path / "x.json")
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path / "x.json"))


def test_what_a_later_version_added_is_passed_over(tmp_path: Path) -> None:
    document = json.loads((DATA / "samples" / "plan.json").read_text())
    document |= {"later": 1, "settings": {**document["settings"], "later": {"x": [1]}}}
    (tmp_path / "x.json").write_text(json.dumps(document))
    read = plain(read_document(tmp_path / "x.json"))
    assert "later" not in read and read["model"] == document["model"]
    validate(document, schemas()["plan.json"])


def test_a_failure_is_no_result(tmp_path: Path) -> None:
    failed = {"kind": "error", "version": 1, "verb": "verify", "error": "NoBlock", "exit_code": 15, "message": "x: y."}
    (tmp_path / "x.json").write_text(json.dumps(failed))
    with pytest.raises(FormatError, match=r"x\.json: this is no result: 'nextn verify' failed \(x: y\); make it again"):
        read_document(tmp_path / "x.json", ["verify"])
    assert type(read_document(tmp_path / "x.json")) is document_type("error")


def test_a_document_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        read_document(tmp_path / "x.json")
