"""How fast a header of 10.6 MB (248,320 tokens, 247,587 merges, 800 tensors) is opened, and by whom.

python benchmarks/header.py [--json FILE]

One run, readers interleaved, everything warm: nextn, ggml's own C reader (`gguf_init_from_file` without data),
gguf-py's GGUFReader; then the command line as whole processes, and the peak memory of each reader in a process of
its own. Tensor data is a hole in a sparse file: nobody reads it.

Then two headers far beyond those of real models, 200,000 tensors and 500,000 keys: processor time and growth of memory
of one open, and of the commands that read, each in a process of its own that has run the same on a small file before.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from nextn import __version__
from nextn.ggml import mainline as ggml
from nextn.gguf.files import open_model
from nextn.gguf.header import build_header, pad_to, place
from nextn.gguf.kv import KV, KVType
from nextn.gguf.tensors import TensorInfo
from nextn.gguf.types import parse_type_name, tensor_size

N_TOKENS, N_MERGES, N_TENSORS = 248_320, 247_587, 800
Open = Callable[[Path], object]
LARGE = {"200,000 tensors": (0, 200_000), "500,000 keys": (500_000, 0)}  # more keys, more tensors
VERBS = (("open",), ("inspect",), ("doctor",), ("detach", "--dry-run"), ("plan", "--header-only"))


class _InitParams(ctypes.Structure):
    """`struct gguf_init_params`."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def make_file(path: Path) -> tuple[int, int]:
    """Write the model; returns (header bytes, file bytes)."""
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyzĠéя中"
    lengths = (2, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 10, 12)
    tokens = ["".join(rng.choices(letters, k=rng.choice(lengths))) for _ in range(N_TOKENS)]
    merges = [f"{rng.choice(tokens)} {rng.choice(tokens)}" for _ in range(N_MERGES)]
    kvs = [KV.make("general.architecture", KVType.STRING, "qwen35")]
    kvs += [KV.make("qwen35.block_count", KVType.UINT32, 64), KV.make("qwen35.embedding_length", KVType.UINT32, 5120)]
    kvs += [KV.make(f"qwen35.some.number_{i}", KVType.UINT32, i) for i in range(40)]
    kvs += [
        KV.make("tokenizer.ggml.model", KVType.STRING, "gpt2"),
        KV.make("tokenizer.ggml.tokens", KVType.ARRAY, tokens, KVType.STRING),
        KV.make("tokenizer.ggml.token_type", KVType.ARRAY, [1] * N_TOKENS, KVType.INT32),
        KV.make("tokenizer.ggml.merges", KVType.ARRAY, merges, KVType.STRING),
        KV.make("tokenizer.chat_template", KVType.STRING, "{%- if tools %}" * 500),
    ]
    q4_k = parse_type_name("q4_K")
    ne = (5120, 1024)
    size = tensor_size(q4_k, ne) or 0
    names = [f"blk.{i // 12}.tensor_{i % 12}.weight" for i in range(N_TENSORS - 64)]
    names += [f"blk.{i}.attn_norm.weight" for i in range(64)]
    infos, data_bytes = place([(TensorInfo(name, ne, q4_k.id, 0), size) for name in names], 32)
    header = build_header(kvs, infos)
    path.write_bytes(header)
    os.truncate(path, len(header) + data_bytes)
    return len(header), len(header) + data_bytes


