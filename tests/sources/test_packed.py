"""Quantized checkpoints: blocks byte-equal to the upstream converter's, and what is read against what is planned."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opened import open_donor

import nextn
from conftest import DATA, TRUNKS, need, stored
from nextn.block.from_checkpoint import block_from_checkpoint
from nextn.ggml.quantize import dequantize
from nextn.gguf.files import Model, open_model
from nextn.gguf.types import parse_type_name
from nextn.sources.checkpoint import open_checkpoint
from nextn.sources.ranges import FileRange, Reader

GOLDENS = sorted((DATA / "goldens" / "packed").glob("*.json"))
NATIVE = {"mxfp4": "mxfp4", "nvfp4": "nvfp4", "nvfp4-modelopt": "nvfp4"}
KEEP = {"mxfp4": None, "nvfp4": "nvfp4", "nvfp4-modelopt": "nvfp4"}  # the --type that keeps codes


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`packed("int4")` makes that checkpoint once."""
    from tiny_packed import make_packed

    folder = tmp_path_factory.mktemp("packed")
    return cache(lambda name: make_packed(name, folder / name))


def donor_file(folder: Path, out: Path, type: str | None = None) -> Model:
    return open_model(nextn.extract(folder, block_only=True, type=type, out=out).entry)


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_blocks_equal_the_upstream_converters(path: Path, packed: Callable[[str], Path], tmp_path: Path) -> None:
    golden = json.loads(path.read_text())
    folder = packed(golden["model"])
    made = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    assert made == golden["checkpoint"], "the checkpoint is another one than the goldens'"
    outtypes = [key for key in ("f32", "bf16", "q8_0") if key in golden]
    assert outtypes
    for outtype in outtypes:
        model = donor_file(folder, tmp_path / f"{outtype}.gguf", KEEP.get(path.stem, outtype))
        mine = {name for name in model.tensors if name.startswith("blk.")}
        wanted = golden[outtype]
        if path.stem in NATIVE:  # the converter writes factors of q_a, too, which llama.cpp does not take
            wanted = {name: entry for name, entry in wanted.items() if "attn_q_a." not in name}
            assert sum(kind in ("MXFP4", "NVFP4") for kind, _, _ in wanted.values()) >= 3
        if path.stem != "mxfp4":  # there the converter's function was asked for experts alone
            assert {name for name in mine if "attn_q_a." not in name} == {n for n in wanted if "attn_q_a." not in n}
        for name, (kind, ne, sha256) in wanted.items():
            info = model.tensors[name][1]
            assert (info.type_name.upper(), list(info.ne)) == (kind, ne), name
            assert hashlib.sha256(stored(model, name)).hexdigest() == sha256, name


@pytest.mark.parametrize("name", sorted(NATIVE))
def test_kept_codes_hold_the_values_that_a_wider_type_gets(
    name: str, packed: Callable[[str], Path], tmp_path: Path
) -> None:
    """Blocks decoded by ggml, times the factors beside them, against the values written as f32."""
    kept = donor_file(packed(name), tmp_path / "kept.gguf", KEEP[name])
    wide = donor_file(packed(name), tmp_path / "wide.gguf", "f32")
    kind = parse_type_name(NATIVE[name])
    n = 0
    for tensor, (_, info) in kept.tensors.items():
        factor = tensor.removesuffix("weight") + "scale"
        if info.type_id != kind.id or (kind.name == "nvfp4" and factor not in kept.tensors):
            continue
        values = dequantize(bytearray(stored(kept, tensor)), kind, info.ne[0])
        if factor in kept.tensors:
            each = np.frombuffer(stored(kept, factor), np.float32)
            values = (values.reshape(len(each), -1) * each[:, None]).reshape(values.shape)
        wanted = np.frombuffer(stored(wide, tensor), np.float32).reshape(values.shape)
        assert np.allclose(values, wanted, rtol=1e-6, atol=0), tensor
        n += 1
    assert n >= 3
    assert all(info.type_name != NATIVE[name] for _, info in wide.tensors.values())
    assert not any(tensor.endswith(".scale") for tensor in wide.tensors)


