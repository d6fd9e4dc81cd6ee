"""The mistakes of the first hour: every verb that meets one answers in one sentence that says what to do."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from all_verbs import run
from ggufmaker import f32, make
from newcomer import LOCAL_ONLY, ON_A_MODEL, says, work_folder

import nextn
from conftest import CHECKPOINT, Q4
from nextn.cli import VERBS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a newcomer works."""
    return work_folder(tmp_path, monkeypatch)


def test_every_verb_is_tried() -> None:
    others = {"report", "pull", "cache", "demo", "scan"}
    assert set(VERBS) - others == set(ON_A_MODEL)


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ON_A_MODEL)
def test_a_path_that_is_nearly_right(folder: Path, verb: str) -> None:
    near = f"a similar name is {Q4.name}"
    says(run(verb, "tiny-qwen35-Q4_K_L.gguf", *ON_A_MODEL[verb]), 22, "tiny-qwen35-Q4_K_L.gguf: there is no such", near)
    says(run(verb, "TINY-qwen35-q4_k_m", *ON_A_MODEL[verb]), 22, near)


@pytest.mark.parametrize("verb", ON_A_MODEL)
def test_a_path_in_no_folder(folder: Path, verb: str) -> None:
    says(run(verb, "nowhere/deep/m.gguf", *ON_A_MODEL[verb]), 22, "and no folder nowhere either; check the path")


@pytest.mark.parametrize("verb", sorted(set(ON_A_MODEL) - {"up"}))  # which takes names, and expands it
def test_a_tilde_in_quotes(folder: Path, verb: str) -> None:
    ran = run(verb, "~/m.gguf", *ON_A_MODEL[verb])
    says(ran, 22, "does not expand '~' inside quotes", f"write {os.environ['HOME']}/m.gguf")


@pytest.mark.parametrize("verb", ("inspect", "train", "up"))
def test_a_link_that_leads_nowhere(folder: Path, verb: str) -> None:
    (folder / "link.gguf").symlink_to("gone.gguf")
    says(run(verb, "link.gguf"), 22, "link.gguf: cannot open it: this link leads to gone.gguf, where there is nothing")


def test_a_tilde_that_is_expanded(folder: Path) -> None:
    (Path(os.environ["HOME"]) / "m.gguf").symlink_to(Q4)
    assert run("up", "~/m.gguf", "--from", CHECKPOINT.name, *ON_A_MODEL["up"]).code == 0
    says(run("up", "~/n.gguf"), 22, f"{os.environ['HOME']}/n.gguf: there is no such", "a similar name is")
    says(run("scan", "~/models"), 22, f"{os.environ['HOME']}/models: there is no such")


@pytest.mark.parametrize("option", ("--work", "--export"))
def test_a_tilde_in_quotes_as_folder_of_training(folder: Path, option: str) -> None:
    says(run("train", Q4.name, option, "~/out"), 2, f"inside quotes; write {os.environ['HOME']}/out")
    assert not (folder / "~").exists()


@pytest.mark.parametrize(
    "verb", ("attach", "extract", "explode", "pack", "pull", "tune", "detach", "report", "demo", "train", "up")
)
def test_a_tilde_in_quotes_as_output(folder: Path, verb: str) -> None:
    given = () if verb == "demo" else ("org/name",) if verb == "pull" else (Q4.name,)
    says(run(verb, *given, "-o", "~/out"), 2, f"inside quotes; write {os.environ['HOME']}/out")
    assert not (folder / "~").exists()


