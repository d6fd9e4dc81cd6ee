"""What a header costs grows with its bytes, whatever it claims: counts of work, and gross bounds of time."""

from __future__ import annotations

import cProfile
import json
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import ggufmaker
import pytest
from ggufmaker import block_tensors, f32, make, pair, root_tensors, text, trunk_tensors

import nextn
from conftest import CHECKPOINT
from nextn.cli import main
from nextn.errors import FormatError
from nextn.gguf.files import open_model
from nextn.gguf.parser import HeaderParser
from nextn.gguf.reading import SETTLED_NS
from nextn.memory.shape import shape_of
from nextn.publish.listing import Listed
from nextn.publish.pulling import _Here
from nextn.publish.sums import Hasher
from nextn.remote.hub import HubRepo

GROSS_S = 20.0  # of processor time: ten times what the slowest takes here


def taken(call: Callable[[], object]) -> float:
    before = time.process_time()
    call()
    return time.process_time() - before


def many_keys(n: int, key: str = "k%06x", kind: str = "u8") -> bytes:
    return make([*ggufmaker.arch_kvs(2), *((key % i, kind, 1) for i in range(n))], trunk_tensors(2)).whole


def many_tensors(n: int, name: str) -> bytes:
    return make(ggufmaker.arch_kvs(2), [*root_tensors(), *(f32(name % i, 8) for i in range(n))]).whole


