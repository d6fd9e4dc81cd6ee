"""float32 rows to any tensor type ggml can write, and back.

Quantized types are byte-equal to `ggml_quantize_chunk` without an importance matrix, because that is what runs; those
that only ik_llama.cpp has are written by its own library.
f16 and bf16 are byte-equal to gguf-py, which llama.cpp's converter uses: round to nearest even, overflow to
infinity, NaN kept.

Arrays are `(n_rows, n_per_row)` float32, C-contiguous, and `(n_rows, row_size)` uint8. Rows do not depend on
each other, so a slice of the rows gives a slice of the bytes. Nothing is copied beyond input and output.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import numpy as np
import numpy.typing as npt

from ..errors import QuantizeError
from ..gguf.types import BF16, F16, F32, TensorType, parse_type_name, row_size
from . import ik as ggml_ik
from . import mainline as ggml

Rows = npt.NDArray[np.float32]
Blocks = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview | npt.NDArray[np.uint8]

MAX_ABS = 65504.0 * 128 * 32
"""Largest magnitude that a quantized type can hold (q6_K: f16 scale, 7-bit scale, 5-bit value).

ggml aborts the process on values some ten thousand times larger (iq types), so they must never get there.
"""

# `ggml_quantize_chunk`, without the types that `ggml_quantize_requires_imatrix` names.
# fmt: off
_WRITABLE = frozenset((
    "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K",
    "iq1_m", "iq2_s", "iq3_xxs", "iq3_s", "iq4_nl", "iq4_xs", "tq1_0", "tq2_0",
    "mxfp4", "nvfp4", "q1_0", "q2_0",
))
# fmt: on
_NEEDS_IMATRIX = frozenset(("iq2_xxs", "iq2_xs", "iq1_s"))

# `tensor_type_fallback` in llama-quant.cpp of llama.cpp b11549.
_FALLBACK = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
    **dict.fromkeys(("q2_0", "q2_K", "q3_K", "tq1_0", "tq2_0"), "q4_0"),
    "q4_K": "q5_0",
    "q5_K": "q5_1",
    "q6_K": "q8_0",
}

_ALTERNATIVES = tuple(map(parse_type_name, ("q8_0", "q6_K", "q5_K", "q4_K", "q4_0", "q3_K", "q2_K")))
# Their quantizers in ggml-quants.c are short loops without assertions, and an infinity or a value too large makes a
# scale that `validate` refuses: only a NaN has to be looked for, and that when the values are in the cache. The other
# types abort on some values, and take so long that looking at all values first costs nothing.
_TAKE_ANY_VALUE = frozenset(("q4_0", "q4_1", "q5_0", "q5_1", "q8_0"))
_SLAB = 1 << 17  # elements of a task, whose input and output stay in a core's cache until both are checked
_MIN_SLAB = 1 << 14
_SLABS_PER_THREAD = 4  # at least, so that none waits long for the last


def can_write(type: TensorType) -> bool:
    """Whether `quantize` writes this type."""
    return type.name in _WRITABLE or _of_ik(type)


def _of_ik(type: TensorType) -> bool:
    return type.engine == "ik" and type.name in ggml_ik.WRITABLE


def check_writable(type: TensorType) -> None:
    """QuantizeError, with the reason and alternative types, unless `quantize` writes this type."""
    if requires_imatrix(type):
        raise QuantizeError(_needs_imatrix(type))
    if _of_ik(type):
        ggml_ik.load().check(type)
    if not can_write(type):
        raise QuantizeError(f"{_why_not(type)}, so it cannot be written; {_nearest(type)}")


def requires_imatrix(type: TensorType) -> bool:
    """Whether ggml cannot quantize this type without an importance matrix."""
    return type.name in _NEEDS_IMATRIX


def fallback_type(type: TensorType, n_per_row: int) -> TensorType:
    """The type in which llama-quantize stores rows of `n_per_row` elements when `type` is requested.

    `type` itself when its block divides the row. QuantizeError when llama-quantize has no fallback either.
    """
    block_size = _block_size(type)
    if n_per_row % block_size == 0:
        return type
    if type.name in _FALLBACK or type.name in ggml_ik.FALLBACK:
        fallback = parse_type_name((_FALLBACK | ggml_ik.FALLBACK)[type.name])
    elif block_size <= 32 and type.engine != "ik":
        fallback = type
    else:
        raise QuantizeError(
            f"rows of {n_per_row} values cannot be stored as {type.name}, which packs {block_size} at a "
            f"time, and llama.cpp has no type to fall back to; use {'q8_0' if n_per_row % 32 == 0 else 'f16'}"
        )
    return F16 if n_per_row % _block_size(fallback) else fallback


def quantize(rows: Rows, type: TensorType, *, out: Blocks | None = None) -> Blocks:
    """`rows` as `type`: (n_rows, n_per_row) float32 to (n_rows, row_size) uint8, in `out` when given.

    QuantizeError when the type cannot be written, its block does not divide the row, or a quantized type
    would have to hold a NaN, an infinity or a value too large for its scales.
    """
    return quantize_rows(rows, type, n_threads=1, out=out)


def quantize_rows(rows: Rows, type: TensorType, *, n_threads: int, out: Blocks | None = None) -> Blocks:
    """`quantize` on up to `n_threads` threads, with the same bytes. One row is never split."""
    check_writable(type)
    _check_rows(rows, type)
    n_rows, n_per_row = rows.shape
    shape = (n_rows, row_size(type, n_per_row))
    if out is None:
        out = np.empty(shape, np.uint8)
    elif out.dtype != np.uint8 or out.shape != shape or not (out.flags.c_contiguous and out.flags.writeable):
        raise QuantizeError(f"the output of {type.name} must be writable C-contiguous uint8 of shape {shape}")
    result = out
    write: Callable[[int, int], None]
    if type == F32:

        def write(start: int, end: int) -> None:
            np.copyto(result[start:end], rows[start:end].view(np.uint8))
    elif type == F16:

        def write(start: int, end: int) -> None:
            with np.errstate(all="ignore"):
                np.copyto(result[start:end].view(np.float16), rows[start:end], casting="same_kind")
    elif type == BF16:

        def write(start: int, end: int) -> None:
            _write_bf16(rows[start:end].reshape(-1), result[start:end].reshape(-1).view(np.uint16))
    else:
        library: ggml.Ggml | ggml_ik.IkGgml
        if _of_ik(type):
            library = ggml_ik.load()
        else:
            library = ggml.load()
            if library.requires_imatrix(type):
                raise QuantizeError(_needs_imatrix(type))

        def write(start: int, end: int) -> None:
            _write_blocks(library, rows, result, type, start, end)

    _in_parallel(write, n_rows, n_per_row, n_threads)
    return result


def can_read(type: TensorType) -> bool:
    """Whether `dequantize` reads this type."""
    return type in (F32, F16, BF16) or ggml.load().can_decode(type)


def dequantize(data: Buffer, type: TensorType, n_per_row: int, *, n_threads: int = 1) -> Rows:
    """Rows of `type` as float32 (n_rows, n_per_row); f32 shares memory with `data` where it can.

    QuantizeError when ggml cannot decode the type, or `data` is not a whole number of rows.
    """
    if not can_read(type):
        raise QuantizeError(
            f"{_why_not(type)}, so its values cannot be read; the tensor can only be copied unchanged"
        )
    if n_per_row <= 0:
        raise QuantizeError(f"rows of {n_per_row} values cannot be read")
    row_bytes = row_size(type, n_per_row)
    try:
        source = np.frombuffer(data, np.uint8)
    except (ValueError, BufferError) as error:
        raise QuantizeError(f"the bytes of {type.name} rows must be contiguous ({error})") from error
    n_rows, rest = divmod(source.size, row_bytes)
    if rest:
        raise QuantizeError(
            f"{source.size:,} bytes are not a whole number of {type.name} rows of {n_per_row} values, "
            f"{row_bytes:,} bytes each"
        )
    if source.ctypes.data % 4:  # ggml's blocks hold 2- and 4-byte fields
        source = source.copy()
    source = source.reshape(n_rows, row_bytes)
    if type == F32:
        return source.view(np.float32)
    rows = np.empty((n_rows, n_per_row), np.float32)
    read: Callable[[int, int], None]
    if type == F16:

        def read(start: int, end: int) -> None:
            np.copyto(rows[start:end], source[start:end].view(np.float16))
    elif type == BF16:

        def read(start: int, end: int) -> None:
            bits = source[start:end].view(np.uint16)
            np.left_shift(bits, np.uint32(16), out=rows[start:end].view(np.uint32), dtype=np.uint32)
    else:
        library = ggml.load()

        def read(start: int, end: int) -> None:
            if start < end:
                src, dst = source[start:end].ctypes.data, rows[start:end].ctypes.data
                library.to_float(type, src, dst, (end - start) * n_per_row)

    _in_parallel(read, n_rows, n_per_row, n_threads)
    return rows


def ggml_version() -> str:
    """The loaded ggml as `0.20.2 (commit)`."""
    library = ggml.load()
    return f"{library.version} ({library.commit})" if library.commit else library.version


def _block_size(type: TensorType) -> int:
    if type.block_size is None:
        raise QuantizeError(f"the layout of {type.name} is not known")
    return type.block_size


def _why_not(type: TensorType) -> str:
    """Why ggml cannot handle `type`, as the beginning of a sentence."""
    if type.engine == "ik":
        return f"{type.name} is a type of ik_llama.cpp only"
    if type.name in ("q8_1", "q8_K"):
        return f"{type.name} is ggml's type for intermediate results"
    return f"{type.name} is not a weight type"


def _nearest(type: TensorType) -> str:
    """The writable types nearest in size, as the end of a sentence."""
    bits = type.bits_per_weight or 4.5

    def distance(other: TensorType) -> float:
        return abs((other.bits_per_weight or 0.0) - bits)

    first, second, third = sorted(_ALTERNATIVES, key=distance)[:3]
    return f"use {first.name}, {second.name} or {third.name} instead"


def _needs_imatrix(type: TensorType) -> str:
    return (
        f"{type.name} cannot be written without an importance matrix, and nextn uses none; {_nearest(type)}"
    )


def _check_rows(rows: Rows, type: TensorType) -> None:
    """QuantizeError unless ggml can take `rows` as they are."""
    if rows.dtype != np.float32 or rows.ndim != 2 or not (rows.flags.c_contiguous and rows.flags.aligned):
        raise QuantizeError(
            f"rows must be C-contiguous float32 of shape (n_rows, n_per_row), "
            f"not {rows.dtype} of shape {rows.shape} and strides {rows.strides}"
        )
    n_per_row = rows.shape[1]
    if n_per_row == 0:
        raise QuantizeError(f"rows of 0 values cannot be stored as {type.name}")
    if n_per_row % _block_size(type):
        instead = fallback_type(type, n_per_row)
        raise QuantizeError(
            f"rows of {n_per_row} values cannot be stored as {type.name}, which packs {type.block_size} at a "
            f"time; use {instead.name}, as llama.cpp does"
        )


def _check_values(rows: Rows, type: TensorType, first_row: int) -> None:
    """QuantizeError when a value is not finite or too large; `rows` starts at row `first_row`."""
    if rows.min() >= -MAX_ABS and rows.max() <= MAX_ABS:  # a NaN fails both
        return
    for i, row in enumerate(rows):
        bad = ~(np.abs(row) <= MAX_ABS)
        if bad.any():
            column = int(bad.argmax())
            raise QuantizeError(
                f"row {first_row + i}, column {column} holds {row[column]!s}, which {type.name} cannot hold; "
                f"the source tensor is damaged, or needs bf16 or f32"
            )


def _write_bf16(values: Rows, out: npt.NDArray[np.uint16]) -> None:
    """Upper halves of `values` (1-D), rounded to nearest even; a NaN keeps its upper bits, made quiet."""
    bits = values.view(np.uint32)
    for start in range(0, bits.size, _SLAB):
        slab, part = bits[start : start + _SLAB], out[start : start + _SLAB]
        rounded = slab >> np.uint32(16)
        rounded &= np.uint32(1)
        rounded += np.uint32(0x7FFF)
        rounded += slab
        rounded >>= np.uint32(16)
        np.copyto(part, rounded, casting="unsafe")
        nan = np.isnan(values[start : start + _SLAB])
        if nan.any():
            part[nan] = (slab[nan] >> np.uint32(16)) | np.uint32(64)


def _write_blocks(
    library: ggml.Ggml | ggml_ik.IkGgml, rows: Rows, out: Blocks, type: TensorType, start: int, end: int
) -> None:
    """Quantize rows `start` to `end` with ggml and check what came out."""
    part, blocks = rows[start:end], out[start:end]
    takes_any, to = type.name in _TAKE_ANY_VALUE, blocks.ctypes.data
    if not takes_any:
        _check_values(part, type, start)
    written = library.quantize_chunk(type, part.ctypes.data, to, end - start, rows.shape[1])
    if written != blocks.nbytes:
        raise QuantizeError(f"ggml wrote {written:,} bytes of {type.name} instead of {blocks.nbytes:,}")
    is_sound = library.validate(type, to, written)
    if takes_any and not (is_sound and part.max() <= MAX_ABS):  # the maximum of values with a NaN is NaN
        _check_values(part, type, start)
    if not is_sound:
        row = start + int(np.maximum(part.max(axis=1), -part.min(axis=1)).argmax())
        raise QuantizeError(
            f"the scale of a block of {type.name} overflows; the largest value is in row {row}; "
            f"the source tensor is damaged, or needs bf16 or f32"
        )


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    """Threads that stay: starting some for every chunk of a tensor takes a few percent of the time."""
    return ThreadPoolExecutor(n_threads, "nextn-quantize")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of the threads


def _in_parallel(task: Callable[[int, int], None], n_rows: int, n_per_row: int, n_threads: int) -> None:
    """Call `task(start, end)` for ranges that cover `n_rows`; raises the error of the first range that fails.

    The calling thread takes part, and each takes the next range when it is done with one.
    """
    if n_rows == 0:
        return
    each = n_rows * n_per_row // (max(1, n_threads) * _SLABS_PER_THREAD)
    step = max(1, min(_SLAB, max(_MIN_SLAB, each)) // n_per_row)
    starts = iter(range(0, n_rows, step))
    failed: list[tuple[int, BaseException]] = []

    def work() -> None:
        for start in starts:
            try:
                task(start, min(start + step, n_rows))
            except BaseException as error:  # the caller's thread raises it, an interrupt too
                failed.append((start, error))
            if failed:
                return

    n_helpers = min(n_threads, -(-n_rows // step)) - 1
    helpers = [_pool(n_helpers).submit(work) for _ in range(n_helpers)]
    try:
        work()
    finally:
        wait(helpers)
    if failed:
        raise min(failed, key=lambda each: each[0])[1]
