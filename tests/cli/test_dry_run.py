"""A plan's numbers are what a real run does, as the kernel counts it; a dry run does nothing at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import pytest
from faults import counted, giant, listing, state

import nextn
from conftest import CHECKPOINT, Q4, ROOT, TRUNKS
from nextn.gguf import reading
from nextn.writing.execute import execute
from nextn.writing.plan import Copy, NewFile, Plan

Call = Callable[..., nextn.Result]
MIB = 1 << 20


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, checkpoints: Callable[[str], Path]) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copytree(checkpoints("qwen35moe-experts-bf16"), folder / "moe")
    shutil.copytree(CHECKPOINT, folder / "tiny")
    shutil.copy(Q4, folder / "trunk.gguf")
    for name in ("kv-first", "tensors-first"):
        shutil.copytree(TRUNKS / name, folder / name)
        nextn.attach(folder / name, folder / "moe", out=folder / f"{name} attached")
    nextn.attach(folder / "trunk.gguf", folder / "tiny", layout="bundle", out=folder / "bundled.gguf")
    nextn.attach(folder / "trunk.gguf", folder / "tiny", layout="sidecar", out=folder / "mtp-sidecar.gguf")
    return folder


CASES: dict[str, Callable[[Path, dict[str, Any]], nextn.Result]] = {
    "sidecar": lambda f, more: nextn.attach(f / "trunk.gguf", f / "tiny", layout="sidecar", **more),
    "sidecar as is": lambda f, more: nextn.attach(
        f / "trunk.gguf", f / "tiny", layout="sidecar", embd_type="as-is", type="bf16", **more
    ),
    "bundle": lambda f, more: nextn.attach(f / "trunk.gguf", f / "tiny", layout="bundle", **more),
    "bundle from a bundle": lambda f, more: nextn.attach(f / "trunk.gguf", f / "bundled.gguf", layout="bundle", **more),
    "bundle of a set": lambda f, more: nextn.attach(f / "tensors-first", f / "moe", layout="bundle", **more),
    "shards": lambda f, more: nextn.attach(f / "kv-first", f / "moe", **more),
    "shards with data in the first": lambda f, more: nextn.attach(f / "tensors-first", f / "moe", type="f16", **more),
    "shards of one file": lambda f, more: nextn.attach(
        f / "trunk.gguf", f / "mtp-sidecar.gguf", layout="shards", **more
    ),
    "symlinks": lambda f, more: nextn.attach(f / "kv-first", f / "moe", link="symlink", **more),
    "detach": lambda f, more: nextn.detach(f / "bundled.gguf", **more),
    "detach a set": lambda f, more: nextn.detach(f / "kv-first attached", **more),
    "detach a set with data in the first": lambda f, more: nextn.detach(f / "tensors-first attached", **more),
    "extract": lambda f, more: nextn.extract(f / "bundled.gguf", **more),
    "extract from a sidecar": lambda f, more: nextn.extract(f / "mtp-sidecar.gguf", type="q4_k", **more),
    "extract a donor": lambda f, more: nextn.extract(f / "moe", block_only=True, **more),
}


@pytest.fixture(params=CASES)
def call(request: pytest.FixtureRequest, inputs: Path) -> Call:
    return lambda **more: CASES[request.param](inputs, more)


def of_new_files(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in listing(folder)}


@pytest.mark.slow
def test_the_plan_is_what_happens(call: Call, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # the real one reads from /sys
    out = tmp_path / "a" / "b"
    dry = call(out=out, dry_run=True)
    assert dry.outcome is None
    assert listing(tmp_path) == []
    before = state(inputs)
    execute(replace(dry.plan, folder=tmp_path / "warm"))  # imports are read from disk, too
    with counted() as io:
        outcome = execute(dry.plan)
    said, plan = dry.to_json(), dry.plan
    sizes = {str(out / name): size for name, size in of_new_files(out).items()}
    assert {file["path"]: file["size_bytes"] for file in said["files"]} == sizes
    new = [Path(file["path"]) for file in said["files"] if file["how"] == "write"]
    links = [Path(file["path"]) for file in said["files"] if file["how"] == "link"]
    assert said["bytes_written"] == sum(path.stat().st_size for path in new)
    assert said["bytes_linked"] == sum(path.stat().st_size for path in links)
    assert all(path.stat().st_nlink == 1 and not path.is_symlink() for path in new)
    assert all(path.is_symlink() or path.stat().st_nlink > 1 for path in links)
    assert io.read == said["bytes_read"] - plan.header_bytes
    note = io.written - said["bytes_written"]
    assert note == 0 if len(said["files"]) == 1 else 0 < note < 4096
    assert outcome.bytes_read == said["bytes_read"]
    assert state(inputs) == before


def test_json_of_a_dry_run_is_that_of_the_run(call: Call, tmp_path: Path) -> None:
    dry, real = (call(out=tmp_path / "out", dry_run=dry).to_json() for dry in (True, False))
    assert dry.pop("dry_run") is True
    assert real.pop("dry_run") is False
    for key in ("wall_s", "tensor_sha256", "links"):
        assert not dry.pop(key)
        real.pop(key)
    for data in (dry, real):
        if data["donor"] is not None:
            assert (data["donor"].pop("sha256") is None) == (data is dry)
    assert json.loads(json.dumps(dry)) == real


def test_a_dry_run_changes_nothing(call: Call, inputs: Path) -> None:
    """Where nothing is said about the output, it would go beside the input."""
    seen, before = listing(inputs), state(inputs)
    times = {name: (inputs / name).stat().st_mtime_ns for name in ["", *seen]}
    with counted() as io:
        call(dry_run=True)
    assert io.written == 0
    assert listing(inputs) == seen
    assert state(inputs) == before
    assert {name: (inputs / name).stat().st_mtime_ns for name in ["", *seen]} == times


def test_headers_are_counted_as_read(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading goes on in steps, so that a plan may read more than the headers, never less, and never much more."""
    monkeypatch.setattr(reading, "_held", WeakValueDictionary())  # what somebody still holds is not read again
    monkeypatch.setattr(reading, "SETTLED_NS", 1 << 62)
    nextn.detach(inputs / "kv-first attached", dry_run=True)
    with counted() as io:
        plan = nextn.detach(inputs / "kv-first attached", dry_run=True).plan
    assert plan.header_bytes <= io.read <= plan.header_bytes + 4 * (64 << 10)


