"""Folders that somebody else filled: no working file is ever taken from a link, and no user's file is touched."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import Faults, listing
from hub_server import HubServer
from opened import open_donor

import nextn
from conftest import CHECKPOINT, Q4
from nextn import workfile
from nextn.errors import StorageError
from nextn.gguf.files import open_model
from nextn.layouts.attach import plan_attach
from nextn.layouts.options import AttachOptions
from nextn.workfile import At, Folder, NotOurs, Stamp
from nextn.writing.durable import Workspace
from nextn.writing.execute import execute
from nextn.writing.leftovers import JOB_SUFFIX, SUFFIX, clean

NAME = "x-Q4_K_M.gguf"
PRECIOUS = b"precious " * 1000
NOBODY = 65534
Run = Callable[..., "subprocess.CompletedProcess[str]"]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of other users")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(PRECIOUS)
    return path


@pytest.fixture
def commit(hub: HubServer) -> str:
    return hub.repo("me/x").commit({NAME: Q4.read_bytes()})


@pytest.fixture
def pull(run_nextn: Run, commit: str, tmp_path: Path) -> Callable[[], subprocess.CompletedProcess[str]]:
    return lambda: run_nextn("pull", "me/x", "--variant", "plain", "-o", tmp_path / "out")


def plant(kind: str, path: Path, victim: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "symlink":
        path.symlink_to(victim)
    elif kind == "relative":
        path.symlink_to(os.path.relpath(victim, path.parent))
    elif kind == "dangling":
        path.symlink_to(victim.with_name("not-there"))
    elif kind == "hard link":
        path.hardlink_to(victim)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the whole path may be too long for a socket
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
        os.chdir(here)
    elif kind == "other user":
        path.write_bytes(b"")
        os.chown(path, NOBODY, NOBODY)


KINDS = ("symlink", "relative", "dangling", "hard link", "folder", "pipe", "socket")
WORDS = dict.fromkeys(KINDS[:3], "symbolic link") | {
    "hard link": "2 names", "folder": "a folder", "pipe": "a pipe", "socket": "a socket", "other user": "another user",
}  # fmt: skip


# -- downloads --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["part", "extents"])
@pytest.mark.parametrize("kind", [*KINDS, pytest.param("other user", marks=as_root)])
def test_pull_into_a_folder_out_of_an_archive(
    pull: Run, commit: str, tmp_path: Path, victim: Path, suffix: str, kind: str
) -> None:
    planted = tmp_path / "out" / ".nextn-pull" / commit / f".{NAME}.nextn-{suffix}"
    plant(kind, planted, victim)
    done = pull()
    assert done.returncode == StorageError.exit_code
    assert str(planted) in done.stderr and WORDS[kind] in done.stderr and "remove it" in done.stderr
    assert victim.read_bytes() == PRECIOUS and not victim.with_name("not-there").exists()
    assert not os.path.lexists(tmp_path / "out" / NAME)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["symlink", "relative", "dangling"])
def test_pull_replaces_a_link_under_the_name_of_a_download(
    pull: Run, commit: str, tmp_path: Path, victim: Path, kind: str
) -> None:
    plant(kind, tmp_path / "out" / ".nextn-pull" / commit / NAME, victim)
    done = pull()
    assert done.returncode == 0, done.stderr
    assert victim.read_bytes() == PRECIOUS
    made = tmp_path / "out" / NAME
    assert not made.is_symlink() and made.read_bytes() == Q4.read_bytes()
    assert listing(tmp_path / "out") == [NAME]


@pytest.mark.slow
@pytest.mark.parametrize("level", [0, 1])
def test_pull_through_a_folder_that_is_a_link(pull: Run, commit: str, tmp_path: Path, level: int) -> None:
    there = tmp_path / "elsewhere"
    there.mkdir()
    (there / "keep").write_text("x")
    planted = (tmp_path / "out" / ".nextn-pull" / commit).parents[0] if level == 0 else (
        tmp_path / "out" / ".nextn-pull" / commit
    )  # fmt: skip
    planted.parent.mkdir(parents=True)
    planted.symlink_to(there)
    done = pull()
    assert done.returncode == StorageError.exit_code and f"{planted}: this is a symbolic link" in done.stderr
    assert listing(there) == ["keep"]


@as_root
def test_pull_through_a_folder_of_another_user(pull: Run, tmp_path: Path) -> None:
    (tmp_path / "out" / ".nextn-pull").mkdir(parents=True)
    os.chown(tmp_path / "out" / ".nextn-pull", NOBODY, NOBODY)
    done = pull()
    assert done.returncode == StorageError.exit_code and "a folder of another user" in done.stderr


@pytest.mark.slow
def test_after_removing_what_was_planted_the_download_works(
    pull: Run, commit: str, tmp_path: Path, victim: Path
) -> None:
    planted = tmp_path / "out" / ".nextn-pull" / commit / f".{NAME}.nextn-part"
    plant("symlink", planted, victim)
    assert pull().returncode == StorageError.exit_code
    planted.unlink()
    assert pull().returncode == 0
    assert listing(tmp_path / "out") == [NAME]


@pytest.mark.slow
@pytest.mark.parametrize("name", [".model.safetensors.nextn-part", ".model.safetensors.nextn-extents"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_donor_through_a_cache_that_was_filled(
    hub: HubServer, run_nextn: Run, tmp_path: Path, victim: Path, name: str, kind: str
) -> None:
    commit = hub.add_folder("org/mtp", CHECKPOINT)
    plant(kind, tmp_path / "own" / "hub" / "models--org--mtp" / commit / "mtp" / name, victim)
    done = run_nextn("attach", Q4, "--from", "org/mtp", "-o", tmp_path / "out")
    assert done.returncode == StorageError.exit_code and WORDS[kind] in done.stderr, done.stderr
    assert victim.read_bytes() == PRECIOUS
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("at", ["hub", "hub/models--org--mtp", "hub/models--org--mtp/COMMIT",
                                "hub/models--org--mtp/COMMIT/mtp"])  # fmt: skip
def test_a_cache_with_a_folder_that_is_a_link(
    hub: HubServer, run_nextn: Run, tmp_path: Path, at: str
) -> None:
    commit = hub.add_folder("org/mtp", CHECKPOINT)
    there = tmp_path / "elsewhere"
    (there / "keep").mkdir(parents=True)
    planted = tmp_path / "own" / at.replace("COMMIT", commit)
    planted.parent.mkdir(parents=True)
    planted.symlink_to(there)
    done = run_nextn("attach", Q4, "--from", "org/mtp", "-o", tmp_path / "out")
    assert done.returncode == StorageError.exit_code and "this is a symbolic link" in done.stderr, done.stderr
    assert listing(there) == ["keep"]
    assert run_nextn("cache", "--clear").returncode == 0  # removes nothing through the link either
    assert listing(there) == ["keep"]


def test_a_weight_file_planted_as_a_link_is_fetched(
    hub: HubServer, run_nextn: Run, tmp_path: Path, victim: Path
) -> None:
    commit = hub.add_folder("org/mtp", CHECKPOINT)
    plant("symlink", tmp_path / "own" / "hub" / "models--org--mtp" / commit / "mtp" / "model.safetensors", victim)
    done = run_nextn("attach", Q4, "--from", "org/mtp", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert victim.read_bytes() == PRECIOUS


def test_a_file_that_the_server_does_not_have_is_not_taken_from_the_cache(
    hub: HubServer, run_nextn: Run, tmp_path: Path
) -> None:
    """What was planted under such a name would pass for the repository's own."""
    files = {path.name: path.read_bytes() for path in CHECKPOINT.iterdir() if path.name != "generation_config.json"}
    commit = hub.repo("org/mtp").commit(files)
    home = tmp_path / "own" / "hub" / "models--org--mtp" / commit / "mtp"
    home.mkdir(parents=True)
    (home / "model.safetensors.index.json").write_text("[")
    done = run_nextn("inspect", "org/mtp")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_user_may_put_the_whole_cache_elsewhere(hub: HubServer, run_nextn: Run, tmp_path: Path) -> None:
    hub.add_folder("org/mtp", CHECKPOINT)
    (tmp_path / "disk").mkdir()
    (tmp_path / "own").symlink_to(tmp_path / "disk")
    done = run_nextn("attach", Q4, "--from", "org/mtp", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "disk" / "hub").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_the_cache_is_private(hub: HubServer, run_nextn: Run, tmp_path: Path, old: bool) -> None:
    """Also one that was made with other modes."""
    commit = hub.add_folder("org/mtp", CHECKPOINT)
    root = tmp_path / "own"
    if old:
        (root / "hub" / "models--org--mtp" / commit / "mtp").mkdir(parents=True)
    mask = os.umask(0)
    try:
        assert run_nextn("attach", Q4, "--from", "org/mtp", "-o", tmp_path / "out").returncode == 0
    finally:
        os.umask(mask)
    folders = [path for path in (root, *root.rglob("*")) if path.is_dir()]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folders if not (old and path == root)}
    assert len(folders) >= 5 and modes == {0o700}


