"""nextn beside what else does the same work, on the same files, in one run.

python benchmarks/peers.py --converter LLAMA_CPP --converter-python PYTHON   (about 8 minutes, 6 GB of disk)
python benchmarks/peers.py --quick ...                                      (small sizes, to try it)
python benchmarks/peers.py --document                                       (docs from the values as committed)

Each measurement is a process of its own: wall and processor time, peak memory, bytes read and written through calls.
Contestants take turns within each round, and the order turns too. Trunks above 1 GB are sparse. Peers: ggml's C reader
(`gguf_init_from_file` of the wheel), gguf-py, `cp --reflink=never`, llama-gguf-split's result written as it does, and
llama.cpp's `convert_hf_to_gguf.py` (a folder with its sources, and a Python that has torch). Raw values go to
peers.json, and the table and the plot in docs/performance.md are made from them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import header
import peers_document
from peers_files import CHECKPOINT, ROOT, TRUNK, many_shards, real, sparse, wide_checkpoint

CHILD = Path(__file__).with_name("peers_child.py")
VALUES = Path(__file__).with_name("peers.json")
PATHS = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests" / "support")))


@dataclass(frozen=True)
class Job:
    """What one contestant does."""

    who: str
    words: list[str]
    out: tuple[Path, ...] = ()  # made by it, removed after each run
    most_rounds: int = 99
    env: dict[str, str] = field(default_factory=dict)
    fetched: Callable[[], int] | None = None  # bytes that a server has sent so far


def task(name: str, *words: object, python: str = sys.executable) -> list[str]:
    """A task of peers_child.py."""
    return [python, str(CHILD), name, *map(str, words)]


def nextn(*words: object) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "nextn", *map(str, words)]


class Run:
    """All measurements of a run."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.rows: list[dict[str, Any]] = []
        self.warm = TRUNK

    def case(self, what: str, size: str, x: float, jobs: Iterable[Job], *, rounds: int | None = None) -> None:
        """Measure the contestants of one case in turns."""
        jobs = list(jobs)
        for i in range(rounds or self.args.repeat):
            turn = i % len(jobs)
            for job in [*jobs[turn:], *jobs[:turn]]:
                if i >= job.most_rounds:
                    continue
                found = self.measured(job)
                self.rows.append({"what": what, "size": size, "x": x, "who": job.who, **found})
                cost = f"{found['wall_s']:8.2f} s  {found['peak_bytes'] / 1e6:6.0f} MB"
                print(f"{what:<24} {size:<16} {job.who:<22} {cost}", flush=True)

    def measured(self, job: Job) -> dict[str, Any]:
        """One run of one contestant, with its outputs removed before and after."""
        clean(job.out)
        before = job.fetched() if job.fetched else 0
        note = self.folder / "measured.json"
        done = subprocess.run(
            [sys.executable, "-S", "-E", str(CHILD), "measure", str(note), *job.words],
            env={**os.environ, "PYTHONPATH": PATHS, "NEXTN_CACHE": str(self.folder / "cache"), **job.env},
            capture_output=True,
            text=True,
            check=False,
        )
        found: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {"code": done.returncode}
        note.unlink(missing_ok=True)
        if found.pop("code") not in (0, 5):  # inspect answers 5 when it sees problems
            raise SystemExit(f"{' '.join(job.words)[:300]}: {done.stderr.strip()[-1500:]}")
        with suppress(ValueError, IndexError):
            found["inner_s"] = json.loads(done.stdout.strip().splitlines()[-1])["inner_s"]
        if job.fetched:
            found["fetched_bytes"] = job.fetched() - before
        clean(job.out)
        return found

    # -- the cases -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """What starting Python and the command line costs, to be seen in all other rows."""
        jobs = [Job("python, nothing", [sys.executable, "-c", ""]), Job("nextn --version", nextn("--version"))]
        self.case("start a process", "", 0, jobs)

    def headers(self) -> None:
        """Opening, and inspecting: without and with the start of the process."""
        vocabulary, many = self.folder / "vocabulary.gguf", self.folder / "many.gguf"
        header.make_file(vocabulary)
        for path, n_tensors in ((vocabulary, 0), (many, 20_000), (many, 200_000)):
            if n_tensors:
                header.make_large(many, 0, n_tensors)
            size = f"{n_tensors:,} tensors" if n_tensors else "248,320 tokens"
            # ggml compares each name with all before it: 200,000 take minutes.
            is_slow = n_tensors > 20_000 and not self.args.slow_peers
            jobs = [
                Job("nextn", task("open-nextn", self.warm, path)),
                Job("nextn inspect", task("inspect-nextn", self.warm, path)),
                Job("ggml (C)", task("open-ggml", self.warm, path)),
                Job("gguf-py", task("open-gguf-py", self.warm, path), most_rounds=1),
            ]
            self.case("open a header", size, n_tensors, jobs[:2] if is_slow else jobs)
            whole = [Job("nextn", nextn("inspect", path)), Job("python, nothing", [sys.executable, "-c", ""])]
            self.case("inspect, whole process", size, n_tensors, whole)
        vocabulary.unlink()
        many.unlink()

    def shards(self) -> None:
        """Sets of more and more shards: opened, attached to, detached from."""
        for n in (10, 100) if self.args.quick else (10, 1_000, 10_000):
            folder = self.folder / f"set-{n}"
            folder.mkdir()
            paths = many_shards(folder, n)
            listed = folder / "paths"
            listed.write_text("\n".join(map(str, paths)))
            jobs = [
                Job("nextn", task("open-nextn", self.warm, paths[0])),
                Job("ggml (C)", task("open-ggml", self.warm, f"@{listed}")),
                Job("gguf-py", task("open-gguf-py", self.warm, f"@{listed}"), most_rounds=1),
            ]
            is_slow = n > 1_000
            rounds = 1 if is_slow else None
            self.case("open a set", f"{n:,} shards", n, jobs[:2] if is_slow and not self.args.slow_peers else jobs)
            self.attach_set(paths[0], f"{n:,} shards", n, rounds)
            shutil.rmtree(folder)

    def attach_set(self, first: Path, size: str, x: float, rounds: int | None = None) -> None:
        """Attach as shards, and detach again."""
        out, plain = self.folder / "attached", self.folder / "plain"
        words = nextn("attach", first, "--from", CHECKPOINT, "-q", "--layout", "shards", "-o", out)
        self.case("attach, shards", size, x, [Job("nextn", words, (out,))], rounds=rounds)
        subprocess.run(words, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": PATHS})
        entry = sorted(out.iterdir())[0]
        self.case("detach, shards", size, x, [Job("nextn", nextn("detach", entry, "-q", "-o", plain), (plain,))],
                  rounds=rounds)  # fmt: skip
        shutil.rmtree(out)

    def giants(self) -> None:
        """Sparse trunks of growing size: what writes no trunk data."""
        for gb in (1, 10) if self.args.quick else (1, 10, 100, 400):
            folder = self.folder / f"giant-{gb}"
            folder.mkdir()
            single = sparse(gb).single(folder / "single.gguf")
            (folder / "set").mkdir()
            first = sparse(gb).shards(folder / "set", "trunk", 10)[0]
            size = f"{gb} GB"
            self.attach_set(first, size, gb)
            out = folder / "mtp.gguf"
            words = nextn("attach", single, "--from", CHECKPOINT, "-q", "--layout", "sidecar", "-o", out)
            self.case("attach, sidecar", size, gb, [Job("nextn", words, (out,))])
            on = Job("nextn", nextn("attach", single, "--from", CHECKPOINT, "-q", "--layout", "in-place", "--yes"))
            off = Job("nextn", nextn("detach", single, "-q", "--in-place", "--yes"))
            for _ in range(self.args.repeat):
                self.case("attach, in place", size, gb, [on], rounds=1)
                self.case("detach, in place", size, gb, [off], rounds=1)
            shutil.rmtree(folder)

    def copies(self) -> None:
        """What writes the whole trunk: all of it is on the disk."""
        donor = self.folder / "donor.gguf"
        self.do("extract", CHECKPOINT, "--block-only", "-q", "-o", donor)
        for gb in (0.1,) if self.args.quick else (0.25, 1):
            trunk = real(self.folder / "real.gguf", gb)
            out, parts, size = self.folder / "out.gguf", self.folder / "parts", f"{gb:g} GB"
            copy = ["sh", "-c", 'cp --reflink=never "$1" "$2" && sync "$2"', "cp", str(trunk), str(out)]
            bundle = nextn("attach", trunk, "--from", donor, "-q", "--layout", "bundle", "-o", out)
            jobs = [
                Job("nextn", bundle, (out,)),
                Job("cp", copy, (out,)),
                Job("gguf-py", task("transplant", trunk, donor, out), (out,), most_rounds=2),
            ]
            os.sync()
            self.case("attach, bundle", size, gb, jobs)
            self.do("attach", trunk, "--from", donor, "-q", "--layout", "bundle", "-o", out)
            whole = self.folder / "bundle.gguf"
            out.rename(whole)
            jobs = [
                Job("nextn", nextn("detach", whole, "-q", "-o", out), (out,)),
                Job("cp", [*copy[:4], str(whole), str(out)], (out,)),
            ]
            self.case("detach, bundle", size, gb, jobs)
            whole.unlink()
            each = trunk.stat().st_size // 8
            jobs = [
                Job("nextn", nextn("explode", trunk, "-q", "--max-size", str(each), "-o", parts), (parts,)),
                Job("as llama-gguf-split", task("split", trunk, parts, 8), (parts,), most_rounds=2),
            ]
            self.case("split into shards", size, gb, jobs)
            trunk.unlink()

    def do(self, *words: object) -> None:
        """A command that is not measured."""
        done = subprocess.run(nextn(*words), env={**os.environ, "PYTHONPATH": PATHS}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)

    def checkpoints(self) -> None:
        """The block out of a checkpoint, here and on a server (up to 0.4 GB), in the same types as the converter's."""
        from hub_server import running

        for times in (4,) if self.args.quick else (1, 64, 256):
            folder = wide_checkpoint(self.folder / "checkpoint", times)
            n_mb = (folder / "model.safetensors").stat().st_size / 1e6
            size, out = f"{n_mb:,.0f} MB", self.folder / "mtp.gguf"
            types = ("--type", "q8_0", "--embd-type", "q8_0", "-q", "-o", out)
            flags = ("--mtp", "--outtype", "q8_0", "--outfile", out)
            python, source = str(self.args.converter_python), self.args.converter
            jobs = [Job("nextn", nextn("extract", folder, *types), (out,))]
            if source:
                jobs.append(Job("converter --mtp", task("convert", source, folder, *flags, python=python), (out,)))
            self.case("extract, checkpoint", size, n_mb, jobs)
            if n_mb > 500:
                shutil.rmtree(folder)
                continue
            with running() as server:
                server.repos["org/model"] = hub_repo(folder)

                def sent() -> int:
                    return sum(seen.n_bytes for seen in server.seen)

                cache, local = self.folder / "cache", self.folder / "local"
                env = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(self.folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
                made = (out, cache, local, self.folder / "hf")
                jobs = [Job("nextn", nextn("extract", "org/model", *types), made, env=env, fetched=sent)]
                if source:
                    words = task("fetch-and-convert", source, "org/model", local, *flags, python=python)
                    jobs.append(Job("download, converter", words, made, env=env, fetched=sent))
                self.case("extract, remote", size, n_mb, jobs, rounds=2)
            shutil.rmtree(folder)

    def quantizing(self) -> None:
        """All cores against ggml's function on one."""
        n_cpus, n_mb = os.cpu_count() or 1, 16 if self.args.quick else 64
        for name in ("q8_0", "q4_K"):
            jobs = [
                Job(f"nextn, {n_cpus} threads", task("quantize", "nextn", name, n_cpus, n_mb)),
                Job("ggml, 1 thread", task("quantize", "ggml", name, 1, n_mb)),
            ]
            self.case("quantize", f"{name}, {n_mb} MB", n_mb, jobs)


def hub_repo(folder: Path) -> Any:
    """A checkpoint as a repository of the tests' server."""
    from hub_server import Repo

    repo = Repo()
    repo.commit({path.name: path.read_bytes() for path in folder.iterdir()})
    return repo


def clean(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


CASES = ("start", "headers", "shards", "giants", "copies", "checkpoints", "quantizing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--converter", type=Path, help="llama.cpp's sources; without it the converter is left out")
    parser.add_argument("--converter-python", type=Path, default=Path(sys.executable), help="a Python that has torch")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--quick", action="store_true", help="small sizes; nothing in the docs is changed")
    parser.add_argument("--slow-peers", action="store_true", help="also peers that take minutes on the largest headers")
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the temporary folder")
    parser.add_argument("--json", type=Path, help="write the values here; default: peers.json beside this file")
    parser.add_argument("--note", default="", help="what else ran on the machine, to be shown with the values")
    parser.add_argument("--document", action="store_true", help="only make table and plot from peers.json")
    args = parser.parse_args()
    path = args.json or (None if args.quick or tuple(args.only) != CASES else VALUES)
    if not args.document:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="nextn-peers-") as name:
            run = Run(args, Path(name))
            for case in args.only:
                getattr(run, case)()
                if path is not None:
                    save(path, run, args.note)
        print(f"{time.perf_counter() - begin:.0f} s")
    if args.document or path == VALUES:
        peers_document.write(json.loads(VALUES.read_text()))


def save(path: Path, run: Run, note: str) -> None:
    """Write what was measured so far."""
    values = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "note": note,
        "versions": versions(),
        "machine": {**header.machine(), "load_at_end": os.getloadavg()[0]},
        "rows": run.rows,
    }
    path.write_text(json.dumps(values).replace('{"what"', '\n{"what"') + "\n")


def versions() -> dict[str, str]:
    from nextn import __version__
    from nextn.ggml import mainline

    return {
        "nextn": __version__,
        "python": platform.python_version(),
        "gguf-py": version("gguf"),
        "ggml": mainline.load().version,
        "xllamacpp": version("xllamacpp"),
    }


if __name__ == "__main__":
    main()
