"""What goes wrong with disks: failing systems, killed processes, sparse giants, counters of real input and output.

As a program it is the command line on a slow disk: `python tests/support/faults.py MILLISECONDS_PER_CALL VERB ...`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from nextn.gguf.files import open_model
from nextn.gguf.header import build_header, place
from nextn.gguf.kv import KV, KVType
from nextn.gguf.tensors import TensorInfo
from nextn.writing.ranges import grain_of
from nextn.writing.system import System

CALLS = (
    "open_new",
    "pwrite",
    "copy_range",
    "truncate",
    "insert_range",
    "collapse_range",
    "punch_hole",
    "fsync",
    "link",
    "symlink",
    "rename",
    "unlink",
    "mkdir",
    "rmdir",
)
KILLED = 137  # what a shell reports for SIGKILL
TORN = ("pwrite", "copy_range", "insert_range", "collapse_range")  # of which half may be done


class Faults(System):
    """Counts calls and lets number `at` go wrong in the way of `mode`.

    eio, enospc: the call fails. dead: it fails and so do all later ones. before, after: Ctrl-C arrives before
    the call, or when it is done. torn: half of a write is done, then the call fails. kill: the process is gone.
    torn-kill: half of a write is done, then the process is gone. fsync is only counted; `power.py` pulls the plug.
    """

    def __init__(self, at: int = 0, mode: str = "") -> None:
        self.at, self.mode = at, mode
        self.trace: list[tuple[str, tuple[Any, ...]]] = []
        self._counting = threading.Lock()  # files of a set are synced by several threads

    def step(self, name: str, args: tuple[Any, ...]) -> Any:
        with self._counting:
            self.trace.append((name, args))
            n = len(self.trace)
        real: Callable[..., Any] = (lambda fd: None) if name == "fsync" else getattr(System(), name)
        mode = self.mode
        if not self.at or n < self.at or (n > self.at and mode != "dead"):
            return real(*args)
        if mode.startswith("torn"):
            if name == "pwrite":
                real(args[0], args[1][: len(args[1]) // 2], args[2])
            elif name == "copy_range":
                real(*args[:2], args[2] // 2, *args[3:])
            elif name in ("insert_range", "collapse_range"):
                half_shifted(name, *args)
        if mode.endswith("kill"):
            os._exit(KILLED)  # as with SIGKILL: nothing is cleaned, the kernel closes and unlocks
        if mode == "after":
            real(*args)
        if mode in ("before", "after"):
            raise KeyboardInterrupt
        raise OSError(errno.ENOSPC if mode == "enospc" else errno.EIO, f"injected into {name}")


def places(calls: Sequence[str], mode: str) -> list[int]:
    """Numbers of the calls to try a mode at: where nothing can be half done, a torn call is a failed or killed one."""
    return [k for k, name in enumerate(calls, 1) if not mode.startswith("torn") or name in TORN]


def half_shifted(name: str, fd: int, offset: int, size: int, at: float = 0.5) -> None:
    """What ext4 and XFS leave of an insert or a collapse that stopped half way: the end has moved, the start not."""
    block = os.fstatvfs(fd).f_frsize
    real = System()
    if name == "collapse_range":
        real.collapse_range(fd, offset, size)
    end = os.fstat(fd).st_size
    middle = (offset + int((end - offset) * at)) // block * block
    if offset <= middle < end:
        real.insert_range(fd, middle, size)
    else:
        os.truncate(fd, end + size)  # the file has its new length, and nothing has moved


class ShortWrites(Faults):
    """A system that moves at most a third of what it is asked for, and sometimes one byte."""

    def step(self, name: str, args: tuple[Any, ...]) -> Any:
        few = len(self.trace) % 5 == 0
        if name == "pwrite":
            args = (args[0], args[1][: 1 if few else max(1, len(args[1]) // 3)], args[2])
        elif name == "copy_range":
            args = (*args[:2], 1 if few else max(1, args[2] // 3), *args[3:])
        return super().step(name, args)


class Refusing(Faults):
    """A system whose calls named in `answers` fail with an errno."""

    def __init__(self, **answers: int) -> None:
        super().__init__()
        self.answers = answers

    def step(self, name: str, args: tuple[Any, ...]) -> Any:
        if name in self.answers:
            self.trace.append((name, args))
            raise OSError(self.answers[name], os.strerror(self.answers[name]))
        return super().step(name, args)


def _method(name: str) -> Callable[..., Any]:
    return lambda self, *args: self.step(name, args)


for _name in CALLS:
    setattr(Faults, _name, _method(_name))


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; its exit code (0: done, 1: an exception, KILLED: killed on the way)."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- what is on a disk ---------------------------------------------------------------------------------------


def listing(folder: Path) -> list[str]:
    """Every path under `folder`, hidden ones and folders included, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


