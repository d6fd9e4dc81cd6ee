"""explode and assemble: between one file, ordinary shards and one tensor per file, byte for byte."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ggufmaker import f32, make
from schema_check import validate
from splitting import split_gguf

import gguf
import nextn
from conftest import Q4, ROOT, TRUNKS, TinyModels, stored
from nextn.errors import FormatError, UsageError
from nextn.gguf.files import Model, open_model
from nextn.writing.plan import Plan

SCHEMA = json.loads((ROOT / "src" / "nextn" / "schemas" / "explode.json").read_text())
SPLIT = ("split.no", "split.count", "split.tensors.count")


def pairs(model: Model) -> dict[str, object]:
    """Keys and stored bytes, split keys apart."""
    return {kv.key: bytes(kv.raw) for kv in model.kvs if kv.key not in SPLIT}


def tensors(model: Model) -> dict[str, tuple[object, ...]]:
    return {info.name: (info.ne, info.type_id, stored(model, info.name)) for _, info in model.items()}


def same(left: Path, right: Path) -> bool:
    one, other = open_model(left), open_model(right)
    return pairs(one) == pairs(other) and list(one.tensors) == list(other.tensors) and tensors(one) == tensors(other)


@pytest.fixture(scope="module")
def exploded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tensor per file."""
    return nextn.explode(Q4, out=tmp_path_factory.mktemp("exploded") / "set").entry


def test_one_tensor_per_file(exploded: Path) -> None:
    model = open_model(exploded)
    assert len(model.files) == len(open_model(Q4).tensors) == 55
    assert all(len(file.header.tensors) == 1 for file in model.files)
    assert [file.header.get("split.no") for file in model.files] == list(range(55))
    assert model.header.get("split.count") == 55 and model.header.get("split.tensors.count") == 55
    assert all(set(file.header.by_key) == set(SPLIT) for file in model.files[1:])
    assert same(exploded, Q4)


def test_there_and_back_is_byte_for_byte(exploded: Path, tmp_path: Path) -> None:
    back = nextn.assemble(exploded.parent, out=tmp_path / "back.gguf")
    assert back.entry.read_bytes() == Q4.read_bytes() and back.plan.layout == "single"
    assert not list(tmp_path.glob("*.recipe.json"))


def test_ordinary_shards_by_number_and_by_size(exploded: Path, tmp_path: Path) -> None:
    by_number = open_model(nextn.explode(exploded, out=tmp_path / "n", max_tensors=20).entry)
    assert [len(file.header.tensors) for file in by_number.files] == [20, 20, 15] and same(by_number.entry, Q4)
    most = 400_000
    by_size = open_model(nextn.explode(Q4, out=tmp_path / "s", max_bytes=most).entry)
    assert len(by_size.files) > 3 and same(by_size.entry, Q4)
    sizes = [[file.stored_size(info) for info in file.header.tensors] for file in by_size.files]
    assert all(sum(each) <= most or len(each) == 1 for each in sizes)
    assert all(sum(left) + right[0] > most for left, right in pairwise(sizes))  # none could be joined


def test_metadata_first(tmp_path: Path) -> None:
    model = open_model(nextn.explode(Q4, out=tmp_path / "m", metadata_first=True, max_tensors=30).entry)
    assert [len(file.header.tensors) for file in model.files] == [0, 30, 25] and same(model.entry, Q4)
    back = nextn.assemble(tmp_path / "m", out=tmp_path / "back.gguf")
    assert back.entry.read_bytes() == Q4.read_bytes()


