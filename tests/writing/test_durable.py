"""The one module that makes bytes permanent: order of its calls, links, names, leftovers, space."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults import Faults, Refusing, content, listing, small_disk, state
from opened import open_donor
from power import Disk
from power import Recorder as PowerRecorder

import nextn
from conftest import CHECKPOINT, Q4, TRUNKS, mounted
from nextn import oscalls
from nextn.errors import NoSpace, OutputExists, StorageError
from nextn.gguf.files import open_model, shard_name
from nextn.layouts.attach import plan_attach
from nextn.layouts.explode import ExplodeOptions, plan_explode
from nextn.layouts.options import AttachOptions
from nextn.workfile import At
from nextn.writing import durable
from nextn.writing.durable import Workspace
from nextn.writing.execute import SLACK_BYTES, execute
from nextn.writing.leftovers import JOB_SUFFIX, SUFFIX, clean
from nextn.writing.plan import LinkMode, Plan
from nextn.writing.system import NO_HARD_LINKS, System, explain, free_bytes, write_all

MOE = "qwen35moe-fused-bf16"


@pytest.fixture
def trunk_set(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TRUNKS / "kv-first", tmp_path / "trunk"))


@pytest.fixture
def plan(tmp_path: Path, trunk_set: Path, checkpoints: Callable[[str], Path]) -> Callable[..., Plan]:
    def make(link: LinkMode = LinkMode.AUTO, out: Path = tmp_path / "out") -> Plan:
        return plan_attach(
            open_model(trunk_set), open_donor(checkpoints(MOE)), AttachOptions("shards", out=out, link=link)
        )

    return make


# -- order -----------------------------------------------------------------------------------------------------


class Recorder(Faults):
    """Keeps what each descriptor and path stands for, so that the order of calls can be judged."""

    def step(self, name: str, args: tuple[Any, ...]) -> Any:
        result = super().step(name, args)
        fd = {"pwrite": 0, "copy_range": 1, "fsync": 0}.get(name)
        what = str(Path(f"/proc/self/fd/{args[fd]}").readlink()) if fd is not None else str(args[-1])
        self.trace[-1] = (name, (what,))
        return result


def test_bytes_are_on_disk_before_names_and_names_before_the_entry(plan: Callable[..., Plan], tmp_path: Path) -> None:
    system = Recorder()
    made = plan()
    execute(made, system=system)
    calls = [(name, Path(args[0])) for name, args in system.trace]
    out = tmp_path / "out"
    first_name = next(i for i, (name, _) in enumerate(calls) if name == "link")
    written = {path for name, path in calls if name in ("pwrite", "copy_range")}
    assert len(written) == 3  # two new files and the note
    for path in written:
        last_write = max(i for i, call in enumerate(calls) if call[0] in ("pwrite", "copy_range") and call[1] == path)
        synced = max(i for i, call in enumerate(calls) if call == ("fsync", path))
        assert last_write < synced < first_name
    folder_syncs = [i for i, call in enumerate(calls) if call == ("fsync", out)]
    names = [i for i, (name, _) in enumerate(calls) if name == "link"]
    assert calls[names[-1]] == ("link", made.entry)
    note_gone = max(i for i, (name, path) in enumerate(calls) if name == "unlink" and path.name.endswith(JOB_SUFFIX))
    before, between, after = folder_syncs
    assert before < first_name, "the note is on disk before the first name"
    assert names[-2] < between < names[-1], "all other names are on disk before the entry's"
    assert names[-1] < after < note_gone, "the entry is on disk before the note goes"
    assert ("fsync", tmp_path) in calls[after:], "and so is the new folder"


@dataclass
class Timed(System):
    """Notes what is done, to which file, and in which thread; syncs are real."""

    calls: list[tuple[str, int, int]] = field(default_factory=list)  # name, inode, thread

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        return self._noted("write", os.fstat(fd).st_ino, super().pwrite(fd, data, offset))

    def copy_range(self, src: int, dst: int, count: int, src_offset: int, dst_offset: int) -> int:
        n = super().copy_range(src, dst, count, src_offset, dst_offset)
        return self._noted("write", os.fstat(dst).st_ino, n)

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self._noted("sync", os.fstat(fd).st_ino, 0)

    def link(self, source: At | Path, target: At) -> None:
        inode = source.folder.lstat(source.name).st_ino if isinstance(source, At) else source.stat().st_ino
        self._noted("name", inode, 0)
        super().link(source, target)

    def _noted(self, what: str, inode: int, result: int) -> int:
        self.calls.append((what, inode, threading.get_ident()))
        return result


def exploded(out: Path) -> Plan:
    """More new files than are synced one after the other."""
    plan = plan_explode(open_model(TRUNKS / "qwen35-dense-F32.gguf"), ExplodeOptions(out, max_tensors=3))
    assert len(plan.outputs) > durable.FEW_FILES
    return plan


def test_many_files_are_all_on_disk_before_the_first_has_its_name(tmp_path: Path) -> None:
    system = Timed()
    made = exploded(tmp_path / "out")
    execute(made, system=system)
    first_name = next(i for i, call in enumerate(system.calls) if call[0] == "name")
    syncs = {inode: i for i, (what, inode, _) in enumerate(system.calls[:first_name]) if what == "sync"}
    writes = {inode: i for i, (what, inode, _) in enumerate(system.calls) if what == "write"}
    named = [(tmp_path / "out" / out.name).stat().st_ino for out in made.outputs]
    assert {*named} <= {*syncs}
    assert all(writes[inode] < syncs[inode] for inode in named)
    assert len({thread for what, inode, thread in system.calls if what == "sync" and inode in named}) > 1
    folder = (tmp_path / "out").stat().st_ino
    inodes = [inode for what, inode, _ in system.calls if what == "name" or inode == folder]
    assert inodes[-3:] == [folder, named[-1], folder]  # the folder, the entry's name, the folder


@pytest.mark.slow
def test_whatever_unsynced_writes_are_lost_no_unfinished_file_has_a_name(tmp_path: Path) -> None:
    """The power goes at any call, with a disk that loses and tears what was not synced."""
    out = tmp_path / "out"
    out.mkdir()
    made = exploded(out)
    system = PowerRecorder()
    execute(made, system=system)
    whole, seen = content(out), set()
    for at in range(len(system.calls) + 1):
        shutil.rmtree(out)
        out.mkdir()
        left = Disk(system.calls, random.Random(at))
        left.cut(at)
        left.apply(out, {})
        there = {name: digest for name, digest in content(out).items() if name in whole}
        assert there.items() <= whole.items(), at
        assert made.entry.name not in there or there == whole, at
        seen.add(len(there))
    assert {0, len(whole)} < seen


def test_what_is_copied_goes_to_the_disk_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[int, list[tuple[int, int]]] = {}
    real = oscalls.start_writing

    def noted(fd: int, offset: int, size: int) -> None:
        asked.setdefault(os.fstat(fd).st_ino, []).append((offset, offset + size))
        real(fd, offset, size)

    monkeypatch.setattr(oscalls, "start_writing", noted)
    monkeypatch.setattr("nextn.writing.execute.COPY_BYTES", 100_000)
    made = plan_attach(open_model(Q4), open_donor(CHECKPOINT), AttachOptions("bundle", out=tmp_path / "made.gguf"))
    execute(made)
    (spans,) = asked.values()
    assert len(spans) > Q4.stat().st_size // 200_000 and sum(end - start for start, end in spans) > 1_000_000
    with open_model(tmp_path / "made.gguf").entry.open("rb") as file:
        real(file.fileno(), 0, 1 << 20)  # allowed where nothing is to be written
    real(-1, 0, 1)  # and it never fails: fsync does


def test_one_file_needs_no_note(tmp_path: Path) -> None:
    made = plan_attach(open_model(Q4), open_donor(CHECKPOINT), AttachOptions("bundle", out=tmp_path / "made.gguf"))
    system = Faults()
    execute(made, system=system)
    assert [name for name, _ in system.trace][-4:] == ["fsync", "link", "unlink", "fsync"]
    assert listing(tmp_path) == ["made.gguf"]


# -- links -----------------------------------------------------------------------------------------------------


def test_shards_are_hard_links_by_default_and_the_trunk_stays(plan: Callable[..., Plan], trunk_set: Path) -> None:
    before = state(trunk_set)
    done = execute(plan())
    assert sorted(done.links.values()) == ["hard", "hard"]
    for name in done.links:
        old = trunk_set / name.replace("-MTP", "").replace("of-00004", "of-00003")
        assert (done.plan.folder / name).stat().st_ino == old.stat().st_ino
    assert state(trunk_set) == before


def test_symlinks_when_asked_for(plan: Callable[..., Plan], trunk_set: Path) -> None:
    before = state(trunk_set)
    done = execute(plan(LinkMode.SYMLINK))
    assert sorted(done.links.values()) == ["symlink", "symlink"]
    for name in done.links:
        assert (done.plan.folder / name).readlink().parent == trunk_set
    assert nextn.inspect(done.plan.entry).problems == ()
    assert state(trunk_set) == before


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "32m") as disk:
        disk = mounted(disk)
        yield disk


def test_another_disk_gets_symlinks(plan: Callable[..., Plan], other_disk: Path) -> None:
    done = execute(plan(out=other_disk / "out"))
    assert sorted(done.links.values()) == ["symlink", "symlink"]
    assert nextn.inspect(done.plan.entry).problems == ()


def test_another_disk_refuses_hard_links_in_one_sentence(plan: Callable[..., Plan], other_disk: Path) -> None:
    with pytest.raises(StorageError, match=r"hard link .* cannot be made .*; use --link symlink\.$"):
        execute(plan(LinkMode.HARD, out=other_disk / "out"))
    assert listing(other_disk) == []


@pytest.mark.parametrize("number", sorted(NO_HARD_LINKS - {errno.EXDEV}), ids=errno.errorcode.get)
def test_a_file_system_without_hard_links(plan: Callable[..., Plan], number: int) -> None:
    """New files then get their names by rename, shards by symlink."""
    done = execute(plan(), system=Refusing(link=number))
    assert sorted(done.links.values()) == ["symlink", "symlink"]
    assert len(listing(done.plan.folder)) == 4
    assert nextn.inspect(done.plan.entry).problems == ()


def test_publishing_by_rename_never_replaces(plan: Callable[..., Plan]) -> None:
    made = plan()

    class Late(Refusing):
        """Another program writes the last name while this run is at it."""

        def step(self, name: str, args: tuple[Any, ...]) -> Any:
            if name == "symlink" and not made.entry.exists():
                made.entry.write_bytes(b"theirs")
            return super().step(name, args)

    with pytest.raises(OutputExists, match="already exists"):
        execute(made, system=Late(link=errno.EPERM))
    assert content(made.folder).keys() == {made.entry.name}
    assert made.entry.read_bytes() == b"theirs"


def test_a_name_that_another_run_took_meanwhile_stays_theirs(plan: Callable[..., Plan], trunk_set: Path) -> None:
    """Even when it is a link to the very same shard."""
    made = plan()
    theirs = made.folder / made.outputs[1].name

    class Late(Faults):
        def step(self, name: str, args: tuple[Any, ...]) -> Any:
            if name == "link" and not theirs.exists():
                os.link(sorted(trunk_set.iterdir())[1], theirs)
            return super().step(name, args)

    with pytest.raises(OutputExists):
        execute(made, system=Late())
    assert listing(made.folder) == [theirs.name]


def test_ctrl_c_never_takes_the_link_of_another_run(plan: Callable[..., Plan], trunk_set: Path) -> None:
    """Their link has the same inode as ours would have: only looking first tells them apart."""
    made = plan()
    theirs = made.folder / made.outputs[1].name

    class Late(Faults):
        def step(self, name: str, args: tuple[Any, ...]) -> Any:
            if name == "open_new" and not theirs.exists():
                os.link(sorted(trunk_set.iterdir())[1], theirs)
            if name == "link" and args[1].path == theirs:
                raise KeyboardInterrupt
            return super().step(name, args)

    with pytest.raises((OutputExists, KeyboardInterrupt)):
        execute(made, system=Late())
    assert listing(made.folder) == [theirs.name]


def test_a_hub_cache_is_linked_to_its_blobs_and_left_alone(
    tmp_path: Path, trunk_set: Path, checkpoints: Callable[[str], Path]
) -> None:
    """Snapshots hold symlinks to files named by their hash: links must lead to the blob."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for i, path in enumerate(sorted(trunk_set.iterdir())):
        path.rename(blobs / f"sha{i}")
        (snapshot / path.name).symlink_to(f"../../blobs/sha{i}")
    before = state(blobs)
    hard = nextn.attach(snapshot, checkpoints(MOE), out=tmp_path / "hard")
    soft = nextn.attach(snapshot, checkpoints(MOE), out=tmp_path / "soft", link="symlink")
    for result, no in ((hard, 1), (hard, 2)):
        assert result.files[no].stat().st_ino == (blobs / f"sha{no}").stat().st_ino
        assert not result.files[no].is_symlink()
    assert [path.readlink() for path in soft.files[1:3]] == [blobs / "sha1", blobs / "sha2"]
    assert state(blobs) == before
    assert all(path.is_symlink() for path in snapshot.iterdir())


