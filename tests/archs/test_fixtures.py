"""The test data is what it says it is, and can be made again (docs/goldens.md)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from splitting import even_counts, split_gguf

import gguf
from conftest import CHECKPOINT, DATA, Q4, TRUNKS
from golden_quantize import quantize_matrix
from make_goldens import RANDOM, TRUNK_FILES
from make_tiny_checkpoints import checkpoint_sha256, make_checkpoint

GOLDENS = DATA / "goldens"
Q4_SHA256 = "d0df8baeb69ead5f6753512badc3a312a577d928ef28fdd9d8992349bc8937dc"


def golden(model: str, outtype: str) -> dict:
    return json.loads((GOLDENS / f"{model}-{outtype}.json").read_text("utf-8"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("kind", "dtype"), RANDOM)
def test_random_checkpoints_come_out_the_same_everywhere(kind: str, dtype: str, tmp_path: Path) -> None:
    made = checkpoint_sha256(make_checkpoint(kind, tmp_path / "any name", dtype))
    for outtype in ("f32", "f16", "bf16", "q8_0"):
        assert golden(f"{kind}-{dtype}", outtype)["checkpoint"] == made


def test_another_seed_makes_another_checkpoint(tmp_path: Path) -> None:
    first, second = (
        checkpoint_sha256(make_checkpoint("qwen35-dense", tmp_path / str(seed), seed=seed)) for seed in (0, 1)
    )
    assert {name for name in first if first[name] != second[name]} == {"model.safetensors"}


def test_the_trained_checkpoint_is_the_one_the_goldens_were_made_from() -> None:
    assert golden(CHECKPOINT.name, "bf16")["checkpoint"] == checkpoint_sha256(CHECKPOINT)


def test_the_demo_quant_is_a_trunk_alone() -> None:
    assert sha256(Q4) == Q4_SHA256
    reader = gguf.GGUFReader(Q4)
    assert not [name for name in reader.fields if "nextn" in name]
    assert [tensor.name for tensor in reader.tensors if tensor.name.startswith("blk.4.")] == []
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32", "Q4_K", "Q6_K"}


@pytest.mark.parametrize(("file", "model", "flags"), [t for t in TRUNK_FILES if "/" not in t[0]])
def test_trunks_are_what_the_upstream_converter_wrote(file: str, model: str, flags: tuple[str, ...]) -> None:
    assert sha256(TRUNKS / file) == golden(model, flags[1])["no_mtp"]["sha256"]


@pytest.mark.parametrize(("folder", "counts"), [("tensors-first", [27, 27, 22]), ("kv-first", [0, 40, 36])])
def test_splitting_equals_the_upstream_sets_byte_for_byte(folder: str, counts: list[int], tmp_path: Path) -> None:
    made = split_gguf(TRUNKS / "qwen35moe-BF16.gguf", tmp_path, counts=counts)
    theirs = sorted((TRUNKS / folder).iterdir())
    assert [path.name for path in made] == [path.name for path in theirs]
    assert [sha256(path) for path in made] == [sha256(path) for path in theirs]


def test_splitting_evenly_and_with_stale_counts(tmp_path: Path) -> None:
    assert even_counts(76, 3) == [26, 26, 24]
    assert even_counts(76, 3, tensors_first=False) == [0, 38, 38]
    source = TRUNKS / "tiny-qwen35-Q8_0.gguf"
    shards = split_gguf(source, tmp_path, 4, tensors_first=False, stale_count=3)
    readers = [gguf.GGUFReader(path) for path in shards]
    assert [reader.fields["split.count"].contents() for reader in readers] == [4, 3, 3, 3]
    assert [reader.fields["split.no"].contents() for reader in readers] == [0, 1, 2, 3]
    n_tensors = len(gguf.GGUFReader(source).tensors)
    assert {reader.fields["split.tensors.count"].contents() for reader in readers} == {n_tensors}
    assert len(readers[0].tensors) == 0
    assert sum(len(reader.tensors) for reader in readers) == n_tensors


@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0"])
def test_all_layouts_of_a_family_become_the_same_tensors(outtype: str) -> None:
    for family, models in {
        "qwen35moe-fused-bf16": ["qwen35moe-experts-bf16", "qwen35moe-nested-bf16"],
        "qwen3next-experts-bf16": ["qwen3next-fused-bf16"],
    }.items():
        for model in models:
            assert golden(model, outtype)["mtp"]["tensors"] == golden(family, outtype)["mtp"]["tensors"]


def test_the_matrix_of_the_quantize_goldens_comes_out_the_same_everywhere() -> None:
    matrix = json.loads((GOLDENS / "quantize.json").read_text())["matrix"]
    x = quantize_matrix()
    assert list(x.shape) == matrix["shape"]
    assert hashlib.sha256(x.tobytes()).hexdigest() == matrix["sha256"]


def test_the_data_stays_small() -> None:
    files = [p for folder in (DATA, CHECKPOINT.parent) for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 35e6  # 18 MB of them are trunks