def test_mxfp4_blocks_hold_exactly_the_values(packed: Callable[[str], Path], tmp_path: Path) -> None:
    kept = donor_file(packed("mxfp4"), tmp_path / "kept.gguf", "mxfp4")
    wide = donor_file(packed("mxfp4"), tmp_path / "wide.gguf", "f32")
    name = next(name for name in kept.tensors if name.endswith("ffn_gate_exps.weight"))
    info = kept.tensors[name][1]
    assert info.type_name == "mxfp4"
    values = dequantize(bytearray(stored(kept, name)), parse_type_name("mxfp4"), info.ne[0])
    wanted = np.frombuffer(stored(wide, name), np.float32).reshape(values.shape)
    assert np.array_equal(values, wanted)  # ggml gives the code of -0.0 as 0.0


def ranges(folder: Path) -> list[FileRange]:
    return open_donor(folder).ranges


def inside(read: list[FileRange], planned: list[FileRange]) -> list[FileRange]:
    """Those of `read` that no union of `planned` covers."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted((where.start, where.end) for where in planned):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return [where for where in read if not any(a <= where.start and where.end <= b for a, b in merged)]


class Watching(Reader):
    """A reader that notes what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[FileRange] = []

    def read(self, where: FileRange) -> bytearray:
        self.asked.append(where)
        return super().read(where)


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_the_plan_covers_what_is_read_and_counts_each_byte(
    path: Path, packed: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With chunks of a few rows, which share rows of factors and words of zero points."""
    monkeypatch.setattr("nextn.sources.rows.CHUNK_ELEMENTS", 5 * 64)
    folder = packed(path.stem)
    for blocks in (False, True):
        block = block_from_checkpoint(open_checkpoint(folder))
        for tensor in block.tensors:
            if blocks and tensor.rows.block_type is None:
                continue
            with Watching() as reader:
                seen: list[int] = []
                pieces: Any = tensor.rows.blocks if blocks else tensor.rows.chunks
                for _ in pieces(reader, lambda data, seen=seen: seen.append(len(data))):
                    pass
            assert not inside(reader.asked, tensor.rows.ranges), tensor.suffix
            assert reader.meter.bytes_read == tensor.rows.read_bytes == sum(seen), tensor.suffix
    made = nextn.extract(folder, block_only=True, out=tmp_path / "x.gguf")
    assert made.outcome is not None and made.outcome.bytes_read == made.plan.bytes_read


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_small_chunks_change_nothing(
    path: Path, packed: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = nextn.extract(packed(path.stem), block_only=True, out=tmp_path / "whole.gguf").outcome
    monkeypatch.setattr("nextn.sources.rows.CHUNK_ELEMENTS", 3 * 64)
    small = nextn.extract(packed(path.stem), block_only=True, out=tmp_path / "small.gguf").outcome
    assert whole is not None and small is not None and small.hashes == whole.hashes


def test_nothing_of_the_trunk_is_read(packed: Callable[[str], Path]) -> None:
    folder = packed("int4")
    checkpoint = open_checkpoint(folder)
    trunk = [checkpoint.tensor(name).where for name in checkpoint.weight_map if "layers.2." not in name]
    for mine in ranges(folder):
        assert all(mine.end <= where.start or where.end <= mine.start for where in trunk)


def test_deepseek_v4s_names_dtypes_and_block_size(tmp_path: Path) -> None:
    """FP8 with E8M0 factors called `scale`, in blocks of 128 that config.json need not name; experts as int8 pairs."""
    import ml_dtypes

    from make_tiny_checkpoints import bell, safetensors_bytes
    from nextn.sources.quantized import companions, logical_names, whole
    from tiny_packed import mxfp4

    exponents = (120 + np.arange(6) % 4).astype(np.uint8).reshape(2, 3)
    codes = bell((200, 300), 1, "fp8").astype(ml_dtypes.float8_e4m3fn)
    pack = mxfp4("scale", ml_dtypes.float8_e8m0fnu, packed_name=False)
    expert = pack("mtp.0.ffn.experts.0.w1.weight", bell((3, 64), 2))
    tensors = {
        "mtp.0.attn.wq_a.weight": codes, "mtp.0.attn.wq_a.scale": exponents.view(ml_dtypes.float8_e8m0fnu), **expert,
    }  # fmt: skip
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(tmp_path)
    wide = np.ldexp(np.float32(1), exponents.astype(int) - 127).repeat(128, 0)[:200].repeat(128, 1)[:, :300]
    with Reader() as reader:
        (rows,) = whole(checkpoint, "mtp.0.attn.wq_a.weight").floats(reader)
        assert (rows == codes.astype(np.float32) * wide.astype(np.float32)).all()
        span = whole(checkpoint, "mtp.0.ffn.experts.0.w1.weight")
        assert span.shape == (3, 64) and span.block_type == parse_type_name("mxfp4")
        (values,) = span.floats(reader)
        (blocks,) = span.blocks(reader, None, 3)
    assert np.array_equal(dequantize(bytearray(blocks.tobytes()), parse_type_name("mxfp4"), 64), values)
    names = {name: name for name in tensors}
    assert logical_names(names) == names
    assert companions("mtp.0.attn.wq_a.weight", names) == {"mtp.0.attn.wq_a.scale"}


def peaks_of_reading(folder: Path, chunk: int) -> list[tuple[int, int]]:
    """(pieces, most bytes allocated meanwhile) of each way to read the matrix."""
    from nextn.sources.quantized import whole
    from nextn.sources.rows import CheckpointRows

    with pytest.MonkeyPatch.context() as patch, Reader() as reader:
        patch.setattr("nextn.sources.rows.CHUNK_ELEMENTS", chunk)
        rows = CheckpointRows((whole(open_checkpoint(folder), "x.weight"),))
        found = []
        for pieces in (rows.chunks, rows.blocks) if rows.block_type is not None else (rows.chunks,):
            next(iter(pieces(reader)))  # tables and modules are there
            tracemalloc.start()
            n = sum(1 for _ in pieces(reader))
            found.append((n, tracemalloc.get_traced_memory()[1]))
            tracemalloc.stop()
        return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int4-zeros", "fp8-blocks", "mxfp4"])
def test_memory_stays_at_some_chunks(name: str, tmp_path: Path) -> None:
    """Of a matrix of 64 chunks: what is allocated while it is read is a few chunks of float32, as plans say."""
    from make_tiny_checkpoints import bell, safetensors_bytes
    from tiny_packed import PACKED

    chunk = 1 << 14
    made = PACKED[name]
    tensors = made.pack("x.weight", bell((2048, 512), 3))
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": made.quantization}))
    # In a process of its own: what threads of other tests allocate meanwhile would be counted here.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        for n, peak in process.submit(peaks_of_reading, tmp_path, chunk).result():
            assert n == 64 and peak < 3 * 4 * chunk + (64 << 10)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("name", "type", "kind"),
    [
        ("mxfp4", None, "mxfp4"),
        ("int4", None, "q8_0"),
        ("nvfp4-narrow", None, "q8_0"),
        ("nvfp4-narrow", "nvfp4", "nvfp4"),
    ],
)
def test_llama_cpp_drafts_with_what_was_packed(
    name: str, type: str | None, kind: str, packed: Callable[[str], Path], tmp_path: Path
) -> None:
    """A bundle drafts and is a donor as good as the checkpoint was; with NVFP4 kept, notes say what is refused."""
    trunk = TRUNKS / "families" / "glm4moelite-Q8_0.gguf"
    made = nextn.attach(trunk, packed(name), layout="bundle", type=type, out=tmp_path / "bundle.gguf")
    model = open_model(made.entry)
    assert model.tensors["blk.2.ffn_gate_exps.weight"][1].type_name == kind
    assert ("blk.2.ffn_gate_exps.scale" in model.tensors) == (kind == "nvfp4")
    assert "blk.2.attn_q_a.scale" not in model.tensors
    assert any("refuses a model whose block has NVFP4 factors" in note for note in made.plan.notes) == ("nvfp4" in name)
    moved = nextn.attach(trunk, made.entry, layout="bundle", type=type, out=tmp_path / "again.gguf")
    again = open_model(moved.entry)
    assert {n: stored(again, n) for n in again.tensors} == {n: stored(model, n) for n in model.tensors}
    if kind == "nvfp4":
        return
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    data = nextn.verify(made.entry, prompts=["def read(self):\n"], n_predict=16, threads=1).to_json()
    assert data["verdict"] != "failed", data["reasons"]
    assert data["n_drafted"] > 0 and all(item["near_tie"] for item in data["divergences"])
