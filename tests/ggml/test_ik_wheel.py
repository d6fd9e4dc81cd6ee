"""ik_llama.cpp as the wheel ik-llama-cpp-python carries it: an older runtime, and the writer of its own types.

It runs in processes of its own: it may abort, and its libraries have llama.cpp's names.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from changes import tensors_of, write_model
from faults import ranged_disk
from remake import fused

import nextn
from conftest import CHECKPOINT, Q4, RANGES, ROOT, TRUNKS, TinyModels, need, stored
from nextn.errors import QuantizeError
from nextn.ggml import ik as ggml_ik
from nextn.ggml.quantize import dequantize, fallback_type, quantize
from nextn.gguf.files import open_model
from nextn.gguf.types import parse_type_name, row_size

SOURCE = TRUNKS / "tiny-qwen35-BF16.gguf"
TYPES = sorted(ggml_ik.WRITABLE)


@pytest.fixture(autouse=True)
def wheel() -> None:
    need("ik-llama-cpp-python", importlib.util.find_spec("ik_llama_cpp") is not None)


def generate(model: Path) -> tuple[list[int], str]:
    """Token ids, and what it said when there are none."""
    script = ROOT / "scripts" / "ik_wheel_run.py"
    done = subprocess.run(
        [sys.executable, str(script), str(model), "def read(self):\n", "16"],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    return (json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else []), done.stderr


@pytest.mark.engine
def test_the_older_runtime_fails_on_a_block_and_runs_what_detach_makes(tiny_models: TinyModels, tmp_path: Path) -> None:
    plain, _ = generate(tiny_models.trunk)
    assert len(plain) == 16
    for number, sick in enumerate((tiny_models.bundled, tiny_models.shards)):
        tokens, said = generate(sick)
        assert tokens == [] and "blk.4.ssm_conv1d.weight" in said and "not found" in said
        made = nextn.detach(sick, out=tmp_path / str(number), for_engine="ik")
        assert generate(made.entry)[0] == plain


@pytest.mark.engine
@pytest.mark.parametrize("name", ["qwen35moe-BF16.gguf", "families/glm4moe-Q8_0.gguf"])
def test_it_runs_a_trunk_with_gate_and_up_as_one_tensor(name: str, tmp_path: Path) -> None:
    trunk = TRUNKS / name
    one = fused(trunk, tmp_path / "one.gguf", range(open_model(trunk).arch_int("block_count")))
    assert any("ffn_gate_up_exps" in each for each in open_model(one).tensors)
    tokens, _ = generate(one)
    assert len(tokens) == 16 and tokens == generate(trunk)[0]


@pytest.mark.engine
@pytest.mark.parametrize("tail", [b"", b"of another tool" * 99], ids=["", "with a tail"])
def test_it_runs_a_file_with_a_block_in_place(tail: bytes, family: Callable[[str], Path], tmp_path: Path) -> None:
    """Room at the start, a longer header, the block after the trunk: the same tokens before, with it and without it.

    GLM-4.5 is a family whose block this runtime knows.
    """
    with ranged_disk(tmp_path / "disk") as disk:
        need(RANGES, disk is not None)
        assert disk is not None
        model = disk / "glm4moe-Q8_0.gguf"
        model.write_bytes((before := (TRUNKS / "families" / "glm4moe-Q8_0.gguf").read_bytes()) + tail)
        plain, _ = generate(model)
        assert len(plain) == 16
        (change,) = nextn.attach(model, family("glm4moe"), layout="in-place").plan.changes
        assert change.room and open_model(model).arch_int("nextn_predict_layers") == 1
        assert generate(model)[0] == plain
        nextn.detach(model, in_place=True)
        assert model.read_bytes() == before + tail and generate(model)[0] == plain


@pytest.mark.engine
def test_it_runs_a_trunk_of_its_own_types_after_attach_and_detach(tmp_path: Path) -> None:
    """The trunk is quantized by its own tool; nextn carries what it cannot decode."""
    tool = Path(importlib.util.find_spec("ik_llama_cpp").origin).parents[1] / "bin" / "llama-quantize"  # type: ignore[union-attr,arg-type]
    trunk = tmp_path / "tiny-IQ4_KS.gguf"
    subprocess.run([tool, SOURCE, trunk, "IQ4_KS", "1"], check=True, capture_output=True, timeout=200)
    kinds = {info.type_name for _, info in open_model(trunk).items()}
    assert "iq4_ks" in kinds
    bundled = nextn.attach(trunk, CHECKPOINT, layout="bundle", type="iq4_ks", for_engine="ik", out=tmp_path / "with")
    model = open_model(bundled.entry)
    for name in open_model(trunk).tensors:
        assert stored(model, name) == stored(open_model(trunk), name)
    assert {info.type_name for name, (_, info) in model.tensors.items() if name.startswith("blk.4.")} == {
        "iq4_ks", "f32"
    }  # fmt: skip
    with pytest.raises(QuantizeError, match=r"which llama\.cpp cannot read"):
        nextn.attach(trunk, CHECKPOINT, layout="bundle", for_engine="both", out=tmp_path / "both")
    plain = nextn.detach(bundled.entry, out=tmp_path / "plain.gguf")
    assert plain.entry.read_bytes() == trunk.read_bytes()
    assert len(generate(plain.entry)[0]) == 16
    seen = nextn.inspect(bundled.entry)
    assert seen.to_json()["types"]["iq4_ks"] > 0


def suffix(name: str) -> str:
    """A tensor's name without its layer."""
    return re.sub(r"^blk[.]\d+[.]", "", name)