# -- a note beside somebody's model ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["symlink", "pipe", "folder", "huge"])
def test_a_note_that_is_none_is_refused(tmp_path: Path, victim: Path, run_nextn: Run, kind: str) -> None:
    """Without waiting for a pipe, and without reading a terabyte."""
    model = Path(shutil.copy(Q4, tmp_path / NAME))
    note = tmp_path / f".{NAME}.nextn-extents"
    if kind == "huge":
        note.touch()
        os.truncate(note, 1 << 40)
    else:
        plant(kind, note, victim)
    done = run_nextn("attach", model, "--from", CHECKPOINT, "-o", tmp_path / "out")
    assert done.returncode == StorageError.exit_code and str(note) in done.stderr, done.stderr


# -- outputs ----------------------------------------------------------------------------------------------------------


class Swapping(Faults):
    """Does something to the temporary file when call `call` comes for the `at`-th time."""

    def __init__(self, swap: Callable[[Path], None], folder: Path, call: str = "link", nth: int = 1) -> None:
        super().__init__()
        self.swap, self.folder, self.call, self.left = swap, folder, call, nth

    def step(self, name: str, args: tuple[Any, ...]) -> Any:
        if name == self.call:
            self.left -= 1
            if self.left == 0:
                self.swap(next(path for path in self.folder.iterdir() if path.name.endswith(SUFFIX)))
        return super().step(name, args)