@pytest.mark.parametrize(
    "name", ("donor", "sidecar", "trunk", "report", "start of training", "prompts", "chats", "folder")
)
def test_other_paths_that_are_nearly_right(folder: Path, name: str) -> None:
    calls = {
        "donor": ("attach", Q4.name, "--from", "tiny-qwen35-mpt"),
        "sidecar": ("verify", Q4.name, "--sidecar", "tiny-qwen35-Q4_K_S.gguf"),
        "trunk": ("verify", Q4.name, "--trunk", "tiny-qwen35-Q4_K_S.gguf"),
        "report": ("report", "tiny-qwen35-Q4_K_S.gguf"),
        "start of training": ("train", Q4.name, "--from", "tiny-qwen35-mpt", "--dry-run"),
        "prompts": ("train", Q4.name, "--prompts", "tiny-qwen35-Q4_K_S.gguf", "--dry-run"),
        "chats": ("train", Q4.name, "--chats", "tiny-qwen35-Q4_K_S.gguf", "--dry-run"),
        "folder": ("scan", "tiny-qwen35-mpt"),
    }
    says(run(*calls[name]), 22, "a similar name is tiny-qwen35-")


@pytest.mark.parametrize("verb", sorted(set(ON_A_MODEL) - {"pack"}))  # takes all quants of a folder
def test_a_folder_with_four_models(folder: Path, verb: str) -> None:
    four = folder / "four"
    four.mkdir()
    for name in "abcd":
        (four / f"{name}.gguf").symlink_to(Q4)
    if verb == "recover":  # has nothing to choose: it looks after all files of a folder
        assert run(verb, four).code == 0
        return
    says(run(verb, four, *ON_A_MODEL[verb]), 2, "this folder holds 4 models (a.gguf, b.gguf, c.gguf, d", "name")


@pytest.mark.parametrize("verb", ON_A_MODEL)
def test_standard_input(folder: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "stdin")  # what /dev/stdin is in a pipe
    says(run(verb, folder / "stdin", *ON_A_MODEL[verb]), 22, "a pipe, which can be read only once; save it to a file")


def test_a_file_for_scan(folder: Path) -> None:
    says(run("scan", Q4.name), 2, "a file, not a folder", "nextn scan .;", f"nextn inspect {Q4.name}")


@pytest.mark.parametrize("verb", [*ON_A_MODEL, "scan", "cache", "report", "pull"])
def test_a_variable_that_is_not_set(folder: Path, verb: str) -> None:
    (folder / "kept").write_text("")
    clear = ("--clear",) if verb == "cache" else ("-o", "out") if verb == "pull" else ()
    says(run(verb, "", *ON_A_MODEL.get(verb, ()), *clear), 2, " is empty, perhaps from a shell variable", "--help")
    says(run("attach", Q4.name, "--from", ""), 2, "--from is empty, perhaps from a shell variable")


@pytest.mark.parametrize("verb", LOCAL_ONLY)
@pytest.mark.parametrize("name", ("nobody/nothing", "hf:nobody/nothing:Q4_K_M"))
def test_a_name_on_the_hub_where_a_file_is_needed(folder: Path, verb: str, name: str) -> None:
    says(run(verb, name, *ON_A_MODEL[verb]), 22, "to get it from the Hub: nextn pull nobody/nothing -o FOLDER")


# -- files of another kind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ON_A_MODEL)
def test_a_projector_as_model(folder: Path, verb: str) -> None:
    kvs = [("general.architecture", "str", "clip"), ("general.type", "str", "mmproj")]
    (folder / "mmproj.gguf").write_bytes(make(kvs, [f32("v.patch", 8, 4)]).whole)
    says(run(verb, "mmproj.gguf", *ON_A_MODEL[verb]), 2, "a multimodal projector (mmproj)", "name the model that it")


@pytest.mark.parametrize("verb", ON_A_MODEL)
def test_what_is_not_a_model_at_all(folder: Path, verb: str) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"
    (folder / "page.gguf").write_text("<!DOCTYPE html><html><body>Not found</body></html>")
    (folder / "lfs.gguf").write_text(pointer)
    (folder / "zip.gguf").write_bytes(b"PK\x03\x04" + bytes(100))
    (folder / "cut.gguf").write_bytes(Q4.read_bytes()[:400_000])
    says(run(verb, "page.gguf", *ON_A_MODEL[verb]), 10, "page.gguf: this is a saved web page", "/resolve/")
    says(run(verb, "lfs.gguf", *ON_A_MODEL[verb]), 10, "lfs.gguf: this is a Git LFS pointer", "run 'git lfs pull'")
    says(run(verb, "zip.gguf", *ON_A_MODEL[verb]), 10, "zip.gguf: this is a zip archive", "name a GGUF")
    if verb not in ("inspect", "doctor"):  # which describe what is left of it
        says(run(verb, "cut.gguf", *ON_A_MODEL[verb]), 10, "cut.gguf: the file ends at byte 400,000 of 2,592,224")


