"""In place: what is planned, that a detach gives the file back byte for byte, what it costs, and what engines say."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from changes import TAIL, foreign, foreign_set, padded, tensors_of
from faults import content, giant, listing, ranged_disk, small_disk
from opened import open_donor

import nextn
from conftest import CHECKPOINT, Q4, RANGES, TRUNKS, mounted, need
from nextn.block.anatomy import Anatomy
from nextn.engines import find_engine
from nextn.engines.base import Launch
from nextn.errors import EngineRefused, InPlaceRefused, NoBlock, UsageError
from nextn.gguf.files import Model, open_model
from nextn.gguf.header import build_header, header_size, pad_to
from nextn.gguf.kv import KV
from nextn.gguf.tensors import TensorInfo
from nextn.layouts import in_place_detach, metadata
from nextn.layouts.attach import plan_attach
from nextn.layouts.detach import trunk_of
from nextn.layouts.options import AttachOptions, Room, least_room
from nextn.writing.ranges import grain_of

PROMPTS = ["def read(self):\n", "import os\n\ndef walk(path):\n    for name in os.listdir(path):\n"]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that inserts ranges."""
    with ranged_disk(tmp_path / "here") as found:
        need(RANGES, found is not None)
        assert found is not None
        yield found


def whole(model: Model) -> dict[str, bytes]:
    return {info.name: data for info, data in tensors_of(model)}


def test_the_block_is_what_a_bundle_holds_and_the_trunk_is_as_it_was(here: Path) -> None:
    model = Path(shutil.copy(Q4, here / "m.gguf"))
    before = whole(open_model(model))
    made = nextn.attach(model, CHECKPOINT, layout="in-place")
    bundle = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=here / "bundle.gguf")
    assert made.entry == model and made.files == (model,)
    now = whole(open_model(model))
    assert now == whole(open_model(bundle.entry))
    assert {name: now[name] for name in before} == before
    assert nextn.inspect(model).problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "padded", "tail", "long tail", "no padding at the end", "own keys"])
@pytest.mark.parametrize("alignment", [32, 8192])
def test_a_detach_gives_back_the_very_bytes(here: Path, kind: str, alignment: int) -> None:
    from changes import write_model

    from nextn.gguf.kv import KVType
    from nextn.gguf.kv_table import edit

    source = open_model(Q4)
    kvs = edit(source.kvs, put=[KV.make("general.alignment", KVType.UINT32, alignment)])
    if kind == "own keys":
        kvs = [KV.make("nextn.donor", KVType.STRING, "an older one"), *kvs, metadata.padding_kv(777)]
    if kind == "padded":
        kvs = [*kvs, metadata.padding_kv(3 * 8192)]
    tail = {"tail": TAIL, "long tail": TAIL * 2000}.get(kind, b"")
    model = write_model(here / "m.gguf", kvs, tensors_of(source), tail)
    if kind == "no padding at the end":
        last = max(file.tensor_range(info)[1] for file in open_model(model).files for info in file.header.tensors)
        os.truncate(model, last)
    before = model.read_bytes()
    made = nextn.attach(model, CHECKPOINT, layout="in-place")
    opened = open_model(model)
    assert opened.header.data_offset % alignment == 0
    assert [infos.offset % alignment for infos in opened.header.tensors] == [0] * len(opened.header.tensors)
    assert made.plan.changes[0].room % max(alignment, grain_of(here) or 0) == 0
    assert (made.plan.changes[0].room == 0) == (kind == "padded")
    assert model.stat().st_size == made.plan.changes[0].size_after
    assert nextn.inspect(model).problems == ()
    nextn.detach(model, in_place=True)
    assert model.read_bytes() == before
    assert [name for name in listing(here) if name != "lost+found"] == ["m.gguf"]


def test_a_set_is_changed_in_its_first_file_only(here: Path, checkpoints: Callable[[str], Path]) -> None:
    donor = checkpoints("qwen35moe-fused-bf16")
    for name in ("kv-first", "tensors-first"):
        folder = Path(shutil.copytree(TRUNKS / name, here / name))
        before = content(folder)
        made = nextn.attach(folder, donor, layout="in-place")
        after = content(folder)
        assert {each for each in after if after[each] != before[each]} == {made.entry.name}
        model = open_model(folder)
        assert Anatomy.of(model).blocks and nextn.inspect(folder).problems == ()
        assert model.header.get("split.tensors.count") == len(model.tensors)
        out = nextn.detach(folder, out=here / f"{name}-trunk")
        assert len(open_model(out.entry).tensors) == len(open_model(TRUNKS / name).tensors)
        nextn.detach(folder, in_place=True)
        assert content(folder) == before


