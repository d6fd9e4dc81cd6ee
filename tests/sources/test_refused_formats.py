"""Quantized checkpoints that are damaged, mixed or of a kind that is not read: one sentence, and no file."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opened import open_donor

import nextn
from nextn.cli import main
from nextn.sources.ranges import Reader

FORMAT, UNSUPPORTED, QUANTIZE = 10, 11, 17
BLOCK = "model.layers.2."
Q_A = f"{BLOCK}self_attn.q_a_proj.weight"
O_PROJ = f"{BLOCK}self_attn.o_proj.weight"
EXPERT = f"{BLOCK}mlp.experts.1.gate_proj.weight"


@dataclass
class Source:
    """A checkpoint that can be spoilt: tensors as (dtype, shape, bytes), and its config."""

    folder: Path
    out: Path
    capsys: pytest.CaptureFixture[str]
    tensors: dict[str, tuple[str, list[int], bytes]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        raw = (self.folder / "model.safetensors").read_bytes()
        (length,) = struct.unpack_from("<Q", raw)
        table = json.loads(raw[8 : 8 + length])
        for name, entry in table.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                self.tensors[name] = entry["dtype"], entry["shape"], raw[8 + length + start : 8 + length + end]
        self.config = json.loads((self.folder / "config.json").read_text())

    @property
    def quantization(self) -> dict[str, Any]:
        found: dict[str, Any] = self.config["quantization_config"]
        return found

    @property
    def weights(self) -> dict[str, Any]:
        found: dict[str, Any] = self.quantization["config_groups"]["group_0"]["weights"]
        return found

    def save(self) -> Path:
        table, data = {}, b""
        for name, (dtype, shape, raw) in self.tensors.items():
            table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
        head = json.dumps(table).encode()
        (self.folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)
        (self.folder / "config.json").write_text(json.dumps(self.config))
        return self.folder

    def refused(self, code: int, pattern: str, *options: str) -> None:
        """One sentence that matches, that exit code, and nothing written."""
        folder = self.save()
        assert main(["extract", "--block-only", str(folder), "-o", str(self.out / "x.gguf"), *options]) == code
        message = self.capsys.readouterr().err.strip()
        assert re.search(pattern, message), message
        assert message.count("\n") == 0 and "Traceback" not in message
        assert not list(self.out.iterdir())

    def floats(self, suffix: str) -> Any:
        """A tensor of the block as it is read."""
        tensor = open_donor(self.save()).find(suffix)
        assert tensor is not None
        with Reader() as reader:
            return np.concatenate(list(tensor.rows.chunks(reader)))


@pytest.fixture
def source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], Source]:
    from tiny_packed import make_packed

    def make(name: str) -> Source:
        (tmp_path / "out").mkdir()
        return Source(make_packed(name, tmp_path / "donor"), tmp_path / "out", capsys)

    return make


def test_a_packed_weight_without_its_shape(source: Callable[[str], Source]) -> None:
    spoilt = source("int4")
    del spoilt.tensors[f"{Q_A}_shape"]
    spoilt.refused(FORMAT, r"donor/model\.safetensors, byte [\d,]+: '.*q_a_proj\.weight_packed' is packed, and its "
                           r"shape '.*q_a_proj\.weight_shape' is missing")  # fmt: skip


def test_a_packed_weight_without_factors(source: Callable[[str], Source]) -> None:
    spoilt = source("int4")
    del spoilt.tensors[f"{EXPERT}_scale"]
    spoilt.refused(FORMAT, r"experts\.1\.gate_proj\.weight_packed' is packed, and its factors '.*' is missing")


def test_a_shape_that_is_another_ones(source: Callable[[str], Source]) -> None:
    """It is read with the data, so this is found while writing."""
    spoilt = source("int4")
    spoilt.tensors[f"{O_PROJ}_shape"] = ("I64", [2], struct.pack("<qq", 64, 63))
    spoilt.refused(FORMAT, r"the shape in '.*o_proj\.weight_shape' is not that of .*\[64, 64\].*\[64, 63\]")


def test_factors_of_another_shape(source: Callable[[str], Source]) -> None:
    spoilt = source("int4")
    dtype, shape, raw = spoilt.tensors[f"{Q_A}_scale"]
    spoilt.tensors[f"{Q_A}_scale"] = dtype, [shape[0] // 2, shape[1] * 2], raw
    spoilt.refused(FORMAT, r"the factors '.*q_a_proj\.weight_scale' do not fit their packed weight '.*_packed'")


@pytest.mark.parametrize(("key", "value"), [("num_bits", 8), ("group_size", 64), ("num_bits", 3)])
def test_a_config_that_does_not_give_the_packed_size(key: str, value: int, source: Callable[[str], Source]) -> None:
    spoilt = source("int4")
    spoilt.weights[key] = value
    spoilt.refused(FORMAT, r"do not fit their packed weight '.*' \[\d+, \d+\] of \d bits in groups of \d+")


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_bits", None), ("num_bits", 16), ("group_size", "32"), ("group_size", -1), ("type", "float")],
)
def test_a_config_that_does_not_say_how(key: str, value: Any, source: Callable[[str], Source]) -> None:
    spoilt = source("int4")
    spoilt.weights[key] = value
    spoilt.refused(FORMAT, r"config\.json: '.*weight_packed' is packed, and 'quantization_config' does not say how")


def test_packed_tensors_without_any_config(source: Callable[[str], Source]) -> None:
    spoilt = source("int4")
    del spoilt.config["quantization_config"]
    spoilt.refused(FORMAT, r"'quantization_config' does not say how: num_bits None")


def test_zero_points_of_another_shape(source: Callable[[str], Source]) -> None:
    spoilt = source("int4-zeros")
    dtype, shape, raw = spoilt.tensors[f"{O_PROJ}_zero_point"]
    spoilt.tensors[f"{O_PROJ}_zero_point"] = dtype, shape[::-1], raw
    spoilt.refused(FORMAT, r"the zero points '.*o_proj\.weight_zero_point' do not fit")


def test_a_float_weight_that_has_factors_too(source: Callable[[str], Source]) -> None:
    spoilt = source("fp8-rows")
    _, shape, raw = spoilt.tensors[Q_A]
    spoilt.tensors[Q_A] = "BF16", shape, raw * 2
    spoilt.refused(FORMAT, r"'.*q_a_proj\.weight' is stored as BF16 but has factors")


def test_fp8_without_factors(source: Callable[[str], Source]) -> None:
    spoilt = source("fp8-rows")
    del spoilt.tensors[f"{Q_A}_scale"]
    spoilt.refused(UNSUPPORTED, r"'.*q_a_proj\.weight' is stored as F8_E4M3, quantized as compressed-tensors "
                                r"\(float-quantized\), without factors")  # fmt: skip


@pytest.mark.parametrize("size", [None, [48], "48x32", [48, 0]])
def test_a_block_size_that_is_none(size: Any, source: Callable[[str], Source]) -> None:
    spoilt = source("fp8-blocks")
    spoilt.weights["block_structure"] = size
    spoilt.refused(FORMAT, r"block size")


def test_integers_with_zero_points(source: Callable[[str], Source]) -> None:
    spoilt = source("int8")
    _, shape, raw = spoilt.tensors[f"{Q_A}_scale"]
    spoilt.tensors[f"{Q_A}_zero_point"] = "I8", shape, raw[: shape[0]]
    spoilt.refused(UNSUPPORTED, r"'.*q_a_proj\.weight' is stored as I8 with zero points")


def test_fp4_factors_of_another_shape(source: Callable[[str], Source]) -> None:
    spoilt = source("mxfp4")
    dtype, shape, raw = spoilt.tensors[f"{EXPERT}_scale"]
    spoilt.tensors[f"{EXPERT}_scale"] = dtype, [shape[0], shape[1] * 2], raw * 2
    spoilt.refused(FORMAT, r"the factors '.*experts\.1\.gate_proj\.weight_scale' do not fit.*floats in groups of 32")


def test_a_reciprocal_of_zero(source: Callable[[str], Source]) -> None:
    spoilt = source("nvfp4")
    spoilt.tensors[f"{EXPERT}_global_scale"] = "F32", [1], bytes(4)
    spoilt.refused(FORMAT, r"the factor '.*experts\.1\.gate_proj\.weight_global_scale' is 0")


def test_an_exponent_that_stands_for_nothing(source: Callable[[str], Source]) -> None:
    """255 is E8M0's NaN: no type of weights can hold what it gives."""
    spoilt = source("mxfp4")
    dtype, shape, raw = spoilt.tensors[f"{EXPERT}_scale"]
    spoilt.tensors[f"{EXPERT}_scale"] = dtype, shape, b"\xff" + raw[1:]
    spoilt.refused(QUANTIZE, r"nan", "--type", "q8_0")


