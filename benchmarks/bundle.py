"""Throughput of a bundle against `cp --reflink=auto` of the same trunk, both with and without fsync, as JSON.

Interleaved runs in fresh processes; the trunk is real data and lies in the page cache; before each run the last
output is removed and the disk synced. The peak is VmHWM of nextn's process.

python benchmarks/bundle.py --gb 2 --repeat 5
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "support")]

from faults import giant  # noqa: E402

DEMO = ROOT / "src" / "nextn" / "demo_data"
BUNDLE = """
import re, sys, time
from pathlib import Path
import nextn
from nextn.ggml import quantize
from nextn.writing import durable
from nextn.cli import main
import nextn.layouts.attach, nextn.verbs.attach, numpy
quantize.ggml_version()
if sys.argv[1] == "no fsync":
    durable.System.fsync = lambda self, fd: None
start = time.perf_counter()
code = main(sys.argv[2:])
wall = time.perf_counter() - start
print(wall, re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
sys.exit(code)
"""


def copy(trunk: Path, out: Path, fsync: bool) -> float:
    """Seconds that cp takes; with `fsync` until its result and the folder are on disk, as nextn has them."""
    start = time.perf_counter()
    subprocess.run(["cp", "--reflink=auto", trunk, out], check=True)
    if fsync:
        subprocess.run(["sync", out, out.parent], check=True)
    return time.perf_counter() - start


def bundle(trunk: Path, out: Path, fsync: bool) -> tuple[float, int]:
    """Seconds from the call of the verb to its end, and the process's peak memory in bytes."""
    verb = ["attach", trunk, "--from", DEMO / "tiny-qwen35-mtp", "--layout", "bundle", "-q", "-o", out]
    done = subprocess.run(
        [sys.executable, "-c", BUNDLE, "fsync" if fsync else "no fsync", *map(str, verb)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    wall, peak = done.stderr.split()[-2:]
    return float(wall), int(peak) * 1024


def fill(path: Path) -> None:
    """Put real bytes into the holes of a sparse file."""
    size = path.stat().st_size
    piece = os.urandom(8 << 20)
    with path.open("r+b") as file:
        file.seek(1 << 20)
        while (left := size - file.tell()) > 0:
            file.write(piece[:left])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2, help="size of the trunk, in 1e9 bytes")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the temporary folder")
    args = parser.parse_args()
    walls: dict[str, list[float]] = {}
    peaks = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        trunk = giant(DEMO / "tiny-qwen35-Q4_K_M.gguf", round(args.gb * 1e9)).single(Path(name) / "trunk.gguf")
        fill(trunk)
        size = trunk.stat().st_size
        out = Path(name) / "out.gguf"
        for i in range(args.repeat):
            for fsync in (False, True):
                order = [False, True] if i % 2 else [True, False]
                for ours in order:
                    os.sync()
                    time.sleep(2)  # freed blocks are discarded in the background
                    case = f"{'bundle' if ours else 'cp'}, {'with' if fsync else 'without'} fsync"
                    if ours:
                        wall, peak = bundle(trunk, out, fsync)
                        peaks.append(peak)
                    else:
                        wall = copy(trunk, out, fsync)
                    out.unlink()
                    walls.setdefault(case, []).append(wall)
    medians = {case: statistics.median(values) for case, values in walls.items()}
    result = {
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": platform.platform(),
        "trunk_bytes": size,
        "wall_s": walls,
        "median_mb_per_s": {case: size / 1e6 / wall for case, wall in medians.items()},
        "ratio": {f: medians[f"cp, {f} fsync"] / medians[f"bundle, {f} fsync"] for f in ("with", "without")},
        "peak_mb": max(peaks) / 1e6,
    }
    json.dump(result, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