def test_a_first_shard_without_tensors_grows_on_any_file_system(
    tmp_path: Path, checkpoints: Callable[[str], Path]
) -> None:
    donor = checkpoints("qwen35moe-fused-bf16")
    with small_disk(tmp_path / "disk", "32m") as disk:
        folder = Path(shutil.copytree(TRUNKS / "kv-first", mounted(disk) / "set"))
        assert grain_of(folder) is None
        before = content(folder)
        made = nextn.attach(folder, donor, layout="in-place")
        assert made.plan.changes[0].room == 0
        assert nextn.inspect(folder).problems == ()
        nextn.detach(folder, in_place=True)
        assert content(folder) == before


def test_without_room_it_refuses_with_the_numbers_and_padding_is_room_anywhere(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "32m") as disk:
        folder = mounted(disk)
        model = Path(shutil.copy(Q4, folder / "m.gguf"))
        for dry_run in (True, False):
            with pytest.raises(InPlaceRefused, match=r"grows by [\d,]+ bytes .*--layout sidecar") as error:
                nextn.attach(model, CHECKPOINT, layout="in-place", dry_run=dry_run)
            assert "\n" not in str(error.value)
        assert model.read_bytes() == Q4.read_bytes() and listing(folder) == ["m.gguf"]
        roomy = padded(Q4, folder / "roomy.gguf", 20_000)
        before = roomy.read_bytes()
        nextn.attach(roomy, CHECKPOINT, layout="in-place")
        assert nextn.inspect(roomy).problems == ()
        nextn.detach(roomy, in_place=True)
        assert roomy.read_bytes() == before


def test_room_that_cannot_be_taken_out_stays_as_padding(here: Path) -> None:
    model = Path(shutil.copy(Q4, here / "m.gguf"))
    nextn.attach(model, CHECKPOINT, layout="in-place")
    before = whole(open_model(Q4))
    with small_disk(here / "disk", "32m") as disk:
        moved = Path(shutil.copy(model, mounted(disk) / "m.gguf"))
        done = nextn.detach(moved, in_place=True)
        assert any("stay as padding" in note for note in done.plan.notes)
        assert whole(open_model(moved)) == before
        again = nextn.attach(moved, CHECKPOINT, layout="in-place")  # the padding is room now
        assert again.plan.changes[0].room == 0 and nextn.inspect(moved).problems == ()


def test_a_caller_chooses_how_much_room_is_inserted(here: Path) -> None:
    model = Path(shutil.copy(Q4, here / "m.gguf"))
    asked: list[tuple[int, int]] = []

    def generous(lacking: int, grain: int) -> int:
        asked.append((lacking, grain))
        return least_room(lacking, grain) + 16 * grain

    made = nextn.attach(model, CHECKPOINT, layout="in-place", room_policy=generous)
    ((lacking, grain),) = asked
    assert made.plan.changes[0].room == pad_to(lacking, grain) + 16 * grain
    assert open_model(model).header.by_key[metadata.PADDING].size_bytes >= 16 * grain
    nextn.detach(model, in_place=True)
    assert model.read_bytes() == Q4.read_bytes()
    with pytest.raises(ValueError, match="policy"):
        nextn.attach(model, CHECKPOINT, layout="in-place", room_policy=lambda lacking, grain: 0)
    assert model.read_bytes() == Q4.read_bytes()


def test_500_gb_cost_what_2_mb_cost(here: Path) -> None:
    """A sparse giant: headers and block are written, and nothing else is read or moved."""
    donor = nextn.extract(CHECKPOINT, out=here / "donor.gguf", block_only=True).entry
    big = giant(Q4, 500 << 30).single(here / "big.gguf")
    size, blocks = big.stat().st_size, big.stat().st_blocks
    assert size > 500 << 30
    with big.open("rb") as data:
        head = data.read(1 << 20)
    best = 1e9
    for _ in range(3):  # others use this machine too
        started = time.perf_counter()
        made = nextn.attach(big, donor, layout="in-place")
        best = min(best, time.perf_counter() - started)
        assert made.bytes_read < 4 << 20 and made.bytes_written < 2 << 20
        assert (big.stat().st_blocks - blocks) * 512 < 3 << 20
        assert nextn.inspect(big).problems == ()
        nextn.detach(big, in_place=True)
        assert big.stat().st_size == size
        with big.open("rb") as data:
            assert data.read(1 << 20) == head
    assert best < 2.0