@pytest.mark.parametrize("small_first", [False, True])
def test_sets_of_gguf_py_and_ours_are_each_others(small_first: bool, tmp_path: Path) -> None:
    """gguf-py's writer splits by the rules of llama-gguf-split, independently of nextn."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    writer = gguf.GGUFWriter(theirs / "m.gguf", "llama", split_max_tensors=3, small_first_shard=small_first)
    writer.add_uint32("llama.block_count", 1)
    data = {f"t{i}.weight": np.arange(32 * (i + 1), dtype=np.float32).reshape(i + 1, 32) for i in range(8)}
    for name, values in data.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    single = nextn.assemble(theirs, out=tmp_path / "one.gguf").entry
    found = {t.name: t.data for t in gguf.GGUFReader(single).tensors}
    assert list(found) == list(data) and all((found[name] == data[name]).all() for name in data)
    ours = nextn.explode(single, out=tmp_path / "ours" / "m.gguf", max_tensors=3, metadata_first=small_first).entry
    mine, other = open_model(ours), open_model(next(iter(sorted(theirs.glob("*-00001-of-*")))))
    assert [list(f.header.by_name) for f in mine.files] == [list(f.header.by_name) for f in other.files]
    assert [f.path.name for f in mine.files] == [f.path.name for f in other.files]
    for left, right in zip(mine.files, other.files, strict=True):
        assert {k.key: k.value for k in left.header.kvs} == {k.key: k.value for k in right.header.kvs}


def test_shards_that_stay_as_they_are_are_linked(exploded: Path, tmp_path: Path) -> None:
    done = nextn.explode(exploded, out=tmp_path / "again")
    assert done.bytes_linked == sum(file.size_bytes for file in open_model(exploded).files[1:])
    assert len(done.outcome.links) == 54 and set(done.outcome.links.values()) == {"hard"}
    seventh = exploded.name.replace("00001-of", "00007-of")
    assert (tmp_path / "again" / seventh).samefile(exploded.with_name(seventh))
    soft = nextn.explode(exploded, out=tmp_path / "soft", link="symlink")
    assert set(soft.outcome.links.values()) == {"symlink"} and same(soft.entry, Q4)


def test_an_alignment_of_its_own_is_in_every_shard(tmp_path: Path) -> None:
    kvs = [("general.architecture", "str", "llama"), ("general.alignment", "u32", 256)]
    path = tmp_path / "a.gguf"
    path.write_bytes(make(kvs, [f32("a", 33), f32("b", 5), f32("c", 64)], alignment=256).whole)
    model = open_model(nextn.explode(path, out=tmp_path / "set").entry)
    assert [file.header.alignment for file in model.files] == [256] * 3 and same(model.entry, path)
    assert nextn.assemble(tmp_path / "set", out=tmp_path / "b.gguf").entry.read_bytes() == path.read_bytes()


def test_dry_run_json_and_refusals(exploded: Path, tmp_path: Path) -> None:
    dry = nextn.explode(Q4, out=tmp_path / "dry", max_tensors=10, dry_run=True)
    assert not (tmp_path / "dry").exists() and dry.outcome is None and len(dry.plan.outputs) == 6
    validate(dry.to_json(), SCHEMA)
    done = nextn.explode(Q4, out=tmp_path / "dry", max_tensors=10)
    validate(done.to_json(), SCHEMA)
    assert done.bytes_written == dry.bytes_written == sum(path.stat().st_size for path in (tmp_path / "dry").iterdir())
    with pytest.raises(UsageError, match="cannot be combined"):
        nextn.explode(Q4, max_tensors=1, max_bytes=1)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(Q4.read_bytes()[:-100_000])
    with pytest.raises(FormatError, match="incomplete"):
        nextn.explode(cut, out=tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_more_than_64_shards_are_said(tiny_models: TinyModels, tmp_path: Path) -> None:
    done = nextn.explode(tiny_models.bundled, out=tmp_path / "set")
    assert len(done.files) == 70 and any("GGML_MAX_CONTEXTS" in note for note in done.plan.notes)


@pytest.mark.slow
def test_many_tensors_and_many_shards(tmp_path: Path) -> None:
    """More files than a process may keep open by default, and no work that grows with their square."""
    n = 1200
    path = tmp_path / "many.gguf"
    path.write_bytes(make([("general.architecture", "str", "llama")], [f32(f"t{i}", 8) for i in range(n)]).whole)
    entry = nextn.explode(path, out=tmp_path / "set").entry
    assert len(open_model(entry).files) == n
    again = nextn.assemble(tmp_path / "set", out=tmp_path / "one.gguf")
    assert again.entry.read_bytes() == path.read_bytes()


def test_the_total_is_added_up_once_however_many_pieces_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every piece reports its progress against the total, which is the sum over all pieces."""
    real, n_sums = Plan.bytes_written.fget, 0
    assert real is not None

    def counted(plan: Plan) -> int:
        nonlocal n_sums
        n_sums += 1
        return int(real(plan))

    monkeypatch.setattr(Plan, "bytes_written", property(counted))
    seen, sums = [], {}
    for n in (20, 60):
        path = tmp_path / f"{n}.gguf"
        path.write_bytes(make([("general.architecture", "str", "llama")], [f32(f"t{i}", 8) for i in range(n)]).whole)
        n_sums = 0
        done = nextn.explode(path, out=tmp_path / f"set-{n}", progress=lambda done, total: seen.append((done, total)))
        sums[n] = n_sums
        assert seen[-1] == (done.bytes_written, done.bytes_written)
    assert sums[20] == sums[60]


@pytest.mark.engine
def test_the_engine_loads_a_set_of_single_tensors(tiny_models: TinyModels, tmp_path: Path) -> None:
    entry = nextn.explode(tiny_models.bundled, out=tmp_path / "set").entry
    verdict = nextn.verify(entry, n_predict=24)
    assert verdict.verdict == "passed", verdict.reasons


def test_a_set_split_elsewhere(tmp_path: Path) -> None:
    trunk = TRUNKS / "tiny-qwen35-Q8_0.gguf"
    shards = split_gguf(trunk, tmp_path / "sets", counts=[10, 20, 25])
    assert same(nextn.assemble(shards[0].parent, out=tmp_path / "one.gguf").entry, trunk)
    copied = tmp_path / "bag"
    copied.mkdir()
    for shard in reversed(shards):
        shutil.copy(shard, copied)
    one = nextn.assemble(sorted(copied.iterdir(), reverse=True), out=tmp_path / "two.gguf").entry
    assert one.read_bytes() == (tmp_path / "one.gguf").read_bytes()


@pytest.mark.parametrize("name", ["X-Q4_K_M-mtp", "X-mtp-Q4_K_M", "mtp-X", "X-Q4_K_M"])
def test_a_models_shards_have_a_name_that_llama_cpp_takes(
    name: str, tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sidecar's keep its own."""
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    model = Path(shutil.copy(tiny_models.bundled, tmp_path / "models" / f"{name}.gguf"))
    shards = nextn.explode(model, max_tensors=40).entry
    again = nextn.assemble([shards.parent], out=tmp_path / "again.gguf").entry
    assert "mtp-" not in shards.name and shards.name.startswith(name.replace("mtp", "MTP"))
    assert "mtp-" not in nextn.assemble([shards.parent], dry_run=True).entry.name
    assert again.is_file()
    sidecar = Path(shutil.copy(tiny_models.sidecar, tmp_path / "mtp-Y-Q8_0.gguf"))
    assert nextn.explode(sidecar, dry_run=True).entry.name.startswith("mtp-Y-Q8_0-00001-of-")
