"""Verify: each kind of verdict on real files and the real engine, and the demo."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from remake import in_nvfp4
from schema_check import validate

import nextn
from conftest import CHECKPOINT, Q4, ROOT, TRUNKS, TinyModels, need
from nextn.cli import main
from nextn.errors import NoBlock
from nextn.gguf.files import open_model
from nextn.measure.control import make_control

SCHEMA = json.loads((ROOT / "src" / "nextn" / "schemas" / "verify.json").read_text())
TRUNK = TRUNKS / "tiny-qwen35-Q8_0.gguf"
CODE = ["def read(self):\n", "import os\n\ndef walk(path):\n    for name in os.listdir(path):\n"]


@pytest.fixture(autouse=True)
def engine_is_there() -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)


@pytest.mark.engine
@pytest.mark.parametrize("layout", ["bundled", "shards", "sidecar"])
def test_every_layout_passes(layout: str, tiny_models: TinyModels, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["verify", "--trunk", str(TRUNK), "--json", "--threads", "1"]
    if layout == "sidecar":
        args += [str(tiny_models.trunk), "--sidecar", str(tiny_models.sidecar)]
    else:
        args += [str(getattr(tiny_models, layout))]
    assert main(args) == 0
    data = json.loads(capsys.readouterr().out)
    validate(data, SCHEMA)
    assert data["verdict"] == "passed" and data["same_text"] is True
    assert [len(data["acceptance"][n]) for n in ("1", "2", "3")] == [1, 2, 3]
    assert data["acceptance"]["1"][0] > 0.4 and data["control"]["collapsed"] is True
    files = data["files"]
    assert files["n_tensors"] == 55 == files["n_same_bytes"] + files["n_same_file"]
    assert files["n_hashed"] == 15


def test_a_changed_trunk_byte_fails(tiny_models: TinyModels, tmp_path: Path) -> None:
    copy = tmp_path / "changed.gguf"
    data = bytearray(tiny_models.bundled.read_bytes())
    model = open_model(tiny_models.bundled)
    file, info = model.tensors["blk.2.ffn_up.weight"]
    data[file.tensor_range(info)[0] + 100] ^= 1
    copy.write_bytes(data)
    verdict = nextn.verify(copy, trunk=TRUNK)
    assert verdict.verdict == "failed"
    assert verdict.reasons == ("tensor 'blk.2.ffn_up.weight' differs from the original at its byte 100",)
    assert main(["verify", str(copy), "--trunk", str(TRUNK), "-q"]) == 3


def test_a_changed_block_byte_fails(tiny_models: TinyModels, tmp_path: Path) -> None:
    copy = tmp_path / "changed.gguf"
    data = bytearray(tiny_models.bundled.read_bytes())
    file, info = open_model(tiny_models.bundled).tensors["blk.4.ffn_up.weight"]
    data[file.tensor_range(info)[0] + 7] ^= 1
    copy.write_bytes(data)
    verdict = nextn.verify(copy)
    assert verdict.verdict == "failed" and "blk.4.ffn_up.weight" in verdict.reasons[0]


@pytest.mark.engine
def test_a_block_that_knows_nothing_cannot_be_told(tiny_models: TinyModels, tmp_path: Path) -> None:
    """The shuffled control itself, verified: the text is right, the drafts are worthless."""
    model, sidecar = make_control(open_model(tiny_models.trunk), tiny_models.sidecar, tmp_path)
    from nextn.gguf.header import build_header
    from nextn.gguf.kv_table import edit

    assert sidecar is not None
    header = open_model(sidecar).header  # a forger would drop the hashes, too
    bare = tmp_path / "mtp-bare.gguf"
    data = sidecar.read_bytes()[header.data_offset :]
    bare.write_bytes(build_header(edit(header.kvs, drop_prefixes=("nextn.",)), header.tensors) + data)
    verdict = nextn.verify(model, sidecar=bare, prompts=CODE, threads=1)
    assert verdict.verdict == "cannot_tell"
    assert main(["verify", str(model), "--sidecar", str(bare), "-q", "--threads", "1"]) == 4


@pytest.mark.engine
def test_factors_that_only_drafting_reads_are_the_reason(tiny_models: TinyModels, tmp_path: Path) -> None:
    packed = in_nvfp4(tiny_models.bundled, tmp_path / "Packed.gguf", 4)
    verdict = nextn.verify(packed, prompts=CODE, threads=1)
    assert verdict.verdict == "cannot_tell"
    assert "without MTP llama.cpp refuses this model for the NVFP4 factors" in verdict.reasons[0]
    assert f"nextn attach TRUNK --from {packed}" in verdict.reasons[0]
    assert "wrong number of tensors" in verdict.reasons[1]


@pytest.mark.engine
def test_a_model_that_the_engine_refuses_without_mtp_too_cannot_be_told(tmp_path: Path) -> None:
    """The block is not to blame for what is wrong with the trunk, and the engine's line says what that is."""
    from nextn.gguf.header import build_header
    from nextn.gguf.kv import KV, KVType
    from nextn.gguf.kv_table import edit

    model = open_model(nextn.attach(TRUNK, CHECKPOINT, layout="bundle", out=tmp_path / "b").entry)
    extra = KV.make("qwen35.ssm.state_size", KVType.UINT32, 7)
    broken = tmp_path / "broken.gguf"
    data = model.entry.read_bytes()[model.header.data_offset :]
    broken.write_bytes(build_header(edit(model.kvs, put=[extra]), model.header.tensors) + data)
    verdict = nextn.verify(broken, prompts=CODE, threads=1)
    assert verdict.verdict == "cannot_tell"
    assert "without MTP, too, so the block is not to blame: " in verdict.reasons[1]
    assert "Traceback" not in " ".join(verdict.reasons)


