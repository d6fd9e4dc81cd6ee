"""The table of tensor types against gguf-py, the loaded ggml, and figures of ik_llama.cpp's own library."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextn.errors import QuantizeError, UsageError
from nextn.ggml import mainline as ggml
from nextn.gguf.types import (
    TENSOR_TYPES,
    TensorType,
    file_type_for,
    parse_type_name,
    row_size,
    tensor_size,
    tensor_type,
)

MAINLINE = [type for type in TENSOR_TYPES if type.engine != "ik"]
IK = [type for type in TENSOR_TYPES if type.engine == "ik"]

# What ggml_type_name and ggml_row_size(type, 1024) answer in the wheel ik-llama-cpp-python 0.1.5.
IK_ROW_SIZE_1024 = {
    31: ("q4_0_4x4", 576),
    32: ("q4_0_4x8", 576),
    33: ("q4_0_8x8", 576),
    97: ("q8_0_x4", 1088),
    98: ("q8_1_x4", 1152),
    99: ("q8_2_x4", 1152),
    133: ("q6_0", 832),
    134: ("iq1_bn", 210),
    135: ("iq2_bn", 260),
    136: ("q8_K64", 1088),
    137: ("iq2_k", 304),
    138: ("iq3_k", 440),
    139: ("iq4_k", 576),
    140: ("iq5_k", 704),
    141: ("iq6_k", 848),
    144: ("iq4_ks", 548),
    145: ("iq2_ks", 282),
    146: ("iq4_kss", 516),
    147: ("q8_K16", 1044),
    148: ("q8_K32", 1184),
    149: ("q8_KR8", 1184),
    150: ("q8_K128", 1120),
    151: ("q8_KV", 1032),
    152: ("iq5_ks", 676),
    153: ("iq2_kt", 276),
    154: ("iq3_kt", 404),
    155: ("iq4_kt", 516),
    156: ("iq3_ks", 410),
    157: ("iq2_kl", 346),
    158: ("iq1_kt", 228),
    202: ("q4_0_r8", 576),
    206: ("q5_0_r4", 704),
    208: ("q8_0_r8", 1088),
    210: ("q2_k_r4", 336),
    211: ("q3_k_r4", 440),
    212: ("q4_k_r4", 576),
    213: ("q5_k_r4", 704),
    214: ("q6_k_r4", 840),
    216: ("iq2_xxs_r4", 264),
    217: ("iq2_xs_r4", 296),
    218: ("iq3_xxs_r4", 392),
    219: ("iq1_s_r4", 194),
    220: ("iq4_nl_r4", 576),
    221: ("iq3_s_r4", 440),
    222: ("iq2_s_r4", 328),
    223: ("iq4_xs_r8", 544),
    229: ("iq1_m_r4", 226),
    230: ("bf16_r16", 2048),
    233: ("q6_0_r4", 832),
    335: ("iq2_bn_r4", 260),
    337: ("iq2_k_r4", 304),
    338: ("iq3_k_r4", 440),
    339: ("iq4_k_r4", 576),
    340: ("iq5_k_r4", 704),
    344: ("iq4_ks_r4", 548),
    352: ("iq5_ks_r4", 676),
    397: ("q8_k_r16", 1032),
    398: ("q8_KV_r8", 1028),
    399: ("q8_k_r8", 1032),
}


def test_numbers_names_and_labels_are_unique():
    for field in ("id", "name", "label"):
        values = [getattr(type, field) for type in TENSOR_TYPES]
        assert len(set(values)) == len(values), field
    assert all(type.label == type.label.upper() for type in TENSOR_TYPES)


def test_sizes_equal_gguf_py():
    from gguf import GGML_QUANT_SIZES

    assert {type.id for type in MAINLINE} == {int(qtype) for qtype in GGML_QUANT_SIZES} | {42}
    for qtype, sizes in GGML_QUANT_SIZES.items():
        type = tensor_type(int(qtype))
        assert type is not None and type.label == qtype.name
        if type.name == "q8_1":  # gguf-py still counts its two f16 scales as f32
            assert sizes == (32, 40)
            continue
        assert (type.block_size, type.type_size) == sizes, type.name


@pytest.mark.parametrize("type", MAINLINE, ids=lambda type: type.name)
def test_sizes_equal_ggml(type: TensorType):
    lib = ctypes.CDLL(str(ggml.find_library()))
    lib.ggml_blck_size.restype = ctypes.c_int64
    lib.ggml_type_size.restype = ctypes.c_size_t
    lib.ggml_row_size.restype = ctypes.c_size_t
    lib.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    lib.ggml_type_name.restype = ctypes.c_char_p
    assert lib.ggml_type_name(type.id).decode() == type.name
    assert lib.ggml_blck_size(type.id) == type.block_size
    assert lib.ggml_type_size(type.id) == type.type_size
    assert lib.ggml_row_size(type.id, 1024) == row_size(type, 1024)


def test_sizes_equal_ik_llama_cpp():
    assert {type.id for type in IK} == IK_ROW_SIZE_1024.keys() | {36}
    for id, (name, size) in IK_ROW_SIZE_1024.items():
        type = tensor_type(id)
        assert type is not None and type.name == name
        assert row_size(type, 1024) == size, name


def test_interleaved_rows_are_what_the_name_says():
    for type in IK:
        _, r, group = type.name.rpartition("_r")
        if r:
            assert type.row_group == int(group), type.name


def test_file_types_equal_gguf_py():
    from gguf import LlamaFileType

    numbers = {file_type.name: int(file_type) for file_type in LlamaFileType}
    for type in MAINLINE:
        names = [
            f"ALL_{type.label}",
            f"MOSTLY_{type.label}",
            f"MOSTLY_{type.label}_S",
            f"MOSTLY_{type.label}_MOE",
        ]
        known = [numbers[name] for name in names if name in numbers]
        if type.name in ("q1_0", "q2_0"):  # newer than gguf-py 0.19; numbers of llama.h b11549
            known = known or [{"q1_0": 40, "q2_0": 41}[type.name]]
        assert file_type_for(type) == (known[0] if known else None), type.name
    given_out = [type.file_type for type in TENSOR_TYPES if type.file_type is not None]
    assert len(set(given_out)) == len(given_out)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("q8_0", "q8_0"),
        ("Q4_K", "q4_K"),
        ("q4_K", "q4_K"),
        ("q4_k", "q4_K"),
        (" BF16 ", "bf16"),
        ("IQ4_KS", "iq4_ks"),
    ],
)
def test_names_in_any_case(text: str, name: str):
    assert parse_type_name(text).name == name


def test_every_name_parses():
    for type in TENSOR_TYPES:
        assert parse_type_name(type.name) is type
        assert parse_type_name(type.label) is type


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match=r"'q9_0' is not a tensor type; types are f32, .*q4_K.*ik_llama\.cpp"):
        parse_type_name("q9_0")
    with pytest.raises(UsageError, match=r"Q4_K_M is a mix of tensor types.*q4_K$"):
        parse_type_name("Q4_K_M")


def test_sizes_that_cannot_be_computed():
    i2_s = parse_type_name("i2_s")
    assert tensor_size(i2_s, (1024, 4)) is None
    assert i2_s.bits_per_weight is None
    assert tensor_type(4) is None and tensor_type(-1) is None
    assert tensor_size(4, (1024,)) is None
    assert tensor_size(parse_type_name("q8_0"), (33, 2)) is None
    with pytest.raises(QuantizeError, match="layout of i2_s is not known"):
        row_size(i2_s, 1024)
    with pytest.raises(QuantizeError, match="row of 33 values cannot be stored as q8_0"):
        row_size(parse_type_name("q8_0"), 33)


@given(
    st.sampled_from([type for type in TENSOR_TYPES if type.block_size]),
    st.integers(1, 64),
    st.lists(st.integers(1, 9), max_size=3),
)
def test_tensor_size_is_rows_times_row_size(type: TensorType, n_blocks: int, outer: list[int]):
    n_per_row = n_blocks * (type.block_size or 0)
    n_rows = 1
    for n in outer:
        n_rows *= n
    expected = n_rows * (type.row_meta_bytes + n_blocks * (type.type_size or 0))
    assert tensor_size(type, (n_per_row, *outer)) == expected
    assert tensor_size(type.id, (n_per_row, *outer)) == expected


def test_a_scalar_is_one_element():
    assert tensor_size(parse_type_name("f32"), ()) == 4
    assert tensor_size(parse_type_name("f32"), (0, 3)) == 0
    assert parse_type_name("q8_0").bits_per_weight == 8.5


def test_nothing_heavy_is_imported():
    code = "import sys, nextn.gguf.types; sys.exit('numpy' in sys.modules or 'ctypes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
