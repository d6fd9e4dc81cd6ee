"""A command that fails says why: a sentence on standard error, its exit code and, with --json, a document."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from schema_check import validate

from conftest import CHECKPOINT, Q4
from make_schemas import FOLDER
from nextn import cli, errors
from nextn.cli import VERBS, main

ADDRESS = "https://example.org//x.gguf?download=true"
SCHEMA = json.loads((FOLDER / "error.json").read_text())


def failed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """The document, which agrees with exit code and standard error, and is all that is on standard output."""
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    document: dict[str, Any] = json.loads(out)
    validate(document, SCHEMA)
    assert code == document["exit_code"] != 0
    assert err.splitlines()[-1] == f"nextn: {document['message']}"
    return document


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("cache", "scan", "demo")])
def test_every_command(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    more = ["-o", "out"] if verb in ("pack", "pull", "explode", "assemble") else []
    found = failed(capsys, verb, "nothing/nothing.gguf", "--json", *more)
    assert found["verb"] == verb and found["error"] in {name for name in vars(errors) if name[0].isupper()}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "verb", "error"),
    [
        (["inspekt", "--json"], None, "UsageError"),
        (["inspect", "--json"], "inspect", "UsageError"),
        (["inspect", Q4, "--jsn", "--json"], "inspect", "UsageError"),
        (["attach", Q4, "--from", Q4, "--json"], "attach", "NoBlock"),
        (["attach", Q4, "--from", CHECKPOINT, "--layout", "shards", "--type", "x", "--json"], "attach", "UsageError"),
    ],
)
def test_other_errors(words: list[object], verb: str | None, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = failed(capsys, *words)
    assert (found["verb"], found["error"]) == (verb, error)


def test_only_for_nextn_s_own_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "nothing.gguf"]) == main(["serve", "nothing.gguf", "--", "--json"]) == 22
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "name", "code"),
    [(KeyboardInterrupt(), "Interrupted", 130), (MemoryError(), "OutOfMemory", 70), (ValueError("x"), "Bug", 70),
     (OSError(5, "Input/output error", "x"), "StorageError", 22)],
)  # fmt: skip
def test_errors_that_are_not_ours(
    error: BaseException, name: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise error

    monkeypatch.delenv("NEXTN_TRACEBACK", raising=False)
    monkeypatch.setattr(cli.cli, "main", fail)
    found = failed(capsys, "inspect", Q4, "--json")
    assert (found["error"], found["exit_code"]) == (name, code)


def test_after_a_result_there_is_no_second_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **more: object) -> None:
        sys.stdout.write("{}\n")
        raise errors.EngineFailed("x died.")

    monkeypatch.setattr(cli.cli, "main", fail)
    assert main(["up", Q4.name, "--json"]) == 32
    assert capsys.readouterr() == ("{}\n", "nextn: x died.\n")


@pytest.mark.parametrize(
    "words",
    [["verify"], ["detach"], ["serve"], ["train"], ["report"], ["recover"], ["scan"], ["bench", Q4, "--sidecar"],
     ["bench", Q4, "--prompts"], ["pack", Q4, "-o", "out", "--verified"], ["doctor", Q4, "--trunk"]],
)  # fmt: skip
def test_an_address_is_named_as_it_was_given(words: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*map(str, words), ADDRESS]) == 22
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("nextn: https://example.org/") and "download the file and name it" in said


def test_nothing_is_written_to_an_address(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for verb in ("pack", "attach"):
        assert main([verb, str(Q4), "--from", str(CHECKPOINT), "-o", "https://example.org/out"]) == 2
        assert "https://example.org" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
