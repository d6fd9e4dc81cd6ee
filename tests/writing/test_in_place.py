"""Whatever stops a change in place, at any call: the file is byte for byte the old or the new one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from changes import NAMES, Case, make_cases, tensors_of
from faults import KILLED, Faults, ShortWrites, content, in_child, listing, places, ranged_disk

import nextn
from conftest import CHECKPOINT, Q4, RANGES, ROOT, need
from nextn.cli import main
from nextn.errors import EXIT_PROBLEMS, ChangeUnfinished, NextnError, NoSpace, StorageError
from nextn.gguf.files import open_model
from nextn.gguf.header import MAGIC
from nextn.writing.journal import SUFFIX
from nextn.writing.recover import recover, unfinished

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


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
    found = cases[request.param]
    assert found.n_calls > 15
    return found


def hot(case: Case) -> bool:
    """Whether a journal lies there."""
    return any(name.endswith(SUFFIX) for name in listing(case.folder))


def loadable(case: Case) -> bool:
    return (case.folder / case.model).read_bytes()[:4] == MAGIC


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eio", "enospc", "before", "after", "torn"])
def test_an_error_or_ctrl_c_at_any_call_ends_with_the_old_or_the_new_file(case: Case, mode: str) -> None:
    """At once: an attach is undone, a detach finished, and no journal is left."""
    seen = set()
    for k in places(case.calls, mode):
        case.reset()
        system = Faults(k, mode)
        try:
            case.run(system)
            done = True
        except (NoSpace, StorageError) as error:
            assert "\n" not in str(error)
            done = False
        except KeyboardInterrupt:
            done = False
        call = system.trace[k - 1][0]
        recover(case.folder, system=Faults())  # what is left of a journal that could not be removed
        state = case.state()
        assert state in ("old", "new"), (k, call, state)
        assert not done or state == "new", (k, call)
        assert not hot(case)
        seen.add(state)
    assert seen == {"old", "new"} or (seen and mode == "torn")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kill", "torn-kill"])
def test_a_kill_at_any_call_ends_with_the_old_or_the_new_file_after_recover(case: Case, mode: str) -> None:
    seen = set()
    for k in places(case.calls, mode):
        entry = case.reset()
        assert in_child(lambda k=k: case.run(Faults(k, mode))) == KILLED
        if hot(case):
            assert unfinished(entry)[0].running is False
        recover(entry, system=Faults())
        assert case.state() in ("old", "new"), k
        seen.add(case.state())
        assert not hot(case)
    assert seen == {"old", "new"} or (seen and mode == "torn-kill")


@pytest.mark.slow
def test_every_shard_leads_to_what_was_interrupted(cases: dict[str, Case]) -> None:
    """Whichever shard is named: inspect reports the journal, recover and the next change end it."""
    case = cases["attach to a set"]
    for k in range(1, case.n_calls + 1):
        entry = case.reset()
        assert in_child(lambda k=k: case.run(Faults(k, "kill"))) == KILLED
        if hot(case) and not loadable(case):
            break
    assert not loadable(case)
    others = [path for path in sorted(case.folder.glob("*.gguf")) if path != entry]
    assert len(others) == 2
    (case.folder / "other-00001-of-00003.gguf").write_bytes(entry.read_bytes())  # another set in the folder
    assert unfinished(case.folder / "other-00001-of-00003.gguf") == []
    for other in others:
        assert [each.files for each in unfinished(other)] == [(entry,)]
        assert main(["inspect", str(other)]) == EXIT_PROBLEMS
    (case.folder / "other-00001-of-00003.gguf").unlink()
    nextn.attach(others[0], case.donor, layout="in-place", dry_run=False)
    assert case.state() == "new"
    nextn.detach(others[1], in_place=True)
    assert case.state() == "old"
    case.reset()
    in_child(lambda: case.run(Faults(k, "kill")))
    assert [each.what for each in recover(others[1], system=Faults())] == ["undone"]
    assert case.state() == "old"


@pytest.mark.slow
def test_a_kill_in_the_recovery_of_a_kill_is_recovered_too(case: Case) -> None:
    """The recovery is killed at its first call, then the next one at its second, and so on until one comes through."""
    n_nested = 0
    for k in range(1, case.n_calls + 1, 3):
        entry = case.reset()
        assert in_child(lambda k=k: case.run(Faults(k, "torn-kill"))) == KILLED
        if not hot(case):
            continue
        for j in range(1, 200):
            code = in_child(lambda entry=entry, j=j: recover(entry, system=Faults(j, "torn-kill")))
            n_nested += code == KILLED
            if code == 0:
                break
            assert code == KILLED
        assert case.state() in ("old", "new"), k
        assert not hot(case)
    assert n_nested > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attach before a tail", "detach before a tail"])
def test_a_kill_at_every_call_of_a_recovery(cases: dict[str, Case], name: str) -> None:
    """From the same kills each time: those before, within and after the call that moves the data."""
    case = cases[name]
    system = Faults()
    case.reset()
    case.run(system)
    calls = [call for call, _ in system.trace]
    move = 1 + calls.index("insert_range" if case.verb == "attach" else "collapse_range")
    for k in (move - 2, move, move + 2, len(calls) - 3):
        for j in range(1, 200):
            entry = case.reset()
            assert in_child(lambda k=k: case.run(Faults(k, "torn-kill"))) == KILLED
            code = in_child(lambda entry=entry, j=j: recover(entry, system=Faults(j, "torn-kill")))
            recover(entry, system=Faults())
            assert case.state() in ("old", "new"), (k, j)
            assert not hot(case)
            if code == 0:
                break
            assert code == KILLED
        assert j > 8


@pytest.mark.slow
def test_a_disk_that_dies_half_way_is_recovered_when_it_works_again(case: Case) -> None:
    """Every call from number k on fails, those that lead back too."""
    n_left = 0
    for k in range(1, case.n_calls + 1):
        entry = case.reset()
        try:
            case.run(Faults(k, "dead"))
        except ChangeUnfinished as error:
            n_left += 1
            assert "nextn recover" in str(error) and "\n" not in str(error)
            assert hot(case)
        except NextnError:
            pass
        recover(entry, system=Faults())
        assert case.state() in ("old", "new"), k
    assert n_left > 5


@pytest.mark.slow
def test_while_a_file_is_neither_no_engine_loads_it(case: Case) -> None:
    """After a kill the first bytes are a GGUF's only when the header describes the data."""
    n_unreadable = 0
    for k in range(1, case.n_calls + 1, 2):
        entry = case.reset()
        old = open_model(entry)
        assert in_child(lambda k=k: case.run(Faults(k, "kill"))) == KILLED
        if not loadable(case):
            n_unreadable += 1
            seen = nextn.inspect(entry)
            assert [finding.id for finding in seen.findings] == ["change-unfinished"]
            assert "nextn recover" in seen.problems[0]
            with pytest.raises(NextnError):
                open_model(entry)
        elif content(case.folder)[case.model] not in (case.old[case.model], case.new[case.model]):
            now = open_model(entry)  # the block is being appended, and the old header does not know it
            assert [(kv.key, kv.raw) for kv in now.kvs] == [(kv.key, kv.raw) for kv in old.kvs], k
            assert tensors_of(now) == tensors_of(old), k
        recover(entry, system=Faults())
    assert n_unreadable