@pytest.mark.parametrize(
    "folder", ["with space", "ünïcödé-模型", "new\nline", "-dash", "[glob]*", "a'b\"c", "bad\udcff"]
)
def test_strange_paths(
    tmp_path: Path, folder: str, trunk_set: Path, checkpoints: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given relative, too."""
    home = tmp_path / folder
    home.mkdir()
    for path in trunk_set.iterdir():
        path.rename(home / f"{folder} {path.name}")
    monkeypatch.chdir(home)
    result = nextn.attach(".", checkpoints(MOE), out="out put", link="symlink")
    assert result.entry == Path("out put") / shard_name(f"{folder} qwen35moe-MTP-BF16", 1, 4)
    assert nextn.inspect(result.entry).problems == ()
    back = nextn.detach("out put", out=f"{folder}/back")
    assert content(back.entry.parent).keys() == {path.name for path in back.files}
    again = nextn.attach(back.entry, checkpoints(MOE), layout="bundle", out=f"{folder}.gguf")
    assert again.entry.exists()


def test_long_names(tmp_path: Path) -> None:
    trunk = Path(shutil.copy(Q4, tmp_path / ("n" * 238 + "-Q4_K_M.gguf")))
    assert len(trunk.name) == 250
    made = nextn.attach(trunk, CHECKPOINT, layout="bundle").entry
    assert len(made.name) == 254
    trunk.rename(tmp_path / ("n" * 242 + "-Q4_K_M.gguf"))
    with pytest.raises(StorageError, match=r"has 258 bytes, and at most 255 fit here; choose a shorter -o"):
        nextn.attach(tmp_path / ("n" * 242 + "-Q4_K_M.gguf"), CHECKPOINT, layout="bundle")
    assert len(listing(tmp_path)) == 2


# -- leftovers -------------------------------------------------------------------------------------------------


def leave(folder: Path, name: str, data: bytes = b"x") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_clean_takes_dead_files_and_nothing_else(tmp_path: Path) -> None:
    dead = leave(tmp_path, f".model.gguf.0123{SUFFIX}")
    alive = leave(tmp_path, f".model.gguf.4567{SUFFIX}")
    for name in ("model.gguf", ".hidden", f"visible{SUFFIX}", ".model.gguf.part"):
        leave(tmp_path, name)
    (tmp_path / f".folder{SUFFIX}").mkdir()
    (tmp_path / f".link{SUFFIX}").symlink_to(tmp_path / "model.gguf")
    start = set(listing(tmp_path))
    with alive.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert clean(tmp_path, remove=False) == [dead]
        assert set(listing(tmp_path)) == start
        assert clean(tmp_path) == [dead]
    assert set(listing(tmp_path)) == start - {dead.name}
    assert clean(tmp_path / "missing") == []


def note(folder: Path, *names: str, **changes: int) -> Path:
    """The note of a run that died after it had published `names` of a set that ends in `entry.gguf`."""
    marks = {}
    for name in names:
        stat = (folder / name).stat()
        mark = {"inode": stat.st_ino, "size": stat.st_size, "mtime": stat.st_mtime_ns, **changes}
        marks[name] = [*mark.values(), None]
    marks["entry.gguf"] = [1, 1, 1, None]
    return leave(folder, f".0123{JOB_SUFFIX}", json.dumps({"version": 1, "names": marks}).encode())


def test_a_half_set_goes(tmp_path: Path) -> None:
    shard = leave(tmp_path, "shard.gguf")
    job = note(tmp_path, "shard.gguf")
    assert clean(tmp_path) == [shard, job]
    assert listing(tmp_path) == []


@pytest.mark.parametrize("changes", [{"inode": 5}, {"size": 2}, {"mtime": 7}], ids=lambda change: next(iter(change)))
def test_a_file_that_is_not_what_the_note_says_stays(tmp_path: Path, changes: dict[str, int]) -> None:
    """Inodes are used again: a download of the same name may have got the number."""
    leave(tmp_path, "shard.gguf")
    note(tmp_path, "shard.gguf", **changes)
    clean(tmp_path)
    assert listing(tmp_path) == ["shard.gguf"]


def test_a_set_with_its_entry_stays(tmp_path: Path) -> None:
    leave(tmp_path, "shard.gguf")
    leave(tmp_path, "entry.gguf")
    note(tmp_path, "shard.gguf")
    clean(tmp_path)
    assert listing(tmp_path) == ["entry.gguf", "shard.gguf"]


def test_the_last_name_of_a_linked_shard_stays(tmp_path: Path) -> None:
    """A run linked a shard and died; the user then removed the original: the link is all there is."""
    original, shard = leave(tmp_path, "original.gguf"), tmp_path / "shard.gguf"
    shard.hardlink_to(original)
    stat = shard.stat()
    marks = {"shard.gguf": [stat.st_ino, stat.st_size, stat.st_mtime_ns, str(original)], "entry.gguf": [1, 1, 1, None]}
    job = leave(tmp_path, f".0123{JOB_SUFFIX}", json.dumps({"version": 1, "names": marks}).encode())
    original.unlink()
    assert clean(tmp_path, remove=False) == [job]
    assert listing(tmp_path)[-1] == "shard.gguf"
    original.hardlink_to(shard)
    assert clean(tmp_path) == [shard, job]
    assert listing(tmp_path) == ["original.gguf"]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"names": 3}', b'{"names": {"../victim": [1]}}', b'{"names": {"victim": []}}', b"\xff"]
)
def test_a_torn_note_harms_nothing(tmp_path: Path, data: bytes) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    victims = [leave(tmp_path, "victim"), leave(folder, "victim")]
    leave(folder, f".0123{JOB_SUFFIX}", data)
    clean(folder)
    assert listing(folder) == ["victim"]
    assert all(path.exists() for path in victims)


def test_a_note_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    victim = leave(tmp_path, "victim")
    stat = victim.stat()
    marks = {"../victim": [stat.st_ino, stat.st_size, stat.st_mtime_ns, None], "entry.gguf": [1, 1, 1, None]}
    leave(folder, f".0123{JOB_SUFFIX}", json.dumps({"version": 1, "names": marks}).encode())
    clean(folder)
    assert victim.exists()


def test_a_cleaner_that_is_faster_than_the_lock_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run looks for leftovers between a file's creation and its lock."""
    real, n_calls = fcntl.flock, 0

    def flock(fd: int, how: int) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 1:
            monkeypatch.setattr(fcntl, "flock", real)
            assert len(clean(tmp_path)) == 1
            monkeypatch.setattr(fcntl, "flock", flock)
        if n_calls == 2:
            raise BlockingIOError
        real(fd, how)

    with Workspace(tmp_path) as space:
        monkeypatch.setattr(fcntl, "flock", flock)
        temp, fd = space.new_file("model.gguf")
        os.write(fd, b"whole")
        space.publish(temp, "model.gguf", 5)
        space.finish()
    assert n_calls == 3
    assert content(tmp_path).keys() == {"model.gguf"}


def test_a_temporary_file_that_is_overwritten_once_complete_is_not_published(tmp_path: Path) -> None:
    """By the same user, with as many bytes, in place: neither its name nor its size shows it."""
    with (
        pytest.raises(StorageError, match=r"made\.gguf.*another program wrote to this temporary file"),
        Workspace(tmp_path) as space,
    ):
        temp, fd = space.new_file("made.gguf")
        os.write(fd, b"whole")
        space.sync([temp])
        time.sleep(0.02)  # longer than a file system's clock stands still
        with temp.open("r+b") as other:
            other.write(b"other")
        space.publish(temp, "made.gguf", 5)
    assert not any(tmp_path.iterdir())


# -- sentences and space -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, NoSpace, "the disk is full"),
        (errno.EDQUOT, NoSpace, "a quota"),
        (errno.EEXIST, OutputExists, "never overwrites"),
        (errno.EROFS, StorageError, "read-only"),
        (errno.EACCES, StorageError, "permission denied"),
        (errno.EIO, StorageError, "cannot write it: Input/output error"),
    ],
)
def test_errors_become_sentences(number: int, kind: type[Exception], words: str) -> None:
    error = explain(OSError(number, os.strerror(number)), Path("/disk/file"), "write it")
    assert type(error) is kind
    assert str(error).startswith("/disk/file: ")
    assert words in str(error)
    assert str(error).endswith(".")


