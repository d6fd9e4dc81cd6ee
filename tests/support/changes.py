"""Changes in place to try: models on a disk that inserts ranges, and what each change makes of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from faults import Faults, content
from opened import open_donor

import nextn
from conftest import TRUNKS
from nextn.block.model import layer_of
from nextn.gguf.files import Model, open_model, shard_name
from nextn.gguf.header import build_header, pad_to, place
from nextn.gguf.kv import KV
from nextn.gguf.kv_table import edit
from nextn.gguf.tensors import TensorInfo
from nextn.layouts import in_place_detach, metadata
from nextn.layouts.attach import plan_attach
from nextn.layouts.options import AttachOptions, Room
from nextn.writing.plan import Plan
from nextn.writing.ranges import grain_of
from nextn.writing.result import execute
from nextn.writing.system import System

TAIL = bytes(range(256)) * 9 + b"end"  # what somebody has put after the last tensor


def write_model(path: Path, kvs: Sequence[KV], tensors: Sequence[tuple[TensorInfo, bytes]], tail: bytes = b"") -> Path:
    """A file with these pairs and tensors, in this order."""
    alignment = next((kv.value for kv in kvs if kv.key == "general.alignment"), 32)
    infos, _ = place([(info, len(data)) for info, data in tensors], alignment)
    body = b"".join(data + bytes(pad_to(len(data), alignment) - len(data)) for _, data in tensors)
    path.write_bytes(build_header(list(kvs), infos, alignment=alignment) + body + tail)
    return path


def tensors_of(model: Model) -> list[tuple[TensorInfo, bytes]]:
    """All tensors with their bytes."""
    out, read = [], cache(Path.read_bytes)
    for file, info in model.items():
        start, end = file.tensor_range(info)
        out.append((info, read(file.path)[start:end]))
    return out


def padded(source: Path, path: Path, n_bytes: int) -> Path:
    """A copy whose header ends with a pair of `n_bytes` spaces."""
    model = open_model(source)
    kvs = [*model.kvs, metadata.padding_kv(n_bytes)]
    return write_model(path, kvs, tensors_of(model))


def foreign(bundled: Path, path: Path, *, block_last: bool) -> Path:
    """The model as another tool may write it: no note of nextn, the block at the end or before the last norm."""
    model = open_model(bundled)
    kvs = [kv for kv in model.kvs if not kv.key.startswith("nextn.")]
    n_trunk = model.arch_int("block_count") - 1

    def rank(item: tuple[TensorInfo, bytes]) -> int:
        if layer_of(item[0].name) == n_trunk:
            return 2 if block_last else 0
        return 1 if item[0].name == "output_norm.weight" else -1

    return write_model(path, kvs, sorted(tensors_of(model), key=rank))


def foreign_set(bundled: Path, folder: Path, base: str) -> Path:
    """The same in three shards, the block after trunk tensors in the last; returns the first."""
    model = open_model(bundled)
    n_trunk = model.arch_int("block_count") - 1
    tensors = sorted(tensors_of(model), key=lambda item: layer_of(item[0].name) == n_trunk)
    parts = [tensors[:2], tensors[2:6], tensors[6:]]
    kvs = [kv for kv in model.kvs if not kv.key.startswith("nextn.")]
    for i, part in enumerate(parts):
        own = edit(kvs if i == 0 else [], put=metadata.split_kvs(i, len(parts), len(tensors)))
        write_model(folder / shard_name(base, i + 1, len(parts)), own, part)
    return folder / shard_name(base, 1, len(parts))


@dataclass
class Case:
    """A change, the files that it starts from, and those it ends with."""

    name: str
    source: Path  # folder with the files as they are at first
    folder: Path  # where they are changed
    model: str  # the entry's name
    verb: str
    donor: Path
    room: Room
    old: dict[str, str]
    new: dict[str, str]
    calls: list[str]

    @property
    def n_calls(self) -> int:
        """Of the undisturbed run."""
        return len(self.calls)

    def reset(self) -> Path:
        """The files as they were at first; returns the entry."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.source, self.folder)
        return self.folder / self.model

    def plan(self) -> Plan:
        model = open_model(self.folder / self.model)
        if self.verb == "detach":
            return in_place_detach.plan_detach(model, self.room)
        options = AttachOptions("in-place", room=self.room)
        return plan_attach(model, open_donor(self.donor), options)

    def run(self, system: System) -> None:
        execute(self.plan(), system=system)

    def state(self) -> str:
        """ "old", "new", or what else lies there."""
        now = content(self.folder)
        return "old" if now == self.old else "new" if now == self.new else f"neither: {sorted(now)}"


