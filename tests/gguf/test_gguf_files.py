"""Files and sets of shards on disk: what is opened, what is refused, and with which sentence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from ggufmaker import arch_kvs, block_tensors, f32, make, root_tensors, split_kvs, trunk_tensors, write_set

from nextn.errors import FormatError, IncompleteModel, NextnError, StorageError, UsageError
from nextn.gguf.files import model_candidates, open_model, read_header, shard_name, split_shard_name

GOOD = make(arch_kvs(2), [*root_tensors(), *trunk_tensors(2)]).whole


def three(folder: Path, hidden: int = 8) -> list[Path]:
    """A set of three shards: metadata and root tensors, layer 0, layer 1."""
    layers = [trunk_tensors(i + 1, hidden, first=i) for i in (0, 1)]
    return write_set(
        folder, "M", [(arch_kvs(2, hidden=hidden), root_tensors(hidden)), ([], layers[0]), ([], layers[1])]
    )


def refused(path: Path, kind: type[NextnError] = IncompleteModel) -> str:
    with pytest.raises(kind) as caught:
        open_model(path)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is kind
    return str(caught.value)


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("M-Q4_K_M-00001-of-00003.gguf", ("M-Q4_K_M", 1, 3)),
        ("a-00001-of-00002-00002-of-00002.gguf", ("a-00001-of-00002", 2, 2)),
        ("two\nlines-00001-of-00002.gguf", ("two\nlines", 1, 2)),
        ("M-1-of-3.gguf", None),
        ("M-00001-of-00003.gguf.part", None),
        ("-00001-of-00003.gguf", None),
        ("M.gguf", None),
    ],
)
def test_shard_names(name: str, parts: tuple[str, int, int] | None) -> None:
    assert split_shard_name(name) == parts
    if parts:
        assert shard_name(*parts) == name


# -- single files --------------------------------------------------------------------------------------------


def test_a_single_file(tmp_path: Path) -> None:
    path = tmp_path / "M-Q8_0.gguf"
    path.write_bytes(GOOD)
    model = open_model(str(path))
    assert (model.entry, model.base_name, model.is_sharded) == (path, "M-Q8_0", False)
    assert model.size_bytes == len(GOOD)
    assert model.header_bytes == model.header.data_offset
    assert next(iter(model.tensors)) == "token_embd.weight"
    assert [info.name for _, info in model.items()] == list(model.tensors)
    assert (model.arch_int("block_count"), model.arch_int("not.there", 7)) == (2, 7)
    model.check_whole()


def test_missing_architecture_is_named(tmp_path: Path) -> None:
    for i, kvs in enumerate(([], [("general.architecture", "u32", 1)], [("general.architecture", "str", "")])):
        path = tmp_path / f"{i}.gguf"
        path.write_bytes(make(kvs).whole)
        with pytest.raises(FormatError, match=r"'general\.architecture' is missing"):
            _ = open_model(path).architecture


def test_a_number_of_another_type_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "M.gguf"
    path.write_bytes(make([("general.architecture", "str", "q"), ("q.block_count", "str", "12")]).whole)
    assert open_model(path).arch_int("block_count", -1) == -1


def test_a_truncated_file_is_named_with_its_tensor(tmp_path: Path) -> None:
    path = tmp_path / "M.gguf"
    path.write_bytes(GOOD[:-1])
    model = open_model(path)
    size = f"{len(GOOD) - 1:,} of {len(GOOD):,}"
    sentence = rf"M\.gguf: the file ends at byte {size}: the download is incomplete, and tensor 'blk\.1\.ffn_norm"
    with pytest.raises(FormatError, match=sentence):
        model.check_whole()


@pytest.mark.parametrize("data", [b"GG", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(4096)])
def test_other_files_are_no_gguf(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "M.gguf"
    path.write_bytes(data)
    assert "this is not a GGUF file" in refused(path, FormatError)


def test_an_empty_file_is_no_download(tmp_path: Path) -> None:
    (tmp_path / "M.gguf").touch()
    assert "the file is empty (it ends at byte 0); get it again" in refused(tmp_path / "M.gguf", FormatError)


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling.gguf").symlink_to("nowhere")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    for name in ("no.gguf", "file/below.gguf", "x" * 300 + ".gguf", "M-00001-of-00002.gguf"):
        assert "there is no such file or folder" in refused(tmp_path / name, StorageError)
    for name in ("dangling.gguf", "loop.gguf"):
        assert "cannot open it: " in refused(tmp_path / name, StorageError)
    assert "this link leads to nowhere, where there is nothing" in refused(tmp_path / "dangling.gguf", StorageError)


def test_pipes_and_devices_are_refused_without_waiting(tmp_path: Path) -> None:
    fifo = tmp_path / "M.gguf"
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/zero"), Path("/dev/null")):
        assert "not a regular file" in refused(path, StorageError)
    assert "not a regular file" in refused(tmp_path, StorageError)  # the only model of its folder
    with pytest.raises(StorageError, match="not a regular file"):
        read_header(tmp_path)


def test_descriptors_are_closed(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    good.write_bytes(GOOD)
    bad.write_bytes(GOOD[:100])
    os.mkfifo(tmp_path / "fifo")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        read_header(good)
        for path in (bad, tmp_path, tmp_path / "fifo"):
            with pytest.raises(NextnError):
                read_header(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_shard_that_lost_its_name(tmp_path: Path) -> None:
    path = tmp_path / "M.gguf"
    path.write_bytes(make([*arch_kvs(1), *split_kvs(0, 3, 5)]).whole)
    assert "one of 3 shards, but its name does not say which" in refused(path)


# -- sets ----------------------------------------------------------------------------------------------------


def test_a_set_opens_from_any_of_its_shards(tmp_path: Path) -> None:
    paths = three(tmp_path)
    for path in (*paths, tmp_path):
        model = open_model(path)
        assert [file.path for file in model.files] == paths
        assert (model.entry, model.base_name, model.is_sharded) == (paths[0], "M", True)
        assert len(model.tensors) == 7
        model.check_whole()


def test_a_first_shard_without_tensors(tmp_path: Path) -> None:
    write_set(tmp_path, "M", [(arch_kvs(1), []), ([], [*root_tensors(), *trunk_tensors(1)])])
    assert len(open_model(tmp_path).tensors) == 5


def test_a_set_of_one(tmp_path: Path) -> None:
    (path,) = write_set(tmp_path, "M", [(arch_kvs(1), trunk_tensors(1))])
    model = open_model(path)
    assert (model.is_sharded, model.base_name, len(model.files)) == (True, "M", 1)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    first, second, third = three(tmp_path)
    second.unlink()
    for path in (first, third, tmp_path):
        assert "1 of 3 shards is missing (M-00002-of-00003.gguf)" in refused(path)
    first.unlink()
    assert "2 of 3 shards are missing (M-00001-of-00003.gguf, M-00002-of-00003.gguf)" in refused(third)


def test_many_missing_shards_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "M-00001-of-00009.gguf"
    path.write_bytes(make([*arch_kvs(1), *split_kvs(0, 9, 0)]).whole)
    message = refused(path)
    assert "8 of 9 shards are missing" in message
    assert "and 5 more" in message


def test_a_renamed_shard(tmp_path: Path) -> None:
    _, second, third = three(tmp_path)
    shutil.copy(third, second)
    message = refused(tmp_path)
    assert "M-00002-of-00003.gguf: 'split.no' is 2, but the name says shard 2 (split.no 1)" in message


@pytest.mark.parametrize("name", ["M-00001-of-00001.gguf", "M-00001-of-00002.gguf"])
def test_a_shard_renamed_into_another_count(name: str, tmp_path: Path) -> None:
    first, second, _ = three(tmp_path)
    folder = tmp_path / "renamed"
    folder.mkdir()
    shutil.copy(first, folder / name)
    if "00002" in name:
        shutil.copy(second, folder / "M-00002-of-00002.gguf")
    assert "'split.count' is 3, but the names say" in refused(folder / name)


@pytest.mark.parametrize("name", ["M-00000-of-00003.gguf", "M-00004-of-00003.gguf", "M-00000-of-00000.gguf"])
def test_a_number_that_no_set_has(name: str, tmp_path: Path) -> None:
    first, _, _ = three(tmp_path)
    shutil.copy(first, tmp_path / name)
    assert "which is impossible" in refused(tmp_path / name)
    (tmp_path / name).write_bytes(GOOD)
    assert len(open_model(tmp_path / name).files) == 1


def test_a_single_file_with_the_name_of_a_shard(tmp_path: Path) -> None:
    path = tmp_path / "M-00001-of-00002.gguf"
    path.write_bytes(GOOD)
    model = open_model(path)
    assert (len(model.files), model.is_sharded, model.base_name) == (1, False, "M-00001-of-00002")


def test_a_shard_with_a_number_and_no_count(tmp_path: Path) -> None:
    path = tmp_path / "M-00001-of-00002.gguf"
    path.write_bytes(make([*arch_kvs(1), ("split.no", "u16", 0)]).whole)
    assert "'split.no' is present without 'split.count'" in refused(path)


def test_stale_counts_in_later_shards_are_fine(tmp_path: Path) -> None:
    paths = three(tmp_path)
    paths[1].write_bytes(make(split_kvs(1, 9, 99), trunk_tensors(1)).whole)
    assert len(open_model(tmp_path).tensors) == 7


@pytest.mark.parametrize("kind", ["u8", "i32", "u64"])
def test_split_keys_of_other_integer_types(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "M-00001-of-00001.gguf"
    path.write_bytes(make([*arch_kvs(1), ("split.no", kind, 0), ("split.count", kind, 1)]).whole)
    assert open_model(path).is_sharded


@pytest.mark.parametrize("value", [("str", "1"), ("[u16]", [1] * 9), ("bool", True), ("f32", 1.0)])
def test_split_keys_that_are_no_numbers(value: tuple[str, object], tmp_path: Path) -> None:
    first, _, _ = three(tmp_path)
    first.write_bytes(make([*arch_kvs(1), ("split.no", *value), ("split.count", "u16", 3)]).whole)
    assert "'split.no' is None" in refused(tmp_path)


def test_sets_mixed_from_two_models(tmp_path: Path) -> None:
    """Of another architecture, hidden size, number of tensors, or with the same tensors again."""
    for what in ("one", "two"):
        (tmp_path / what).mkdir()
    paths = three(tmp_path / "one")
    entry, third = paths[0], paths[2]
    good = third.read_bytes()
    tensors = trunk_tensors(2, first=1)

    third.write_bytes(make(split_kvs(2, 3, 7), [*tensors, f32("blk.0.attn_norm.weight", 8)]).whole)
    assert "tensor 'blk.0.attn_norm.weight' is also in M-00002-of-00003.gguf" in refused(entry)

    third.write_bytes(make(split_kvs(2, 3, 7), tensors[:1]).whole)
    assert "should hold 7 tensors but holds 6" in refused(entry)

    third.write_bytes(make([("general.architecture", "str", "lla\nma"), *split_kvs(2, 3, 7)], tensors).whole)
    assert "its architecture is 'lla\\nma', but the first shard's is 'qwen35'" in refused(entry)

    shutil.copy(three(tmp_path / "two", hidden=16)[2], third)
    message = refused(entry)
    assert message.startswith(f"{third}: its layers have hidden size 16, but the first shard says 8")

    third.write_bytes(good)
    open_model(entry)


def test_a_damaged_shard_is_the_one_that_is_named(tmp_path: Path) -> None:
    paths = three(tmp_path)
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    assert refused(paths[0], FormatError).startswith(f"{paths[1]}, byte ")
    paths[1].unlink()
    paths[1].mkdir()
    assert refused(paths[0], StorageError).startswith(f"{paths[1]}: this is not a regular file")


def test_shards_by_symlink_as_in_the_hub_cache(tmp_path: Path) -> None:
    """Snapshots hold links to blobs named after their hash: names count, not what they lead to."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for i, path in enumerate(three(tmp_path)):
        path.rename(blobs / f"{i}f3a")
        (snapshot / path.name).symlink_to(f"../../blobs/{i}f3a")
    model = open_model(snapshot / "M-00002-of-00003.gguf")
    assert [file.path.parent for file in model.files] == [snapshot] * 3
    assert model.base_name == "M"
    (blobs / "2f3a").unlink()
    assert "1 of 3 shards is missing (M-00003-of-00003.gguf)" in refused(snapshot)