@pytest.mark.parametrize("rows", [5, 11, 16])
def test_ranks_that_nothing_fits(rows: int, source: Callable[[str], Source]) -> None:
    spoilt = source("mimo2-ranks4")
    name = "model.mtp.layers.1.self_attn.qkv_proj.weight_scale_inv"
    spoilt.tensors[name] = "F32", [rows, 1], bytes(4 * rows)
    if rows == 16:  # eight ranks of 160 rows: what the factors say is believed
        assert spoilt.floats("attn_qkv.weight").shape == (1280, 64)
        return
    spoilt.refused(FORMAT, r"layers\.1\..*weight_scale_inv' fit .* neither whole nor split by 4 or 8 ranks")


def test_a_fused_projection_with_other_rows_than_heads(source: Callable[[str], Source]) -> None:
    spoilt = source("mimo2-ranks4")
    spoilt.config["swa_num_key_value_heads"] = 2
    spoilt.refused(FORMAT, r"qkv_proj\.weight' does not have the rows of q, k and v that config\.json says")
    del spoilt.config["swa_num_key_value_heads"]
    spoilt.refused(FORMAT, r"config\.json: 'swa_num_key_value_heads' is missing")


FOREIGN = {
    "AWQ": ("awq", ["q_a_proj.qweight", "q_a_proj.qzeros", "q_a_proj.scales"]),
    "GPTQ": ("gptq", ["q_a_proj.qweight", "q_a_proj.g_idx"]),
    "bitsandbytes": ("bitsandbytes", ["q_a_proj.weight.absmax", "q_a_proj.weight.quant_state.bitsandbytes__nf4"]),
    "HQQ": ("hqq", ["q_a_proj.W_q"]),
    "EXL3": ("exl3", ["q_a_proj.trellis", "q_a_proj.suh"]),
    "AQLM": ("aqlm", ["q_a_proj.codes", "q_a_proj.codebooks"]),
    "quanto": ("quanto", ["q_a_proj.weight._data", "q_a_proj.weight._scale"]),
    "activation ordering": ("compressed-tensors", ["q_a_proj.weight_g_idx"]),
}