def make_large(path: Path, n_keys: int, n_tensors: int) -> int:
    """Write a small bundled model with many more keys and tensors; returns its header's bytes."""
    import nextn
    from nextn.verbs.demo import DATA

    bundle = path.with_name("bundle.gguf")
    if not bundle.exists():
        nextn.attach(DATA / "tiny-qwen35-Q4_K_M.gguf", DATA / "tiny-qwen35-mtp", layout="bundle", out=bundle)
    file = open_model(bundle).files[0]
    header, data_bytes = file.header, file.size_bytes - file.header.data_offset
    kvs = header.kvs.plus(KV.make(f"some.number_{i}", KVType.UINT32, i) for i in range(n_keys))
    at = pad_to(data_bytes, 32)
    infos = header.tensors.plus(TensorInfo(f"extra.{i}.weight", (8,), 0, at + 32 * i) for i in range(n_tensors))
    head = build_header(kvs, infos, alignment=header.alignment)
    with path.open("wb") as out, bundle.open("rb") as source:
        out.write(head)
        source.seek(header.data_offset)
        out.write(source.read())
        out.truncate(len(head) + at + 32 * n_tensors)
    return len(head)


def ggml_reader() -> Open:
    """ggml's reader, from the prebuilt library that nextn quantizes with."""
    lib = ctypes.CDLL(str(ggml.find_library()))
    lib.gguf_init_from_file.argtypes = [ctypes.c_char_p, _InitParams]
    lib.gguf_init_from_file.restype = ctypes.c_void_p
    lib.gguf_get_n_tensors.argtypes = lib.gguf_free.argtypes = [ctypes.c_void_p]
    lib.gguf_get_n_tensors.restype = ctypes.c_int64
    lib.gguf_free.restype = None

    def read(path: Path) -> None:
        context = lib.gguf_init_from_file(bytes(path), _InitParams(True, None))
        assert context and lib.gguf_get_n_tensors(context) == N_TENSORS
        lib.gguf_free(context)

    return read


def gguf_py_reader() -> Open:
    """gguf-py's reader."""
    import gguf

    return gguf.GGUFReader


READERS: dict[str, Callable[[], Open]] = {
    "nextn": lambda: open_model,
    "ggml (C)": ggml_reader,
    "gguf-py": gguf_py_reader,
}


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    result = call()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def peak_rss() -> int:
    """The process's peak resident memory in bytes.

    Linux hands ru_maxrss on from the parent at exec, so its own figure is taken where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def child(reader: str, path: Path) -> None:
    """Open once and print peak memory in bytes before and after."""
    read = READERS[reader]()
    before = peak_rss()
    kept = read(path)
    after = peak_rss()
    del kept
    print(json.dumps({"before": before, "after": after}))


def large_child(small: Path, large: Path, verb: list[str]) -> None:
    """Run a verb on a small file, then on the large one; print processor seconds and growth of the peak for that."""
    import contextlib
    import io

    from nextn.cli import main as run_command

    def run(path: Path) -> object:
        if verb[0] == "open":
            return open_model(path)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return run_command([verb[0], str(path), *verb[1:]])

    run(small)
    before, start = peak_rss(), time.process_time()
    done = run(large)
    print(json.dumps({"cpu_s": time.process_time() - start, "bytes": peak_rss() - before, "code": str(done)[:10]}))


def large_headers(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Every verb on every large header: processor seconds of each round, most bytes of growth."""
    rows: dict[str, object] = {}
    small = folder / "small.gguf"
    make_large(small, 0, 0)
    for name, counts in LARGE.items():
        path = folder / f"{name.replace(',', '').replace(' ', '-')}.gguf"
        header_bytes = make_large(path, *counts)
        for verb in VERBS:
            words = [sys.executable, __file__, "--large", str(small), str(path), json.dumps(verb)]
            found = [
                dict(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
                for _ in range(args.slow + 1)
            ]
            cpu = [each["cpu_s"] for each in found]
            grown = max(each["bytes"] for each in found)
            rows[f"{name}: {' '.join(verb)}"] = {"cpu_s": cpu, "peak_growth_bytes": grown, "header_bytes": header_bytes}
            print(
                f"{name:<16} {' '.join(verb):<20} {statistics.median(cpu):6.2f} s of processor time, "
                f"{grown / 1e6:4.0f} MB of memory, of which {header_bytes / 1e6:.0f} are the header", flush=True
            )  # fmt: skip
    return rows


def peak_memory(reader: str, path: Path) -> dict[str, int]:
    out = subprocess.run(
        [sys.executable, __file__, "--child", reader, str(path)], check=True, capture_output=True, text=True
    )
    return dict(json.loads(out.stdout))


def command(*args: str) -> None:
    """The command line as a process; inspect answers 5 when it sees problems."""
    done = subprocess.run([sys.executable, "-m", "nextn", *args], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 5):
        raise SystemExit(f"nextn {' '.join(args)} answered {done.returncode}: {done.stderr.strip()[-500:]}")


def machine() -> dict[str, object]:
    model = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), "")
    return {"cpu": model or platform.processor(), "n_cpus": os.cpu_count(), "system": platform.platform()}