def test_short_writes_and_short_copies_make_the_same_bytes(case: Case) -> None:
    case.reset()
    system = ShortWrites()
    case.run(system)
    assert len(system.trace) > case.n_calls
    assert case.state() == "new"


def test_the_next_change_recovers_by_itself(cases: dict[str, Case]) -> None:
    case = cases["attach"]
    system = Faults()
    case.reset()
    case.run(system)
    at = 1 + next(i for i, (name, _) in enumerate(system.trace) if name == "insert_range")
    entry = case.reset()
    assert in_child(lambda: case.run(Faults(at, "torn-kill"))) == KILLED
    assert hot(case)
    with pytest.raises(ChangeUnfinished, match="nextn recover"):
        nextn.attach(entry, case.donor, layout="in-place", dry_run=True)
    said: list[str] = []
    nextn.attach(entry, case.donor, layout="in-place", say=said.append)
    assert any("undone" in line for line in said)
    assert case.state() == "new"


def nextn_command(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line, with nobody to ask."""
    command = [sys.executable, "-m", "nextn", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


# -- real processes --------------------------------------------------------------------------------------------


def start(*args: str | Path, ms: float) -> subprocess.Popen[str]:
    """The command line on a disk that takes `ms` for each call."""
    return subprocess.Popen(
        [sys.executable, ROOT / "tests" / "support" / "faults.py", str(ms), *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_journal(folder: Path, run: subprocess.Popen[str]) -> None:
    for _ in range(4000):
        if any(name.endswith(SUFFIX) for name in listing(folder)):
            return
        assert run.poll() is None, run.communicate()
        time.sleep(0.005)
    raise AssertionError(listing(folder))


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0.0, 0.15, 0.4])
def test_sigkill_of_a_real_run_and_recover_on_the_command_line(disk: Path, tmp_path: Path, wait_s: float) -> None:
    folder = disk / f"kill-{wait_s}"
    folder.mkdir()
    model = Path(shutil.copy(Q4, folder))
    before = model.read_bytes()
    run = start("attach", model, "--from", CHECKPOINT, "--layout", "in-place", "--yes", ms=60)
    wait_for_journal(folder, run)
    run.send_signal(signal.SIGSTOP)
    busy = nextn_command("inspect", model)
    assert busy.returncode == EXIT_PROBLEMS and "another run of nextn is changing this file" in busy.stdout
    second = nextn_command("attach", model, "--from", CHECKPOINT, "--layout", "in-place", "--yes")
    assert second.returncode == StorageError.exit_code and "another run of nextn" in second.stderr
    run.send_signal(signal.SIGCONT)
    time.sleep(wait_s)
    run.kill()
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    for verb in ("inspect", "doctor"):
        seen = nextn_command(verb, model)
        assert seen.returncode == EXIT_PROBLEMS and "nextn recover" in seen.stdout
    done = nextn_command("recover", model)
    assert done.returncode == 0 and "undone" in done.stderr
    assert model.read_bytes() == before
    assert listing(folder) == [model.name]


def test_two_runs_at_once_have_one_winner(disk: Path) -> None:
    folder = disk / "two"
    folder.mkdir()
    model = Path(shutil.copy(Q4, folder))
    runs = [start("attach", model, "--from", CHECKPOINT, "--layout", "in-place", "--yes", ms=10) for _ in range(2)]
    ends = [run.communicate(timeout=120) for run in runs]
    codes = sorted(run.returncode for run in runs)
    assert codes[0] == 0 and codes[1] in (14, 22, 24, 25), (codes, ends)
    assert nextn.inspect(model).problems == ()
    nextn.detach(model, in_place=True)
    assert model.read_bytes() == Q4.read_bytes()
    assert listing(folder) == [model.name]


def test_ctrl_c_while_the_block_is_appended_gives_the_old_file(disk: Path) -> None:
    folder = disk / "ctrl-c"
    folder.mkdir()
    model = Path(shutil.copy(Q4, folder))
    run = start("attach", model, "--from", CHECKPOINT, "--layout", "in-place", "--yes", ms=60)
    wait_for_journal(folder, run)
    time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and "interrupted" in err
    assert model.read_bytes() == Q4.read_bytes()
    assert listing(folder) == [model.name]