@pytest.fixture(scope="module")
def each_shape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source without the tensors that have the names and shapes of others; the tool counts attention's."""

    def is_kept(name: str) -> bool:
        again = ("blk.0.ffn", "blk.1.ffn", "blk.2.ffn", "blk.1.attn_gate", "blk.2.attn_gate", "blk.1.ssm", "blk.2.ssm")
        return not name.startswith(again)

    model = open_model(SOURCE)
    kept = [(info, data) for info, data in tensors_of(model) if is_kept(info.name)]
    assert {suffix(info.name) for info, _ in kept} == set(map(suffix, model.tensors))
    return write_model(tmp_path_factory.mktemp("source") / SOURCE.name, list(model.kvs), kept)


@pytest.mark.engine
@pytest.mark.parametrize("name", TYPES)
def test_its_types_are_written_as_its_own_tool_does(name: str, each_shape: Path, tmp_path: Path) -> None:
    tool = Path(importlib.util.find_spec("ik_llama_cpp").origin).parents[1] / "bin" / "llama-quantize"  # type: ignore[union-attr,arg-type]
    out = tmp_path / "x.gguf"
    done = subprocess.run(
        [tool, "--pure", "--token-embedding-type", name, each_shape, out, name.upper(), "1"],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    kind = parse_type_name(name)
    source, made = open_model(each_shape), open_model(out)
    compared = 0
    for tensor, (_, info) in made.tensors.items():
        if info.type_id != kind.id:
            continue
        rows = dequantize(stored(source, tensor), parse_type_name("bf16"), info.ne[0])
        assert quantize(rows, kind).tobytes() == stored(made, tensor), tensor
        compared += 1
    assert compared > 0


def test_rows_that_do_not_fit_fall_back_as_its_tool_does() -> None:
    for name, wanted in (("iq4_ks", "iq4_nl"), ("iq4_k", "q5_0"), ("iq5_k", "q6_0"), ("iq6_k", "q8_0")):
        assert fallback_type(parse_type_name(name), 320).name == wanted
        assert fallback_type(parse_type_name(name), 512).name == name
        assert row_size(parse_type_name(name), 512) > 0


def test_without_the_wheel_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ggml_ik, "PACKAGE", "no_such_package")
    monkeypatch.setattr(ggml_ik, "_loaded", None)
    with pytest.raises(QuantizeError, match="pip install ik-llama-cpp-python"):
        nextn.attach(Q4, CHECKPOINT, layout="bundle", type="iq4_ks", out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_it_cannot_write_is_refused(tmp_path: Path) -> None:
    for name in ("iq4_ks_r4", "iq1_bn", "q8_0_r8", "iq4_kt"):
        with pytest.raises(QuantizeError, match=r"a type of ik_llama\.cpp only"):
            nextn.attach(Q4, CHECKPOINT, layout="bundle", type=name, out=tmp_path)
