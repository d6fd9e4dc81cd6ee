"""Experts' gate and up as one tensor become two by moving rows, in every type; no value is decoded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import ggufmaker
import numpy as np
import pytest
from remake import fused, in_nvfp4, remade, tensors_of
from sick import rewrite
from splitting import split_gguf
from wild import Parts

import nextn
from conftest import stored
from nextn.block.from_gguf import block_from_model
from nextn.block.model import Block, BlockTensor
from nextn.errors import FormatError, QuantizeError, UnsupportedModel
from nextn.gguf.files import open_model
from nextn.gguf.types import TENSOR_TYPES, TensorType, tensor_size
from nextn.layouts.experts import NOTE, split_experts
from nextn.sources.ranges import FileRange, Reader
from nextn.sources.rows import GGUFRows

E, F, X = 256, 16, 3
NAME = "blk.2.ffn_gate_up_exps.weight"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parts"))


def one_tensor(folder: Path, kind: TensorType, ne: tuple[int, ...]) -> tuple[Block, bytes]:
    """A block of nothing but gate and up, of random bytes."""
    size = tensor_size(kind, ne)
    assert size is not None
    data = random.Random(kind.id).randbytes(size)
    path = folder / "donor.gguf"
    path.write_bytes(ggufmaker.make(ggufmaker.arch_kvs(3), [(NAME, ne, kind.id, data)]).whole)
    file, info = open_model(path).tensors[NAME]
    tensor = BlockTensor(0, NAME[6:], ne, GGUFRows(file, info), FileRange.of(file, *file.value_range(info)), kind.id)
    return Block(path, "donor", "glm4moe", 2, 1, (tensor,), E, None), data


def bytes_of(tensor: BlockTensor) -> Iterator[bytes]:
    with Reader() as reader:
        yield from (np.asarray(rows).tobytes() for rows in tensor.rows.blocks(reader))


@pytest.mark.parametrize("kind", [kind for kind in TENSOR_TYPES if kind.block_size], ids=lambda kind: kind.name)
def test_rows_of_every_type_move_as_they_are(kind: TensorType, tmp_path: Path) -> None:
    block, data = one_tensor(tmp_path, kind, (E, 2 * F, X))
    made = split_experts(block).tensors
    assert [(tensor.suffix, tensor.ne) for tensor in made] == [
        ("ffn_gate_exps.weight", (E, F, X)), ("ffn_up_exps.weight", (E, F, X)),
    ]  # fmt: skip
    half = len(data) // (2 * X)
    for number, tensor in enumerate(made):
        wanted = b"".join(data[(2 * x + number) * half : (2 * x + number + 1) * half] for x in range(X))
        assert b"".join(bytes_of(tensor)) == wanted
        assert tensor.rows.block_type == kind


def test_rows_that_are_interleaved_across_the_middle_stay_together(tmp_path: Path) -> None:
    grouped = next(kind for kind in TENSOR_TYPES if kind.block_size and kind.row_group == 4)
    block, _ = one_tensor(tmp_path, grouped, (E, 4, X))
    with pytest.raises(QuantizeError, match="whose rows nextn cannot separate into gate and up"):
        split_experts(block)


def test_another_shape_is_no_gate_and_up(tmp_path: Path) -> None:
    block, _ = one_tensor(tmp_path, next(kind for kind in TENSOR_TYPES if kind.name == "f16"), (E, 7, X))
    with pytest.raises(FormatError, match="256 x 7 x 3, which is not gate and up of experts"):
        split_experts(block)


def test_factors_are_multiplied_into_each_experts_rows(parts: Parts, tmp_path: Path) -> None:
    two = in_nvfp4(parts.moe_bundle, tmp_path / "two.gguf", 4)
    one = fused(two, tmp_path / "fused.gguf", [4])
    named = [(str(name).replace("ffn_gate_exps.", "ffn_gate_up_exps."), *rest) for name, *rest in tensors_of(one)]
    one = remade(one, tmp_path / "one.gguf", [each for each in named if "ffn_up_exps" not in each[0]])
    whole = nextn.attach(parts.moe, two, layout="bundle", type="f32", out=tmp_path / "two-f32.gguf").entry
    block = split_experts(block_from_model(open_model(one)))
    found = {tensor.suffix: tensor for tensor in block.tensors}
    assert not any("gate_up" in suffix for suffix in found)
    with Reader() as reader:
        for suffix in ("ffn_gate_exps.weight", "ffn_up_exps.weight"):
            file, info = open_model(whole).tensors[f"blk.4.{suffix}"]
            start, end = file.tensor_range(info)
            wanted = np.frombuffer(file.path.read_bytes()[start:end], np.float32)
            assert np.array_equal(np.concatenate(list(found[suffix].rows.chunks(reader))).reshape(-1), wanted)


def test_ik_gets_two_tensors_even_where_llama_cpp_takes_one(parts: Parts, tmp_path: Path) -> None:
    path = fused(parts.moe_bundle, tmp_path / "fused.gguf", [4])
    made = nextn.attach(parts.moe, path, layout="bundle", for_engine="both", out=tmp_path / "both.gguf")
    assert NOTE in made.plan.notes
    new, old = open_model(made.entry), open_model(parts.moe_bundle)
    assert {name: stored(new, name) for name in new.tensors} == {name: stored(old, name) for name in old.tensors}


def test_extract_writes_two_where_the_loader_takes_two(parts: Parts, tmp_path: Path) -> None:
    layer = open_model(parts.glm_bundle).arch_int("block_count") - 1
    path = fused(parts.glm_bundle, tmp_path / "fused.gguf", [layer])
    made, like = (nextn.extract(each, out=tmp_path / f"{each.stem}-mtp") for each in (path, parts.glm_bundle))
    assert made.sidecar is not None and like.sidecar is not None
    new, old = open_model(made.sidecar), open_model(like.sidecar)
    assert {name: stored(new, name) for name in new.tensors} == {name: stored(old, name) for name in old.tensors}


# -- a trunk's, and blocks that lost one form and get it from the other -----------------------------------------------


def all_stored(path: Path) -> dict[str, tuple[tuple[int, ...], int, bytes]]:
    model = open_model(path)
    return {name: (info.ne, info.type_id, stored(model, name)) for name, (_, info) in model.tensors.items()}


@pytest.mark.parametrize("n_shards", [1, 2])
def test_doctor_splits_a_trunk_that_llama_cpp_refuses(n_shards: int, parts: Parts, tmp_path: Path) -> None:
    n_layer = open_model(parts.glm).arch_int("block_count")
    path = fused(parts.glm, tmp_path / "fused.gguf", range(n_layer))
    if n_shards > 1:
        path = split_gguf(path, tmp_path / "set", n_shards)[0]
    before = all_stored(path)
    (finding,) = nextn.doctor(path).before.problems
    assert finding.id == "trunk-wants-split-experts" and "llama.cpp refuses to load it" in finding.engine
    assert "ik_llama.cpp takes it" in finding.engine
    runs_on = nextn.inspect(path).runs_on
    assert runs_on["llama.cpp"].startswith("not as it is") and runs_on["ik_llama.cpp"].startswith("runs it")
    mended = nextn.doctor(path, fix=True, out=tmp_path / "mended")
    assert mended.remaining == () and mended.plan is not None
    assert all_stored(mended.plan.entry) == all_stored(parts.glm)
    assert all_stored(path) == before


def test_attach_says_that_llama_cpp_refuses_the_trunk(parts: Parts, tmp_path: Path) -> None:
    n_layer = open_model(parts.glm).arch_int("block_count")
    path = fused(parts.glm, tmp_path / "fused.gguf", range(n_layer))
    for engine in ("llama.cpp", "both", "lmstudio"):
        with pytest.raises(UnsupportedModel, match=r"llama.cpp refuses; split it first .*--fix"):
            nextn.attach(path, parts.glm_bundle, for_engine=engine, dry_run=True)
    assert any("llama.cpp refuses" in note for note in nextn.attach(path, parts.glm_bundle, dry_run=True).plan.notes)
    of_ik = nextn.attach(path, parts.glm_bundle, for_engine="ik", dry_run=True)
    assert not any("llama.cpp refuses:" in note for note in of_ik.plan.notes)


def test_a_trunk_with_factors_of_both_is_left_alone(parts: Parts, tmp_path: Path) -> None:
    path = fused(parts.glm, tmp_path / "fused.gguf", range(open_model(parts.glm).arch_int("block_count")))
    named = next(str(name) for name, *_ in tensors_of(path) if "gate_up" in str(name))
    scale = (named.replace(".weight", ".scale"), (1,), ggufmaker.F32, b"\0\0\x80\x3f")
    odd = remade(path, tmp_path / "odd.gguf", [*tensors_of(path), scale])
    (finding,) = (each for each in nextn.doctor(odd).before.problems if each.id == "trunk-wants-split-experts")
    assert not finding.fixable and "is a factor of gate and up together" in finding.entry.mend


@pytest.mark.parametrize("lost", [("ffn_gate_exps",), ("ffn_gate_exps", "ffn_up_exps"), ("ffn_gate_up_exps",)])
@pytest.mark.parametrize("kind", ["moe", "glm"])
def test_a_block_is_completed_from_a_donor_in_the_other_form(
    kind: str, lost: tuple[str, ...], parts: Parts, tmp_path: Path
) -> None:
    bundle = parts.moe_bundle if kind == "moe" else parts.glm_bundle
    layer = open_model(bundle).arch_int("block_count") - 1
    one = fused(bundle, tmp_path / "one.gguf", [layer])
    whole = one if lost == ("ffn_gate_up_exps",) else bundle
    names = {f"blk.{layer}.{name}.weight" for name in lost}
    sick = rewrite(whole, tmp_path / "sick.gguf", lose=lambda name: name in names)
    mended = nextn.doctor(sick, fix=True, donor=one, out=tmp_path / "mended.gguf")
    assert mended.remaining == () and mended.plan is not None
    assert all_stored(mended.plan.entry) == all_stored(bundle)