def swaps(victim: Path) -> dict[str, Callable[[Path], None]]:
    def again(path: Path, make: Callable[[Path], object]) -> None:
        path.unlink()
        make(path)

    return {
        "symlink": lambda temp: again(temp, lambda path: path.symlink_to(victim)),
        "hard link": lambda temp: again(temp, lambda path: path.hardlink_to(victim)),
        "other file": lambda temp: again(temp, lambda path: path.write_bytes(b"theirs")),
        "gone": lambda temp: temp.unlink(),
        "cut": lambda temp: os.truncate(temp, 100),
        "longer": lambda temp: os.truncate(temp, 1 << 30),
    }


@pytest.mark.parametrize("call", ["link", "fsync"])
@pytest.mark.parametrize("how", ["symlink", "hard link", "other file", "gone", "cut", "longer"])
def test_a_temporary_file_that_was_swapped_is_never_published(
    tmp_path: Path, victim: Path, how: str, call: str
) -> None:
    """Just before it gets its name, and before it is synced."""

    out = tmp_path / "out"
    plan = plan_attach(open_model(Q4), open_donor(CHECKPOINT), AttachOptions("bundle", out=out / "made.gguf"))
    with pytest.raises(StorageError, match=r"removed or replaced|was truncated or|No such file"):
        execute(plan, system=Swapping(swaps(victim)[how], out, call))
    assert victim.read_bytes() == PRECIOUS
    assert not os.path.lexists(out / "made.gguf")


