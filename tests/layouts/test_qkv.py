"""q, k and v fused and split: the bytes of rows, round trips, refusals, and what engines make of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mutants import Parts

import nextn
from conftest import CHECKPOINT, Q4, TRUNKS, need, stored
from nextn.cli import main
from nextn.errors import FormatError, NextnError, QuantizeError
from nextn.gguf.files import Model, open_model
from nextn.gguf.types import parse_type_name
from nextn.layouts import qkv
from nextn.writing.plan import Copy

CODE = ["def read(self):\n", "import os\n\ndef walk(path):\n    for name in os.listdir(path):\n"]
PARTS = ("attn_q", "attn_k", "attn_v")


def trunk_of(kind: str) -> Path:
    return TRUNKS / "families" / f"{kind}-Q8_0.gguf"


def everything(model: Model) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    return {name: (info.type_id, info.ne, stored(model, name)) for name, (_, info) in model.tensors.items()}


def joined(model: Model, layer: int, ending: str = "weight") -> bytes:
    return b"".join(stored(model, f"blk.{layer}.{part}.{ending}") for part in PARTS)


def attach(trunk: Path, donor: Path, out: Path, **options: Any) -> Model:
    made = nextn.attach(trunk, donor, out=out, **{"layout": "bundle", **options})
    return open_model(made.sidecar or made.entry)


@pytest.mark.parametrize("kind", ["mimo2", "glm4moe"])
def test_fused_rows_are_the_split_rows_one_behind_the_other(
    kind: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of trunk and block, weights and biases; nothing else changes, and the way back is exact."""
    split = attach(trunk_of(kind), family(kind), tmp_path / "split.gguf", qkv="split")
    fused = attach(trunk_of(kind), family(kind), tmp_path / "fused.gguf", qkv="fused")
    n_layer = split.arch_int("block_count")
    for layer in range(n_layer):
        assert f"blk.{layer}.attn_q.weight" not in fused.tensors and f"blk.{layer}.attn_qkv.weight" not in split.tensors
        for ending in ("weight", "bias") if kind == "glm4moe" else ("weight",):
            assert stored(fused, f"blk.{layer}.attn_qkv.{ending}") == joined(split, layer, ending), layer
    parted = {f"{part}.{ending}" for part in PARTS for ending in ("weight", "bias")}
    same = {name for name in split.tensors if name.split(".", 2)[-1] not in parted}
    before, after = everything(split), everything(fused)
    assert len(same) > 20 and {name: before[name] for name in same} == {name: after[name] for name in same}
    again = attach(trunk_of(kind), tmp_path / "fused.gguf", tmp_path / "again.gguf", qkv="split")
    assert everything(again) == before
    back = nextn.detach(tmp_path / "fused.gguf", qkv="split", out=tmp_path / "back.gguf")
    assert everything(open_model(back.entry)) == everything(open_model(trunk_of(kind)))


def test_the_trunks_rows_never_pass_through_memory(family: Callable[[str], Path], tmp_path: Path) -> None:
    plan = nextn.attach(
        trunk_of("mimo2"), family("mimo2"), layout="bundle", qkv="fused", out=tmp_path / "x.gguf", dry_run=True
    ).plan
    copied = sum(s.size_bytes for out in plan.outputs for s in getattr(out, "segments", ()) if isinstance(s, Copy))
    trunk = open_model(trunk_of("mimo2"))
    assert copied >= sum(file.stored_size(info) for file, info in trunk.tensors.values())
    assert not list(tmp_path.iterdir())


def test_a_trunk_only_model_changes_form_without_a_block(family: Callable[[str], Path], tmp_path: Path) -> None:
    """As a MiMo quant made for one engine becomes one for the other."""
    trunk = trunk_of("mimo2")
    fused = nextn.detach(trunk, qkv="fused", out=tmp_path / "fused.gguf").entry
    model = open_model(fused)
    assert [kv.key for kv in model.kvs] == [kv.key for kv in open_model(trunk).kvs]
    assert stored(model, "blk.1.attn_qkv.weight") == joined(open_model(trunk), 1)
    split = open_model(nextn.detach(fused, qkv="split", out=tmp_path / "split.gguf").entry)
    assert everything(split) == everything(open_model(trunk))
    assert split.files[0].size_bytes == open_model(trunk).files[0].size_bytes  # tensors stand in another order