def _sources(folder: Path, donor: Path) -> dict[str, tuple[str, Path, str]]:
    """Case -> (verb, folder, entry)."""
    dense = TRUNKS / "qwen35-dense-F32.gguf"

    def new(name: str) -> Path:
        made = folder / name
        made.mkdir()
        return made

    plain = new("plain")
    shutil.copy(dense, plain / "m.gguf")
    spaced = new("spaced")
    padded(dense, spaced / "m.gguf", 12_345)
    tailed = new("tailed")
    (tailed / "m.gguf").write_bytes(dense.read_bytes() + TAIL)
    bundle = folder / "bundle.gguf"
    nextn.attach(dense, donor, layout="bundle", out=bundle)
    last, middle, three = new("last"), new("middle"), new("three")
    foreign(bundle, last / "m.gguf", block_last=True)
    foreign(bundle, middle / "m.gguf", block_last=False)
    entry = foreign_set(bundle, three, "m")
    attached = {}
    for name, source in (("plain", plain), ("tailed", tailed), ("spaced", spaced)):
        attached[name] = folder / f"attached-{name}"
        shutil.copytree(source, attached[name])
        nextn.attach(attached[name] / "m.gguf", donor, layout="in-place")
    return {
        "attach": ("attach", plain, "m.gguf"),
        "attach into padding": ("attach", spaced, "m.gguf"),
        "attach before a tail": ("attach", tailed, "m.gguf"),
        "detach": ("detach", attached["plain"], "m.gguf"),
        "detach from padding": ("detach", attached["spaced"], "m.gguf"),
        "detach before a tail": ("detach", attached["tailed"], "m.gguf"),
        "cut a block": ("detach", last, "m.gguf"),
        "cut a block before other tensors": ("detach", middle, "m.gguf"),
        "cut a block of a set": ("detach", three, entry.name),
    }


NAMES = (
    "attach", "attach into padding", "attach before a tail", "attach to a set", "detach", "detach from padding",
    "detach before a tail", "cut a block", "cut a block before other tensors", "cut a block of a set",
)  # fmt: skip


def make_cases(disk: Path, checkpoints: Callable[[str], Path]) -> dict[str, Case]:
    """All cases on a disk that inserts ranges, each with what an undisturbed run makes."""
    donors = {}
    for name in ("qwen35-dense-f32", "qwen35moe-fused-bf16"):
        donors[name] = disk / f"{name}.gguf"
        nextn.extract(checkpoints(name), out=donors[name], block_only=True)
    sources = disk / "sources"
    sources.mkdir()
    dense = donors["qwen35-dense-f32"]
    found = _sources(sources, dense)
    set_source = sources / "set"
    shutil.copytree(TRUNKS / "kv-first", set_source)
    found["attach to a set"] = ("attach", set_source, sorted(path.name for path in set_source.iterdir())[0])
    room = Room(grain_of(disk))
    cases = {}
    for name in NAMES:
        verb, source, model = found[name]
        donor = donors["qwen35moe-fused-bf16"] if name == "attach to a set" else dense
        case = Case(name, source, disk / "work" / name.replace(" ", "-"), model, verb, donor, room, {}, {}, [])
        case.reset()
        case.old = content(case.folder)
        system = Faults()
        case.run(system)
        case.new = content(case.folder)
        case.calls = [call for call, _ in system.trace]
        assert case.old != case.new and case.old.keys() == case.new.keys(), name
        cases[name] = case
    return cases