@pytest.mark.parametrize("donor", ["tiny", "moe"])
def test_json_of_a_checkpoint_is_counted_as_read(
    inputs: Path, donor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = inputs / ("trunk.gguf" if donor == "tiny" else "kv-first")
    nextn.attach(trunk, inputs / donor, dry_run=True)
    monkeypatch.setattr("nextn.gguf.reading._held", WeakValueDictionary())  # what is left in memory is not read again
    with counted() as io:
        plan = nextn.attach(trunk, inputs / donor, dry_run=True).plan
    assert plan.json_bytes > (inputs / donor / "tokenizer.json").stat().st_size
    assert plan.header_bytes <= io.read <= plan.header_bytes + 4 * (64 << 10)


# -- memory ------------------------------------------------------------------------------------------------------

# VmHWM and not ru_maxrss, which a child takes over from its parent. Without fsync, since only memory is measured.
PEAK = """
import re, sys
from pathlib import Path
from nextn.writing import durable
from nextn.cli import main
durable.System.fsync = lambda self, fd: None
code = main(sys.argv[1:])
assert code == 0, code
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


def run(*args: str | Path) -> tuple[dict[str, Any], int]:
    """What a fresh process of the command line says, and its peak memory."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, args), "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), int(done.stderr.splitlines()[-1]) * 1024


@pytest.mark.slow
def test_memory_of_small_models(inputs: Path, tmp_path: Path) -> None:
    for layout in ("bundle", "sidecar"):
        said, peak = run("attach", inputs / "trunk.gguf", "--from", inputs / "tiny", "--layout", layout, "-o", tmp_path)
        assert 20 * MIB < peak <= said["peak_memory_bytes"], layout
    said, peak = run("detach", inputs / "bundled.gguf", "-o", tmp_path)
    assert 20 * MIB < peak <= said["peak_memory_bytes"]


@pytest.mark.slow
def test_memory_of_a_big_trunk(tmp_path: Path) -> None:
    trunk = giant(Q4, 2 << 30).single(tmp_path / "big.gguf")
    said, peak = run("attach", trunk, "--from", CHECKPOINT, "--layout", "bundle", "--type", "q4_k")
    assert said["bytes_written"] > 2 * 10**9
    assert Path(said["entry"]).stat().st_size > 2 * 10**9
    assert peak <= said["peak_memory_bytes"]
    assert peak < 250 * 10**6


# -- giants --------------------------------------------------------------------------------------------------------


def copied(plan: Plan) -> int:
    segments = [segment for out in plan.outputs if isinstance(out, NewFile) for segment in out.segments]
    return sum(segment.size_bytes for segment in segments if isinstance(segment, Copy))


def test_shards_touch_no_data_of_400_gb(tmp_path: Path) -> None:
    trunk = giant(Q4, 400 * 10**9).shards(tmp_path, "giant-F32", 10)
    assert sum(path.stat().st_size for path in trunk) > 399 * 10**9
    before = {path: path.stat() for path in trunk}
    nextn.attach(trunk[0], CHECKPOINT, out=tmp_path / "warm")
    with counted() as io:
        result = nextn.attach(trunk[0], CHECKPOINT, out=tmp_path / "out")
    assert len(result.files) == 11
    assert result.bytes_linked == sum(path.stat().st_size for path in trunk[1:])
    assert result.bytes_linked > 399 * 10**9
    assert copied(result.plan) == 0
    checkpoint = sum(path.stat().st_size for path in CHECKPOINT.iterdir())
    assert io.read < checkpoint + 10 * (64 << 10) + MIB
    assert result.bytes_written <= io.written < result.bytes_written + 4096
    assert result.bytes_written < 2 * MIB
    for path, new in zip(trunk[1:], result.files[1:-1], strict=True):
        now = new.stat()
        assert now.st_ino == before[path].st_ino
        assert now.st_blocks == before[path].st_blocks < 64
        assert now.st_mtime_ns == before[path].st_mtime_ns
    assert not nextn.inspect(result.entry).problems
    back = nextn.detach(result.entry, out=tmp_path / "back")
    assert back.files[-1].read_bytes() == trunk[0].read_bytes()
    assert [path.stat().st_ino for path in back.files[:-1]] == [path.stat().st_ino for path in trunk[1:]]