def test_a_system_that_writes_nothing_does_not_hang(tmp_path: Path) -> None:
    class Nothing(Faults):
        def step(self, name: str, args: tuple[Any, ...]) -> Any:
            return 0

    with pytest.raises(StorageError, match="wrote nothing"):
        write_all(Nothing(), 0, b"data", 0, tmp_path)


def statvfs(free: int) -> Callable[[object], Any]:
    return lambda path: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096)


def test_missing_space_is_known_before_writing(plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan()
    monkeypatch.setattr(os, "statvfs", statvfs(made.bytes_written))
    assert free_bytes(made.folder) <= made.bytes_written
    system = Faults()
    with pytest.raises(NoSpace, match=rf"{made.bytes_written + SLACK_BYTES:,} bytes are needed and [\d,]+ are free"):
        execute(made, system=system)
    assert system.trace == []
    assert not made.folder.exists()


def test_what_a_dead_run_left_counts_as_free(plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan()
    made.folder.mkdir()
    leave(made.folder, f".model.gguf.0123{SUFFIX}", bytes(SLACK_BYTES + made.bytes_written))
    monkeypatch.setattr(os, "statvfs", statvfs(8192))
    execute(made, system=Faults())
    assert sorted(listing(made.folder)) == sorted(out.name for out in made.outputs)
