"""What every fuzzed call is held to, and what is kept of those that break it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
import zlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import all_verbs
import mutants
from hub_server import HubServer

from nextn.errors import EXIT_BUG, EXIT_CODES
from nextn.gguf.files import open_model

_FRAME = re.compile(r'File "[^"]*/(nextn/[^"]+)", line (\d+)')
PROMISED = set(EXIT_CODES) - {EXIT_BUG}
REFUSED = {2, *(code for code in PROMISED if 10 <= code < 100)}  # nothing was made
SLOW_S = 5.0  # of processor time, for files of a few hundred kB
MUCH_BYTES = 300 << 20  # of memory beyond what the process had before the call

Model = tuple[str, Path, Path, Path]  # architecture, file to spoil, donor, trunk
State = dict[str, tuple[int, int]]


def content_of(folder: Path) -> State:
    """Every path below a folder, hidden ones included, with size and checksum; folders and links by their kind."""
    out = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            out[str(path.relative_to(folder))] = (-1, zlib.crc32(os.fsencode(path.readlink())))
        elif path.is_file():
            data = path.read_bytes()
            out[str(path.relative_to(folder))] = (len(data), zlib.crc32(data))
        else:
            out[str(path.relative_to(folder))] = (-2, 0)
    return out


def stamps_of(folder: Path) -> State:
    """The same by time stamps, for folders that are too large to read at every call."""
    return {str(path): ((stat := path.lstat()).st_mtime_ns, stat.st_size) for path in folder.rglob("*")}


def _memory(name: str) -> int:
    """VmRSS or VmHWM of this process in bytes; 0 on systems that do not say."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@dataclass
class Findings:
    """What ended otherwise than promised, once for each place."""

    keep: Path
    shared: Path  # inputs that all calls have in common
    places: Counter[str] = field(default_factory=Counter)
    ends: Counter[tuple[str, int]] = field(default_factory=Counter)  # (verb, exit code)
    n_files: int = 0
    n_calls: int = 0
    _stamps: State = field(default_factory=dict)

    def run(
        self,
        argv: Collection[object],
        place: Path,
        title: str,
        files: Mapping[str, bytes],
        *,
        changes: Collection[Path] = (),
        even_if_refused: bool = False,
    ) -> all_verbs.Ran:
        """Call a verb whose inputs and outputs lie in `place`, and judge it; `files` is kept when it is a finding.

        `changes`: files that the call may change or remove, when it succeeds or `even_if_refused`.
        """
        self._stamps = self._stamps or stamps_of(self.shared)
        before = content_of(place)
        resident, started = _memory("VmRSS"), time.process_time()
        _reset_peak()
        ran = all_verbs.run(*argv)
        took, more = time.process_time() - started, _memory("VmHWM") - resident
        what = self._broken(ran, took, more) or self._changed(
            ran, place, before, changes if even_if_refused or not ran.code else ()
        )
        self.n_calls += 1
        self.ends[ran.argv[0], ran.code] += 1
        if what:
            self.note(what, ran, title, files)
        return ran

    def _broken(self, ran: all_verbs.Ran, took: float, more: int) -> str:
        if ran.bug or ran.code == EXIT_BUG:
            frames = _FRAME.findall(ran.bug)
            error = ran.bug.strip().splitlines()[-1] if ran.bug else ran.err
            return f"{error[:100]} at {':'.join(frames[-1]) if frames else '?'}"
        if ran.code not in PROMISED:
            return f"exit code {ran.code} of {ran.argv[0]}"
        if ran.raw_control:
            return f"raw {sorted(map(ascii, ran.raw_control))[:4]} from {ran.argv[0]} {ran.code}"
        if took > SLOW_S:
            return f"slow: {ran.argv[0]}"
        return f"much memory: {ran.argv[0]}" if more > MUCH_BYTES else ""

    def _changed(self, ran: all_verbs.Ran, place: Path, before: State, changes: Collection[Path]) -> str:
        """An input that is not what it was, a file that nobody asked for."""
        now = content_of(place)
        own = {str(path.relative_to(place)) for path in changes}
        for name, state in before.items():
            if now.get(name) != state and name not in own:
                return f"{ran.argv[0]} {ran.code} changed an input"
        new = now.keys() - before.keys()
        if ran.code == 23:  # what was fetched is kept for the next run
            new = {name for name in new if ".nextn-pull" not in Path(name).parts}
            new -= {str(parent) for name in now for parent in Path(name).parents if ".nextn-pull" in name}
        if ran.code in REFUSED and new:
            return f"{ran.argv[0]} {ran.code} left {sorted(new)[0]!r:.60}"
        if hidden := [name for name in new if any(part.startswith(".") for part in Path(name).parts)]:
            return f"{ran.argv[0]} {ran.code} left {hidden[0]!r:.60}"
        if stamps_of(self.shared) != self._stamps:
            self._stamps = stamps_of(self.shared)
            return f"{ran.argv[0]} {ran.code} changed a file that others use"
        return ""

    def note(self, what: str, ran: all_verbs.Ran, title: str, files: Mapping[str, bytes]) -> None:
        """Keep a finding, once for each kind."""
        key = re.sub(r"\d{3,}|[0-9a-f]{8,}", "N", what)
        self.places[key] += 1
        if self.places[key] > 1:
            return
        number = len(self.places)
        print(f"FOUND {number}: {what}\n    {title}\n    {' '.join(ran.argv)}", flush=True)
        self.keep.mkdir(parents=True, exist_ok=True)
        for suffix, data in files.items():
            (self.keep / f"found-{number:03d}{suffix}").write_bytes(data)
        said = f"{what}\n{title}\n{ran.argv}\n{ran.code}\n{ran.bug}{ran.err}"
        (self.keep / f"found-{number:03d}.txt").write_text(said, "utf-8", "backslashreplace")


def arch_of(path: Path) -> str:
    """The architecture of a model."""
    return open_model(path).architecture


@dataclass
class Bench:
    """What every kind of fuzzing works with."""

    models: list[Model]
    found: Findings
    folder: Path
    dice: random.Random
    hub: HubServer
    end: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether this kind's time is up."""
        return time.monotonic() > self.end

    def place(self) -> Path:
        """An empty folder for the next input."""
        self.found.n_files += 1
        return all_verbs.emptied(self.folder / "work")

    def small(self) -> list[tuple[Model, mutants.Parts, str]]:
        """The models that are quick to copy, taken apart, with their architectures."""
        chosen = [model for model in self.models if model[1].stat().st_size < 1_500_000]
        return [(model, mutants.Parts.of(model[1]), arch_of(model[1])) for model in chosen]