# -- blocks that others attached ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path_factory.mktemp("b") / "b.gguf").entry


@pytest.mark.parametrize("block_last", [True, False])
def test_a_block_of_another_tool_is_cut_off(bundle: Path, tmp_path: Path, block_last: bool) -> None:
    model = foreign(bundle, tmp_path / "m.gguf", block_last=block_last)
    with model.open("ab") as data:
        data.write(TAIL)
    size = model.stat().st_size
    done = nextn.detach(model, in_place=True)
    now = open_model(model)
    assert whole(now) == whole(open_model(Q4))
    assert model.read_bytes().endswith(TAIL)
    assert size - model.stat().st_size == nextn.inspect(bundle).block_bytes
    assert nextn.inspect(model).problems == () and nextn.inspect(model).shape == "trunk-only"
    assert done.plan.layout == "in-place"


def test_a_block_in_two_shards_is_cut_off_in_one_transaction(bundle: Path, tmp_path: Path) -> None:
    entry = foreign_set(bundle, tmp_path, "m")
    done = nextn.detach(entry, in_place=True)
    assert [change.path.name for change in done.plan.changes] == ["m-00003-of-00003.gguf", "m-00001-of-00003.gguf"]
    assert whole(open_model(entry)) == whole(open_model(Q4))
    assert nextn.inspect(entry).problems == ()


def test_what_cannot_be_closed_up_is_refused_with_the_numbers(bundle: Path, tmp_path: Path) -> None:
    from changes import write_model

    from nextn.block.model import layer_of

    source = open_model(bundle)
    n_trunk = source.arch_int("block_count") - 1
    kvs = [kv for kv in source.kvs if not kv.key.startswith("nextn.")]
    first = sorted(tensors_of(source), key=lambda item: layer_of(item[0].name) != n_trunk)
    model = write_model(tmp_path / "m.gguf", kvs, first)
    before = model.read_bytes()
    with pytest.raises(InPlaceRefused, match=r"[\d,]+ bytes follow its block of [\d,]+.*without --in-place"):
        nextn.detach(model, in_place=True)
    half = [item for item in first if layer_of(item[0].name) == n_trunk]
    mixed = [half[0], *first[len(half) :], *half[1:]]
    write_model(model, kvs, mixed)
    with pytest.raises(InPlaceRefused, match="several pieces"):
        nextn.detach(model, in_place=True)
    write_model(model, kvs, first)
    assert model.read_bytes() == before
    with pytest.raises(NoBlock):
        nextn.detach(Path(shutil.copy(Q4, tmp_path / "q.gguf")), in_place=True)


def test_options_that_write_other_files_are_refused(tmp_path: Path) -> None:
    model = Path(shutil.copy(Q4, tmp_path / "m.gguf"))
    with pytest.raises(UsageError, match="leave out -o"):
        nextn.attach(model, CHECKPOINT, layout="in-place", out=tmp_path / "o.gguf")
    with pytest.raises(UsageError, match="leave them out"):
        nextn.detach(model, in_place=True, out=tmp_path / "o.gguf")
    with pytest.raises(UsageError, match="only a local file"):
        nextn.attach("hf:org/name:m.gguf", CHECKPOINT, layout="in-place", dry_run=True)


# -- plans -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_header_fits_whatever_the_room_and_the_alignment_are(tmp_path: Path) -> None:
    """Every length of padding around the point where it is just enough."""
    block = open_donor(CHECKPOINT)
    tight = plan_attach(open_model(Q4), block, AttachOptions("in-place", room=Room(4096))).changes[0]
    assert tight.header is not None
    lacking = tight.header.size_bytes - len(tight.head)
    for n in range(lacking - 60, lacking + 100, 7):
        model = open_model(padded(Q4, tmp_path / "m.gguf", n + 2000))
        change = plan_attach(model, block, AttachOptions("in-place", room=Room(4096))).changes[0]
        assert change.header is not None
        assert change.header.size_bytes == model.header.data_offset + change.room


