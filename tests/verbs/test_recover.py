"""`nextn recover`: what it says and prints; what it restores stands in tests/writing/test_in_place.py."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import nextn
from conftest import Q4
from nextn.errors import StorageError
from nextn.schemas import document_type
from nextn.writing import journal
from nextn.writing.plan import Tail

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(Q4, tmp_path / "m.gguf"))


def interrupted(model: Path, verb: journal.Verb) -> Path:
    """A journal as a run leaves it that was killed while it appended: here 1,000 bytes, after a tail of 3."""
    before = model.read_bytes()
    head, tail = before[:4096], Tail(len(before) - 3, 3, len(before) + 500)
    bare = journal.Bare(model.name, model.stat().st_ino, len(before), head, 0, tail)
    path = model.with_name(journal.journal_name(model.name))
    path.write_bytes(journal.first_bytes(verb, [bare], [journal.State(journal.NONE, tail_saved=False)]))
    with model.open("ab") as data:
        data.write(b"x" * 1000)
    return path


@pytest.mark.parametrize(("verb", "what"), [("attach", "undone"), ("detach", "finished")])
def test_it_ends_what_was_interrupted_and_says_so(
    run_nextn: Run, model: Path, verb: journal.Verb, what: str
) -> None:
    before = model.read_bytes()
    path = interrupted(model, verb)
    seen = run_nextn("recover", model.parent, "--dry-run", "--json")
    assert seen.returncode == 0 and path.exists() and len(model.read_bytes()) == len(before) + 1000
    document = json.loads(seen.stdout)
    assert document["dry_run"] and document["kind"] == "recover"
    assert document["journals"] == [{"path": str(path), "verb": verb, "what": what, "files": [str(model)]}]
    done = run_nextn("recover", model)
    assert done.returncode == 0 and f"the interrupted {verb} was {what} (m.gguf)" in done.stderr and done.stdout == ""
    assert model.read_bytes() == before and not path.exists()


def test_it_says_when_there_is_nothing_to_do(run_nextn: Run, model: Path) -> None:
    done = run_nextn("recover", model.parent)
    assert done.returncode == 0 and "no change in place was interrupted" in done.stderr and done.stdout == ""
    assert json.loads(run_nextn("recover", model, "--json").stdout)["journals"] == []
    assert run_nextn("recover", model.with_name("none.gguf")).returncode == StorageError.exit_code
    assert nextn.recover(model).to_json()["kind"] == document_type("recover").__struct_config__.tag


def test_a_folder_with_a_strange_journal_is_still_dealt_with(run_nextn: Run, model: Path) -> None:
    """Two that cannot be ended, the first in the order of names: each is named, and the others are ended."""
    before = model.read_bytes()
    strange = [Path(shutil.copy(Q4, model.with_name(name))) for name in ("a.gguf", "z.gguf")]
    left = [interrupted(path, "attach") for path in strange]
    for path in strange:
        shutil.copy(Q4, path.with_name("new"))
        path.with_name("new").replace(path)  # no longer the file that its journal was written for
    own = interrupted(model, "attach")
    seen = run_nextn("recover", model.parent, "--dry-run", "--json")
    document = json.loads(seen.stdout)
    assert seen.returncode == StorageError.exit_code and own.exists()
    assert [each["path"] for each in document["failed"]] == [*map(str, left)]
    assert [each["path"] for each in document["journals"]] == [str(own)]
    done = run_nextn("recover", model.parent, "--quiet")
    assert done.returncode == StorageError.exit_code and done.stdout == ""
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == [*map(str, strange)]
    assert model.read_bytes() == before and not own.exists() and all(path.exists() for path in left)
    with pytest.raises(StorageError, match="it was replaced"):
        nextn.recover(strange[0])