@pytest.mark.parametrize("title", FOREIGN)
def test_what_is_not_read_is_refused_by_name(title: str, source: Callable[[str], Source]) -> None:
    method, names = FOREIGN[title]
    spoilt = source("fp8-rows")
    spoilt.config["quantization_config"] = {"quant_method": method}
    if not any(name.endswith("g_idx") for name in names[:1]):
        del spoilt.tensors[Q_A], spoilt.tensors[f"{Q_A}_scale"]
    for name in names:
        spoilt.tensors[f"{BLOCK}self_attn.{name}"] = "I32", [2, 2], bytes(16)
    tensor = r"model\.layers\.2\.self_attn\.q_a_proj\.[^']+"
    spoilt.refused(UNSUPPORTED, rf"quantized as .*{title} \('{tensor}'\), which is not read")


def test_a_foreign_format_outside_the_block_does_not_matter(source: Callable[[str], Source]) -> None:
    spoilt = source("fp8-rows")
    before = spoilt.floats("attn_q_a.weight")
    spoilt.quantization["quant_method"] = "awq"
    spoilt.tensors["model.layers.0.self_attn.q_a_proj.qweight"] = "I32", [2, 2], bytes(16)
    assert (spoilt.floats("attn_q_a.weight") == before).all()


def test_bitnet_is_refused_by_name(source: Callable[[str], Source]) -> None:
    spoilt = source("fp8-rows")
    _, shape, raw = spoilt.tensors[Q_A]
    spoilt.config["quantization_config"] = {"quant_method": "bitnet"}
    spoilt.tensors[Q_A] = "U8", shape, raw
    spoilt.refused(UNSUPPORTED, r"'.*q_a_proj\.weight' is stored as U8 \[32, 64\], quantized as BitNet, which is not")


# -- what config.json says, and what tensors are ---------------------------------------------------------------