@pytest.mark.parametrize(
    "verb", ("verify", "worth", "bench", "tune", "serve", "plan", "pack", "detach", "train", "up")
)
def test_a_sidecar_as_model(folder: Path, verb: str) -> None:
    nextn.attach(Q4.name, CHECKPOINT.name)
    given = ("mtp-tiny-qwen35-Q8_0.gguf", *ON_A_MODEL[verb])
    says(run(verb, *given), 2, "mtp-tiny-qwen35-Q8_0.gguf: this", "name ")


@pytest.mark.parametrize("verb", sorted(set(ON_A_MODEL) - {"inspect", "doctor", "extract"}))
def test_safetensors_as_model(folder: Path, verb: str) -> None:
    ran = run(verb, f"{CHECKPOINT.name}/model.safetensors", *ON_A_MODEL[verb])
    text = says(ran, 10 if verb not in ("attach", "plan") else 2)
    assert re.search(r"not a GGUF; name|only for a GGUF; name", text), text


@pytest.mark.parametrize("verb", sorted(set(ON_A_MODEL) - {"inspect", "doctor", "extract", "recover"}))
def test_a_checkpoint_folder_as_model(folder: Path, verb: str) -> None:
    text = says(run(verb, CHECKPOINT.name, *ON_A_MODEL[verb]), 2, "checkpoint")
    assert re.search(r"; name (a|the|one)\b", text), text


# -- results that are there --------------------------------------------------------------------------------------------


def test_a_result_that_is_already_there(folder: Path) -> None:
    given = ("attach", Q4.name, "--from", CHECKPOINT.name)
    assert run(*given).code == 0
    before = (folder / "mtp-tiny-qwen35-Q8_0.gguf").read_bytes()
    says(run(*given), 20, "already exists", f"{len(before):,} bytes", "an earlier run", "see 'nextn inspect'")
    assert (folder / "mtp-tiny-qwen35-Q8_0.gguf").read_bytes() == before


def test_another_file_in_the_place_of_a_result(folder: Path) -> None:
    (folder / "mtp-tiny-qwen35-Q8_0.gguf").write_bytes(b"mine")
    text = says(run("attach", Q4.name, "--from", CHECKPOINT.name), 20, "never overwrites; choose another -o")
    assert "earlier run" not in text and (folder / "mtp-tiny-qwen35-Q8_0.gguf").read_bytes() == b"mine"


@pytest.mark.parametrize("verb", ("attach", "extract", "explode", "detach", "pack", "train"))
def test_a_result_where_nothing_can_be_written(folder: Path, verb: str) -> None:
    bundle = nextn.attach(Q4.name, CHECKPOINT.name, layout="bundle", out="bundle.gguf").entry
    given = {"attach": (Q4.name, "--from", CHECKPOINT.name), "extract": (CHECKPOINT.name,), "train": (Q4.name,)}
    ran = run(verb, *given.get(verb, (bundle,)), "-o", f"{Q4.name}/x/y.gguf" if verb != "pack" else f"{Q4.name}/x")
    says(ran, 22, f"cannot create the folder, since {Q4.name} is a file; choose another -o")


def test_the_sidecar_that_attach_wrote_is_one_donor(folder: Path) -> None:
    """A model named without its folder has a sidecar whose path is found in two forms."""
    assert run("attach", Q4.name).code == 0
    ran = run("attach", Q4.name, "--layout", "bundle", "-q")
    assert (ran.code, ran.out) == (0, "tiny-qwen35-MTP-Q4_K_M.gguf\n"), ran.err
