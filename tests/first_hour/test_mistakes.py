"""The mistakes of the first hour: every verb that meets one answers in one sentence that says what to do."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import time
from pathlib import Path

import pytest
from all_verbs import Ran, run
from ggufmaker import f32, make
from hub_server import HubServer

import nextn
from conftest import CHECKPOINT, Q4
from nextn.cli import VERBS
from nextn.engines import LlamaServer, llama_server

# Verbs that take a model -> the rest of a call that writes nothing.
ON_A_MODEL = {
    "inspect": (), "doctor": (), "attach": ("--dry-run",), "detach": ("--dry-run",), "recover": ("--dry-run",),
    "extract": ("--dry-run",), "explode": ("--dry-run", "-o", "out"), "assemble": ("--dry-run", "-o", "out.gguf"),
    "verify": (), "worth": ("--patience", "0"), "plan": ("--header-only",), "bench": (), "tune": ("--dry-run",),
    "serve": ("--print",), "pack": ("--dry-run", "-o", "out"),
}  # fmt: skip
LOCAL_ONLY = ("verify", "worth", "bench", "tune", "serve", "pack", "detach", "explode", "assemble", "recover")
REMOTE = ("inspect", "doctor", "attach", "extract", "plan")
TAKE_ENGINES = ("verify", "worth", "bench", "tune", "serve")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a newcomer works: one model, its checkpoint, a home of its own."""
    (tmp_path / "home").mkdir()
    work = tmp_path / "work"
    work.mkdir()
    (work / Q4.name).symlink_to(Q4)
    shutil.copytree(CHECKPOINT, work / CHECKPOINT.name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NEXTN_TRACEBACK", raising=False)
    monkeypatch.chdir(work)
    return work


def says(ran: Ran, code: int, *parts: str) -> str:
    """The call's one sentence, which has these parts."""
    assert ran.code == code, (ran.argv, ran.err, ran.bug)
    lines = [line for line in ran.err.splitlines() if line.startswith("nextn: ")]
    assert len(lines) == 1 and lines[0] == ran.err.splitlines()[-1], (ran.argv, ran.err)
    for part in parts:
        assert part in lines[0], (ran.argv, lines[0])
    return lines[0]


def test_every_verb_is_tried() -> None:
    others = {"report", "pull", "cache", "demo", "scan", "up", "train"}
    assert set(VERBS) - others == set(ON_A_MODEL)


# -- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ON_A_MODEL)
def test_a_path_that_is_nearly_right(folder: Path, verb: str) -> None:
    near = f"a similar name is {Q4.name}"
    says(run(verb, "tiny-qwen35-Q4_K_L.gguf", *ON_A_MODEL[verb]), 22, "tiny-qwen35-Q4_K_L.gguf: there is no such", near)
    says(run(verb, "TINY-qwen35-q4_k_m", *ON_A_MODEL[verb]), 22, near)


@pytest.mark.parametrize("verb", ON_A_MODEL)
def test_a_path_in_no_folder(folder: Path, verb: str) -> None:
    says(run(verb, "nowhere/deep/m.gguf", *ON_A_MODEL[verb]), 22, "and no folder nowhere either; check the path")


@pytest.mark.parametrize("verb", ON_A_MODEL)
def test_a_tilde_in_quotes(folder: Path, verb: str) -> None:
    ran = run(verb, "~/m.gguf", *ON_A_MODEL[verb])
    says(ran, 22, "does not expand '~' inside quotes", f"write {os.environ['HOME']}/m.gguf")


@pytest.mark.parametrize("verb", ("attach", "extract", "explode", "pack", "pull", "tune", "detach", "report", "demo"))
def test_a_tilde_in_quotes_as_output(folder: Path, verb: str) -> None:
    given = () if verb == "demo" else ("org/name",) if verb == "pull" else (Q4.name,)
    says(run(verb, *given, "-o", "~/out"), 2, f"inside quotes; write {os.environ['HOME']}/out")
    assert not (folder / "~").exists()


@pytest.mark.parametrize("name", ("donor", "sidecar", "trunk", "report"))
def test_other_paths_that_are_nearly_right(folder: Path, name: str) -> None:
    calls = {
        "donor": ("attach", Q4.name, "--from", "tiny-qwen35-mpt"),
        "sidecar": ("verify", Q4.name, "--sidecar", "tiny-qwen35-Q4_K_S.gguf"),
        "trunk": ("verify", Q4.name, "--trunk", "tiny-qwen35-Q4_K_S.gguf"),
        "report": ("report", "tiny-qwen35-Q4_K_S.gguf"),
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


@pytest.mark.parametrize("verb", LOCAL_ONLY)
@pytest.mark.parametrize("name", ("nobody/nothing", "hf:nobody/nothing:Q4_K_M"))
def test_a_name_on_the_hub_where_a_file_is_needed(folder: Path, verb: str, name: str) -> None:
    says(run(verb, name, *ON_A_MODEL[verb]), 22, "to get it from the Hub: nextn pull nobody/nothing -o FOLDER")


# -- files of another kind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ON_A_MODEL)
def test_a_projector_as_model(folder: Path, verb: str) -> None:
    kvs = [("general.architecture", "str", "clip"), ("general.type", "str", "mmproj")]
    (folder / "mmproj.gguf").write_bytes(make(kvs, [f32("v.patch", 8, 4)]).whole)
    says(run(verb, "mmproj.gguf", *ON_A_MODEL[verb]), 2, "a multimodal projector (mmproj)", "name the model that it")


@pytest.mark.parametrize("verb", ("verify", "worth", "bench", "tune", "serve", "plan", "pack", "detach"))
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


# -- arguments --------------------------------------------------------------------------------------------------------


def test_trunk_and_donor_the_wrong_way_round(folder: Path) -> None:
    right = f"the wrong way round: nextn attach {Q4.name} --from"
    says(run("attach", CHECKPOINT.name, "--from", Q4.name), 2, "not a GGUF", f"{right} {CHECKPOINT.name}")
    made = nextn.attach(Q4.name, CHECKPOINT.name, layout="bundle", out="bundle.gguf")
    says(run("attach", made.entry, "--from", Q4.name), 15, "no MTP block", right)
    sidecar = nextn.attach(Q4.name, CHECKPOINT.name, out="side").sidecar
    says(run("attach", sidecar, "--from", Q4.name), 15, "no MTP block", right)


def test_a_donor_without_its_option(folder: Path) -> None:
    ran = run("attach", Q4.name, CHECKPOINT.name, "--layout", "bundle")
    says(ran, 2, f"{CHECKPOINT.name}: a donor is named with --from:",
         f"nextn attach {Q4.name} --layout bundle --from {CHECKPOINT.name}")  # fmt: skip


@pytest.mark.parametrize("verb", sorted(set(ON_A_MODEL) - {"pack", "assemble", *TAKE_ENGINES}))
def test_two_models(folder: Path, verb: str) -> None:
    says(run(verb, Q4.name, "a.gguf", "b.gguf", *ON_A_MODEL[verb]), 2, "a.gguf, b.gguf: nextn", "one ", "at a time")


@pytest.mark.parametrize("verb", TAKE_ENGINES)
def test_a_second_file_does_not_go_to_the_engine(folder: Path, verb: str) -> None:
    says(run(verb, Q4.name, "mtp-x.gguf"), 2, "mtp-x.gguf: one MODEL", "come after --", "--sidecar")


@pytest.mark.parametrize("verb", ON_A_MODEL)
def test_nothing_named(folder: Path, verb: str) -> None:
    what = "a folder of shards, or the files" if verb == "assemble" else f"'nextn {verb} --help'"
    says(run(verb), 2, "nextn: name ", what)


def test_an_output_that_is_missing(folder: Path) -> None:
    says(run("pull", "org/name"), 2, "name --out DIR")


def test_a_verb_that_is_nearly_right() -> None:
    for wrong, right in (("insepct", "inspect"), ("Attach", "attach"), ("verfiy", "verify"), ("benchmark", "bench")):
        says(run(wrong, "x"), 2, f"'{wrong}' is not a command", f"did you mean '{right}'")


def test_a_file_in_place_of_a_verb(folder: Path) -> None:
    says(run(Q4.name), 2, "is not a command but a file", f"nextn inspect {Q4.name}")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("--form", "--from"), ("--donor", "--from"), ("--output", "--out"), ("--dryrun", "--dry-run"),
     ("--quiett", "--quiet")],
)  # fmt: skip
def test_an_option_that_is_nearly_right(folder: Path, wrong: str, right: str) -> None:
    says(run("attach", Q4.name, wrong, "x"), 2, f"there is no option '{wrong}'", right)


