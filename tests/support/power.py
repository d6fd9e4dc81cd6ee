"""What a power cut leaves: a log of calls, and the states of a disk that may follow from losing what was not synced.

The model is POSIX's, not one file system's. Data that was written and not synced may be there or not, write by write,
and torn. What changes a file's size or moves its data happens in order, and any number of the last of these may be
lost, with the writes that came after the first lost one; a move may have stopped half way. Names are made and removed
in order, and are sure once the folder is synced.
"""

from __future__ import annotations

import os
import random
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import Faults, half_shifted

from nextn.workfile import At
from nextn.writing.system import System

SHAPES = ("truncate", "insert_range", "collapse_range", "punch_hole")


@dataclass(frozen=True)
class Call:
    """One call that changed a disk: `file` is an inode, or a name in the folder."""

    name: str
    file: int
    args: tuple[Any, ...]


class Recorder(Faults):
    """A system that keeps what every call did, so that it can be done again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def step(self, name: str, args: tuple[Any, ...]) -> Any:
        if name == "pwrite":
            self._note(name, args[0], bytes(args[1]), args[2])
        elif name in SHAPES:
            self._note(name, args[0], *args[1:])
        elif name == "fsync":
            folder = stat.S_ISDIR(os.fstat(args[0]).st_mode)
            self._note("fsync folder" if folder else "fsync", args[0])
        result = super().step(name, args)
        if name == "open_new":
            self._note("create", result, args[0].name)
        elif name == "copy_range":
            self._note("pwrite", args[1], os.pread(args[1], result, args[4]), args[4])
        elif name in ("link", "unlink"):
            names = tuple(each.name for each in args if isinstance(each, At))
            self.calls.append(Call(name, 0, names))
        return result

    def _note(self, name: str, fd: int, *args: Any) -> None:
        self.calls.append(Call(name, os.fstat(fd).st_ino, args))


@dataclass
class Disk:
    """What may lie on a disk after the power went: files by inode, and names."""

    calls: list[Call]
    rng: random.Random
    files: dict[int, list[Call]] = field(default_factory=dict)  # what is done to each, in order
    names: list[Call] = field(default_factory=list)

    def cut(self, at: int) -> None:
        """The power goes before call number `at`."""
        sure: dict[int, list[Call]] = {}
        unsure: dict[int, list[Call]] = {}
        sure_names: list[Call] = []
        unsure_names: list[Call] = []
        for call in self.calls[:at]:
            if call.name == "fsync":
                sure.setdefault(call.file, []).extend(unsure.pop(call.file, []))
            elif call.name == "fsync folder":
                sure_names += unsure_names
                unsure_names = []
            elif call.name in ("create", "link", "unlink"):
                unsure_names.append(call)
            else:
                unsure.setdefault(call.file, []).append(call)
        self.names = sure_names + unsure_names[: self.rng.randint(0, len(unsure_names))]
        self.files = {file: list(calls) for file, calls in sure.items()}
        for file, calls in unsure.items():
            self.files.setdefault(file, []).extend(self._survivors(calls))

    def _survivors(self, calls: list[Call]) -> list[Call]:
        shapes = [i for i, call in enumerate(calls) if call.name in SHAPES]
        n_kept = self.rng.randint(0, len(shapes))
        limit = shapes[n_kept] if n_kept < len(shapes) else len(calls)
        out = []
        for call in calls[:limit]:
            if call.name in SHAPES:
                out.append(call)
            elif self.rng.random() < 0.5:
                data, offset = call.args
                few = self.rng.randint(0, len(data)) if self.rng.random() < 0.3 else len(data)
                out.append(Call("pwrite", call.file, (data[:few], offset)))
        if limit < len(calls) and calls[limit].name in ("insert_range", "collapse_range") and self.rng.random() < 0.7:
            call = calls[limit]
            out.append(Call(f"half {call.name}", call.file, (*call.args, self.rng.random())))
        return out

    def apply(self, folder: Path, files: dict[int, str]) -> None:
        """Make the folder so. `files`: inode when recorded -> name of a file that lies there as it was at first."""
        paths: dict[int, Path] = {file: folder / name for file, name in files.items()}
        for call in self.names:
            if call.name == "create":
                paths[call.file] = folder / call.args[0]
                paths[call.file].touch()
            elif call.name == "link":
                os.link(folder / call.args[0], folder / call.args[1])
            elif (folder / call.args[0]).exists():
                # The log names inodes, the folder paths: what loses its name here is found by another, or is gone.
                gone = folder / call.args[0]
                for file, path in paths.items():
                    if path == gone:
                        others = [p for p in folder.iterdir() if p != gone and p.samefile(gone)]
                        paths[file] = others[0] if others else gone
                gone.unlink()
        for file, calls in self.files.items():
            path = paths.get(file)
            if path is not None and path.exists():
                _redo(path, calls)


def _redo(path: Path, calls: list[Call]) -> None:
    real = System()
    fd = os.open(path, os.O_RDWR)
    try:
        for call in calls:
            if call.name == "pwrite":
                data, offset = call.args
                if data:
                    os.pwrite(fd, data, offset)
            elif call.name.startswith("half "):
                os.fsync(fd)
                offset, size, at = call.args
                half_shifted(call.name.removeprefix("half "), fd, offset, size, at)
            else:
                getattr(real, call.name)(fd, *call.args)
    finally:
        os.close(fd)