@pytest.mark.engine
def test_a_detached_model_is_compared_and_runs(tiny_models: TinyModels, tmp_path: Path) -> None:
    plain = nextn.detach(tiny_models.bundled, out=tmp_path)
    verdict = nextn.verify(plain.entry, trunk=TRUNK, prompts=CODE, threads=1)
    assert verdict.files.n_tensors == 55 and not verdict.files.problems
    assert verdict.verdict in ("passed", "cannot_tell")


def test_nothing_to_verify(tmp_path: Path) -> None:
    alone = tmp_path / "alone.gguf"
    alone.symlink_to(Q4)
    with pytest.raises(NoBlock, match="--sidecar"):
        nextn.verify(alone)


def test_the_control_changes_matrices_only_and_no_input(tiny_models: TinyModels, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (tiny_models.bundled, tiny_models.sidecar, tiny_models.shards)}
    for i, (path, sidecar) in enumerate(
        [(tiny_models.bundled, None), (tiny_models.trunk, tiny_models.sidecar), (tiny_models.shards, None)]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        model, beside = make_control(open_model(path), sidecar, folder)
        shuffled, real = open_model(beside or model), open_model(sidecar or path)
        for name, (file, info) in shuffled.tensors.items():
            if not name.startswith("blk.4."):
                continue
            mine = np.fromfile(file.path, np.uint8)[slice(*file.tensor_range(info))]
            theirs_file, theirs_info = real.tensors[name]
            theirs = np.fromfile(theirs_file.path, np.uint8)[slice(*theirs_file.tensor_range(theirs_info))]
            assert (mine == theirs).all() == (len(info.ne) == 1), name
            assert (np.sort(mine) == np.sort(theirs)).all(), name
    assert all(path.read_bytes() == data for path, data in before.items())


@pytest.mark.engine
def test_random_families_load_draft_and_keep_the_text(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    """Untrained blocks: whatever they draft, the text stays the same."""
    for trunk, donor in (
        ("qwen35moe-BF16.gguf", "qwen35moe-fused-bf16"),
        ("qwen3next-BF16.gguf", "qwen3next-experts-bf16"),
    ):
        for layout in ("bundle", "sidecar"):
            made = nextn.attach(TRUNKS / trunk, checkpoints(donor), layout=layout, out=tmp_path / trunk / layout)
            data = nextn.verify(made.entry, sidecar=made.sidecar, prompts=CODE, n_predict=24, threads=1).to_json()
            assert data["verdict"] != "failed", data["reasons"]
            assert data["n_drafted"] > 0
            assert all(item["near_tie"] for item in data["divergences"])


@pytest.mark.engine
def test_the_demo_shows_the_refusal_and_passes_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--json", "-o", str(tmp_path / "demo")]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["refusal"] == "context type MTP requested but model doesn't contain MTP layers"
    assert [row["layout"] for row in data["rows"]] == ["shards", "sidecar", "bundle"]
    for row in data["rows"]:
        assert row["verdict"] == "passed" and row["same_text"] and row["acceptance"]["1"][0] > 0.5