def test_each_tensor_says_for_itself_how_it_is_stored(source: Callable[[str], Source], tmp_path: Path) -> None:
    """Experts of one layer, packed, in FP8 and in bf16: what an ignore list leaves behind."""
    mixed = source("int4")
    before = mixed.floats("ffn_gate_exps.weight").reshape(4, 32, 64)
    for x, dtype in ((0, "F32"), (2, "F8_E4M3")):
        name = f"{BLOCK}mlp.experts.{x}.gate_proj.weight"
        for ending in ("_packed", "_scale", "_shape"):
            del mixed.tensors[name + ending]
        wide = before[x].astype("<f4")
        mixed.tensors[name] = dtype, [32, 64], wide.tobytes() if dtype == "F32" else bytes([0x38]) * 32 * 64
        if dtype == "F8_E4M3":
            mixed.tensors[f"{name}_scale"] = "F32", [1], struct.pack("<f", 0.5)
    after = mixed.floats("ffn_gate_exps.weight").reshape(4, 32, 64)
    assert (after[[0, 1, 3]] == before[[0, 1, 3]]).all() and (after[2] == 0.5).all()


def test_groups_of_a_config_are_told_by_their_targets(source: Callable[[str], Source]) -> None:
    grouped = source("int4")
    before = grouped.floats("attn_q_a.weight")
    group = grouped.quantization["config_groups"].pop("group_0")
    other = {**group, "weights": {**group["weights"], "num_bits": 8}, "targets": ["re:.*visual.*"]}
    grouped.quantization["config_groups"] = {"group_0": other, "group_1": group}
    assert (grouped.floats("attn_q_a.weight") == before).all()
    grouped.quantization["config_groups"]["group_0"]["targets"] = ["re:.*self_attn.*", "re:["]
    grouped.refused(FORMAT, r"of 8 bits in groups of 32")


def test_what_describes_activations_is_left_alone(source: Callable[[str], Source]) -> None:
    noted = source("fp8-rows")
    before = noted.floats("attn_q_a.weight")
    for name in ("self_attn.q_a_proj.input_scale", "self_attn.k_scale", "self_attn.kv_scale", "mlp.activation_scale"):
        noted.tensors[BLOCK + name] = "F32", [1], struct.pack("<f", 0.25)
    assert (noted.floats("attn_q_a.weight") == before).all()


def test_one_factor_for_all_in_every_shape_that_is_published(source: Callable[[str], Source]) -> None:
    """Upstream's converter has none of these for compressed-tensors: the judge is the product itself."""
    one = source("fp8-rows")
    codes = one.tensors[Q_A][2]
    for shape in ([], [1], [1, 1]):
        one.tensors[f"{Q_A}_scale"] = "F32", shape, struct.pack("<f", 0.125)
        from nextn.sources.small_floats import e4m3_values

        wanted = e4m3_values()[np.frombuffer(codes, np.uint8)].reshape(32, 64) * np.float32(0.125)
        assert (one.floats("attn_q_a.weight") == wanted).all()


def test_e5m2_is_the_upper_half_of_float16(source: Callable[[str], Source]) -> None:
    wide = source("fp8-rows")
    _, shape, _ = wide.tensors[Q_A]
    values = np.linspace(-2, 2, 32 * 64, dtype=np.float32).astype("<f2")
    codes = (values.view("<u2") >> 8).astype(np.uint8)
    wide.tensors[Q_A] = "F8_E5M2", shape, codes.tobytes()
    wide.tensors[f"{Q_A}_scale"] = "F32", [1], struct.pack("<f", 1.0)
    wanted = (codes.astype("<u2") << 8).view("<f2").astype(np.float32).reshape(32, 64)
    assert (wide.floats("attn_q_a.weight") == wanted).all()


def test_nvfp4_rows_that_ggmls_blocks_do_not_divide_are_converted(source: Callable[[str], Source]) -> None:
    narrow = source("nvfp4")
    for x in range(4):  # rows of 48: three groups, and a block has four
        name = f"{BLOCK}mlp.experts.{x}.gate_proj.weight"
        for ending, width in (("_packed", 24), ("_scale", 3)):
            dtype, (rows, columns), raw = narrow.tensors[name + ending]
            data = np.frombuffer(raw, np.uint8).reshape(rows, columns)[:, :width].tobytes()
            narrow.tensors[name + ending] = dtype, [rows, width], data
    block = open_donor(narrow.save())
    gate, up = block.find("ffn_gate_exps.weight"), block.find("ffn_up_exps.weight")
    assert gate is not None and gate.rows.block_type is None and gate.ne == (48, 64, 4)
    assert up is not None and up.rows.block_type is not None
    made = nextn.extract(narrow.folder, block_only=True, type="q4_0", out=narrow.out / "x.gguf")
    assert any("ffn_gate_exps" in note and "f16" in note for note in made.plan.notes)
