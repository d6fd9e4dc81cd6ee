"""Files that are not changed in place: shared, in a cache, in use, not this user's; and hostile folders."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import flush, listing, loop_disk, ranged_disk
from terminal import on_a_terminal

import nextn
from conftest import CHECKPOINT, Q4, RANGES, need
from nextn.errors import EXIT_INTERRUPTED, InPlaceRefused, NextnError, NoSpace, StorageError, UsageError
from nextn.writing import guards, journal
from nextn.writing.ranges import shifted, where_shifted
from nextn.writing.recover import recover, unfinished

HASH = hashlib.sha256(b"model").hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    """A model on a file system that inserts ranges, in a folder of its own."""
    with ranged_disk(tmp_path / "disk") as found:
        need(RANGES, found is not None)
        assert found is not None
        folder = found / "here"
        folder.mkdir()
        yield Path(shutil.copy(Q4, folder / "m.gguf"))


def attach(path: Path, **more: object) -> None:
    nextn.attach(path, CHECKPOINT, layout="in-place", **more)  # type: ignore[arg-type]


def refused(path: Path, words: str) -> None:
    """Both verbs refuse it in one sentence, in a dry run too, and nothing is changed."""
    before, there = path.read_bytes(), listing(path.parent)
    for dry_run in (True, False):
        with pytest.raises(InPlaceRefused, match=words) as error:
            attach(path, dry_run=dry_run)
        assert "\n" not in str(error.value)
    assert path.read_bytes() == before and listing(path.parent) == there


@pytest.mark.parametrize("name", [HASH, HASH[:40], f"sha256-{HASH}", f"{HASH}.gguf"])
def test_a_file_that_is_named_by_its_hash(model: Path, name: str) -> None:
    blob = model.with_name(name)
    model.rename(blob)
    refused(blob, "names files by their hash")
    link = blob.with_name("snapshot.gguf")
    link.symlink_to(blob)
    refused(link, HASH[:40])


def test_a_file_with_several_names_wants_all_links(model: Path) -> None:
    other = model.with_name("other.gguf")
    os.link(model, other)
    refused(model, "2 names .*--all-links")
    attach(model, all_links=True)
    assert other.read_bytes() == model.read_bytes() != Q4.read_bytes()
    with pytest.raises(InPlaceRefused, match=r"2 names .* or use 'nextn detach' without --in-place"):
        nextn.detach(model, in_place=True)
    nextn.detach(model, in_place=True, all_links=True)
    assert other.read_bytes() == Q4.read_bytes()


def test_a_read_only_file_and_a_file_of_another_user(model: Path) -> None:
    model.chmod(0o444)
    refused(model, "read-only")
    model.chmod(0o644)
    need("root, who alone gives files away,", os.geteuid() == 0)
    os.chown(model, 12345, 12345)
    refused(model, "belongs to another user")


def test_a_symlink_is_followed_and_the_file_is_named(model: Path) -> None:
    folder = model.parent / "links"
    folder.mkdir()
    link = folder / "link.gguf"
    link.symlink_to(model)
    done = nextn.attach(link, CHECKPOINT, layout="in-place")
    assert any(f"the file that is changed is {model}" in note for note in done.plan.notes)
    assert link.is_symlink() and done.files == (model,)
    assert listing(folder) == ["link.gguf"]
    nextn.detach(link, in_place=True)
    assert model.read_bytes() == Q4.read_bytes()


HOLD = """
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
if sys.argv[2] == "mapped":
    held = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    os.close(fd)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["mapped", "open"])