@pytest.mark.parametrize("verb", TAKE_ENGINES)
def test_an_option_of_the_engine(folder: Path, verb: str) -> None:
    says(run(verb, Q4.name, "--flash-attn", "on"), 2, "'--flash-attn'", "write it after --")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("q4k", "q4_K"), ("q8", "q8_0"), ("Q8-0", "q8_0"), ("int8", "q8_0"), ("fp16", "f16"), ("bfloat16", "bf16"),
     ("q4_k_m", "q4_K"), ("iq4xs", "iq4_xs")],
)  # fmt: skip
@pytest.mark.parametrize("option", ["--type", "--embd-type", "--draft-head"])
def test_a_type_that_is_nearly_right(folder: Path, given: str, meant: str, option: str) -> None:
    assert re.search(rf"\b{meant}\b", says(run("attach", Q4.name, "--from", CHECKPOINT.name, option, given), 2))


def test_a_choice_that_is_nearly_right(folder: Path) -> None:
    says(run("attach", Q4.name, "--layout", "inplace"), 2, "--layout: 'inplace'", "did you mean in-place?")
    says(run("attach", Q4.name, "--for", "vllm"), 2, "--for: 'vllm'", "choose llama.cpp, ik, both")


# -- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["5M", "5MB", "5MB/s", "5000000", "4.9MiB/s", "512kbps"])
def test_a_rate_with_a_unit(folder: Path, given: str) -> None:
    assert run("attach", Q4.name, "--from", CHECKPOINT.name, "--limit-rate", given, "--dry-run").code == 0