def test_as_trunk_follows_the_trunk(family: Callable[[str], Path], tmp_path: Path) -> None:
    fused = nextn.detach(trunk_of("glm4moe"), qkv="fused", out=tmp_path / "trunk.gguf").entry
    for trunk, name in ((fused, "attn_qkv"), (trunk_of("glm4moe"), "attn_q")):
        for layout in ("bundle", "sidecar"):
            out = tmp_path / f"{name}-{layout}"
            model = attach(trunk, family("glm4moe"), out, qkv="as-trunk", layout=layout)
            assert f"blk.2.{name}.weight" in model.tensors and f"blk.2.{name}.bias" in model.tensors


def test_a_block_in_either_form_is_taken_and_written_as_published(
    family: Callable[[str], Path], tmp_path: Path
) -> None:
    trunk = trunk_of("mimo2")
    plain = everything(attach(trunk, family("mimo2"), tmp_path / "plain.gguf"))
    for form in ("split", "fused"):
        attach(trunk, family("mimo2"), tmp_path / f"{form}.gguf", qkv=form, layout="sidecar")
        made = attach(trunk, tmp_path / f"{form}.gguf", tmp_path / f"from-{form}.gguf")
        assert everything(made) == plain


@pytest.mark.parametrize("type_name", ["q8_0", "bf16", "q4_0"])
def test_the_form_does_not_change_what_is_converted(
    type_name: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    """From a checkpoint, and from a GGUF whose matrices are converted anew."""
    for donor in (family("mimo2"), attach(trunk_of("mimo2"), family("mimo2"), tmp_path / "f32.gguf", type="f32").entry):
        out = tmp_path / f"from {donor.stem}"
        split = attach(trunk_of("mimo2"), donor, out / "split.gguf", type=type_name, qkv="split", layout="sidecar")
        fused = attach(trunk_of("mimo2"), donor, out / "fused.gguf", type=type_name, qkv="fused", layout="sidecar")
        for layer in (2, 3, 4):
            assert split.tensors[f"blk.{layer}.attn_k.weight"][1].type_name == type_name
            assert stored(fused, f"blk.{layer}.attn_qkv.weight") == joined(split, layer)


def test_recurrent_layers_keep_what_they_call_attn_qkv(tmp_path: Path) -> None:
    trunk = TRUNKS / "tiny-qwen35-Q8_0.gguf"
    model = open_model(trunk)
    recurrent = [name for name in model.tensors if name.endswith("attn_qkv.weight")]
    assert recurrent
    split = open_model(nextn.detach(trunk, qkv="split", out=tmp_path / "split.gguf").entry)
    assert everything(split) == everything(model)
    fused = open_model(nextn.detach(trunk, qkv="fused", out=tmp_path / "fused.gguf").entry)
    assert all(stored(fused, name) == stored(model, name) for name in recurrent)
    assert len([name for name in fused.tensors if name.endswith("attn_qkv.weight")]) > len(recurrent)


def test_types_that_differ_are_not_fused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = open_model(Q4)
    ends = ("attn_v.weight", "attn_q.weight")
    kinds = {info.type_name for name, (_, info) in model.tensors.items() if name.endswith(ends)}
    assert len(kinds) > 1, "the demo's trunk mixes types"
    assert main(["detach", str(Q4), "--qkv", "fused", "-o", str(tmp_path / "x.gguf")]) == QuantizeError.exit_code
    message = capsys.readouterr().err
    assert "differ in type" in message and "attn_v.weight" in message and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_attention_without_q_k_v_is_told(
    family: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk = str(trunk_of("glm4moelite"))
    donor = str(family("glm4moelite"))
    assert main(["attach", trunk, "--from", donor, "--qkv", "fused", "-o", str(tmp_path)]) == 2
    assert "no q, k and v to fuse or split" in capsys.readouterr().err
    assert main(["detach", trunk, "--qkv", "split", "-o", str(tmp_path)]) == 2
    assert "no layer of 'deepseek2' has q, k and v" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_heads_that_do_not_give_the_rows_are_told() -> None:
    values = {"attention.head_count": 4, "attention.head_count_kv": [1, 2], "attention.key_length": 32}
    assert qkv.rows_of(values.get, 1, 128 + 2 * 64, Path("x")).ranges == ((0, 128), (128, 192), (192, 256))
    assert qkv.rows_of(values.get, 0, 256 + 2 * 32, Path("x")).q == 256  # with a gate behind each head's queries
    with pytest.raises(FormatError, match="cannot be separated"):
        qkv.rows_of(values.get, 0, 256, Path("x"))
    with pytest.raises(FormatError, match="cannot be separated"):
        qkv.rows_of(values.get, 7, 256, Path("x"))


def test_rows_that_hang_together_are_not_cut() -> None:
    with pytest.raises(QuantizeError, match="interleaves 4 rows"):
        qkv._no_parts(parse_type_name("q4_k_r4"), (128, 30, 32), "'blk.0.attn_qkv.weight'", Path("x"))
    qkv._no_parts(parse_type_name("q4_k_r4"), (128, 32, 32), "'blk.0.attn_qkv.weight'", Path("x"))
    with pytest.raises(QuantizeError, match="row layout nextn does not know"):
        qkv._no_parts(None, (128, 32, 32), "'blk.0.attn_qkv.weight'", Path("x"))


def test_a_matrix_without_axes_is_not_fused(tmp_path: Path) -> None:
    parts = Parts.of(TRUNKS / "qwen35-dense-F32.gguf")
    number = next(i for i, tensor in enumerate(parts.tensors) if tensor.name == b"blk.3.attn_v.weight")
    odd = tmp_path / "odd.gguf"
    odd.write_bytes(parts.with_tensor(number, ne=()).encode())
    with pytest.raises(NextnError, match=r"'blk[.]3[.]attn_v[.]weight' has 0 axes instead of 2"):
        nextn.detach(odd, qkv="fused", out=tmp_path / "out.gguf")


def test_a_form_that_nothing_can_do_is_refused(family: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(NextnError, match="'sideways' is not a form"):
        nextn.attach(trunk_of("mimo2"), family("mimo2"), qkv="sideways", out=tmp_path)
    with pytest.raises(NextnError, match="needs a model's metadata"):
        nextn.extract(family("mimo2"), block_only=True, qkv="split", out=tmp_path)
    made = nextn.attach(trunk_of("mimo2"), family("mimo2"), layout="bundle", qkv="split", out=tmp_path / "x.gguf")
    assert any("stops when it drafts" in note for note in made.plan.notes)


def judged(entry: Path, sidecar: Path | None, prompts: list[str] = CODE) -> None:
    data = nextn.verify(entry, sidecar=sidecar, prompts=prompts, n_predict=16, threads=1).to_json()
    assert data["verdict"] != "failed", data["reasons"]
    assert data["n_drafted"] > 0
    assert all(item["near_tie"] for item in data["divergences"])


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["mimo2", "glm4moe", "hyv3", "step35"])
def test_llama_cpp_drafts_with_fused_q_k_v(kind: str, family: Callable[[str], Path], tmp_path: Path) -> None:
    """Trunk and block fused."""
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    model = attach(trunk_of(kind), family(kind), tmp_path / "fused.gguf", qkv="fused")
    assert sum(name.endswith("attn_qkv.weight") for name in model.tensors) == model.arch_int("block_count")
    judged(model.entry, None)


@pytest.mark.engine
def test_llama_cpp_drafts_with_split_mimo_trunks_and_fused_ones(family: Callable[[str], Path], tmp_path: Path) -> None:
    """The block as it is published, on a trunk of either form."""
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    fused = nextn.detach(trunk_of("mimo2"), qkv="fused", out=tmp_path / "fused.gguf").entry
    for trunk in (fused, trunk_of("mimo2")):
        made = nextn.attach(trunk, family("mimo2"), layout="bundle", out=tmp_path / trunk.stem)
        judged(made.entry, None)


@pytest.mark.engine
def test_the_trained_model_guesses_as_well_with_fused_q_k_v(tmp_path: Path) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    trunk = TRUNKS / "tiny-qwen35-Q8_0.gguf"
    found = []
    for form in ("split", "fused"):
        made = nextn.attach(trunk, CHECKPOINT, layout="bundle", qkv=form, out=tmp_path / form)
        data = nextn.verify(made.entry, prompts=CODE, n_predict=24, threads=1).to_json()
        assert data["verdict"] != "failed", data["reasons"]
        found.append(data["acceptance"][min(data["acceptance"], key=int)][0])
    assert found[0] > 0.2 and abs(found[0] - found[1]) <= 0.2 * found[0]