CASES = {
    "keys": lambda n: many_keys(n),
    "keys that say where it comes from, of the wrong kind": lambda n: many_keys(n, "general.base_model.%d.name"),
    "tensors of as many layers": lambda n: many_tensors(n, "blk.%d.attn_norm.weight"),
    "blocks": lambda n: many_tensors(n, "blk.%d.nextn.eh_proj.weight"),
    "tensors of one block": lambda n: many_tensors(n, "blk.2.nextn.x%d.weight"),
    "roots": lambda n: many_tensors(n, "r%d.weight"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_verbs_that_read_are_linear(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "M.gguf"
    path.write_bytes(CASES[case](20_000))
    for verb in (["inspect"], ["inspect", "--json"], ["doctor"], ["plan", "--header-only"]):
        assert taken(lambda verb=verb: main([verb[0], str(path), *verb[1:]])) < GROSS_S
        out, err = capsys.readouterr()
        assert len(out) + len(err) < 200_000  # nothing is said once for each


@pytest.mark.parametrize("n_layer", [513, 10**6, 2**32 - 1])
def test_plan_refuses_absurd_layer_counts(n_layer: int, tmp_path: Path) -> None:
    path = tmp_path / "M.gguf"
    kvs = [each for each in ggufmaker.arch_kvs(2) if not each[0].endswith("block_count")]
    path.write_bytes(make([*kvs, ("qwen35.block_count", "u64", n_layer)], [*root_tensors(), *trunk_tensors(2)]).whole)
    with pytest.raises(FormatError, match=f"block_count' is {n_layer:,}, and engines accept at most 512"):
        shape_of(open_model(path))


def test_nested_arrays_are_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the bytes arrive: no inner array of numbers is looked at twice."""
    n = 50_000
    body = struct.pack("<IQ", 9, n) + struct.pack("<IQI", 4, 1, 7) * n
    data = make([("general.architecture", "str", "q")]).whole[:24] + pair("general.architecture", "str", "q")
    data += text("x") + struct.pack("<I", 9) + body
    data = data[:16] + struct.pack("<Q", 2) + data[24:] + bytes(32)
    heads = 0
    head = HeaderParser._array_head

    def counted(self: HeaderParser, pos: int, key: str) -> tuple[object, int, int]:
        nonlocal heads
        heads += 1
        return head(self, pos, key)

    monkeypatch.setattr(HeaderParser, "_array_head", counted)
    parser, size, n_fed, found = HeaderParser(len(data)), 100, 0, None
    while found is None:
        n_fed += 1
        found = parser.feed(data[:size])
        size = max(parser.need, size + 4096)
    assert found.by_key["x"].n_items == n
    assert n_fed > 100 and heads <= 3 * n_fed


@pytest.mark.parametrize("kind", ["[u8]", "[f64]", "[bool]"])
def test_an_array_for_a_name_is_not_decoded(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "M.gguf"
    path.write_bytes(make([("general.architecture", kind, [1] * 500_000)]).whole)
    with pytest.raises(FormatError, match=r"'general\.architecture' is missing or not a string"):
        _ = open_model(path).architecture


@pytest.mark.parametrize("contents", [1, 2000])
def test_a_listing_is_compared_with_the_folder_once(
    contents: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a repository's 2,000 files are all the same or all different: each is looked for once."""
    looked: list[str] = []
    monkeypatch.setattr(_Here, "_has_size", lambda self, file: looked.append(file.path))
    monkeypatch.setattr(_Here, "_cached", lambda self, file: None)
    files = [Listed(f"d/f{i}.gguf", 9, f"{i % contents:064x}") for i in range(2000)]
    here = _Here(cast("HubRepo", None), tmp_path, files, Hasher())
    assert not any(here.seems_to_have(file) for file in files)
    assert sorted(looked) == sorted(file.path for file in files)


MOST_BYTES = 64_000_000  # of memory beyond the header's own bytes
MOST_CPU_S = 3.0  # of a process, its start included: three times what is promised of an idle core, for busy ones
# Runs each verb in a process of its own: on a small model, so that all modules are there, and then on the large one.
CHILD = """
import contextlib, io, json, os, sys, time
from pathlib import Path

def memory(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024

def run(path, verb):
    if verb[0] == "open":
        return open_model(path)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return main([verb[0], path, *verb[1:]])

def taken(verb):
    run(small, verb)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # from here on, the peak is that of the large one
    before = memory("VmRSS")
    done = run(large, verb)
    return memory("VmHWM") - before, done if isinstance(done, int) else 0, start_s + time.process_time()

from nextn.cli import main
from nextn.gguf.files import open_model
small, large, verbs = *sys.argv[1:3], json.loads(sys.argv[3])
start_s = time.process_time()
for verb in verbs:
    if os.fork() == 0:
        code = 1
        try:
            print(json.dumps(taken(verb)), flush=True)
            code = 0
        finally:
            os._exit(code)
    assert os.wait()[1] == 0, verb
"""


def bundled(more_kvs: list[ggufmaker.KV], more_tensors: list[ggufmaker.Tensor]) -> bytes:
    tensors = [*root_tensors(), *trunk_tensors(2), *more_tensors, *block_tensors(2)]
    return make([*ggufmaker.arch_kvs(3, 1), *more_kvs], tensors).whole


MOST_CALLS = 6  # of Python functions for each entry; making an object for each takes 20 or more
READING = (["inspect"], ["doctor"], ["plan", "--header-only"], ["extract", "--dry-run"], ["tune", "--dry-run"],
           ["detach", "--dry-run"], ["detach", "--in-place", "--dry-run"])  # fmt: skip
BUNDLED = {
    "roots of a bundle": "r%d.weight",
    "tensors of a bundle's block": "blk.2.x%d.weight",
    "tensors of a bundle's layer": "blk.0.x%d.weight",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, *BUNDLED])
def test_hardly_anything_is_done_once_for_each_entry(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between two large headers, the number of calls grows by a few for each entry more, in every verb that reads."""

    def calls(verb: list[str], n: int) -> int:
        path = tmp_path / f"{n}.gguf"
        if not path.exists():
            more = [f32(BUNDLED[case] % i, 8) for i in range(n)] if case in BUNDLED else []
            path.write_bytes(bundled([], more) if case in BUNDLED else CASES[case](n))
        profile = cProfile.Profile(builtins=False)
        code = profile.runcall(main, [verb[0], str(path), *verb[1:]])
        assert code in (0, 2, 5, 10, 15), capsys.readouterr()
        return sum(entry.callcount for entry in profile.getstats())

    for verb in READING:
        few = calls(verb, 21_000)
        assert calls(verb, 26_000) - few < MOST_CALLS * 5_000, verb


LARGE = {
    "500,000 keys": lambda: bundled([(f"k{i:06x}", "u8", 1) for i in range(500_000)], []),
    "500,000 keys that say where it comes from": lambda: bundled(
        [(f"general.base_model.{i}.name", "u8", 1) for i in range(500_000)], []
    ),
    "200,000 tensors": lambda: bundled([], [f32(f"r{i}.weight", 8) for i in range(200_000)]),
    "200,000 tensors of a bundle's block": lambda: bundled([], [f32(f"blk.2.x{i}.weight", 8) for i in range(200_000)]),
    "200,000 tensors of a layer": lambda: bundled([], [f32(f"blk.0.x{i}.weight", 8) for i in range(200_000)]),
    "200,000 tensors of a lone block": lambda: many_tensors(200_000, "blk.2.nextn.x%d.weight"),
    "200,000 layers": lambda: many_tensors(200_000, "blk.%d.attn_norm.weight"),
    "200,000 blocks": lambda: many_tensors(200_000, "blk.%d.nextn.eh_proj.weight"),
}


# Exit codes of verbs for which these are no models: no trunk, no block, or a block of too many tensors.
REFUSED = {
    "200,000 layers": (15,),
    "200,000 blocks": (2, 10),
    "200,000 tensors of a bundle's block": (10,),
    "200,000 tensors of a lone block": (2, 10),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux's /proc")
@pytest.mark.parametrize("what", LARGE)
def test_memory_stays_within_64_mb_beyond_the_header_and_a_process_takes_about_a_second(
    what: str, tmp_path: Path
) -> None:
    small, large = tmp_path / "small.gguf", tmp_path / "large.gguf"
    small.write_bytes(bundled([], []))
    large.write_bytes(LARGE[what]())
    header_bytes = open_model(large).header_bytes
    verbs = [["open"], ["inspect"], ["inspect", "--json"], ["doctor"]]
    verbs += [["detach", "--dry-run"], ["detach", "--in-place", "--dry-run"], ["plan", "--header-only"]]
    verbs += [["extract", "--dry-run"], ["tune", "--dry-run"]]
    verbs += [["assemble", "--dry-run", "-o", str(tmp_path / "one.gguf")]]
    verbs += [["explode", "--dry-run", "--max-tensors", n] for n in ("4", "100000")]
    for verb, (taken_bytes, code, cpu_s) in zip(verbs, taken_by(small, large, verbs), strict=True):
        assert code in (0, 5, *REFUSED.get(what, ())), verb
        assert taken_bytes - header_bytes < MOST_BYTES, verb
        assert cpu_s < MOST_CPU_S, verb
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "nextn", "plan", large], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode in (0, 5, *REFUSED.get(what, ())), done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < MOST_CPU_S


def taken_by(small: Path, large: Path, verbs: list[list[str]]) -> list[tuple[int, int, float]]:
    """For each verb: how far a process grows beyond what it is after the small file, in bytes; the verb's exit code;
    and the process's seconds of processor time, its start included."""
    answer = subprocess.run(
        [sys.executable, "-c", CHILD, str(small), str(large), json.dumps(verbs)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return [tuple(json.loads(line)) for line in answer.stdout.splitlines()]


def grown(small: Path, large: Path, verb: list[str]) -> tuple[int, int]:
    """How far a process grows beyond what it is after the small file, and the verb's exit code."""
    ((taken_bytes, code, _),) = taken_by(small, large, [verb])
    return taken_bytes, code


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux's /proc")
@pytest.mark.parametrize("what", ["500,000 keys", "200,000 tensors"])
@pytest.mark.parametrize("verb", [["serve", "--json"], ["up", "--dry-run"]], ids=lambda verb: verb[0])
def test_serving_stays_within_the_same_bound(what: str, verb: list[str], tmp_path: Path) -> None:
    small, large = tmp_path / "small.gguf", tmp_path / "large.gguf"
    small.write_bytes(bundled([], []))
    large.write_bytes(LARGE[what]())
    while time.time_ns() - large.stat().st_ctime_ns <= SETTLED_NS:  # a header is only held from then on
        time.sleep(0.1)
    taken_bytes, code = grown(small, large, verb)
    assert code == 0
    assert taken_bytes - open_model(large).header_bytes < MOST_BYTES


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux's /proc")
@pytest.mark.parametrize(("n_keys", "n_tensors"), [(500_000, 0), (0, 200_000)])
def test_plan_with_a_donor_stays_within_the_same_bound(n_keys: int, n_tensors: int, tmp_path: Path) -> None:
    import header as benchmark

    trunks = []
    for name, counts in (("small", (0, 0)), ("large", (n_keys, n_tensors))):
        benchmark.make_large(tmp_path / f"{name}.gguf", *counts)
        trunks.append(tmp_path / name / "trunk.gguf")
        nextn.detach(tmp_path / f"{name}.gguf", out=trunks[-1])
    taken_bytes, code = grown(*trunks, ["plan", "--header-only", "--from", str(CHECKPOINT)])
    assert code == 0
    assert taken_bytes - open_model(trunks[1]).header_bytes < MOST_BYTES
