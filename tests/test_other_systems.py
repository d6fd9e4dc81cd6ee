"""Commands as they run on Windows and macOS, as far as a Linux machine can show it: see support/other_system.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer

from conftest import CHECKPOINT, Q4, ROOT
from nextn import oscalls

SYSTEMS = ("windows", "macos")
SCRIPT = ROOT / "tests" / "support" / "other_system.py"
MODEL, BUNDLED = "m-Q4_K_M.gguf", "m-MTP-Q4_K_M.gguf"


def on(system: str, folder: Path, *lines: tuple[str, ...], **more: str) -> list[tuple[int, str]]:
    """Exit code and output of each command line on that system, in `folder`; `more`: environment variables."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), system], input=json.dumps(lines), cwd=folder, capture_output=True, text=True,
        check=False, timeout=280, env=os.environ | more,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [(code, said) for code, said in json.loads(done.stdout)]


def all_done(answers: list[tuple[int, str]]) -> str:
    """What all commands printed; none may have failed."""
    assert [code for code, _ in answers] == [0] * len(answers), "".join(said for _, said in answers)
    return "".join(said for _, said in answers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copyfile(Q4, tmp_path / MODEL)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_block_is_attached_and_taken_off_again(folder: Path, system: str) -> None:
    donor = ("--from", str(CHECKPOINT))
    *answers, taken = on(
        system, folder,
        ("inspect", MODEL),
        ("attach", MODEL, *donor),
        ("doctor", MODEL),
        ("attach", MODEL, *donor, "--layout", "bundle"),
        ("detach", BUNDLED),
        ("extract", BUNDLED, "--block-only"),
        ("attach", MODEL, *donor, "-o", "mtp-m-Q8_0.gguf"),
    )  # fmt: skip
    said = all_done(answers)
    assert "trunk-only" in said and "mtp-m-Q8_0.gguf is beside it" in said
    assert (folder / "m-trunk-Q4_K_M.gguf").read_bytes() == Q4.read_bytes()
    assert {path.name for path in folder.iterdir()} == {
        BUNDLED, MODEL, "m-MTP-donor-Q8_0.gguf", "m-trunk-Q4_K_M.gguf", "mtp-m-Q8_0.gguf"
    }  # fmt: skip
    assert taken[0] in (14, 20), taken


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_set_gets_one_more_shard_and_pack_publishes(folder: Path, system: str) -> None:
    all_done(on(
        system, folder,
        ("explode", MODEL, "-o", "set", "--max-tensors", "20"),
        ("attach", "set", "--from", str(CHECKPOINT), "-o", "with"),
        ("assemble", "set", "-o", "whole.gguf"),
        ("pack", MODEL, "--from", str(CHECKPOINT), "-o", "ready"),
    ))  # fmt: skip
    second = folder / "set" / "m-Q4_K_M-00002-of-00003.gguf"
    assert second.samefile(folder / "with" / "m-MTP-Q4_K_M-00002-of-00004.gguf"), "a hard link"
    assert not [path for path in folder.rglob("*") if "nextn-tmp" in path.name or "nextn-job" in path.name]


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_files_are_pulled_and_donors_read_from_a_server(folder: Path, system: str, hub: HubServer) -> None:
    hub.repo("org/tiny-GGUF").commit({MODEL: Q4.read_bytes()})
    hub.add_folder("org/tiny", CHECKPOINT)
    all_done(on(
        system, folder,
        ("pull", "org/tiny-GGUF", "--variant", "plain", "-o", "got"),
        ("attach", f"got/{MODEL}", "--from", "org/tiny"),
        ("cache", "--clear"),
        HF_ENDPOINT=hub.endpoint, HF_HOME=str(folder / "hf"), NEXTN_CACHE=str(folder / "own"),
    ))  # fmt: skip
    assert (folder / "got" / MODEL).read_bytes() == Q4.read_bytes()
    assert (folder / "got" / "mtp-m-Q8_0.gguf").is_file()


@pytest.mark.slow
def test_windows_starts_no_engine_and_has_no_such_names_and_says_so(folder: Path) -> None:
    names = ("con.gguf", "a:b.gguf", "what?.gguf")
    attach = ("attach", MODEL, "--from", str(CHECKPOINT), "-o")
    engine, *refused = on("windows", folder, ("serve", MODEL), *((*attach, name) for name in names))
    assert engine == (30, (
        "nextn: nextn starts engines only on Linux and macOS; here, start llama-server yourself with the line that "
        "attach prints\n"
    ))  # fmt: skip
    for (code, said), name in zip(refused, names, strict=True):
        assert code == 22 and f"cannot have a file called '{name}'" in said, said


@pytest.mark.parametrize("name", ["CON", "nul.txt", "com1.gguf", "a:b", "a\\b", "a.", "a ", "x|y", "LPT\u00b2.x"])
def test_what_windows_does_not_allow_in_a_name(name: str) -> None:
    assert oscalls.invalid_on_windows(name)


@pytest.mark.parametrize("name", ["model.gguf", "console.gguf", "a b.gguf", ".hidden", "com10.gguf", "\u00e4.gguf"])
def test_what_windows_allows_in_a_name(name: str) -> None:
    assert not oscalls.invalid_on_windows(name)


def test_linux_lacks_nothing_and_the_docs_say_what_others_lack() -> None:
    assert oscalls.lacks() == []
    page = (ROOT / "docs" / "platforms.md").read_text(encoding="utf-8")
    assert [text for text in oscalls.MISSING.values() if text not in page] == []


def test_a_tree_is_removed_without_following_links(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "file").write_text("x")
    (tree / "link").symlink_to(kept)
    (tmp_path / "to-tree").symlink_to(tree)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Not a directory"):
            oscalls.remove_tree("to-tree", dir_fd=fd)
        assert (tree / "deep" / "file").exists()
        oscalls.remove_tree("tree", dir_fd=fd)
    finally:
        os.close(fd)
    assert not tree.exists() and (kept / "file").exists()