def test_where_there_are_no_hard_links_a_swap_is_noticed_too(tmp_path: Path, victim: Path) -> None:
    class NoLinks(Swapping):
        def step(self, name: str, args: tuple[Any, ...]) -> Any:
            if name == "link":
                raise PermissionError(1, "not permitted")
            return super().step(name, args)

    folder = tmp_path / "out"
    with (
        pytest.raises(NotOurs, match="removed or replaced"),
        Workspace(folder, NoLinks(swaps(victim)["symlink"], folder, "rename")) as space,
    ):
        temp, _ = space.new_file("made.gguf")
        space.publish(temp, "made.gguf", 0)
    assert victim.read_bytes() == PRECIOUS and not os.path.lexists(folder / "made.gguf")


@pytest.mark.parametrize("how", ["moved", "replaced", "linked"])
def test_an_output_folder_that_was_moved_gets_nothing(tmp_path: Path, victim: Path, how: str) -> None:

    out, other = tmp_path / "out", tmp_path / "other"
    plan = plan_attach(open_model(Q4), open_donor(CHECKPOINT), AttachOptions("bundle", out=out / "made.gguf"))

    def move(temp: Path) -> None:
        out.rename(other)
        if how == "replaced":
            out.mkdir()
        if how == "linked":
            (tmp_path / "home").mkdir()
            out.symlink_to(tmp_path / "home")

    with pytest.raises(StorageError, match="moved or replaced"):
        execute(plan, system=Swapping(move, out))
    assert listing(other) == [] and listing(out) == []


def test_what_was_staged_and_then_changed_is_not_adopted(tmp_path: Path, victim: Path) -> None:
    folder, staged = tmp_path / "out", tmp_path / "staged"
    staged.write_bytes(b"whole")
    stamp = Stamp.of(staged.lstat())
    staged.unlink()
    staged.symlink_to(victim)
    with pytest.raises(StorageError, match="changed or replaced"), Workspace(folder) as space:
        space.adopt(staged, NAME, stamp)
    assert not folder.exists() and victim.read_bytes() == PRECIOUS


# -- leftovers and job notes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["symlink", "folder", "pipe", "socket", pytest.param("other user", marks=as_root)])
@pytest.mark.parametrize("suffix", [SUFFIX, JOB_SUFFIX])
def test_what_only_looks_like_a_leftover_stays(tmp_path: Path, victim: Path, suffix: str, kind: str) -> None:
    folder = tmp_path / "out"
    plant(kind, folder / f".a.0123{suffix}", victim)
    assert clean(folder) == []
    assert listing(folder) == [f".a.0123{suffix}"] and victim.read_bytes() == PRECIOUS


def leave_note(folder: Path, names: dict[str, object], name: str = ".0123") -> Path:
    path = folder / f"{name}{JOB_SUFFIX}"
    path.write_text(json.dumps({"version": 1, "names": names}))
    return path


def mark(path: Path, source: str | None = None) -> list[object]:
    found = path.stat()
    return [found.st_ino, found.st_size, found.st_mtime_ns, source]


def test_a_job_note_cannot_name_a_link_of_the_user(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "keep.gguf").symlink_to(victim)
    leave_note(tmp_path, {"keep.gguf": [0, 0, 0, str(victim)], "zz": [0, 0, 0, None]})
    clean(tmp_path)
    assert (tmp_path / "keep.gguf").is_symlink()


