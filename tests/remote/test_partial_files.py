"""Partial files: what is noted is there, what is not noted is a hole, and nothing damaged is ever used."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from conftest import ROOT
from nextn.cli.cache import command
from nextn.errors import NoSpace, StorageError
from nextn.partial import Identity, gaps, guard_of, merged, note_of, refuse_partial
from nextn.remote.cache import PartialFile, cache_root
from nextn.remote.cache_entries import clear, entries
from nextn.workfile import Folder

DATA = random.Random(1).randbytes(300_000)
WHO = Identity("hf:org/name@abc:x.gguf", len(DATA), "etag")


def partial_file(path: Path, who: Identity = WHO) -> PartialFile:
    return PartialFile(Folder.private(path.parents[1], (path.parent.name,), make=True), path.name, who)


def put(file: PartialFile, start: int, end: int) -> None:
    file.write(start, DATA[start:end])
    file.note(start, end, zlib.crc32(DATA[start:end]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "models--org--name" / ("a" * 40) / "name" / "x.gguf"


def made(path: Path, *ranges: tuple[int, int]) -> None:
    file = partial_file(path)
    for start, end in ranges:
        put(file, start, end)
    file.publish()
    file.close()


def missing(path: Path, who: Identity = WHO) -> list[tuple[int, int]]:
    file = partial_file(path, who)
    try:
        return file.missing(0, who.size_bytes)
    finally:
        file.close()


def test_ranges() -> None:
    assert merged([(5, 9), (0, 3), (3, 4), (8, 12), (20, 20)]) == [(0, 4), (5, 12)]
    assert gaps([(0, 4), (5, 12)], 0, 15) == [(4, 5), (12, 15)]
    assert gaps([(0, 4), (5, 12)], 6, 10) == []
    assert gaps([], 3, 4) == [(3, 4)]
    assert gaps([(10, 20)], 0, 5) == [(0, 5)]


def test_random_ranges_against_a_bitmap() -> None:
    dice = random.Random(2)
    for _ in range(200):
        some = [(start, start + dice.randrange(9)) for start in (dice.randrange(60) for _ in range(dice.randrange(8)))]
        there = {i for start, end in some for i in range(start, end)}
        low = dice.randrange(60)
        high = low + dice.randrange(1, 20)
        holes = {i for start, end in gaps(merged(some), low, high) for i in range(start, end)}
        assert holes == set(range(low, high)) - there


def test_what_was_noted_is_there_next_time(path: Path) -> None:
    made(path, (0, 1000), (5000, 9000), (9000, 10_000))
    assert missing(path) == [(1000, 5000), (10_000, len(DATA))]
    assert path.stat().st_size == len(DATA)
    assert path.stat().st_blocks * 512 < len(DATA)


def test_it_has_no_name_before_its_header_is_there(path: Path) -> None:
    file = partial_file(path)
    put(file, 0, 10)
    assert not path.exists() and file.content_path.exists()
    file.close()
    assert missing(path)[0] == (10, len(DATA))
    file = partial_file(path)
    file.publish()
    file.publish()
    assert path.exists() and file.content_path == path
    file.close()


def test_bytes_without_a_note_are_a_hole(path: Path) -> None:
    file = partial_file(path)
    file.write(0, DATA[:1000])
    file.publish()
    file.close()
    assert missing(path) == [(0, len(DATA))]


@pytest.mark.parametrize("lost", range(1, 40, 3))
def test_a_torn_note_loses_its_last_range_at_most(path: Path, lost: int) -> None:
    made(path, (0, 1000), (5000, 9000))
    note = note_of(path)
    note.write_bytes(note.read_bytes()[:-lost])
    left = missing(path)
    assert left in ([(1000, 5000), (9000, len(DATA))], [(1000, len(DATA))], [(0, len(DATA))])
    file = partial_file(path)
    put(file, 1000, 2000)  # appended behind the torn line
    file.close()
    assert (1000, 2000) not in missing(path) and missing(path)[0][0] >= 0
    assert gaps(missing(path), 1000, 2000) == [(1000, 2000)]


def test_any_damaged_byte_of_a_note_adds_no_range(path: Path) -> None:
    made(path, (0, 1000), (5000, 9000))
    note = note_of(path)
    whole = note.read_bytes()
    for at in range(0, len(whole), 3):
        note.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        left = missing(path)
        assert gaps(left, 1000, 5000) == [] == gaps(left, 9000, len(DATA))
        made(path, (0, 1000), (5000, 9000))


def test_damaged_data_is_fetched_again(path: Path) -> None:
    made(path, (0, 1000), (5000, 9000))
    with path.open("r+b") as file:
        file.seek(6000)
        file.write(b"\0")
    assert missing(path) == [(1000, len(DATA))]
    assert missing(path) == [(1000, len(DATA))]


def test_data_that_was_cut_off_is_fetched_again(path: Path) -> None:
    made(path, (0, 1000), (5000, 9000))
    os.truncate(path, 6000)
    assert missing(path) == [(1000, len(DATA))]
    path.unlink()
    assert missing(path) == [(0, len(DATA))]


@pytest.mark.parametrize(
    "other",
    [Identity(WHO.origin, WHO.size_bytes, "new"), Identity(WHO.origin, 5, "etag"), Identity("x", len(DATA), "etag")],
)
def test_another_version_starts_anew(path: Path, other: Identity) -> None:
    made(path, (0, 1000))
    assert missing(path, other) == [(0, other.size_bytes)]
    assert missing(path) == [(0, len(DATA))]


def test_two_runs_at_once_add_up(path: Path) -> None:
    one, two = partial_file(path), partial_file(path)
    put(one, 0, 1000)
    put(two, 500, 2000)
    put(one, 4000, 5000)
    one.publish()
    two.publish()
    one.close()
    two.close()
    assert missing(path) == [(2000, 4000), (5000, len(DATA))]


def test_guard(path: Path, tmp_path: Path) -> None:
    made(path, (0, 1000), (5000, 9000))
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    for each in (path, link):
        guard = guard_of(each)
        assert guard is not None
        guard.check(5000, 9000)
        guard.check(10, 20)
        with pytest.raises(StorageError, match="bytes 1,000 to 5,000 were never fetched"):
            guard.check(900, 5100)
        with pytest.raises(StorageError, match="only parts"):
            refuse_partial(each)
    made(path, (0, len(DATA)))
    refuse_partial(path)


def test_a_full_disk_is_one_sentence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = partial_file(path)

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nextn.oscalls.pwrite", full)
    with pytest.raises(NoSpace, match="nextn cache --clear"):
        put(file, 0, 10)
    file.close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        partial_file(tmp_path / "file" / "x.gguf")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NEXTN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "nextn"
    monkeypatch.setenv("NEXTN_CACHE", "~/mine")
    assert cache_root() == Path.home() / "mine"
    monkeypatch.delenv("NEXTN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "nextn"


def test_entries_and_clearing(path: Path, tmp_path: Path) -> None:
    made(path, (0, 100_000))
    web = tmp_path / "http" / "host--0123" / "files" / "y.gguf"
    file = partial_file(web, Identity("https://host/y.gguf", 1000, ""))
    file.close()
    found = entries(tmp_path)
    assert [entry.name for entry in found] == ["hf:org/name@" + "a" * 40, "https://host/y.gguf"]
    assert found[0].size_bytes >= 100_000
    freed, left = clear(found)
    assert freed == sum(entry.size_bytes for entry in found) and left == []
    assert entries(tmp_path) == [] and not path.exists()


def test_what_is_in_use_is_not_cleared(path: Path, tmp_path: Path) -> None:
    file = partial_file(path)
    put(file, 0, 10)
    script = (
        "import sys; from pathlib import Path\n"
        "from nextn.remote.cache import *\nfrom nextn.remote.cache_entries import *\n"
        "print(len(clear(entries(Path(sys.argv[1])))[1]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert note_of(path).exists()
    file.close()
    assert clear(entries(tmp_path))[1] == []


def test_a_killed_run_leaves_what_it_noted(path: Path) -> None:
    script = (
        "import os, sys; sys.path[:0] = sys.argv[1].split(os.pathsep)\nfrom test_partial_files import *\n"
        "file = partial_file(Path(sys.argv[2]))\nput(file, 0, 1000)\nfile.write(1000, DATA[1000:2000])\n"
        "os.kill(os.getpid(), 9)"
    )
    here = os.pathsep.join(str(ROOT / "tests" / part) for part in ("remote", "support", ""))
    done = subprocess.run([sys.executable, "-c", script, here, str(path)], timeout=60, capture_output=True)
    assert done.returncode == -9
    assert missing(path) == [(1000, len(DATA))]


def test_the_verb(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("NEXTN_CACHE", str(tmp_path))

    def call(*args: str) -> tuple[str, str]:
        command.main(list(args), standalone_mode=False)
        done = capsys.readouterr()
        return done.out, done.err

    assert call()[1] == f"nothing is kept in {tmp_path}\n"
    made(path, (0, 100_000))
    out, err = call()
    assert "hf:org/name@" in out and "nextn cache --clear" in err
    assert call("other")[1] == f"nothing is kept in {tmp_path} of that name\n"
    data = json.loads(call("--json", "org/name")[0])
    assert data["entries"][0]["size_bytes"] >= 100_000 and data["folder"] == str(tmp_path)
    assert "freed" in call("--clear")[1]
    assert json.loads(call("--json")[0])["entries"] == []
    assert not path.parent.parent.exists()
    shutil.rmtree(tmp_path)
    assert call("--clear")[0] == ""
