"""Checkpoint folders: config.json, the index, tensors in their files, and everything that can be missing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from stmaker import encode

from conftest import CHECKPOINT
from nextn.errors import FormatError, IncompleteModel, NextnError, StorageError, UsageError
from nextn.sources.checkpoint import CONFIG, INDEX, TOKENIZER, Checkpoint, open_checkpoint


def tensors(*names: str) -> bytes:
    table = {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(names)}
    return encode(table, bytes(4 * len(names)))


def folder_with(folder: Path, **files: Any) -> Checkpoint:
    """`config={...}` becomes config.json, and so on; bytes are written as they are."""
    names = {"config": CONFIG, "index": INDEX, "tokenizer": TOKENIZER}
    for key, value in {"config": {}, **files}.items():
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        (folder / names.get(key, f"{key}.safetensors")).write_bytes(data)
    return open_checkpoint(folder)


def test_tensors_are_found_through_the_index(tmp_path: Path) -> None:
    found = folder_with(
        tmp_path,
        index={"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}},
        one=tensors("a"),
        two=tensors("not in the index", "b"),
    )
    assert found.weight_map == {"a": "one.safetensors", "b": "two.safetensors"}
    assert found.tensor("b").where.path == tmp_path / "two.safetensors"
    assert found.tensor("b").where.size_bytes == 4


def test_tensors_are_found_without_an_index(tmp_path: Path) -> None:
    found = folder_with(tmp_path, one=tensors("a"), two=tensors("b", "c"))
    assert found.weight_map == {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}
    assert found.tensor("c").where.path.name == "two.safetensors"


def test_files_are_opened_when_their_tensors_are_asked_for(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "one.safetensors", "b": "no.safetensors"}}
    found = folder_with(tmp_path, index=index, one=tensors("a"))
    assert found.tensor("a").name == "a"
    with pytest.raises(IncompleteModel, match=r"no\.safetensors: this file is missing, and the index says"):
        found.tensor("b")


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(IncompleteModel, match=r"there are no \.safetensors files"):
        _ = folder_with(tmp_path).weight_map


def test_no_config(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "no", tmp_path / ("x" * 300)):
        with pytest.raises(UsageError, match=r"there is no config\.json here"):
            open_checkpoint(folder)


def test_a_tensor_that_the_index_only_promises(tmp_path: Path) -> None:
    found = folder_with(tmp_path, index={"weight_map": {"a": "one.safetensors"}}, one=tensors("b"))
    with pytest.raises(FormatError, match="the index says that tensor 'a' is here, but it is not") as caught:
        found.tensor("a")
    assert caught.value.path == tmp_path / "one.safetensors"


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/passwd", "sub/x", "..\\x", "..", ".", "", "C:\\x"])
def test_an_index_that_leads_outside(file: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="names a file outside the folder") as caught:
        _ = folder_with(tmp_path, index={"weight_map": {"a": file}}).weight_map
    assert caught.value.path == tmp_path / INDEX


@pytest.mark.parametrize("file", ["x" * 300, "nul\0", 7, None, ["a"], "no.safetensors"])
def test_an_index_that_leads_nowhere(file: Any, tmp_path: Path) -> None:
    with pytest.raises(IncompleteModel, match="this file is missing"):
        folder_with(tmp_path, index={"weight_map": {"a": file}}).tensor("a")


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": None}, {"weight_map": "a"}])
def test_an_index_without_a_map(index: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="'weight_map' is missing"):
        _ = folder_with(tmp_path, index=index).weight_map


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    found = folder_with(tmp_path, index={"weight_map": {"a": "one.safetensors"}}, one=tensors("a")[:-1])
    cut = r"one\.safetensors: the file ends at byte 72 of 73: the download is incomplete, and tensor 'a'"
    with pytest.raises(FormatError, match=cut):
        found.tensor("a")


BROKEN = {
    "empty": b"",
    "cut": b'{"a": 1',
    "no-utf8": b'{"a": "\xff"}',
    "deep": b"[" * 100_000,
    "html": b"<!doctype html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


STRANGERS = {"empty": "the file is empty", "html": "this is a saved web page", "pointer": "this is a Git LFS pointer"}


@pytest.mark.parametrize("what", list(BROKEN))
def test_broken_json(what: str, tmp_path: Path) -> None:
    found = folder_with(tmp_path, config=BROKEN[what], index=BROKEN[what], tokenizer=BROKEN[what])
    for name, ask in ((CONFIG, "config"), (INDEX, "weight_map"), (TOKENIZER, "vocabulary")):
        with pytest.raises(FormatError, match=STRANGERS.get(what, "not valid JSON")) as caught:
            getattr(found, ask)
        assert caught.value.path == tmp_path / name
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [[], 1, None, "a"])
def test_json_that_is_no_object(value: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not a JSON object"):
        _ = folder_with(tmp_path, config=value).config


def test_json_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / CONFIG).mkdir()
    with pytest.raises(StorageError, match="not a regular file"):
        _ = open_checkpoint(tmp_path).config
    (tmp_path / CONFIG).rmdir()
    os.mkfifo(tmp_path / CONFIG)
    with pytest.raises(StorageError, match="not a regular file"):
        _ = open_checkpoint(tmp_path).config


def test_a_nested_text_config_wins(tmp_path: Path) -> None:
    found = folder_with(
        tmp_path,
        config={
            "architectures": ["Some", "Model"],
            "hidden_size": 1,
            "dtype": "bfloat16",
            "text_config": {"hidden_size": 64, "layers": 2, "flag": True, "text": "9"},
        },
    )
    assert found.classes == ("Some", "Model")
    assert found.integer("hidden_size") == 64
    assert found.integer("no", "layers") == 2
    assert found.integer("flag", "text", "dtype", "no") is None
    assert found.text_config["dtype"] == "bfloat16"


@pytest.mark.parametrize("nested", [None, [], "a", 1])
def test_a_text_config_that_is_none(nested: Any, tmp_path: Path) -> None:
    assert folder_with(tmp_path, config={"hidden_size": 1, "text_config": nested}).integer("hidden_size") == 1


@pytest.mark.parametrize("names", [None, 5, "Model", {}])
def test_architectures_that_are_no_list(names: Any, tmp_path: Path) -> None:
    assert folder_with(tmp_path, config={"architectures": names}).classes == ()


def test_the_vocabulary_with_added_tokens(tmp_path: Path) -> None:
    tokenizer = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "<x>"}]}
    assert folder_with(tmp_path, tokenizer=tokenizer).vocabulary == {0: "a", 1: "b", 2: "<x>"}


@pytest.mark.parametrize("tokenizer", [{}, {"model": None}, {"model": []}, {"model": {"vocab": [["a", 0.0]]}}])
def test_a_tokenizer_without_a_list(tokenizer: Any, tmp_path: Path) -> None:
    assert folder_with(tmp_path, tokenizer=tokenizer).vocabulary is None


def test_no_tokenizer(tmp_path: Path) -> None:
    assert folder_with(tmp_path).vocabulary is None


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"model": {"vocab": {"a": "x"}}},
        {"model": {"vocab": {"a": None}}},
        {"model": {"vocab": {}}, "added_tokens": [{}]},
        {"model": {"vocab": {}}, "added_tokens": [{"id": "no", "content": "a"}]},
        {"model": {"vocab": {}}, "added_tokens": ["a"]},
        {"model": {"vocab": {}}, "added_tokens": 5},
    ],
)
def test_a_damaged_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="the token list is damaged"):
        _ = folder_with(tmp_path, tokenizer=tokenizer).vocabulary


def test_the_shipped_checkpoint() -> None:
    found = open_checkpoint(CHECKPOINT)
    assert any("mtp." in name for name in found.weight_map)
    for name in found.weight_map:
        assert found.tensor(name).where.size_bytes > 0
    assert found.vocabulary


def test_every_error_is_one_of_ours(tmp_path: Path) -> None:
    """A folder below a file, as a checkpoint."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NextnError):
        open_checkpoint(tmp_path / "file" / "below")