# -- engines -----------------------------------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.parametrize("tail", [b"", TAIL])
def test_the_engine_drafts_with_a_block_in_place(here: Path, tail: bytes) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    model = here / "m.gguf"
    model.write_bytes((TRUNKS / "tiny-qwen35-Q8_0.gguf").read_bytes() + tail)
    nextn.attach(model, CHECKPOINT, layout="in-place")
    data = nextn.verify(model, prompts=PROMPTS, n_predict=32, threads=1).to_json()
    assert data["verdict"] != "failed", data["reasons"]
    assert data["n_drafted"] > 0 and all(item["near_tie"] for item in data["divergences"])


@pytest.mark.engine
def test_the_engine_refuses_a_hole_and_a_filler_between_tensors(bundle: Path, tmp_path: Path) -> None:
    """Why a block between trunk tensors is not simply emptied: neither an unnamed hole nor a named one is taken."""
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    source = foreign(bundle, tmp_path / "f.gguf", block_last=False)
    model = open_model(source)
    file, trunk = model.files[0], trunk_of(model)
    kept = [info for info in file.header.tensors if trunk.keeps(info)]
    gone = [info for info in file.header.tensors if not trunk.keeps(info)]
    n = sum(pad_to(file.stored_size(info), 32) for info in gone)
    filler = TensorInfo("nextn.hole", (n,), 24, gone[0].offset)

    def with_tensors(name: str, infos: list[TensorInfo]) -> Path:
        gap = file.header.data_offset - header_size(trunk.kvs, infos)
        head = build_header([*trunk.kvs, metadata.padding_kv(gap)], infos)
        path = tmp_path / name
        path.write_bytes(head + source.read_bytes()[len(head) :])
        return path

    hole = with_tensors("hole.gguf", kept)
    named = with_tensors("named.gguf", sorted([*kept, filler], key=lambda info: info.offset))
    engine = find_engine("xllamacpp")
    with pytest.raises(EngineRefused, match="has offset"):
        engine.start(Launch(hole, threads=1, n_ctx=256))
    with pytest.raises(EngineRefused, match="wrong number of tensors"):
        engine.start(Launch(named, threads=1, n_ctx=256))


def test_the_plan_of_a_detach_is_pure(here: Path) -> None:
    model = Path(shutil.copy(Q4, here / "m.gguf"))
    nextn.attach(model, CHECKPOINT, layout="in-place")
    before = model.read_bytes()
    plan = in_place_detach.plan_detach(open_model(model), Room(4096))
    assert plan.changes[0].bare_head == Q4.read_bytes()[: len(plan.changes[0].bare_head)]
    assert plan.change_steps and model.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("field", ["size", "head", "tensors", "room", "dropped", "padding", "tail", "all"])
def test_a_note_that_does_not_lead_back_is_not_followed(here: Path, field: str) -> None:
    """A header that was edited: the block is cut off all the same, and the trunk is whole."""
    model = Path(shutil.copy(Q4, here / "m.gguf"))
    nextn.attach(model, CHECKPOINT, layout="in-place")
    opened = open_model(model)
    note = json.loads(opened.header.get(metadata.UNDO))
    wrong = {
        "size": 100, "head": [1 << 40, "0" * 64], "tensors": 3, "room": 8192, "dropped": [[0, 1 << 40]],
        "padding": "no base64", "tail": [5, 5, 5],
    }  # fmt: skip
    if field == "all":
        note["in_place"] = "nonsense"
    else:
        note["in_place"][field] = wrong[field]
    text = json.dumps(note, separators=(",", ":"))
    kvs = [kv.with_value(text) if kv.key == metadata.UNDO else kv for kv in opened.kvs if kv.key != metadata.PADDING]
    gap = opened.header.data_offset - header_size(kvs, opened.header.tensors)
    data = build_header([*kvs, metadata.padding_kv(gap)], opened.header.tensors)
    assert len(data) == opened.header.data_offset
    with model.open("r+b") as file:
        file.write(data)
    done = nextn.detach(model, in_place=True)
    assert whole(open_model(model)) == whole(open_model(Q4))
    assert done.plan.changes[0].room == 0 and nextn.inspect(model).problems == ()
    assert field == "all" or any("not restored byte for byte" in note for note in done.plan.notes)