def test_numbers_that_are_none(folder: Path) -> None:
    says(run("attach", Q4.name, "--limit-rate", "fast"), 2, "--limit-rate: 'fast' is not a rate; write 5M")
    says(run("verify", Q4.name, "--ctx", "8k"), 2, "--ctx: '8k' is not a whole number; write 8192")
    says(run("verify", Q4.name, "--ctx", "3"), 2, "--ctx: 3 is out of range; it must be at least 64")
    says(run("explode", Q4.name, "-o", "out", "--max-size", "big"), 2, "--max-size: 'big' is not a size; write 24G")


# -- engines ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without an engine."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name.startswith(("xllamacpp", "skulk")) else find(name)
    )
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv(llama_server.PATH_VARIABLE, raising=False)


@pytest.mark.parametrize("verb", TAKE_ENGINES)
def test_no_engine(folder: Path, no_engine: None, verb: str) -> None:
    nextn.attach(Q4.name, CHECKPOINT.name)
    says(run(verb, Q4.name, *({"--print"} if verb == "serve" else ())), 30, "pipx inject nextn xllamacpp", "--engine")


@pytest.mark.parametrize("verb", TAKE_ENGINES)
def test_another_engine_than_the_one_that_is_here(
    folder: Path, no_engine: None, verb: str, standin: LlamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nextn.attach(Q4.name, CHECKPOINT.name)
    monkeypatch.setenv(llama_server.PATH_VARIABLE, str(standin.binary))
    ran = run(verb, Q4.name, "--engine", "xllamacpp", *(("--print",) if verb == "serve" else ()))
    says(ran, 30, "xllamacpp is not installed", f"a llama-server that works is {standin.binary}")


@pytest.mark.parametrize("verb", TAKE_ENGINES)
def test_an_engine_that_is_nearly_right(folder: Path, verb: str) -> None:
    nextn.attach(Q4.name, CHECKPOINT.name)
    says(run(verb, Q4.name, "--engine", "lama-server"), 2, "'lama-server' is not an engine; did you mean llama-server?")


# -- the Hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [*REMOTE, "pull", "attach --from"])
def test_no_network(folder: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    if verb == "attach --from":
        ran = run("attach", Q4.name, "--from", "nobody/nothing")
    elif verb == "pull":
        ran = run("pull", "nobody/nothing", "-o", "out")
    else:
        ran = run(verb, "nobody/nothing", *ON_A_MODEL[verb])
    says(ran, 23, "no connection to huggingface.co", "check the network", "or name a local file")
    assert sum(waited) < 2


@pytest.mark.parametrize("verb", [*REMOTE, "pull"])
def test_a_gated_repository(folder: Path, verb: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_folder("org/tiny", CHECKPOINT if verb != "pull" else Q4.parent)
    hub.repo("org/tiny").gated_for = "hf_x"
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    given = ("pull", "org/tiny", "-o", "out") if verb == "pull" else (verb, "org/tiny", *ON_A_MODEL[verb])
    says(run(*given), 23, "gated: accept its conditions at", "log")


# -- results that are there -------------------------------------------------------------------------------------------


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


def test_the_sidecar_that_attach_wrote_is_one_donor(folder: Path) -> None:
    """A model named without its folder has a sidecar whose path is found in two forms."""
    assert run("attach", Q4.name).code == 0
    ran = run("attach", Q4.name, "--layout", "bundle", "-q")
    assert (ran.code, ran.out) == (0, "tiny-qwen35-MTP-Q4_K_M.gguf\n"), ran.err
