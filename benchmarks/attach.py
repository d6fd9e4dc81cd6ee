"""Wall time of attaching a block to a sparse 400 GB set of shards, with what the kernel counted, as JSON.

Each run is a fresh process; its time is that of the whole command, interpreter and imports included, and beside it
that of a command that does nothing. `converting_s` is the same block extracted to a donor file: what conversion costs.

python benchmarks/attach.py --gb 400 --shards 10 --repeat 5
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
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
COUNTED = """
import sys
from pathlib import Path
from nextn.cli import main
code = main(sys.argv[1:])
sys.stderr.write(Path("/proc/self/io").read_text())
sys.exit(code)
"""


def run(*args: str | Path) -> tuple[float, dict[str, int]]:
    """Wall seconds of one command, and its bytes as the kernel counted them (imports included)."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    wall = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    lines = [line.split(": ") for line in done.stderr.splitlines() if line.startswith(("rchar", "wchar"))]
    return wall, {key: int(value) for key, value in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=400, help="size of the sparse set, in 1e9 bytes")
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--donor", type=Path, default=DEMO / "tiny-qwen35-mtp", help="a checkpoint that fits the demo")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the temporary folder")
    args = parser.parse_args()
    walls: dict[str, list[float]] = {"attach": [], "converting": [], "nothing": []}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        trunk = giant(DEMO / "tiny-qwen35-Q4_K_M.gguf", round(args.gb * 1e9)).shards(folder, "trunk", args.shards)
        blocks = sum(path.stat().st_blocks for path in trunk)
        for _ in range(args.repeat):
            wall, io = run("attach", trunk[0], "--from", args.donor, "-q", "-o", folder / "out")
            walls["attach"].append(wall)
            made = sorted((folder / "out").iterdir())
            new = sum(path.stat().st_size for path in made if path.stat().st_nlink == 1)
            shutil.rmtree(folder / "out")
            walls["converting"].append(run("extract", args.donor, "--block-only", "-q", "-o", folder / "donor.gguf")[0])
            (folder / "donor.gguf").unlink()
            walls["nothing"].append(run("--version")[0])
        result = {
            "command": sys.argv,
            "python": platform.python_version(),
            "machine": platform.platform(),
            "trunk_bytes": sum(path.stat().st_size for path in trunk),
            "shards": len(trunk),
            "new_bytes": new,
            "trunk_blocks_before_and_after": [blocks, sum(path.stat().st_blocks for path in trunk)],
            "read_and_written_bytes": io,
            **{f"{case}_s": values for case, values in walls.items()},
            "median_s": {case: statistics.median(values) for case, values in walls.items()},
        }
    json.dump(result, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
