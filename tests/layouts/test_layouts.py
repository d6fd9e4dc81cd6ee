"""Each shape turns into each other, and the trunk is the same bytes in all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

import nextn
import nextn.errors
from conftest import CHECKPOINT, Q4, TRUNKS
from nextn.errors import NoBlock, QuantizeError, UnsupportedModel, UsageError
from nextn.gguf.files import Model, open_model, shard_name
from nextn.layouts.metadata import UNDO, recorded_hashes

SETS = [TRUNKS / "kv-first", TRUNKS / "tensors-first"]
MOE = "qwen35moe-experts-bf16"


def tensor_bytes(model: Model) -> dict[str, tuple[tuple[int, ...], int, str]]:
    """Name -> (ne, type, sha256 of the stored bytes)."""
    out = {}
    for file, info in model.items():
        start, end = file.tensor_range(info)
        data = file.path.read_bytes()[start:end]
        out[info.name] = (info.ne, info.type_id, hashlib.sha256(data).hexdigest())
    return out


def trunk_is_untouched(model: Path, trunk: Path) -> bool:
    mine, theirs = tensor_bytes(open_model(model)), tensor_bytes(open_model(trunk))
    return all(mine.get(name) == value for name, value in theirs.items())


def block_of(path: Path) -> dict[str, tuple[tuple[int, ...], int, str]]:
    return {name: value for name, value in tensor_bytes(open_model(path)).items() if name.startswith("blk.4.")}


@pytest.mark.parametrize("trunk", [Q4, TRUNKS / "tiny-qwen35-BF16.gguf", TRUNKS / "tiny-qwen35-Q8_0.gguf"])
def test_bundle_and_detach_is_the_original_byte_for_byte(trunk: Path, tmp_path: Path) -> None:
    bundled = nextn.attach(trunk, CHECKPOINT, layout="bundle", out=tmp_path / "b")
    assert trunk_is_untouched(bundled.entry, trunk)
    assert nextn.inspect(bundled.entry).shape == "bundled"
    assert not nextn.inspect(bundled.entry).problems
    plain = nextn.detach(bundled.entry, out=tmp_path / "d")
    assert plain.entry.read_bytes() == trunk.read_bytes()


@pytest.mark.parametrize("folder", SETS, ids=lambda path: path.name)
def test_shards_link_the_trunk_and_detach_restores_it(
    folder: Path, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    made = nextn.attach(folder, checkpoints(MOE), out=tmp_path / "set")
    model = open_model(made.entry)
    assert made.plan.layout == "shards" and len(model.files) == 4
    originals = open_model(folder).files
    for mine, theirs in zip(model.files[1:3], originals[1:], strict=True):
        assert mine.path.samefile(theirs.path)
    assert made.bytes_linked == sum(file.size_bytes for file in originals[1:])
    assert trunk_is_untouched(made.entry, folder)
    assert model.header.get("split.count") == 4
    assert model.header.get("split.tensors.count") == len(model.tensors)
    assert [file.header.get("split.no") for file in model.files] == [0, 1, 2, 3]
    back = nextn.detach(made.entry, out=tmp_path / "back")
    for mine, theirs in zip(open_model(back.entry).files, originals, strict=True):
        assert mine.path.read_bytes() == theirs.path.read_bytes()


def test_a_set_without_tensors_in_its_first_shard_writes_only_header_and_block(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    made = nextn.attach(TRUNKS / "kv-first", checkpoints(MOE), out=tmp_path)
    block_bytes = nextn.inspect(made.entry).block_bytes
    headers = open_model(made.entry).files
    assert made.bytes_written <= block_bytes + headers[0].header.data_offset + headers[3].header.data_offset + 64 * 32


def test_any_shard_names_the_set(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    prefix = "qwen35moe-BF16"
    for number in (1, 2, 3):
        made = nextn.attach(
            TRUNKS / "kv-first" / shard_name(prefix, number, 3), checkpoints(MOE), out=tmp_path / str(number)
        )
        assert made.entry.name == "qwen35moe-MTP-BF16-00001-of-00004.gguf"


def test_a_single_file_gets_a_sidecar_by_default(tmp_path: Path) -> None:
    trunk = tmp_path / "Tiny-Q4_K_M.gguf"
    trunk.write_bytes(Q4.read_bytes())
    made = nextn.attach(trunk, CHECKPOINT)
    assert made.entry == trunk and made.sidecar == tmp_path / "mtp-Tiny-Q8_0.gguf"
    model = open_model(made.sidecar)
    names = set(model.tensors)
    assert {"token_embd.weight", "output_norm.weight"} <= names
    assert model.tensors["token_embd.weight"][1].type_name == "q4_0"
    assert not any(name.startswith("blk.0.") for name in names)
    trunk_kv, kv = open_model(trunk).header.by_key, model.header.by_key
    for key, pair in trunk_kv.items():
        if key.startswith("tokenizer."):
            assert kv[key].same_as(pair), key
    assert model.arch_int("block_count") == 5 and model.arch_int("nextn_predict_layers") == 1
    assert nextn.inspect(trunk).sidecars == (made.sidecar,)


def test_an_untied_sidecar_holds_a_low_bit_head(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    made = nextn.attach(TRUNKS / "qwen35moe-BF16.gguf", checkpoints(MOE), out=tmp_path)
    assert made.sidecar is not None
    model = open_model(made.sidecar)
    assert {model.tensors[name][1].type_name for name in ("token_embd.weight", "output.weight")} == {"q4_0"}
    as_is = nextn.attach(TRUNKS / "qwen35moe-BF16.gguf", checkpoints(MOE), out=tmp_path / "as is", embd_type="as-is")
    assert as_is.sidecar is not None
    assert open_model(as_is.sidecar).tensors["output.weight"][1].type_name == "bf16"


@pytest.mark.slow
def test_every_shape_turns_into_every_other(tmp_path: Path) -> None:
    """The block keeps its bytes through bundled, sidecar, shards and donor file."""
    trunk = TRUNKS / "tiny-qwen35-Q8_0.gguf"
    start = nextn.attach(trunk, CHECKPOINT, layout="bundle", out=tmp_path / "start").entry
    wanted = block_of(start)
    assert len(wanted) >= 14
    shapes: dict[str, Path] = {"bundled": start}
    shapes["sidecar"] = nextn.extract(start, out=tmp_path / "sidecar").entry
    shapes["donor"] = nextn.extract(start, out=tmp_path / "donor", block_only=True).entry
    shapes["shards"] = nextn.attach(trunk, start, layout="shards", out=tmp_path / "shards").entry
    assert nextn.inspect(shapes["donor"]).shape == "donor"
    for name, donor in shapes.items():
        assert block_of(donor) == wanted, name
        for layout in ("bundle", "sidecar", "shards"):
            made = nextn.attach(trunk, donor, layout=layout, out=tmp_path / f"{name} to {layout}")
            assert block_of(made.sidecar or made.entry) == wanted, (name, layout)
        for donor_file in (True, False):
            if name == "donor" and not donor_file:
                continue
            made = nextn.extract(donor, block_only=donor_file, out=tmp_path / f"{name} extracted {donor_file}")
            assert block_of(made.entry) == wanted, name


def test_the_smallest_thing_to_share_is_the_donor_file(tmp_path: Path) -> None:
    bundled = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path).entry
    sidecar = nextn.extract(bundled, out=tmp_path)
    donor = nextn.extract(bundled, out=tmp_path, block_only=True)
    assert donor.bytes_written < sidecar.bytes_written < bundled.stat().st_size
    assert donor.bytes_written < nextn.inspect(bundled).block_bytes + 16_384
    assert "mtp-" not in donor.entry.name  # discovery must not take it for a sidecar


def test_a_donor_of_another_type_is_requantized_only_when_asked(tmp_path: Path) -> None:
    bf16 = nextn.attach(Q4, CHECKPOINT, layout="bundle", type="bf16", out=tmp_path / "bf16").entry
    kept = nextn.attach(Q4, bf16, layout="bundle", out=tmp_path / "kept").entry
    assert block_of(kept) == block_of(bf16)
    again = nextn.attach(Q4, bf16, layout="bundle", type="q8_0", out=tmp_path / "q8").entry
    direct = nextn.attach(Q4, CHECKPOINT, layout="bundle", type="q8_0", out=tmp_path / "direct").entry
    assert block_of(again) == block_of(direct)


def test_the_draft_head_is_the_trunks_head_in_another_type(tmp_path: Path) -> None:
    made = nextn.attach(Q4, CHECKPOINT, layout="bundle", draft_head="q4_0", out=tmp_path)
    info = open_model(made.entry).tensors["blk.4.nextn.shared_head_head.weight"][1]
    embd = open_model(Q4).tensors["token_embd.weight"][1]
    assert info.ne == embd.ne and info.type_name == "q4_0"
    again = nextn.attach(Q4, made.entry, layout="sidecar", draft_head="q5_0", out=tmp_path / "again")
    assert again.sidecar is not None
    names = open_model(again.sidecar).tensors
    assert names["blk.4.nextn.shared_head_head.weight"][1].type_name == "q5_0"


def test_a_loader_without_a_draft_head_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import dataclasses

    from nextn.archs import FAMILIES

    headless = dataclasses.replace(FAMILIES["qwen35"], draft_head=False)
    monkeypatch.setitem(FAMILIES, "qwen35", headless)
    with pytest.raises(UnsupportedModel, match="refuses a file with a draft head"):
        nextn.attach(Q4, CHECKPOINT, layout="bundle", draft_head="q4_0", out=tmp_path)


def test_short_rows_fall_back_and_say_so(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    made = nextn.attach(
        TRUNKS / "qwen35moe-BF16.gguf", checkpoints(MOE), layout="bundle", type="q4_K", out=tmp_path
    )
    model = open_model(made.entry)
    assert model.tensors["blk.4.nextn.eh_proj.weight"][1].type_name == "q5_0"
    assert any("blk.4.nextn.eh_proj.weight" in note and "q5_0 is used instead" in note for note in made.plan.notes)


def test_types_that_need_an_importance_matrix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="importance matrix"):
        nextn.attach(Q4, CHECKPOINT, layout="bundle", type="iq2_xxs", out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_provenance_names_the_donor_and_every_tensor(tmp_path: Path) -> None:
    for layout in ("bundle", "sidecar", "shards"):
        made = nextn.attach(Q4, CHECKPOINT, layout=layout, out=tmp_path / layout)
        model = open_model(made.sidecar or made.entry)
        assert model.header.get("nextn.donor") == CHECKPOINT.name
        assert len(model.header.get("nextn.donor_sha256")) == 64
        assert model.header.get("nextn.tool_version") == nextn.__version__
        hashes = recorded_hashes(model)
        stored = {name: value[2] for name, value in tensor_bytes(model).items() if name.startswith("blk.4.")}
        assert hashes == stored


def test_a_block_that_nobody_noted_down_is_taken_off_too(tmp_path: Path) -> None:
    """A bundle of another tool has no undo note: counts and arrays are set right all the same."""
    from nextn.gguf.header import build_header
    from nextn.gguf.kv_table import edit

    bundled = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path).entry
    model = open_model(bundled)
    data = bundled.read_bytes()[model.header.data_offset :]
    kvs = edit(model.kvs, drop_prefixes=("nextn.",))
    assert UNDO in model.header.by_key
    foreign = tmp_path / "foreign.gguf"
    foreign.write_bytes(build_header(kvs, model.header.tensors) + data)
    plain = open_model(nextn.detach(foreign, out=tmp_path / "plain").entry)
    original = open_model(Q4)
    assert {kv.key: bytes(kv.raw) for kv in plain.kvs} == {kv.key: bytes(kv.raw) for kv in original.kvs}
    assert tensor_bytes(plain) == tensor_bytes(original)


def test_nothing_to_take_off(tmp_path: Path) -> None:
    with pytest.raises(NoBlock):
        nextn.detach(Q4, out=tmp_path)
    sidecar = nextn.attach(Q4, CHECKPOINT, out=tmp_path).sidecar
    assert sidecar is not None
    with pytest.raises(UsageError, match="sidecar"):
        nextn.detach(sidecar, out=tmp_path)


def test_bundled_names_are_never_taken_for_sidecars(tmp_path: Path) -> None:
    trunk = tmp_path / "my-mtp-model-Q4_K_M.gguf"
    trunk.write_bytes(Q4.read_bytes())
    made = nextn.attach(trunk, CHECKPOINT, layout="bundle", out=tmp_path / "out")
    assert "mtp-" not in made.entry.name
    with pytest.raises(UsageError, match="mtp-"):
        nextn.attach(trunk, CHECKPOINT, layout="bundle", out=tmp_path / "mtp-x.gguf")


def test_a_single_file_as_shards(tmp_path: Path) -> None:
    made = nextn.attach(Q4, CHECKPOINT, layout="shards", out=tmp_path / "set")
    model = open_model(made.entry)
    assert len(model.files) == 2 and trunk_is_untouched(made.entry, Q4)
    back = nextn.detach(made.entry, out=tmp_path / "back.gguf")
    assert tensor_bytes(open_model(back.entry)) == tensor_bytes(open_model(Q4))


def test_bundle_merges_a_set_into_one_file(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    for folder in SETS:
        made = nextn.attach(folder, checkpoints(MOE), layout="bundle", out=tmp_path / folder.name)
        assert len(made.files) == 1 and trunk_is_untouched(made.entry, folder)
        assert not any(kv.key.startswith("split.") for kv in open_model(made.entry).kvs)
        assert not nextn.inspect(made.entry).problems


def test_the_data_offset_keeps_its_place_in_file_system_blocks(tmp_path: Path) -> None:
    """Only a shift by whole blocks lets a file system clone the trunk's data."""
    made = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path)
    shift = open_model(made.entry).header.data_offset - open_model(Q4).header.data_offset
    assert shift % 4096 == 0


