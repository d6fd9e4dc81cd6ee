"""What changes while a run is at it, what killed runs leave behind, and several runs at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import Faults, listing
from hub_server import Fault, HubServer
from opened import open_donor

import nextn
from conftest import CHECKPOINT, Q4, TRUNKS
from nextn.errors import FormatError, OutputExists, StorageError
from nextn.gguf.files import open_model
from nextn.layouts.attach import plan_attach
from nextn.layouts.options import AttachOptions
from nextn.writing import scratch
from nextn.writing.execute import execute
from nextn.writing.leftovers import SUFFIX
from nextn.writing.scratch import LOCK, remove_left, scratch_folder

NOBODY = 65534
ADDED = b"more"

# -- sources ----------------------------------------------------------------------------------------------------------


class Hooked(Faults):
    """Does something once, before the `at`-th call of a name."""

    def __init__(self, act: Callable[[], object], call: str, at: int = 1) -> None:
        super().__init__()
        self.act, self.call, self.left = act, call, at

    def step(self, name: str, args: tuple[Any, ...]) -> Any:
        if name == self.call:
            self.left -= 1
            if self.left == 0:
                self.act()
        return super().step(name, args)


def zeros(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(4096))


def other(path: Path) -> None:
    beside = path.with_name("beside")
    beside.write_bytes(path.read_bytes())
    beside.replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "zeros in place": zeros,
    "the same bytes in place": lambda path: path.write_bytes(path.read_bytes()),
    "replaced by a copy": other,
    "longer": lambda path: path.open("ab").write(ADDED),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a link to another": lambda path: (path.unlink(), path.symlink_to(Q4)),
}


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    return Path(shutil.copy(Q4, tmp_path / "trunk-Q4_K_M.gguf"))


@pytest.fixture
def donor(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "donor"))


def bundled(trunk: Path, donor: Path, out: Path) -> Any:
    return plan_attach(open_model(trunk), open_donor(donor), AttachOptions("bundle", out=out))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["trunk", "donor"])
@pytest.mark.parametrize(("call", "at"), [("open_new", 1), ("copy_range", 1), ("pwrite", 3), ("fsync", 1)])
@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_under_way(
    trunk: Path, donor: Path, tmp_path: Path, change: str, call: str, at: int, which: str
) -> None:
    """Before it is opened, while it is copied, and after: nothing is published, in one sentence that names it."""
    source = trunk if which == "trunk" else donor / "model.safetensors"
    out = tmp_path / "out" / "made.gguf"
    plan = bundled(trunk, donor, out)
    with pytest.raises((StorageError, FormatError), match=r"changed or replaced|changed while it was read") as caught:
        execute(plan, system=Hooked(lambda: CHANGES[change](source), call, at))
    assert str(source) in str(caught.value)
    assert not out.parent.exists()


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_between_planning_and_doing(
    trunk: Path, donor: Path, tmp_path: Path, change: str
) -> None:
    """As when the block of a remote donor takes an hour to arrive."""
    plan = bundled(trunk, donor, tmp_path / "out" / "made.gguf")
    CHANGES[change](trunk)
    with pytest.raises((StorageError, FormatError)):
        execute(plan)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_working_file_truncated_between_two_writes(trunk: Path, donor: Path, tmp_path: Path) -> None:
    """What is written next would fill it up to its length again, with zeros where the lost bytes were."""
    out = tmp_path / "out"

    def attach(at: int) -> int:
        n = 0

        def progress(done: int, total: int) -> None:
            nonlocal n
            n += 1
            if n == at:
                (temp,) = out.glob(".*" + SUFFIX)
                os.truncate(temp, 100)

        execute(bundled(trunk, donor, out / "made.gguf"), progress=progress)
        return n

    n_pieces = attach(0)
    shutil.rmtree(out)
    for at in range(1, n_pieces + 1):
        with pytest.raises(StorageError, match="truncated or extended while it was written, so nothing was published"):
            attach(at)
        assert not out.exists()


def test_a_source_that_was_only_removed_is_whole_in_the_result(trunk: Path, donor: Path, tmp_path: Path) -> None:
    """The copy may be the last one: it is not thrown away."""
    out = tmp_path / "out" / "made.gguf"
    whole = execute(bundled(trunk, donor, tmp_path / "whole" / "made.gguf")).plan.entry.read_bytes()
    execute(bundled(trunk, donor, out), system=Hooked(trunk.unlink, "fsync"))
    assert out.read_bytes() == whole


def test_reading_a_source_does_not_count_as_a_change(trunk: Path, donor: Path, tmp_path: Path) -> None:
    def look() -> None:
        trunk.read_bytes()
        trunk.chmod(0o600)
        os.link(trunk, tmp_path / "second")

    execute(bundled(trunk, donor, tmp_path / "out" / "made.gguf"), system=Hooked(look, "copy_range"))


@pytest.mark.parametrize("change", CHANGES)
def test_a_shard_that_is_another_one_when_it_is_linked(
    tmp_path: Path, checkpoints: Callable[[str], Path], change: str
) -> None:
    folder = Path(shutil.copytree(TRUNKS / "kv-first", tmp_path / "trunk"))
    block = open_donor(checkpoints("qwen35moe-fused-bf16"))
    plan = plan_attach(open_model(folder), block, AttachOptions("shards", out=tmp_path / "out"))
    CHANGES[change](sorted(folder.iterdir())[1])
    with pytest.raises(StorageError, match="changed or replaced"):
        execute(plan)
    assert not (tmp_path / "out").exists()


# -- leftovers --------------------------------------------------------------------------------------------------------


def test_a_refused_rerun_removes_what_the_killed_run_left(trunk: Path, donor: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    nextn.attach(trunk, donor, layout="bundle", out=out / "made.gguf")
    left = out / f".made.gguf.0123{SUFFIX}"
    left.write_bytes(bytes(1000))
    with pytest.raises(OutputExists):
        nextn.attach(trunk, donor, layout="bundle", out=out / "made.gguf", dry_run=True)
    assert left.exists()  # a dry run touches nothing
    with pytest.raises(OutputExists):
        nextn.attach(trunk, donor, layout="bundle", out=out / "made.gguf")
    assert listing(out) == ["made.gguf"]


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_a_scratch_folder_is_private_and_goes(temp: Path) -> None:
    with scratch_folder("verify") as folder:
        assert folder.parent == temp and folder.name.startswith("nextn-verify-")
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
        assert remove_left(temp) == []  # a living run's own
    assert listing(temp) == []
    with pytest.raises(ZeroDivisionError), scratch_folder("verify"):
        _ = 1 // 0
    assert listing(temp) == []


def left_by_a_killed_run(temp: Path) -> Path:
    """Made by a process that is gone."""
    script = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from nextn.writing.scratch import scratch_folder\n"
        "with scratch_folder('bench') as folder:\n"
        "    (folder / 'big.gguf').write_bytes(bytes(1000)); print(folder, flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(temp)], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    return Path(done.stdout.strip())


def test_the_next_run_removes_what_a_killed_one_left(temp: Path) -> None:
    left = left_by_a_killed_run(temp)
    assert (left / "big.gguf").exists()
    with scratch_folder("tune") as folder:
        assert not left.exists() and listing(temp)[0] == folder.name


def test_only_dead_folders_of_our_own_kind_go(temp: Path, tmp_path: Path) -> None:
    kept = ["nextn-notes", "nextn-model", "other", "nextn-file", "nextn-link", "nextn-linked-lock", "nextn-alien"]
    (temp / "nextn-notes").mkdir()  # the user's: it has no lock
    (temp / "nextn-model").mkdir()
    (temp / "nextn-model" / "precious.gguf").write_text("x")
    (temp / "other").mkdir()
    (temp / "other" / LOCK).touch()
    (temp / "nextn-file").write_text("x")
    there = tmp_path / "there"
    there.mkdir()
    (there / LOCK).touch()
    (there / "precious.gguf").write_text("x")
    (temp / "nextn-link").symlink_to(there)
    (temp / "nextn-linked-lock").mkdir()
    (temp / "nextn-linked-lock" / LOCK).symlink_to(there / LOCK)
    (temp / "nextn-alien").mkdir()
    (temp / "nextn-alien" / LOCK).touch()
    if os.geteuid() == 0:
        os.chown(temp / "nextn-alien", NOBODY, NOBODY)
    else:
        shutil.rmtree(temp / "nextn-alien")
        kept.remove("nextn-alien")
    dead = left_by_a_killed_run(temp)
    (dead / "link").symlink_to(there)
    assert remove_left(temp) == [dead]
    assert sorted(path.name for path in temp.iterdir()) == sorted(kept)
    assert listing(there) == [LOCK, "precious.gguf"]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["verify", "bench", "tune"])
def test_a_killed_verb_leaves_nothing_for_long(tmp_path: Path, verb: str) -> None:
    """SIGKILL while the engine loads; the next run of any of them clears up."""
    server = tmp_path / "llama-server"
    server.write_text(
        f"#!{sys.executable}\nimport sys, time\n"
        'if "--version" in sys.argv: print("version: 1 (x)")\n'
        'elif "--help" in sys.argv: print("--spec-type draft-mtp --model-draft")\n'
        "else: print('loading', flush=True); time.sleep(600)\n"
    )
    server.chmod(0o755)
    temp = tmp_path / "tmp"
    temp.mkdir()
    made = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path / "made.gguf").entry
    more = {"verify": [], "bench": ["--types", "q8_0,q4_0"], "tune": ["-o", str(tmp_path / "tuned")]}[verb]
    environment = {**os.environ, "TMPDIR": str(temp), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "nextn", verb, str(made), "--engine", str(server), *more]
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(path.is_dir() for path in temp.iterdir()) and time.monotonic() < deadline:
        assert running.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    running.kill()
    running.wait()
    left = [path for path in temp.iterdir() if path.is_dir()]
    assert [path.name.rpartition("-")[0] for path in left] == [f"nextn-{verb}"]
    gone: list[Path] = []
    while not gone and time.monotonic() < deadline:  # a child that was just being started holds the lock until it runs
        gone = remove_left(temp)
    assert gone == left
    assert not [path for path in temp.iterdir() if path.name.startswith("nextn-")]


# -- several at once --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_three_pulls_at_once_end_with_the_files_and_nothing_else(
    hub: HubServer, run_nextn: Callable[..., Any], tmp_path: Path
) -> None:
    hub.repo("me/x").commit({"x-Q4_K_M.gguf": Q4.read_bytes()})
    hub.faults.append(Fault("slow", "^cdn", times=1, after=1.0))  # so that they meet
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "NEXTN_"))}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "NEXTN_CACHE": str(tmp_path / "own")}
    command = [sys.executable, "-m", "nextn", "pull", "me/x", "--variant", "plain", "-o", str(tmp_path / "out")]
    runs = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)
    ]
    said = [run.communicate(timeout=200)[1].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    assert listing(tmp_path / "out") == ["x-Q4_K_M.gguf"]
    assert (tmp_path / "out" / "x-Q4_K_M.gguf").read_bytes() == Q4.read_bytes()
    assert listing(tmp_path / "own" / "locks") == []
    assert any("another pull is running in this folder" in text for text in said)


def test_a_scratch_folder_where_none_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(StorageError, match="set TMPDIR"), scratch.scratch_folder("verify"):
        pass
