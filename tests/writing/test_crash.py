"""Whatever stops a run, at any call: inputs are untouched, no unfinished file has a name, the next run is whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import KILLED, Faults, ShortWrites, content, giant, in_child, listing, places, state
from opened import open_donor

import nextn
from conftest import CHECKPOINT, Q4, ROOT, TRUNKS
from nextn.errors import NextnError, NoSpace, OutputExists, StorageError
from nextn.gguf.files import open_model
from nextn.layouts.attach import plan_attach
from nextn.layouts.detach import plan_detach
from nextn.layouts.explode import ExplodeOptions, plan_explode
from nextn.layouts.extract import plan_extract
from nextn.layouts.options import AttachOptions, ExtractOptions
from nextn.writing.execute import execute
from nextn.writing.plan import Plan

DENSE, SET, SET_WITH_DATA = "qwen35-dense-F32.gguf", "kv-first", "tensors-first"
BYSTANDERS = ("another.gguf", ".hidden", ".download.tmp")
Make = Callable[[Path, Path], Plan]  # (inputs, output folder) -> plan


def attach(trunk: str, donor: str, layout: str) -> Make:
    return lambda inputs, out: plan_attach(
        open_model(inputs / trunk), open_donor(inputs / donor), AttachOptions(layout, out=out)
    )


CASES: dict[str, Make] = {
    "bundle": attach(DENSE, "qwen35-dense-f32", "bundle"),
    "sidecar": attach(DENSE, "qwen35-dense-f32", "sidecar"),
    "shards": attach(SET, "qwen35moe-fused-bf16", "shards"),
    "shards with data in the first": attach(SET_WITH_DATA, "qwen35moe-fused-bf16", "shards"),
    "detach": lambda inputs, out: plan_detach(open_model(inputs / "bundled.gguf"), out),
    "detach a set": lambda inputs, out: plan_detach(open_model(inputs / "set"), out),
    "extract a sidecar": lambda inputs, out: plan_extract(open_donor(inputs / "bundled.gguf"), ExtractOptions(out=out)),
    "extract a donor": lambda inputs, out: plan_extract(
        open_donor(inputs / "qwen35moe-fused-bf16"), ExtractOptions(block_only=True, out=out)
    ),
    "explode": lambda inputs, out: plan_explode(open_model(inputs / DENSE), ExplodeOptions(out, max_tensors=3)),
}


@dataclass
class Bench:
    """One verb and layout with its inputs, and what an undisturbed run makes."""

    inputs: Path
    out: Path
    plan: Plan
    whole: dict[str, str]
    calls: list[str]

    @property
    def n_calls(self) -> int:
        """Of the undisturbed run."""
        return len(self.calls)

    @property
    def last(self) -> str:
        """The name that appears last: the entry of a set."""
        return self.plan.outputs[-1].name

    def reset(self) -> None:
        shutil.rmtree(self.out.parent, ignore_errors=True)
        self.out.mkdir(parents=True)
        for name in BYSTANDERS:
            (self.out / name).write_bytes(name.encode())

    def names(self) -> dict[str, str]:
        """Final names that are there, with their content."""
        return {name: digest for name, digest in content(self.out).items() if name in self.whole}

    def check_next_run(self) -> None:
        """The next run in the folder is whole and leaves nothing of the broken one."""
        if self.last in self.names():
            assert self.names() == self.whole
            with pytest.raises(OutputExists):
                execute(self.plan, system=Faults())
            for name in self.whole:
                (self.out / name).unlink()
        execute(self.plan, system=Faults())
        assert self.names() == self.whole
        assert set(listing(self.out)) == {*self.whole, *BYSTANDERS}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, checkpoints: Callable[[str], Path]) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("qwen35-dense-f32", "qwen35moe-fused-bf16"):
        shutil.copytree(checkpoints(name), folder / name)
    shutil.copy(TRUNKS / DENSE, folder / DENSE)
    for name in (SET, SET_WITH_DATA):
        shutil.copytree(TRUNKS / name, folder / name)
    nextn.attach(folder / DENSE, folder / "qwen35-dense-f32", layout="bundle", out=folder / "bundled.gguf")
    nextn.attach(folder / SET_WITH_DATA, folder / "qwen35moe-fused-bf16", out=folder / "set")
    return folder


@pytest.fixture(params=CASES)
def bench(request: pytest.FixtureRequest, tmp_path: Path, inputs: Path) -> Bench:
    out = tmp_path / "out" / "here"
    bench = Bench(inputs, out, CASES[request.param](inputs, out), {}, [])
    bench.reset()
    system = Faults()
    execute(bench.plan, system=system)
    bench.calls = [call for call, _ in system.trace]
    bench.whole = {out.name: content(bench.out)[out.name] for out in bench.plan.outputs}
    assert bench.n_calls > 5
    assert set(listing(bench.out)) == {*bench.whole, *BYSTANDERS}
    return bench


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eio", "enospc", "before", "after", "torn"])
def test_an_error_or_ctrl_c_at_any_call_leaves_the_folder_as_it_was(bench: Bench, mode: str) -> None:
    """Save after the commit: then everything is there, and only the note may be left for the next run."""
    before = state(bench.inputs)
    bench.reset()
    start = listing(bench.out)
    for k in places(bench.calls, mode):
        system = Faults(k, mode)
        try:
            execute(bench.plan, system=system)
            done = True
        except (NoSpace, StorageError) as error:
            assert "\n" not in str(error)
            assert isinstance(error, NoSpace) == (mode == "enospc")
            done = False
        except KeyboardInterrupt:
            done = bench.last in bench.names()
        call = system.trace[k - 1][0]
        if done:
            assert k >= bench.n_calls - 2, (call, k)  # what comes behind the folder's fsync
            assert bench.names() == bench.whole
        elif call != "unlink":  # a leftover that cannot be removed now goes with the next run
            assert listing(bench.out) == start, (call, k)
        else:
            assert bench.names() == {}, (call, k)
        bench.check_next_run()
        bench.reset()
    assert state(bench.inputs) == before


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kill", "torn-kill"])
def test_a_kill_at_any_call_leaves_whole_files_or_none(bench: Bench, mode: str) -> None:
    before = state(bench.inputs)
    for k in places(bench.calls, mode):
        bench.reset()
        assert in_child(lambda k=k: execute(bench.plan, system=Faults(k, mode))) == KILLED
        there = bench.names()
        assert there.items() <= bench.whole.items(), k
        assert bench.last not in there or there == bench.whole, k
        bench.check_next_run()
    assert state(bench.inputs) == before


@pytest.mark.slow
def test_a_disk_that_dies_half_way_leaves_what_a_kill_leaves(bench: Bench) -> None:
    """Every call from number k on fails, those that clean up too."""
    before = state(bench.inputs)
    for k in range(1, bench.n_calls + 1):
        bench.reset()
        with contextlib.suppress(NextnError):
            execute(bench.plan, system=Faults(k, "dead"))
        there = bench.names()
        assert there.items() <= bench.whole.items(), k
        assert bench.last not in there or there == bench.whole, k
        bench.check_next_run()
    assert state(bench.inputs) == before


def test_short_writes_and_short_copies_make_the_same_bytes(bench: Bench) -> None:
    bench.reset()
    system = ShortWrites()
    execute(bench.plan, system=system)
    assert len(system.trace) > bench.n_calls
    assert bench.names() == bench.whole


@pytest.mark.slow
def test_a_kill_in_a_new_folder_does_not_hinder_the_next_run(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    plan = CASES["shards"](inputs, out)
    system = Faults()
    execute(plan, system=system)
    whole = content(out)
    for k in range(1, len(system.trace) + 1):
        shutil.rmtree(tmp_path / "new")
        in_child(lambda k=k: execute(plan, system=Faults(k, "kill")))
        if plan.entry.exists():
            shutil.rmtree(out)
        execute(plan, system=Faults())
        assert content(out) == whole


def test_an_error_takes_new_folders_away_again(inputs: Path, tmp_path: Path) -> None:
    plan = CASES["shards"](inputs, tmp_path / "new" / "folder")
    n_failed = 0
    while not plan.entry.exists():
        system = Faults(n_failed + 1, "eio")
        with contextlib.suppress(StorageError):
            execute(plan, system=system)
            continue
        n_failed += 1
        if system.trace[n_failed - 1][0] == "unlink":  # the leftover stays for the next run, and its folder with it
            assert not any(path.suffix == ".gguf" for path in tmp_path.rglob("*"))
        else:
            assert listing(tmp_path) == [], n_failed
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
    assert n_failed > 20


# -- real processes --------------------------------------------------------------------------------------------


def start(*args: str | Path, ms: float = 20, cwd: Path | None = None) -> subprocess.Popen[str]:
    """The command line on a disk that takes `ms` for each call."""
    return subprocess.Popen(
        [sys.executable, ROOT / "tests" / "support" / "faults.py", str(ms), *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> Path:
    """The first file that matches, as soon as it is there and not empty."""
    for _ in range(2000):
        for path in folder.glob(pattern):
            if path.lstat().st_size:
                return path
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    raise AssertionError(f"no {pattern} in {listing(folder)}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "wait_s"),
    [(signal.SIGINT, 0), (signal.SIGINT, 0.15), (signal.SIGINT, 0.4), (signal.SIGTERM, 0.2), (signal.SIGHUP, 0.3)],
)
def test_signals_end_a_run_with_130_and_one_sentence(tmp_path: Path, number: signal.Signals, wait_s: float) -> None:
    trunk = Path(shutil.copy(Q4, tmp_path))
    before, seen = state(tmp_path), listing(tmp_path)
    run = start("attach", trunk, "--from", CHECKPOINT, "--layout", "bundle")
    wait_for(tmp_path, ".*.nextn-tmp", run)
    time.sleep(wait_s)
    run.send_signal(number)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert out == ""
    assert re.fullmatch(r"\s*nextn: interrupted[^\n]*\.\n", err)
    assert listing(tmp_path) == seen
    assert state(tmp_path) == before


@pytest.mark.parametrize("wait_s", [0, 0.6])
def test_a_killed_process_is_cleaned_up_by_the_next(tmp_path: Path, wait_s: float) -> None:
    trunk = Path(shutil.copy(Q4, tmp_path))
    before = state(tmp_path)
    run = start("attach", trunk, "--from", CHECKPOINT, "--layout", "bundle")
    left = wait_for(tmp_path, ".*.nextn-tmp", run)
    time.sleep(wait_s)
    run.kill()
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    assert left.exists()
    assert [name for name in listing(tmp_path) if not name.startswith(".")] == [trunk.name]
    made = nextn.attach(trunk, CHECKPOINT, layout="bundle").entry
    assert sorted(listing(tmp_path)) == sorted([trunk.name, made.name])
    assert nextn.inspect(made).problems == ()
    assert state(tmp_path)[trunk.name] == before[trunk.name]


def test_a_big_copy_is_interrupted_in_the_kernel(tmp_path: Path) -> None:
    """The plain command line, unslowed, on 8 GB of a sparse trunk."""
    trunk = giant(Q4, 8 << 30).single(tmp_path / "big-F32.gguf")
    run = subprocess.Popen(
        [sys.executable, "-m", "nextn", "attach", trunk, "--from", CHECKPOINT, "--layout", "bundle"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path, ".*.nextn-tmp", run)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert err.count("nextn:") == 1
    assert listing(tmp_path) == [trunk.name]


@pytest.mark.slow
def test_two_runs_for_one_name_have_one_winner(tmp_path: Path) -> None:
    trunk = Path(shutil.copy(Q4, tmp_path))
    runs = [start("attach", trunk, "--from", CHECKPOINT, "--layout", "bundle", "--json") for _ in range(2)]
    ends = [run.communicate(timeout=60) for run in runs]
    assert sorted(run.returncode for run in runs) == [0, OutputExists.exit_code], ends
    won = next(json.loads(out) for (out, _), run in zip(ends, runs, strict=True) if run.returncode == 0)
    lost = next(err for (_, err), run in zip(ends, runs, strict=True) if run.returncode)
    assert lost.startswith("nextn: ")
    assert "already exists" in lost
    assert sorted(listing(tmp_path)) == sorted([trunk.name, Path(won["entry"]).name])
    assert nextn.inspect(won["entry"]).problems == ()


def test_two_runs_for_one_set_have_one_winner(tmp_path: Path, inputs: Path) -> None:
    out = tmp_path / "set"
    args = ("attach", inputs / SET, "--from", inputs / "qwen35moe-fused-bf16", "-o", out)
    runs = [start(*args, ms=3) for _ in range(2)]
    ends = [run.communicate(timeout=60) for run in runs]
    assert sorted(run.returncode for run in runs) == [0, OutputExists.exit_code], ends
    assert len(listing(out)) == 4
    assert nextn.inspect(out).problems == ()


@pytest.mark.slow
def test_a_living_run_keeps_its_files(tmp_path: Path) -> None:
    trunk = Path(shutil.copy(Q4, tmp_path))
    slow = start("attach", trunk, "--from", CHECKPOINT, "--layout", "bundle")
    temp = wait_for(tmp_path, ".*.nextn-tmp", slow)
    inode = temp.stat().st_ino
    other = nextn.attach(trunk, CHECKPOINT, layout="bundle", out=tmp_path / "other.gguf")
    assert temp.exists()
    assert temp.stat().st_ino == inode
    _, err = slow.communicate(timeout=60)
    assert slow.returncode == 0, err
    names = sorted(listing(tmp_path))
    assert names == sorted([trunk.name, "other.gguf", "tiny-qwen35-MTP-Q4_K_M.gguf"])
    assert (tmp_path / "tiny-qwen35-MTP-Q4_K_M.gguf").read_bytes() == other.entry.read_bytes()