@as_root
def test_a_job_note_of_another_user_is_not_followed(tmp_path: Path, victim: Path) -> None:
    note = leave_note(tmp_path, {"victim": mark(victim), "zz": [0, 0, 0, None]})
    os.chown(note, NOBODY, NOBODY)
    clean(tmp_path)
    assert victim.exists() and note.exists()
    os.chown(note, 0, 0)
    clean(tmp_path)
    assert not victim.exists() and not note.exists()  # one of our own is


@pytest.mark.parametrize(
    "note",
    [b'{"names":' + b"[" * 200_000, b"[]", b'{"names":[]}', b'{"names":{"a":5}}', b"\xff\xfe\x00",
     b'{"names":{"a":[' + b"9" * 5000 + b',1,1,null]}}', *(
         json.dumps({"names": {name: [1, 2, 3, None], "zz": [1, 2, 3, None]}}).encode()
         for name in ("..", ".", "", "a\0b", "a" * 5000, "\ud800", "../victim")
     ), json.dumps({"names": {"a": [True, 2, 3, None]}}).encode(),
     json.dumps({"names": {"a": [1, 2, 3, "b\0c"]}}).encode()],
)  # fmt: skip
def test_a_damaged_job_note_stops_nothing(tmp_path: Path, note: bytes) -> None:
    (tmp_path / f".x{JOB_SUFFIX}").write_bytes(note)
    (tmp_path / "keep").write_text("x")
    clean(tmp_path)
    assert listing(tmp_path) == ["keep"]


# -- the module itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("descriptors", [True, False])
def test_without_descriptors_of_folders_the_checks_are_the_same(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, descriptors: bool
) -> None:
    monkeypatch.setattr(workfile, "HAS_DESCRIPTORS", descriptors)
    if not descriptors:
        monkeypatch.setattr(workfile, "_FLAGS", workfile._FLAGS & ~os.O_NOFOLLOW)
        monkeypatch.setattr("nextn.oscalls.NOFOLLOW", 0)
    with Folder.private(tmp_path / "root", ("a", "b"), make=True) as folder:
        fd = folder.open_or_create("file")
        os.write(fd, b"data")
        os.close(fd)
        assert folder.read("file", 10) == b"data"
        folder.write("file", b"more")
        assert folder.read("file", 10) == b"more" and folder.names() == ["file"]
        folder.symlink(victim, "link")
        folder.link("file", At(folder, "second"))
        for name, words in (("link", "symbolic link"), ("file", "2 names"), ("second", "2 names")):
            with pytest.raises(NotOurs, match=words):
                folder.open(name)
        for name in ("../escape", "..", ".", "", "a\0b"):
            with pytest.raises(OSError, match="not a file name"):
                folder.create(name)
        assert folder.is_in_place()
    (tmp_path / "root" / "c").symlink_to(tmp_path)
    with pytest.raises(NotOurs, match="symbolic link"):
        Folder.private(tmp_path / "root", ("c",), make=True)
    assert stat.S_IMODE((tmp_path / "root" / "a").stat().st_mode) == 0o700


def test_a_file_system_that_gives_files_another_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems do: what is made there counts as ours, and nothing is left behind."""
    with Folder.private(tmp_path, ("a",), make=True) as folder:
        os.close(folder.open_or_create("file"))
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
        os.close(folder.open("file"))
        assert folder.names() == ["file"]


def test_a_small_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with Folder.private(tmp_path, ("a",), make=True) as folder:
        folder.write("file", b"12345")
        with pytest.raises(NotOurs, match="5 bytes, more than the maximum of 4"):
            folder.read("file", 4)


def test_pull_works_where_folders_have_no_descriptors(
    hub: HubServer, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workfile, "HAS_DESCRIPTORS", False)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + template)
    monkeypatch.setenv("NEXTN_CACHE", str(tmp_path / "own"))
    nextn.pull("me/x", out=tmp_path / "out", variant="plain")
    assert listing(tmp_path / "out") == [NAME]
