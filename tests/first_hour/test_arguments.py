"""Mistyped words: verbs, options and their values, units, times; and what is in the wrong place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from all_verbs import run
from hub_server import HubServer
from newcomer import ON_A_MODEL, TAKE_ENGINES, says, work_folder

import nextn
from conftest import CHECKPOINT, Q4
from nextn.cli.common import seconds


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a newcomer works."""
    return work_folder(tmp_path, monkeypatch)


# -- arguments ---------------------------------------------------------------------------------------------------------


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


def test_nothing_at_all() -> None:
    ran = run()
    assert ran.code == 2 and ran.err == "" and "\\n" not in ran.out
    assert ran.out.startswith("Usage: nextn ") and "\n  scan " in ran.out


@pytest.mark.parametrize(
    ("word", "meant"),
    [("help", "nextn --help"), ("version", "nextn --version"), ("run", "up"), ("list", "scan"), ("download", "pull")],
)
def test_what_other_programs_call_it(word: str, meant: str) -> None:
    says(run(word, "x"), 2, f"'{word}' is not a command (did you mean '{meant}'?)")


def test_a_file_in_place_of_a_verb(folder: Path) -> None:
    says(run(Q4.name), 2, "is not a command but a file", f"nextn inspect {Q4.name}")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("--form", "--from"), ("--donor", "--from"), ("--output", "--out"), ("--dryrun", "--dry-run"),
     ("--quiett", "--quiet")],
)  # fmt: skip
def test_an_option_that_is_nearly_right(folder: Path, wrong: str, right: str) -> None:
    says(run("attach", Q4.name, wrong, "x"), 2, f"there is no option '{wrong}'", right)


def test_the_command_with_an_option_of_the_engine_in_its_place(folder: Path) -> None:
    name = Q4.name
    for words, right in (
        (("-ngl", "99", name, "--port", "1"), f"nextn serve {name} --port 1 -- -ngl 99"),
        ((name, "--flash-attn=on"), f"nextn serve {name} -- --flash-attn=on"),
        ((name, "--no-mmap", "--", "-b", "64"), f"nextn serve {name} -- --no-mmap -b 64"),
    ):
        assert says(run("serve", *words), 2).endswith(f"write it after --: {right}")


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


# -- units -------------------------------------------------------------------------------------------------------------


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
    says(run(*call, "24B"), 2, f"{call[-1]}: '24B' is 24 bytes; write 24G for gigabytes")


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
