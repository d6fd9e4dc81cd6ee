"""The command line as scripts and people use it: exit codes, JSON with a schema, one sentence for an error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from schema_check import validate

from conftest import CHECKPOINT, Q4, ROOT
from nextn.cli import VERBS, main
from nextn.errors import EXIT_CODES

SCHEMAS = ROOT / "src" / "nextn" / "schemas"


def schema(name: str) -> dict:
    return json.loads((SCHEMAS / f"{name}.json").read_text())


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nextn", *map(str, args)], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("args", "made"),
    [
        (["attach", Q4, "--from", CHECKPOINT, "--layout", "bundle"], 1),
        (["attach", Q4, "--from", CHECKPOINT, "--layout", "shards"], 2),
        (["attach", Q4, "--from", CHECKPOINT], 1),
        (["extract", CHECKPOINT, "--block-only"], 1),
    ],
)
def test_json_of_writing_verbs_fits_its_schema(
    args: list, made: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for extra in (["--dry-run"], []):
        assert main([*map(str, args), "-o", str(tmp_path / "out"), "--json", *extra]) == 0
        data = json.loads(capsys.readouterr().out)
        validate(data, schema("result"))
        assert len(data["files"]) == made and data["dry_run"] == bool(extra)
        assert all(Path(file["path"]).exists() != bool(extra) for file in data["files"])
    assert Path(data["entry"]).exists()
    assert data["bytes_written"] == sum(Path(f["path"]).stat().st_size for f in data["files"] if f["how"] == "write")


def test_the_path_to_load_is_all_that_stdout_gets(tmp_path: Path) -> None:
    done = run("attach", Q4, "--from", CHECKPOINT, "--layout", "bundle", "-o", tmp_path / "x.gguf")
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'x.gguf'}\n"
    back = run("detach", tmp_path / "x.gguf", "-o", tmp_path / "y.gguf", "--quiet")
    assert back.stdout == f"{tmp_path / 'y.gguf'}\n" and back.stderr == ""


def test_inspect_json_fits_its_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(Q4), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    validate(data, schema("inspect"))
    assert (data["shape"], data["n_layer_trunk"], data["n_layer_nextn"]) == ("trunk-only", 4, 0)
    assert main(["attach", str(Q4), "--from", str(CHECKPOINT), "--layout", "bundle", "-o", str(tmp_path)]) == 0
    entry = capsys.readouterr().out.strip()
    assert main(["inspect", entry, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    validate(data, schema("inspect"))
    assert (data["shape"], data["n_layer_nextn"]) == ("bundled", 1)
    assert data["provenance"]["donor"] == CHECKPOINT.name


def test_errors_are_one_sentence_with_an_exit_code(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model")
    done = run("inspect", bad)
    assert done.returncode == 10 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and str(bad) in done.stderr and "byte 0" in done.stderr


def test_wrong_calls_exit_with_2() -> None:
    for args in (["atach"], ["attach"], ["attach", "x.gguf", "--nonsense"], ["inspect", "--nonsense", "x"], []):
        done = run(*args)
        assert done.returncode == 2, args
        assert "Traceback" not in done.stderr
    assert "did you mean 'attach'" in run("atach").stderr


def test_the_name_alone_shows_the_help() -> None:
    done, asked = run(), run("--help")
    assert (done.stdout, done.stderr) == (asked.stdout, "") and asked.stdout.count("\n") > 40


def test_help_names_every_verb_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    text = run("--help").stdout
    assert all(verb in text for verb in VERBS)
    assert "Exit codes" in text and all(meaning.split()[0] in text for meaning in EXIT_CODES.values())
    for verb in VERBS:
        assert main([verb, "--help"]) == 0
        assert "Usage: nextn " + verb in capsys.readouterr().out


def test_a_bug_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import nextn.verbs.inspect

    def broken(path: str, **options: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(nextn.verbs.inspect, "inspect", broken)
    assert main(["inspect", "x"]) == 70
    assert "bug in nextn (RuntimeError: boom)" in capsys.readouterr().err


def test_looking_never_loads_numpy() -> None:
    code = f"import sys, nextn.cli; nextn.cli.main(['inspect', {str(Q4)!r}]); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
