"""openPangu 2.0, which ik_llama.cpp alone runs: shapes of its own, lists of windows, and no file for llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import compat
import nextn
from conftest import TRUNKS, stored
from nextn.engines import IkServer
from nextn.errors import DonorMismatch, UnsupportedModel
from nextn.gguf.files import open_model
from nextn.sources.checkpoint import open_checkpoint
from tiny_openpangu import DV, LKV, NOPE, WINDOWS, H, N, make_checkpoint, make_trunk


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pangu")
    return make_trunk(folder / "openpangu-F32.gguf", TRUNKS / "families" / "glm4moe-Q8_0.gguf")


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("pangu") / "openPangu")


def test_the_block_by_a_plain_reference(trunk: Path, donor: Path, tmp_path: Path) -> None:
    """kv_b by numpy over the whole matrix, convolutions without their middle axis, the rest as it is."""
    made = nextn.attach(trunk, donor, type="f32", out=tmp_path)
    assert made.plan.layout == "bundle"
    model, source = open_model(made.entry), open_checkpoint(donor)

    def read(name: str) -> np.ndarray:
        tensor = source.tensor(f"model.layers.{N}.{name}")
        data = tensor.where.path.read_bytes()[tensor.where.start : tensor.where.end]
        return np.frombuffer(data, ml_dtypes.bfloat16).reshape(tensor.shape)

    def mine(name: str) -> np.ndarray:
        info = model.tensors[f"blk.{N}.{name}"][1]
        dtype = {"f32": np.float32, "bf16": ml_dtypes.bfloat16}[info.type_name]
        return np.frombuffer(stored(model, f"blk.{N}.{name}"), dtype).reshape(info.shape).astype(np.float32)

    kv_b = read("self_attn.kv_b_proj.weight").reshape(H, NOPE + DV, LKV).astype(np.float32)
    keys = kv_b[:, :NOPE].transpose(0, 2, 1).reshape(H * LKV, NOPE)
    assert np.array_equal(mine("attn_k_b.weight"), keys)
    assert np.array_equal(mine("attn_v_b.weight"), kv_b[:, NOPE:].reshape(H * DV, LKV))
    for name, theirs in (("attn_o_conv.weight", "o_conv.weight"), ("attn_qa_conv.weight", "qa_conv.weight"),
                         ("attn_compresskv_conv.weight", "compresskv_conv.weight")):  # fmt: skip
        assert np.array_equal(mine(name), read(f"self_attn.{theirs}")[:, 0].astype(np.float32))
    sinks = read("self_attn.param_sink_compressed_kv").astype(np.float32)
    assert np.array_equal(mine("attn_param_sink_kv"), sinks)
    assert np.array_equal(mine("nextn.eh_proj.weight"), read("eh_proj.weight").astype(np.float32))


def test_lists_of_windows_grow_and_shrink(trunk: Path, donor: Path, tmp_path: Path) -> None:
    made = nextn.attach(trunk, donor, out=tmp_path)
    model = open_model(made.entry)
    assert dict(zip(model.arch_value("swa_layers"), model.arch_value("sliding_window_list"), strict=True)) == WINDOWS
    plain = nextn.detach(made.entry, out=tmp_path / "plain.gguf")
    assert plain.entry.read_bytes() == trunk.read_bytes()
    again = nextn.attach(trunk, made.entry, out=tmp_path / "again")  # a GGUF tells them, too
    assert open_model(again.entry).arch_value("sliding_window_list") == list(WINDOWS.values())
    foreign = tmp_path / "foreign.gguf"  # of another tool: nothing is noted down
    from sick import rewrite

    rewrite(made.entry, foreign, drop=["nextn.undo"])
    bare = open_model(nextn.detach(foreign, out=tmp_path / "bare.gguf").entry)
    assert bare.arch_value("swa_layers") == [n for n in WINDOWS if n < N] and bare.arch_int("block_count") == N
    silent = tmp_path / "silent"
    make_checkpoint(silent)
    config = json.loads((silent / "config.json").read_text())
    (silent / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "list" not in k}))
    with pytest.raises(DonorMismatch, match="sliding_window_list"):
        nextn.attach(trunk, silent, out=tmp_path / "x")


def test_what_no_engine_takes_is_refused(trunk: Path, donor: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no engine accepts the block"):
        nextn.attach(trunk, donor, layout="sidecar", out=tmp_path)
    for refused in ("llama.cpp", "both"):
        with pytest.raises(UnsupportedModel, match="unknown model architecture: 'openpangu'"):
            nextn.attach(trunk, donor, for_engine=refused, out=tmp_path)
    assert nextn.doctor(trunk).before.problems == ()
    made = nextn.attach(trunk, donor, for_engine="ik", out=tmp_path)
    assert nextn.doctor(made.entry).before.problems == () and nextn.inspect(made.entry).problems == ()


@pytest.mark.engine
def test_it_drafts_on_ik(ik: IkServer, trunk: Path, donor: Path, tmp_path: Path) -> None:
    made = nextn.attach(trunk, donor, for_engine="ik", out=tmp_path)
    result, says, drafted, _, _ = compat.ask(ik, made.entry, None, 1)
    assert (result, drafted > 0) == ("drafts", True), says
    plain = nextn.detach(made.entry, out=tmp_path / "plain.gguf")
    assert compat.ask(ik, plain.entry, None, 0)[0] == "runs"
