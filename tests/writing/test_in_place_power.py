"""The power goes while a file is changed in place: in a model that loses unsynced writes, and on real file systems."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from changes import NAMES, Case, make_cases, tensors_of
from faults import Faults, content, flush, listing, loop_disk, memory_folder, ranged_disk, remount
from power import Disk, Recorder

from conftest import RANGES, XFS, need
from nextn.errors import NextnError
from nextn.gguf.files import open_model
from nextn.gguf.header import MAGIC
from nextn.writing.journal import SUFFIX
from nextn.writing.recover import recover

SEED = 15
TRIES = 6  # random losses for each call
SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32): ext4's and XFS's
NO_LOG_FLUSH = 2  # what is in memory only is lost, the file system's own journal included


pytestmark = pytest.mark.usefixtures("used_by_nobody")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on a file system that inserts ranges."""
    with ranged_disk(tmp_path_factory.mktemp("disk")) as found:
        need(RANGES, found is not None)
        assert found is not None
        yield found


@pytest.fixture(scope="module")
def cases(disk: Path, checkpoints: Callable[[str], Path]) -> dict[str, Case]:
    return make_cases(disk, checkpoints)


def inode_in_journal(folder: Path, old: dict[str, int]) -> None:
    """Let the journal know the files' inodes of now: the model of a disk has made the files anew."""
    now = {str(inode).encode(): str((folder / each).stat().st_ino).encode() for each, inode in old.items()}
    for name in listing(folder):
        path = folder / name
        if not name.endswith(SUFFIX):
            continue
        data = path.read_bytes()
        if len(data) < 24 or data[:8] != b"NXTNJRN1":
            continue
        (length,) = struct.unpack_from("<Q", data, 8)
        payload = data[16 : 16 + length]
        if hashlib.sha256(payload).digest() != data[16 + length : 48 + length]:
            continue
        (n_text,) = struct.unpack_from("<Q", payload)
        text = re.sub(rb'"inode":(\d+)', lambda m: b'"inode":' + now[m[1]], payload[8 : 8 + n_text])
        payload = struct.pack("<Q", len(text)) + text + payload[8 + n_text :]
        rest = data[48 + length :]
        path.write_bytes(data[:8] + struct.pack("<Q", len(payload)) + payload + hashlib.sha256(payload).digest() + rest)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_whatever_unsynced_writes_are_lost_the_file_is_the_old_or_the_new_one(
    cases: dict[str, Case], name: str
) -> None:
    case, rng = cases[name], random.Random(SEED)
    entry = case.reset()
    old_inodes = {path.name: path.stat().st_ino for path in case.folder.iterdir()}
    old_data = [data for _, data in tensors_of(open_model(entry))]
    system = Recorder()
    case.run(system)
    seen, n_unreadable, n_half = set(), 0, 0
    for at in range(len(system.calls) + 1):
        for _ in range(TRIES):
            case.reset()
            lost = Disk(system.calls, rng)
            lost.cut(at)
            lost.apply(case.folder, {inode: each for each, inode in old_inodes.items()})
            n_half += any(call.name.startswith("half") for calls in lost.files.values() for call in calls)
            inode_in_journal(case.folder, old_inodes)
            if entry.read_bytes()[:4] == MAGIC:
                check_loadable(case, entry, old_data)
            else:
                n_unreadable += 1
            recover(case.folder, system=Faults())
            assert case.state() in ("old", "new"), (at, system.calls[at - 1].name, case.state())
            seen.add(case.state())
    assert seen == {"old", "new"}
    assert n_unreadable > 5
    if any(call.name in ("insert_range", "collapse_range") for call in system.calls):
        assert n_half


def check_loadable(case: Case, entry: Path, old_data: list[bytes]) -> None:
    """What has a GGUF's first bytes is described by its header: as before, or as the finished file."""
    if len(case.old) > 1 or content(case.folder)[entry.name] in (case.old[entry.name], case.new[entry.name]):
        return
    assert [data for _, data in tensors_of(open_model(entry))] == old_data


# -- a real file system ----------------------------------------------------------------------------------------


class PowerCut(Faults):
    """Before call number `at` the file system is shut down as by a power cut; syncs are real."""

    def __init__(self, at: int, folder: Path) -> None:
        super().__init__()
        self.stop, self.folder = at, folder

    def step(self, name: str, args: tuple[Any, ...]) -> Any:
        self.trace.append((name, args))
        if len(self.trace) == self.stop:
            shut_down(self.folder)
        from nextn.writing.system import System

        return getattr(System(), name)(*args)


def shut_down(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SHUTDOWN, ctypes.string_at(struct.pack("<I", NO_LOG_FLUSH), 4))
    finally:
        os.close(fd)


# XFS needs another package and is tried where that is installed.
REAL_DISKS = {"ext4": "64M", "xfs": "320M"}  # the smallest that mkfs makes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attach", "attach before a tail", "detach", "cut a block of a set"])
@pytest.mark.parametrize("kind", REAL_DISKS)
def test_a_power_cut_of_a_real_file_system_at_any_call(
    cases: dict[str, Case], tmp_path: Path, name: str, kind: str
) -> None:
    with memory_folder(tmp_path) as place, loop_disk(kind, place / "image", REAL_DISKS[kind]) as mounted:
        need(XFS if kind == "xfs" else "an ext4 in a file, which root alone may mount,", mounted is not None)
        assert mounted is not None
        whole = cases[name]
        case = Case(**{**vars(whole), "folder": mounted / "work"})
        case.reset()
        seen, k = set(), 0
        while True:
            k += 1
            entry = case.reset()
            flush(mounted)
            system = PowerCut(k, mounted)
            try:
                case.run(system)
            except NextnError:
                pass
            except OSError as error:  # what reads may meet on a file system that was shut down
                assert error.errno == errno.EIO
            if len(system.trace) < k:
                break
            remount(mounted)
            recover(entry)
            assert case.state() in ("old", "new"), (k, system.trace[k - 1][0], case.state())
            seen.add(case.state())
        assert k > case.n_calls - 1
        assert "old" in seen and ("new" in seen or case.verb == "attach")  # whose last call makes it new
        shut_down(mounted)  # a run that has ended is on disk
        remount(mounted)
        assert case.state() == "new"
