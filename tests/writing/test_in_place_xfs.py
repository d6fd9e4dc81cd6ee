"""Changes in place on XFS, in blocks of both sizes; tried where XFS can be made and mounted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from changes import NAMES, Case, make_cases
from faults import KILLED, Faults, in_child, loop_disk, memory_folder

import nextn
from conftest import CHECKPOINT, Q4, XFS, need
from nextn.gguf.files import open_model
from nextn.writing.ranges import collapse_range, grain_of, insert_range
from nextn.writing.recover import recover

BLOCKS = (1024, 4096)


pytestmark = pytest.mark.usefixtures("used_by_nobody")


@pytest.fixture(scope="module", params=BLOCKS)
def xfs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on an XFS whose blocks have `params` bytes."""
    with (
        memory_folder(tmp_path_factory.mktemp("xfs")) as place,
        loop_disk("xfs", place / "image", "512M", "-b", f"size={request.param}") as mounted,
    ):
        need(XFS, mounted is not None)
        assert mounted is not None
        assert os.statvfs(mounted).f_frsize == request.param
        yield mounted


@pytest.fixture(scope="module")
def cases(xfs: Path, checkpoints: Callable[[str], Path]) -> dict[str, Case]:
    return make_cases(xfs, checkpoints)


def test_ranges_are_whole_blocks(xfs: Path) -> None:
    """The grain that is found is the least that the file system takes."""
    grain = grain_of(xfs)
    assert grain == os.statvfs(xfs).f_frsize
    path = xfs / "file"
    path.write_bytes(b"start" + bytes(3 * grain) + b"end")
    with path.open("r+b") as file:
        with pytest.raises(OSError, match="Invalid argument"):
            insert_range(file.fileno(), 0, grain // 2)
        insert_range(file.fileno(), 0, grain)
        assert path.read_bytes() == bytes(grain) + b"start" + bytes(3 * grain) + b"end"
        collapse_range(file.fileno(), 0, grain)
    assert path.read_bytes() == b"start" + bytes(3 * grain) + b"end"


def test_a_detach_gives_back_the_very_bytes(xfs: Path) -> None:
    model = Path(shutil.copy(Q4, xfs / "m.gguf"))
    made = nextn.attach(model, CHECKPOINT, layout="in-place")
    (change,) = made.plan.changes
    assert change.room and change.room % os.statvfs(xfs).f_frsize == 0
    assert open_model(model).arch_int("nextn_predict_layers") == 1
    assert model.stat().st_blocks * 512 < model.stat().st_size + (1 << 20)
    nextn.detach(model, in_place=True)
    assert model.read_bytes() == Q4.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_any_call_ends_with_the_old_or_the_new_file(cases: dict[str, Case], name: str) -> None:
    """A move that is stopped is left half done, as a power cut leaves it."""
    case, seen = cases[name], set()
    for k in range(1, case.n_calls + 1):
        entry = case.reset()
        assert in_child(lambda k=k: case.run(Faults(k, "torn-kill"))) == KILLED
        recover(entry, system=Faults())
        assert case.state() in ("old", "new"), k
        seen.add(case.state())
    assert seen == {"old", "new"}