def run(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    path = folder / "header.gguf"
    header_bytes, file_bytes = make_file(path)
    print(f"header {header_bytes:,} bytes, file {file_bytes:,} bytes (sparse)", flush=True)
    readers = {name: make() for name, make in READERS.items()}
    for name in ("nextn", "ggml (C)"):
        readers[name](path)  # warms the page cache
    with_cli = importlib.util.find_spec("nextn.__main__") is not None
    if not with_cli:
        print("nextn has no command line here: skipped")
    raw: dict[str, list[float]] = {}
    for i in range(args.repeat):
        for name in ("nextn", "ggml (C)"):
            raw.setdefault(name, []).append(timed(lambda read=readers[name]: read(path)))
        if i < args.slow:
            raw.setdefault("gguf-py", []).append(timed(lambda: readers["gguf-py"](path)))
        if with_cli:
            for words in (("--help",), ("inspect", str(path))):
                raw.setdefault(f"nextn {words[0]}", []).append(timed(lambda words=words: command(*words)))
    memory = {name: peak_memory(name, path) for name in READERS}
    return {
        "command": sys.argv,
        "header_bytes": header_bytes,
        "wall_s": {name: {"median": statistics.median(values), "raw": values} for name, values in raw.items()},
        "peak_memory_bytes": memory,
        "versions": {
            "nextn": __version__,
            "python": platform.python_version(),
            "gguf": version("gguf"),
            "ggml": ggml.load().version,
        },
        "machine": machine(),
    }


def show(result: dict[str, object]) -> None:
    wall, memory = result["wall_s"], result["peak_memory_bytes"]
    assert isinstance(wall, dict) and isinstance(memory, dict)
    ours = wall["nextn"]["median"]
    targets = {"nextn": "<= 60 ms", "gguf-py": ">= 200 x", "nextn --help": "<= 300 ms", "nextn inspect": "<= 500 ms"}
    print(f"{'what':<14} {'median':>11} {'fastest':>11} {'slowest':>11} {'runs':>4} {'x nextn':>8} {'peak':>8}  target")
    for name, values in wall.items():
        raw, median = values["raw"], values["median"]
        peak = memory.get(name)
        grown = f"{(peak['after'] - peak['before']) / 1e6:.0f} MB" if peak else ""
        print(
            f"{name:<14} {median * 1e3:>8.1f} ms {min(raw) * 1e3:>8.1f} ms {max(raw) * 1e3:>8.1f} ms {len(raw):>4} "
            f"{median / ours:>8.2f} {grown:>8}  {targets.get(name, '')}"
        )
    print(f"peak: growth of a process's resident memory by one open; {result['versions']}, {result['machine']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=11, help="rounds")
    parser.add_argument("--slow", type=int, default=2, help="rounds with gguf-py, which takes seconds")
    parser.add_argument("--json", type=Path, help="write raw values here")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--large", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], Path(args.child[1]))
        return
    if args.large:
        large_child(Path(args.large[0]), Path(args.large[1]), json.loads(args.large[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = run(args, Path(folder))
        show(result)
        result["large"] = large_headers(args, Path(folder))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