def content(folder: Path) -> dict[str, str]:
    """File name -> sha256 of every file under `folder`, links followed."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in listing(folder)
        if (folder / name).is_file()
    }


def state(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """File name -> inode, mode, mtime and sha256: what must not change in an input."""
    return {
        name: ((stat := (folder / name).stat()).st_ino, stat.st_mode, stat.st_mtime_ns, digest)
        for name, digest in content(folder).items()
    }


def _io_counters() -> tuple[dict[str, int], int]:
    """The kernel's own count for this process (rchar, wchar: all bytes asked for, caches included), and its length."""
    text = Path("/proc/self/io").read_bytes()
    return {key: int(value) for key, value in (line.split(": ") for line in text.decode().splitlines())}, len(text)


@dataclass
class Counted:
    """Bytes that a piece of work read and wrote, as the kernel counted them."""

    read: int = 0
    written: int = 0


@contextlib.contextmanager
def counted() -> Iterator[Counted]:
    """Count the body's reads and writes; what counting itself reads is taken off."""
    result = Counted()
    start, own = _io_counters()
    yield result
    end, _ = _io_counters()
    result.read = end["rchar"] - start["rchar"] - own
    result.written = end["wchar"] - start["wchar"]


def _called(name: str, *args: object) -> None:
    """A call of libc that returns 0, or -1 and an errno. Raises OSError."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*args):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)


def flush(folder: Path) -> None:
    """Write out the file system of a folder, and no other one."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        _called("syncfs", fd)
    finally:
        os.close(fd)


def mount(device: str, folder: Path, kind: str) -> None:
    """Mount a device as root, without the program, which takes ten times as long."""
    _called("mount", os.fsencode(device), os.fsencode(folder), kind.encode(), ctypes.c_ulong(0), None)


def remount(folder: Path) -> None:
    """Take a file system off and put it on again, as it is after a start of the machine."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text("utf-8").splitlines()]
    device, kind = next((each[0], each[2]) for each in lines if each[1] == os.fspath(folder))
    unmount(folder)
    mount(device, folder, kind)


def unmount(folder: Path) -> None:
    """Take a file system off; what keeps it busy, mapped or open in some cycle of objects, is let go of."""
    for wait in (0.0, 0.1, 0.3, 1.0):
        with contextlib.suppress(OSError):
            _called("umount2", os.fsencode(folder), 0)
            return
        gc.collect()  # half a second in a process that has run thousands of tests
        time.sleep(wait)
    assert not os.system(f"umount -l '{folder}'")  # a process that has it open still ends without harm


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path | None]:
    """A file system of its own at `folder`; None when this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = f"mount -t tmpfs -o size={size} none '{folder}' 2>/dev/null"
    if sys.platform != "linux" or shutil.which("mount") is None or os.system(command):
        yield None
        return
    try:
        yield folder
    finally:
        unmount(folder)


