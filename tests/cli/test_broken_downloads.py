"""Broken downloads, and files that are not models: every verb that is given one says what it is, in the same words."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
import wild_files
from all_verbs import run
from splitting import split_gguf
from wild import WILD, Parts, Wild

from conftest import CHECKPOINT, Q4
from nextn.cli import VERBS
from nextn.gguf.files import open_model

ROWS = {row.name: row for row in wild_files.ROWS if row.group == wild_files.BROKEN}
NO_MODEL = {"cache", "demo", "pull", "scan"}  # verbs that are given the name of no file
SHOWN = {"inspect", "doctor"}  # what these show of a file whose header is complete is a finding
PIECES = {"assemble"}  # names what is missing by what was given


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(choice: object = None) -> NoReturn:
        raise AssertionError("an engine was asked for before the file was opened")

    monkeypatch.setattr("nextn.engines.find_engine", never)


def calls(path: Path, trunk: Path, donor: Path, out: Path) -> Iterator[Sequence[object]]:
    """The path in every place that takes a model."""
    yield "inspect", path
    yield "doctor", path
    yield "doctor", path, "--fix", "--dry-run"
    yield "doctor", trunk, "--from", path
    yield "attach", path, "--dry-run"
    yield "attach", path, "--from", donor, "--layout", "in-place", "--dry-run"
    yield "attach", trunk, "--from", path, "-o", out, "--dry-run"
    yield "detach", path, "--dry-run"
    yield "detach", path, "--in-place", "--dry-run"
    yield "recover", path
    yield "extract", path, "--dry-run"
    yield "explode", path, "--dry-run"
    yield "assemble", path, "-o", out / "made.gguf", "--dry-run"
    yield "verify", path
    yield "verify", trunk, "--sidecar", path
    yield "worth", path
    yield "worth", trunk, "--sidecar", path
    yield "plan", path, "--header-only"
    yield "plan", trunk, "--header-only", "--from", path
    yield "plan", trunk, "--header-only", "--sidecar", path
    yield "bench", path
    yield "tune", path
    yield "train", path, "--dry-run"
    yield "train", trunk, "--from", path, "--dry-run"
    yield "up", path, "--dry-run"
    yield "serve", path, "--print"
    yield "serve", trunk, "--print", "--sidecar", path
    yield "pack", path, "-o", out, "--dry-run"
    yield "pack", trunk, "--from", path, "-o", out, "--dry-run"
    yield "pack", trunk, "--sidecar", path, "-o", out, "--dry-run"
    yield "report", path


def said(err: str) -> str:
    """The sentence, without progress before it."""
    return err.strip().splitlines()[-1].removeprefix("nextn: ")


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_verb_says_what_it_is(name: str, parts: Parts, tmp_path: Path) -> None:
    row: Wild = ROWS[name]
    path = row.make(parts, tmp_path).path
    trunk, donor = Path(shutil.copy(Q4, tmp_path / "trunk.gguf")), CHECKPOINT
    ran = [run(*call) for call in calls(path, trunk, donor, tmp_path / "out")]
    assert {each.argv[0] for each in ran} == VERBS.keys() - NO_MODEL
    sentences = set()
    for each in ran:
        assert each.bug == "" and each.code != 0, each
        if each.argv[0] in SHOWN and not row.refused and str(path) == each.argv[1]:
            shown = each.out + each.err
            assert each.code == 5 and ("is missing" in shown or "ends at byte" in shown), each
        elif each.argv[0] not in ("report", *PIECES):
            sentences.add((each.code, said(each.err)))
    assert len(sentences) == 1, sentences
    ((_, sentence),) = sentences
    assert row.refused in sentence
    report = said(ran[-1].err)
    named = "Git LFS pointer" in sentence or "not a nextn document" in report or "this is not JSON" in report
    assert named, report


def checkpoint(folder: Path, name: str, data: bytes | Callable[[bytes], bytes]) -> Path:
    made = Path(shutil.copytree(CHECKPOINT, folder / "checkpoint"))
    path = made / name
    path.write_bytes(data if isinstance(data, bytes) else data(path.read_bytes()))
    return made


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ERROR = b'{"error":"Repository not found"}'
CHECKPOINTS = {
    "a pointer for weights": (WEIGHTS, wild_files.POINTER, "a Git LFS pointer"),
    "a page for weights": (WEIGHTS, wild_files.PAGE, "a saved web page"),
    "an archive for weights": (WEIGHTS, b"PK\x03\x04" + bytes(200), "a zip archive"),
    "an error for weights": (WEIGHTS, ERROR, "a server's error message"),
    "empty weights": (WEIGHTS, b"", "the file is empty"),
    "weights cut in the header": (WEIGHTS, lambda data: data[:500], "ends at byte 500, inside its header: the"),
    "weights cut in the data": (WEIGHTS, lambda data: data[:-999], r"ends at byte [\d,]+ of [\d,]+: the download"),
    "a pointer for config.json": ("config.json", wild_files.POINTER, "a Git LFS pointer"),
    "a page for config.json": ("config.json", wild_files.PAGE, "a saved web page"),
    "an error for config.json": ("config.json", ERROR, "a server's error message"),
    "an empty config.json": ("config.json", b"", "the file is empty"),
    "a page for the index": (INDEX, wild_files.PAGE, "a saved web page"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_files_of_a_checkpoint_are_named_too(name: str, tmp_path: Path) -> None:
    file, data, words = CHECKPOINTS[name]
    folder = checkpoint(tmp_path, file, data)  # type: ignore[arg-type]
    given = (
        ("inspect", folder), ("doctor", folder), ("doctor", Q4, "--from", folder), ("extract", folder, "--dry-run"),
        ("attach", Q4, "--from", folder, "-o", tmp_path / "out", "--dry-run"),
        ("pack", Q4, "--from", folder, "-o", tmp_path / "out", "--dry-run"),
        ("plan", Q4, "--header-only", "--from", folder),
    )  # fmt: skip
    found = {(each.code, said(each.err)) for each in (run(*call) for call in given)}
    assert len(found) == 1
    ((code, sentence),) = found
    assert code == 10 and file in sentence and re.search(words, sentence)


def test_a_folder_with_nothing_but_an_unfinished_download(tmp_path: Path) -> None:
    shutil.copy(Q4, tmp_path / "X.gguf.part")
    for call in (("inspect", tmp_path), ("serve", tmp_path, "--print"), ("explode", tmp_path), ("assemble", tmp_path)):
        sentence = said(run(*call).err)
        assert sentence.endswith("only X.gguf.part, an unfinished download; resume it.")
    (folder := tmp_path / "checkpoint").mkdir()
    shutil.copy(CHECKPOINT / "config.json", folder)
    (folder / "model.safetensors.incomplete").touch()
    assert "model.safetensors.incomplete is an unfinished download: resume it" in run("extract", folder).err
    assert "only a checkpoint; name a GGUF that was converted from it" in run("serve", folder, "--print").err


def test_inspect_says_nothing_of_a_set_that_it_cannot_open(tmp_path: Path) -> None:
    shards = split_gguf(Q4, tmp_path / "set", 3)
    shards[1].unlink()
    ran = run("inspect", shards[0])
    assert ran.code == 5 and "1 of 3 shards is missing" in ran.out
    assert "trunk layers" not in ran.out and "0 tensors" not in ran.out
    assert json.loads(run("inspect", shards[0], "--json").out)["n_layer_trunk"] is None


def test_a_block_numbered_from_0_has_no_known_number_of_trunk_layers(tmp_path: Path) -> None:
    row = next(row for row in WILD if row.name == "numbered from 0")
    path = row.make(Parts(tmp_path / "parts"), tmp_path).path
    assert open_model(path).arch_int("block_count") == 1
    assert re.search(r"trunk layers +not known", run("inspect", path).out)