# -- folders -------------------------------------------------------------------------------------------------


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / ".hidden.gguf").write_bytes(GOOD)
    (tmp_path / "folder.gguf").mkdir()
    assert "there is no GGUF file in this folder" in refused(tmp_path, UsageError)


def test_a_folder_with_several_models(tmp_path: Path) -> None:
    three(tmp_path)
    (tmp_path / "M.gguf").write_bytes(GOOD)
    message = refused(tmp_path, UsageError)
    assert "holds 2 models (M-00001-of-00003.gguf, M.gguf); name one of them" in message


def test_a_folder_with_two_sets_of_one_name(tmp_path: Path) -> None:
    """The same prefix with another count is another set: both entry points of the shards layout."""
    three(tmp_path)
    write_set(tmp_path, "M", [(arch_kvs(1), []), ([], trunk_tensors(1))])
    assert [path.name for path in model_candidates(tmp_path)] == ["M-00001-of-00002.gguf", "M-00001-of-00003.gguf"]


def test_a_folder_with_a_link_to_itself_is_listed(tmp_path: Path) -> None:
    """A link that leads nowhere is a candidate: opening it says what is wrong with it, and listing goes on."""
    for name in ("a.gguf", "mtp-a.gguf"):
        (tmp_path / name).symlink_to(tmp_path / name)
    (tmp_path / "b.gguf").mkdir()
    assert model_candidates(tmp_path) == [tmp_path / "a.gguf"]


def test_sidecars_and_projectors_are_left_out(tmp_path: Path) -> None:
    paths = three(tmp_path)
    for name in ("mtp-M-q4_0.gguf", "mmproj-M-F16.gguf", "M.imatrix.gguf", "eagle3-M.gguf"):
        (tmp_path / name).write_bytes(GOOD)
    assert open_model(tmp_path).entry == paths[0]


def test_a_folder_with_one_sidecar_yields_it(tmp_path: Path) -> None:
    (tmp_path / "mtp-M.gguf").write_bytes(make(arch_kvs(3, 1), [*root_tensors(), *block_tensors(2)]).whole)
    assert open_model(tmp_path).entry.name == "mtp-M.gguf"


def test_a_folder_with_the_name_of_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "M.gguf"
    folder.mkdir()
    (folder / "inside.gguf").write_bytes(GOOD)
    assert open_model(folder).entry == folder / "inside.gguf"
