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
from sick import rewrite

import nextn
from conftest import CHECKPOINT, Q4
from nextn.cli import VERBS
from nextn.cli.common import seconds
from nextn.engines import LlamaServer, llama_server

# Verbs that take a model -> the rest of a call that writes nothing.
ON_A_MODEL = {
    "inspect": (), "doctor": (), "attach": ("--dry-run",), "detach": ("--dry-run",), "recover": ("--dry-run",),
    "extract": ("--dry-run",), "explode": ("--dry-run", "-o", "out"), "assemble": ("--dry-run", "-o", "out.gguf"),
    "verify": (), "worth": ("--patience", "0"), "plan": ("--header-only",), "bench": (), "tune": ("--dry-run",),
    "serve": ("--print",), "pack": ("--dry-run", "-o", "out"), "train": ("--dry-run",),
    "up": ("--dry-run", "--no-verify", "--for", "llama.cpp"),
}  # fmt: skip
LOCAL_ONLY = ("verify", "worth", "bench", "tune", "train", "serve", "pack", "detach", "explode", "assemble", "recover")
REMOTE = ("inspect", "doctor", "attach", "extract", "plan", "up")
TAKE_ENGINES = ("verify", "worth", "bench", "tune", "serve", "up")


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
    others = {"report", "pull", "cache", "demo", "scan"}
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


# -- files of another kind --------------------------------------------------------------------------------------------


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
    says(run("up", Q4.name, "--for", "lm-studio"), 2, "--for: 'lm-studio'", "did you mean lmstudio?")
    says(run("train", Q4.name, "--kind", "eagle-3"), 2, "--kind: 'eagle-3'", "did you mean eagle3?")
    says(run("train", Q4.name, "--kind", "mtp"), 2, "--kind: 'mtp'", "choose auto, eagle3 or native")
    says(run("train", Q4.name, "--stage", "state"), 2, "--stage: 'state'", "did you mean states?")
    says(run("train", Q4.name, "--layout", "shards"), 2, "--layout: 'shards'", "choose sidecar or bundle")


@pytest.mark.parametrize(
    ("call", "option"),
    [(("cache", "claer"), "--clear"), (("cache", "clean"), "--clear"), (("cache", "sidecar"), "--sidecars"),
     (("cache", "sidecars", "--clear"), "--sidecars"), (("doctor", Q4.name, "fix"), "--fix"),
     (("serve", Q4.name, "print"), "--print"), (("train", Q4.name, "dry-run"), "--dry-run"),
     (("up", Q4.name, "tune"), "--tune"), (("demo", "jsn"), "--json"), (("inspect", Q4.name, "json"), "--json")],
)  # fmt: skip
def test_an_option_without_its_dashes(folder: Path, call: tuple[str, ...], option: str) -> None:
    says(run(*call), 2, f"did you mean {option}?")