def test_a_file_that_a_process_uses(model: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_PATIENCE_S", 0.2)
    user = subprocess.Popen([sys.executable, "-c", HOLD, model, how], stdout=subprocess.PIPE, text=True)
    try:
        assert user.stdout is not None and user.stdout.readline() == "ready\n"
        with pytest.raises(InPlaceRefused, match=rf"process {user.pid}\) has this file {how}"):
            attach(model)
        assert model.read_bytes() == Q4.read_bytes() and listing(model.parent) == ["m.gguf"]
    finally:
        user.kill()
        user.communicate()
    attach(model)
    assert nextn.inspect(model).problems == ()


def test_a_file_replaced_under_way_is_left_alone_and_the_changed_one_is_undone(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nextn.writing.system import System

    real = System.fsync
    seen: list[int] = []
    aside = model.with_name("aside.gguf")

    def swap(self: System, fd: int) -> None:
        real(self, fd)
        if os.fstat(fd).st_ino == inode and os.fstat(fd).st_size > Q4.stat().st_size and not seen:
            seen.append(1)
            model.rename(aside)
            model.write_bytes(b"another file")

    inode = model.stat().st_ino
    monkeypatch.setattr(System, "fsync", swap)
    with pytest.raises(StorageError, match="moved or replaced"):
        attach(model)
    assert seen and model.read_bytes() == b"another file"
    assert aside.read_bytes() == Q4.read_bytes()
    assert sorted(listing(model.parent)) == ["aside.gguf", "m.gguf"]


# -- journals that are not what they seem ------------------------------------------------------------------------


def planted(model: Path, inode: int) -> Path:
    """A whole journal that would cut the model to nothing."""
    bare = journal.Bare(model.name, inode, 4, b"GGUF", 0, None)
    data = journal.first_bytes("attach", [bare], [journal.State(journal.NONE, tail_saved=False)])
    path = model.with_name(journal.journal_name(model.name))
    path.write_bytes(data)
    return path


def test_a_journal_of_another_file_is_never_followed(model: Path) -> None:
    """Whoever packs an archive cannot know the inode that its model will have."""
    path = planted(model, model.stat().st_ino + 1)
    for run in (lambda: recover(model), lambda: attach(model), lambda: recover(model.parent)):
        with pytest.raises(StorageError, match=r"not the file that the journal .* was written for"):
            run()
    assert model.read_bytes() == Q4.read_bytes() and path.exists()
    path.unlink()


def test_a_journal_that_is_a_link_or_names_a_path_is_never_followed(model: Path) -> None:
    path = planted(model, model.stat().st_ino)
    elsewhere = model.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(StorageError, match="symbolic link"):
        recover(model)
    path.unlink()
    bare = journal.Bare("../m.gguf", model.stat().st_ino, 4, b"GGUF", 0, None)
    path.write_bytes(journal.first_bytes("attach", [bare], [journal.State(journal.NONE, tail_saved=False)]))
    with pytest.raises(StorageError, match="another version"):
        recover(model.parent)
    assert model.read_bytes() == Q4.read_bytes()


def test_a_torn_journal_is_dropped_when_the_file_is_whole_and_kept_when_it_is_not(model: Path) -> None:
    path = planted(model, model.stat().st_ino)
    torn = path.read_bytes()[:-1]
    path.write_bytes(torn)
    assert unfinished(model) == []
    assert [each.what for each in recover(model)] == ["removed"]
    assert model.read_bytes() == Q4.read_bytes() and not path.exists()
    path.write_bytes(torn)
    model.write_bytes(b"NXTN" + Q4.read_bytes()[4:])
    with pytest.raises(StorageError, match="this journal is damaged"):
        recover(model)
    assert path.exists()
    with pytest.raises(NextnError, match="nextn recover"):
        nextn.inspect(model)


def test_a_journal_of_a_later_version_is_kept(model: Path) -> None:
    path = planted(model, model.stat().st_ino)
    data = path.read_bytes().replace(b'"version":1', b'"version":2')
    (length,) = struct.unpack_from("<Q", data, 8)
    payload = data[16 : 16 + length]
    path.write_bytes(data[:16] + payload + hashlib.sha256(payload).digest())
    with pytest.raises(StorageError, match="another version"):
        recover(model)
    assert path.exists() and model.read_bytes() == Q4.read_bytes()


@pytest.mark.parametrize("kind", ["pipe", "link", "too large"])
def test_a_strange_journal_of_another_file_stops_nothing(model: Path, kind: str) -> None:
    path = model.with_name(journal.journal_name("other.gguf"))
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(model)
    else:
        path.touch()
        os.truncate(path, journal.MAX_BYTES + 1)
    assert recover(model) == []
    with pytest.raises(StorageError, match=path.name):
        recover(model.parent)
    attach(model)
    assert model.read_bytes() != Q4.read_bytes() and os.path.lexists(path)


def test_a_link_to_itself_is_refused_in_one_sentence(tmp_path: Path) -> None:
    loop = tmp_path / "loop.gguf"
    loop.symlink_to(loop)
    for run in (lambda: attach(loop), lambda: nextn.detach(loop, in_place=True)):
        with pytest.raises(StorageError, match=r"loop\.gguf: cannot open it: Too many levels of symbolic links"):
            run()
    assert unfinished(loop) == [] == recover(loop)


def large_journal(folder: Path, first: int, n_head: int) -> Path:
    """A sparse journal of `first` bytes of table and `n_head` of header, with a checksum that is not right."""
    bare = {"name": "m.gguf", "inode": 1, "size_bytes": n_head, "head": [0, n_head], "room": 0, "tail": None}
    state = {"room": "none", "tail_saved": False, "size_bytes": 0, "spans": []}
    text = json.dumps({"version": 1, "verb": "attach", "files": [{**bare, "state": state}]}).encode().ljust(first)
    path = folder / journal.journal_name("m.gguf")
    with path.open("wb") as file:
        file.write(journal.MAGIC + struct.pack("<QQ", 8 + len(text) + n_head, len(text)) + text)
        file.truncate(file.tell() + n_head + 32)
    return path


LARGE = {"a large header": (1000, 1 << 28), "a header beyond all": (1000, 1 << 29), "a large table": (1 << 24, 100)}


@pytest.mark.slow
@pytest.mark.parametrize("what", LARGE)
def test_a_large_journal_of_somebody_takes_no_memory(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sparse files of any size come out of small archives, and `inspect` looks at every journal."""
    model = Path(shutil.copy(Q4, tmp_path / "m.gguf"))
    n_read = 0
    pread = os.pread

    def counted(fd: int, size: int, offset: int) -> bytes:
        nonlocal n_read
        data = pread(fd, size, offset)
        n_read += len(data)
        return data

    large_journal(tmp_path, *LARGE[what])
    nextn.inspect(model)  # so that all modules are there
    monkeypatch.setattr(os, "pread", counted)
    tracemalloc.start()
    try:
        assert unfinished(model) == [] == unfinished(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        n_read = 0
        assert unfinished(Path(shutil.copy(Q4, tmp_path / "n.gguf"))) == []
    finally:
        tracemalloc.stop()
    assert n_read <= 1 << 21, "of a journal of another file, only the table is read"
    assert model.read_bytes() == Q4.read_bytes()


def test_a_journal_under_the_name_of_another_is_left_out(model: Path) -> None:
    """Otherwise any number of journals could each be one of the same file, and be read to its end."""
    path = planted(model, model.stat().st_ino)
    assert len(unfinished(model)) == 1
    path.rename(path.with_name(journal.journal_name("other.gguf")))
    assert unfinished(model) == [] == recover(model)


IMPOSSIBLE: dict[str, dict[str, object]] = {
    "a negative size": {"size_bytes": -1}, "no number": {"size_bytes": 2.0e3}, "endless": {"size_bytes": 1e400},
    "shorter than its header": {"size_bytes": 3}, "negative room": {"room": -4096}, "huge room": {"room": 10**400},
    "a header before its start": {"head": [-9, 4]}, "a tail inside the header": {"tail": [1, 3, 9]},
    "a tail over itself": {"tail": [4, 0, 3]}, "a tail without end": {"tail": [4, 1e400, 9]},
    "spans backwards": {"state": {"room": "shifting", "tail_saved": False, "size_bytes": 9, "spans": [[8, 4]]}},
    "an unknown state": {"state": {"room": "half", "tail_saved": False, "size_bytes": 9, "spans": []}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_journal_of_impossible_numbers_is_kept_and_not_followed(model: Path, name: str) -> None:
    """Nothing is changed on the way to finding that out."""
    path = planted(model, model.stat().st_ino)
    payload = path.read_bytes()[16:-32]
    (n_text,) = struct.unpack_from("<Q", payload)
    table = json.loads(payload[8 : 8 + n_text])
    table["files"][0] |= IMPOSSIBLE[name]
    text = json.dumps(table).encode()
    payload = struct.pack("<Q", len(text)) + text + payload[8 + n_text :]
    data = journal.MAGIC + struct.pack("<Q", len(payload)) + payload + hashlib.sha256(payload).digest()
    path.write_bytes(data)
    with pytest.raises(StorageError, match="another version"):
        recover(model)
    assert unfinished(model) == []
    assert path.read_bytes() == data and model.read_bytes() == Q4.read_bytes()


# -- a full disk -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_disk_ends_with_the_old_file(tmp_path: Path) -> None:
    """Filled up to every few hundred KB: in the block, in the room for the header, in the header itself."""
    with loop_disk("ext4", tmp_path / "image", "24M", "-m", "0") as mounted:
        need("an ext4 in a file, which root alone may mount,", mounted is not None)
        assert mounted is not None
        model = mounted / "m.gguf"
        seen = set()
        for spare in (0, 40, 200, 600, 1000, 1120, 1140, 1160, 1180, 1200, 1400, 4000):
            shutil.copy(Q4, model)
            flush(mounted)
            stat = os.statvfs(mounted)
            ballast = mounted / "ballast"
            with ballast.open("wb") as data:
                os.posix_fallocate(data.fileno(), 0, max(stat.f_bavail * stat.f_frsize - spare * 1024, 1))
            free = guards_off(mounted)
            try:
                attach(model)
                seen.add("done")
                nextn.detach(model, in_place=True)
            except NoSpace:
                seen.add("refused")
            finally:
                free()
            assert model.read_bytes() == Q4.read_bytes(), spare
            assert sorted(listing(mounted)) == ["ballast", "lost+found", "m.gguf"]
            ballast.unlink()
        assert seen == {"done", "refused"}


def guards_off(folder: Path):
    """Let the check of free bytes pass, so that the disk fills up under way."""
    from nextn.writing import in_place

    real = in_place.free_bytes
    in_place.free_bytes = lambda folder: 1 << 60

    def back() -> None:
        in_place.free_bytes = real

    return back


# -- where data has moved to -------------------------------------------------------------------------------------


def test_the_place_of_a_stopped_move_is_found_in_files_with_and_without_holes() -> None:
    for spans in ([(0, 100)], [(0, 10), (20, 30), (50, 90)], [(0, 4), (8, 12), (16, 20), (24, 28)]):
        for by in (4, 7, 40):
            for at in range(spans[-1][1] + 1):
                now = shifted(spans, at, by)
                found = where_shifted(spans, now, by)
                assert found is not None and shifted(spans, found, by) == now, (spans, by, at)
            assert where_shifted(spans, spans, by) == spans[-1][1]
            assert where_shifted(spans, [(1, 2)], by) is None


# -- asking ------------------------------------------------------------------------------------------------------


def command(*args: object, answers: str | None = None) -> tuple[int, str, str]:
    """Exit code, standard error (or what a terminal showed), standard output."""
    if answers is None:
        call = [sys.executable, "-m", "nextn", *map(str, args)]
        done = subprocess.run(call, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        return done.returncode, done.stderr, done.stdout
    return on_a_terminal(answers, *args)


@pytest.mark.slow
def test_without_a_terminal_it_wants_yes(model: Path) -> None:
    args = ("attach", model, "--from", CHECKPOINT, "--layout", "in-place")
    code, err, _ = command(*args)
    assert code == UsageError.exit_code and "--yes is needed" in err
    assert model.read_bytes() == Q4.read_bytes()
    code, _, out = command(*args, "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0 and plan["dry_run"] and plan["files"][0]["how"] == "change" and len(plan["steps"]) > 3
    assert sum(each["size_bytes"] for each in plan["files"][0]["ranges"]) == plan["files"][0]["size_bytes"]
    assert model.read_bytes() == Q4.read_bytes()
    code, _, out = command(*args, "--yes", "--json")
    done = json.loads(out)
    assert code == 0 and done["files"][0]["size_bytes"] == model.stat().st_size
    assert {**done, "wall_s": 0} == {**plan, "dry_run": False, "wall_s": 0, "tensor_sha256": done["tensor_sha256"],
                                     "bytes_read": done["bytes_read"], "donor": done["donor"]}  # fmt: skip
    code, err, _ = command("detach", model, "--in-place")
    assert code == UsageError.exit_code and "--yes is needed" in err
    assert command("detach", model, "--in-place", "--yes")[0] == 0
    assert model.read_bytes() == Q4.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", EXIT_INTERRUPTED), ("\n", EXIT_INTERRUPTED)])
def test_on_a_terminal_it_asks(model: Path, answer: str, code: int) -> None:
    done, shown, _ = command("attach", model, "--from", CHECKPOINT, "--layout", "in-place", answers=answer)
    assert done == code, shown
    assert "this file itself is changed" in shown and "change it? [y/N]" in shown and "1. write a journal" in shown
    assert (model.read_bytes() == Q4.read_bytes()) == (code != 0)
    assert ("nextn: the answer was no, so nothing more was done." in shown) == (code != 0)
    assert "nextn: interrupted" not in shown