def test_links_can_be_symlinks(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    made = nextn.attach(TRUNKS / "kv-first", checkpoints(MOE), out=tmp_path, link="symlink")
    linked = [path for path in made.files if path.is_symlink()]
    assert len(linked) == 2 and trunk_is_untouched(made.entry, TRUNKS / "kv-first")


def _with_kvs(source: Path, target: Path, **changes: object) -> Path:
    """A copy of a GGUF with other pairs."""
    from nextn.gguf.header import build_header
    from nextn.gguf.kv_table import edit

    model = open_model(source)
    data = source.read_bytes()[model.header.data_offset :]
    target.write_bytes(build_header(edit(model.kvs, **changes), model.header.tensors) + data)  # type: ignore[arg-type]
    return target


@pytest.mark.parametrize("layout", ["bundle", "shards"])
def test_split_keys_of_a_single_file_come_back(layout: str, tmp_path: Path) -> None:
    """Merging shards leaves their keys in the one file."""
    from nextn.gguf.kv import KV, KVType
    from nextn.gguf.kv_table import edit

    kvs = [*edit(open_model(Q4).kvs)]
    odd = [
        KV.make("split.count", KVType.UINT16, 0),
        KV.make("split.no", KVType.UINT16, 0),
        KV.make("my.key", KVType.STRING, "x"),
        KV.make("split.tensors.count", KVType.INT32, 55),
        *kvs[3:6],
    ]
    trunk = _with_kvs(Q4, tmp_path / "merged.gguf", put=odd)
    made = nextn.attach(trunk, CHECKPOINT, layout=layout, out=tmp_path / "b")
    back = nextn.detach(made.entry, out=tmp_path / "back.gguf")
    assert back.entry.read_bytes() == trunk.read_bytes()


def test_keys_of_others_that_begin_like_ours_are_carried(tmp_path: Path) -> None:
    from nextn.gguf.kv import KV, KVType

    trunk = _with_kvs(Q4, tmp_path / "t.gguf", put=[KV.make("nextn.custom", KVType.STRING, "mine")])
    made = nextn.attach(trunk, CHECKPOINT, layout="bundle", out=tmp_path / "b")
    assert open_model(made.entry).header.get("nextn.custom") == "mine"
    assert nextn.detach(made.entry, out=tmp_path / "back.gguf").entry.read_bytes() == trunk.read_bytes()


def test_a_renamed_special_token_is_a_note_for_every_kind_of_donor(tmp_path: Path) -> None:
    """A fine-tune's base has other special tokens and the same ordinary ones."""
    import shutil

    base = tmp_path / "base"
    shutil.copytree(CHECKPOINT, base)
    text = (base / "tokenizer.json").read_text(encoding="utf-8")
    assert "<|im_start|>" in text
    (base / "tokenizer.json").write_text(text.replace("<|im_start|>", "<|other|>"), encoding="utf-8")
    direct = nextn.attach(Q4, base, layout="bundle", out=tmp_path / "direct")
    assert any("special tokens differ" in note for note in direct.plan.notes)
    donor = nextn.extract(base, block_only=True, out=tmp_path / "donor").entry
    assert nextn.attach(Q4, donor, layout="bundle", out=tmp_path / "by file").entry.exists()
    (base / "tokenizer.json").write_text(text.replace('"def"', '"fed"'), encoding="utf-8")
    other = nextn.extract(base, block_only=True, out=tmp_path / "other").entry
    for bad in (base, other):
        with pytest.raises(nextn.errors.DonorMismatch, match="token"):
            nextn.attach(Q4, bad, layout="bundle", out=tmp_path / "bad")


def test_a_per_layer_array_of_the_wrong_length_is_blamed_on_the_trunk(tmp_path: Path) -> None:
    from nextn.errors import FormatError
    from nextn.gguf.kv import KV, KVType

    lengths = KV.make("qwen35.attention.head_count_kv", KVType.ARRAY, [1] * 7, KVType.INT32)
    trunk = _with_kvs(Q4, tmp_path / "t.gguf", put=[lengths])
    with pytest.raises(FormatError, match=r"head_count_kv.*wrong length"):
        nextn.attach(trunk, CHECKPOINT, layout="bundle", out=tmp_path / "b")


def test_draft_only_root_tensors_go_with_the_block(tmp_path: Path) -> None:
    """ik_llama.cpp's extra head serves drafting only; verify does not miss it in a detached model."""
    from nextn.gguf.header import build_header, place
    from nextn.gguf.tensors import TensorInfo
    from nextn.sources.ranges import Reader

    model = open_model(nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path).entry)
    data, parts = b"", []
    for file, info in model.items():
        start, end = file.tensor_range(info)
        stored = file.path.read_bytes()[start:end]
        parts.append((info, len(stored)))
        data += stored + bytes(-len(stored) % 32)
    parts.append((TensorInfo("output_extra.weight", (256, 8), 0, 0), 256 * 8 * 4))
    infos, _ = place(parts, 32)
    extra = tmp_path / "extra.gguf"
    extra.write_bytes(build_header(model.kvs, infos) + data + bytes(256 * 8 * 4))
    plain = nextn.detach(extra, out=tmp_path / "plain").entry
    assert "output_extra.weight" not in open_model(plain).tensors
    from nextn.measure.file_check import check_files

    with Reader() as reader:
        assert not check_files(open_model(plain), open_model(extra), reader).problems