def test_a_name_of_the_cache_that_is_nearly_right(
    folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.add_folder("org/tiny", CHECKPOINT)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("NEXTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert run("inspect", "hf:org/tiny").code == 0
    says(run("cache", "org/tinny"), 2, "org/tinny: nothing of this name is kept; a similar name is org/tiny")
    ran = run("cache", "org/tinny", "--clear")  # may be a second time, so that it fails no script
    assert ran.code == 0 and "freed 0 B" in ran.err and "a similar name is org/tiny" in ran.err
    listed = run("cache", "org/tiny")
    assert listed.code == 0 and "'nextn cache org/tiny --clear' removes it" in listed.err
    assert run("cache", "clear").code == 2 and run("cache", "org/tiny").out == listed.out


@pytest.mark.parametrize(("given", "meant"), [("Q4KM", "Q4_K_M"), ("q4-k-m", "Q4_K_M"), ("Q8", "Q8_0")])
def test_a_quant_that_is_nearly_right(
    folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, given: str, meant: str
) -> None:
    published = folder / "published"
    published.mkdir()
    for quant in ("Q4_K_M", "Q8_0"):
        (published / f"tiny-{quant}.gguf").symlink_to(Q4)
    hub.add_folder("org/tiny", published)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    says(run("pull", "org/tiny", "--quant", given, "-o", "x"), 2, f"'{given}' names none of", f"did you mean {meant}?")
    says(run("up", "org/tiny", "--quant", given, *ON_A_MODEL["up"]), 2, f"did you mean {meant}?")


# -- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["5M", "5MB", "5MB/s", "5000000", "4.9MiB/s", "512kbps"])
def test_a_rate_with_a_unit(folder: Path, given: str) -> None:
    assert run("attach", Q4.name, "--from", CHECKPOINT.name, "--limit-rate", given, "--dry-run").code == 0


def test_numbers_that_are_none(folder: Path) -> None:
    says(run("attach", Q4.name, "--limit-rate", "fast"), 2, "--limit-rate: 'fast' is not a rate; write 5M")
    says(run("verify", Q4.name, "--ctx", "8k"), 2, "--ctx: '8k' is not a whole number; write 8192")
    says(run("verify", Q4.name, "--ctx", "3"), 2, "--ctx: 3 is out of range; it must be at least 64")
    says(run("explode", Q4.name, "-o", "out", "--max-size", "big"), 2, "--max-size: 'big' is not a size; write 24G")
    says(run("train", Q4.name, "--max-disk", "ten"), 2, "--max-disk: 'ten' is not a size; write 24G")
    says(run("train", Q4.name, "--seed", "x"), 2, "--seed: 'x' is not a whole number; write one such as 0")
    says(run("scan", "--gpu-memory", "lots"), 2, "--gpu-memory: 'lots' is not a size; write 24G")
    says(run("up", Q4.name, "--port", "70000"), 2, "--port: 70000 is out of range; it must be at least 1 and at most")


@pytest.mark.parametrize(
    "call",
    [("plan", Q4.name, "--gpu-memory"), ("scan", "--gpu-memory"), ("train", Q4.name, "--max-disk"),
     ("explode", Q4.name, "-o", "out", "--max-size")],
)  # fmt: skip
def test_gigabytes_without_a_unit(folder: Path, call: tuple[str, ...]) -> None:
    says(run(*call, "24"), 2, f"{call[-1]}: '24' is 24 bytes; write 24G for gigabytes")


@pytest.mark.parametrize("given", ["90m", "1.5h", "1h30m", "1h 30m", "90 minutes", "90min", "5400s", "5400 seconds"])
@pytest.mark.parametrize("verb", ["train --budget", "tune --budget", "up --tune"])
def test_a_time_with_a_unit(folder: Path, verb: str, given: str) -> None:
    assert seconds(given, "--budget") == 5400
    if verb == "train --budget":
        ran = run("train", Q4.name, "--budget", given, "--dry-run", "-q")
        assert ran.code == 0 and "within 90 min" in ran.err, ran.err


@pytest.mark.parametrize("given", ["soon", "1h30", "1:30", "2d", "1e3", "-5m", "m", "90m later", "", "nan", "9" * 20])
def test_what_is_not_a_time(folder: Path, given: str) -> None:
    for verb, option in (("train", "--budget"), ("tune", "--budget"), ("up", "--tune")):
        says(run(verb, Q4.name, option, given, "--dry-run"), 2, f"{option}: '{given}' is not a time; write 90m, 1.5h")


def test_times_of_no_length_and_without_a_unit(folder: Path) -> None:
    says(run("train", Q4.name, "--budget", "90"), 2, "--budget: '90' is a number without a unit; write 90m for minutes")
    for verb, option in (("train", "--budget"), ("tune", "--budget"), ("up", "--tune")):
        says(run(verb, Q4.name, option, "0m"), 2, f"{option}: '0m' is no time at all; write 90m")
    says(run("tune", Q4.name, "--budget", "0"), 2, "--budget: '0' is no time at all")
    assert seconds("90", "--budget") == 90  # as everywhere else


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


@pytest.mark.parametrize("verb", ("serve", "up"))
def test_a_port_that_is_in_use(
    folder: Path, verb: str, standin: LlamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nextn.attach(Q4.name, CHECKPOINT.name)
    given = (verb, Q4.name, "--engine", standin.binary, "--port")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ran = run(*given, port)
        says(ran, 2, f"--port: {port} is in use on 127.0.0.1, perhaps by a server that still runs")
        assert "verify" not in ran.err  # it is refused first
        more = () if verb == "serve" else ("--no-verify", "--no-worth")
        assert run(*given, port, *more, "--json").code == 0  # starts nothing
    says(run(*given, port, "--host", "192.0.2.7"), 2, "--host: 192.0.2.7 is not an address of this machine")

    def resolve(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    says(run(*given, port, "--host", "here"), 2, "--host: 'here' is not an address; write 127.0.0.1")


# -- the Hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [*REMOTE, "pull", "attach --from", "train --from"])
def test_no_network(folder: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    if verb.endswith(" --from"):
        ran = run(verb.partition(" ")[0], Q4.name, "--from", "nobody/nothing")
    elif verb == "pull":
        ran = run("pull", "nobody/nothing", "-o", "out")
    else:
        ran = run(verb, "nobody/nothing", *ON_A_MODEL[verb])
    says(ran, 23, "no connection to huggingface.co", "check the network", "or name a local file")
    assert sum(waited) < 2


@pytest.mark.parametrize("verb", [*REMOTE, "pull"])
def test_a_gated_repository(folder: Path, verb: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_folder("org/tiny", Q4.parent if verb in ("pull", "up") else CHECKPOINT)
    hub.repo("org/tiny").gated_for = "hf_x"
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    given = ("pull", "org/tiny", "-o", "out") if verb == "pull" else (verb, "org/tiny", *ON_A_MODEL[verb])
    says(run(*given), 23, "gated: accept its conditions at", "log")
    if verb == "attach":
        says(run("train", Q4.name, "--from", "org/tiny"), 23, "gated: accept its conditions at", "log")


def test_a_scan_without_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    kvs = [("general.base_model.0.repo_url", "str", "https://huggingface.co/org/nothing")]
    alone = Path(os.environ["HOME"]) / "models" / "other"  # far from the checkpoint
    rewrite(Q4, alone / "other-Q4_K_M.gguf", put=kvs)
    ran = run("scan", alone, "--only")
    assert ran.code == 0 and "other-Q4_K_M" in ran.out and sum(waited) < 2, (ran.err, waited)
    assert "the Hub was not asked further: " in ran.err + ran.out and "huggingface.co" in ran.err + ran.out


@pytest.mark.parametrize("verb", ["pull", "up"])
def test_a_checkpoint_on_the_hub_as_model(
    folder: Path, verb: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_folder("org/tiny", CHECKPOINT)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    given = ("-o", "out") if verb == "pull" else ON_A_MODEL[verb]
    says(run(verb, "org/tiny", *given), 2, "hf:org/tiny: there is no GGUF model in this", "only a checkpoint", "; name")


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "module"), [((), "torch"), (("--stage", "fit"), "safetensors")])
def test_training_without_what_it_needs(
    folder: Path, stage: tuple[str, ...], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    text = says(run("train", Q4.name, *stage), 33, f"{Q4.name}: fitting a draft needs {module}, not installed here")
    assert f"add it with 'pipx inject nextn {module}' (in a virtual environment: pip install {module})" in text


def test_training_on_a_machine_without_an_engine(folder: Path, no_engine: None) -> None:
    says(run("train", Q4.name, "--stage", "states"), 30, "pipx inject nextn xllamacpp", "--engine")


def test_training_starts_only_from_what_can_be_used(folder: Path) -> None:
    nextn.attach(Q4.name, CHECKPOINT.name)
    given = ("train", Q4.name, "--dry-run")
    sidecar = "mtp-tiny-qwen35-Q8_0.gguf"
    assert run(*given, "--from", sidecar).code == run(*given, "--from", CHECKPOINT.name).code == 0
    says(run(*given, "--from", Q4.name), 15, f"{Q4.name}: there is no MTP block in this model")
    for donor in (sidecar, Q4.name):
        says(run(*given, "--kind", "eagle3", "--from", donor), 2, f"{donor}: this is not an EAGLE-3 draft", "leave out")
    says(run(*given, "--kind", "eagle3", "--from", CHECKPOINT.name), 2, "--from is for checkpoints of EAGLE-3")
    assert not (folder / "tiny-qwen35-Q4_K_M.train").exists()


def test_prompts_and_places_are_checked_before_training(folder: Path) -> None:
    given = ("train", Q4.name)
    (folder / "empty.txt").write_text("\n")
    (folder / "chats.jsonl").write_text('{"messages": []}\n')
    says(run(*given, "--prompts", "empty.txt"), 2, "empty.txt: this file has no prompts; write one per line")
    says(run(*given, "--prompts", Q4.name), 10, f"{Q4.name}, byte", "not UTF-8 text; name a text or JSONL file")
    says(run(*given, "--prompts", CHECKPOINT.name), 22, "not a regular file but a folder; name a file in it")
    says(run(*given, "--chats", "chats.jsonl"), 10, "chats.jsonl, line 1: there is no message of the user")
    says(run(*given, "--work", Q4.name), 20, f"{Q4.name}: this is a file, not a folder; choose another --work")
    says(run(*given, "--work", f"{Q4.name}/x"), 22, "cannot create the folder", "choose another --work")
    says(run(*given, "-o", f"{Q4.name}/x.gguf"), 20, f"{Q4.name}: this is a file, not a folder; choose another -o")
    says(run(*given, "-o", f"{Q4.name}/x/y.gguf"), 22, "cannot create the folder", "choose another -o")
    assert not (folder / "tiny-qwen35-Q4_K_M.train").exists()


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