@contextlib.contextmanager
def loop_disk(kind: str, image: Path, size: str, *options: str) -> Iterator[Path | None]:
    """A file system ("ext4", "xfs") in the file `image`, mounted beside it; None where that cannot be done."""
    folder = image.with_suffix(".mounted")
    folder.mkdir(parents=True, exist_ok=True)
    needed = (f"mkfs.{kind}", "losetup")
    if sys.platform != "linux" or os.geteuid() or not all(map(shutil.which, needed)):
        yield None
        return
    made = subprocess.run(
        f"truncate -s {size} '{image}' && mkfs.{kind} -q {' '.join(options)} '{image}' >&2 &&"
        f" losetup --find --show '{image}'",
        shell=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        yield None
        return
    device, mounted = made.stdout.strip(), False
    try:
        with contextlib.suppress(OSError):  # a kernel without this file system
            mount(device, folder, kind)
            mounted = True
        yield folder if mounted else None
    finally:
        if mounted:
            unmount(folder)
        os.system(f"losetup --detach {device}")


@contextlib.contextmanager
def ranged_disk(folder: Path) -> Iterator[Path | None]:
    """A folder on a file system that inserts ranges into files: an ext4 in a file in memory, where fsync costs nothing,
    else `folder`; None without either."""
    folder.mkdir(parents=True, exist_ok=True)
    with memory_folder(folder) as place, loop_disk("ext4", place / "image", "256M") as mounted:
        yield mounted or (folder if grain_of(folder) is not None else None)


@contextlib.contextmanager
def memory_folder(other: Path) -> Iterator[Path]:
    """A temporary folder in memory, `other` where the system has none."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield other
        return
    with tempfile.TemporaryDirectory(prefix="nextn-test-", dir=shared) as place:
        yield Path(place)


# -- giants that take no room --------------------------------------------------------------------------------


@dataclass
class Giant:
    """A sparse trunk: the header of a small one with longer tensors, and data of zeros that no disk holds.

    Norms, embeddings and head are the small trunk's, so that its block fits.
    """

    like: tuple[KV, ...]
    roots: tuple[TensorInfo, ...]
    n_layer: int
    matrix_bytes: int  # of each of the three matrices of a layer

    def tensors(self) -> list[tuple[TensorInfo, int]]:
        """Infos without places, and stored bytes."""
        out = [(info, info.computed_size_bytes or 0) for info in self.roots]
        rows = self.matrix_bytes // (256 * 4)
        for i in range(self.n_layer):
            out.append((TensorInfo(f"blk.{i}.attn_norm.weight", (256,), 0, 0), 1024))
            out += [
                (TensorInfo(f"blk.{i}.ffn_{x}.weight", (256, rows), 0, 0), rows * 1024) for x in ("gate", "up", "down")
            ]
        return out

    def _write(self, path: Path, kvs: Iterable[KV], tensors: list[tuple[TensorInfo, int]]) -> Path:
        infos, size = place(tensors, 32)
        header = build_header(list(kvs), infos)
        path.write_bytes(header)
        os.truncate(path, len(header) + size)
        return path

    def single(self, path: Path) -> Path:
        """The trunk in one file."""
        return self._write(path, self.like, self.tensors())

    def shards(self, folder: Path, base: str, count: int) -> list[Path]:
        """The trunk as a set whose first shard holds metadata only."""
        tensors = self.tensors()
        cuts = [len(tensors) * i // (count - 1) for i in range(count)]
        parts = [[], *(tensors[start:end] for start, end in pairwise(cuts))]
        made = []
        for no, part in enumerate(parts):
            split = (
                KV.make("split.no", KVType.UINT16, no),
                KV.make("split.count", KVType.UINT16, count),
                KV.make("split.tensors.count", KVType.INT32, len(tensors)),
            )
            name = f"{base}-{no + 1:05d}-of-{count:05d}.gguf"
            made.append(self._write(folder / name, (*(self.like if no == 0 else ()), *split), part))
        return made


def giant(trunk: Path, total_bytes: int) -> Giant:
    """A sparse trunk of about `total_bytes` that the block made for `trunk` (hidden size 256) fits."""
    model = open_model(trunk)
    names = ("token_embd.weight", "output_norm.weight", "output.weight")
    roots = tuple(model.tensors[name][1] for name in names if name in model.tensors)
    n_layer = model.arch_int("block_count")
    return Giant(model.kvs, roots, n_layer, total_bytes // n_layer // 3)


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """A safetensors file from name -> (dtype, shape, data)."""
    table, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(table).encode()
    return struct.pack("<Q", len(head)) + head + data


# -- a slow disk for real processes --------------------------------------------------------------------------


def main(argv: list[str]) -> int:
    """The command line with a pause before each call, and copies in small steps."""
    from nextn.cli import main as command_line
    from nextn.writing import execute as local

    pause = float(argv[0]) / 1000
    local.COPY_BYTES = 1 << 16

    def slow(name: str) -> Callable[..., Any]:
        real = getattr(System, name)

        def call(self: System, *args: Any) -> Any:
            time.sleep(pause)
            return real(self, *args)

        return call

    for name in CALLS:
        setattr(System, name, slow(name))
    return command_line(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
