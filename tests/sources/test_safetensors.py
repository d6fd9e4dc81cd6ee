"""safetensors headers: what is read, and every way in which they can be wrong."""

from __future__ import annotations

import os
import re
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stmaker import encode

from nextn.errors import FormatError, NextnError, StorageError
from nextn.sources.ranges import FileRange, Meter, Reader
from nextn.sources.safetensors import DTYPE_BYTES, read_safetensors

TABLE: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b.c": {"dtype": "F32", "shape": [], "data_offsets": [12, 16]},
    "none": {"dtype": "F32", "shape": [0, 5], "data_offsets": [16, 16]},
}


def write(folder: Path, data: bytes) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return path


def refused(folder: Path, data: bytes) -> FormatError:
    path = write(folder, data)
    with pytest.raises(FormatError) as caught:
        read_safetensors(path)
    assert str(caught.value).startswith(f"{path}, byte ")
    assert "\n" not in str(caught.value)
    return caught.value


def test_names_shapes_and_places(tmp_path: Path) -> None:
    data = encode(TABLE, bytes(range(16)))
    path = write(tmp_path, data)
    tensors = read_safetensors(path)
    start = len(data) - 16
    assert list(tensors) == ["a", "b.c", "none"]
    a = tensors["a"]
    assert (a.dtype, a.shape, a.row_length, a.n_rows, a.row_bytes) == ("BF16", (2, 3), 3, 2, 6)
    assert a.where == FileRange(path, start, start + 12)
    assert a.rows(1, 2) == FileRange(path, start + 6, start + 12)
    scalar = tensors["b.c"]
    assert (scalar.shape, scalar.row_length, scalar.n_rows, scalar.where.size_bytes) == ((), 1, 1, 4)
    with Reader(meter := Meter()) as reader:
        assert bytes(reader.read(a.where)) == bytes(range(12))
        assert [bytes(piece) for piece in reader.pieces(a.where, 5)] == [
            bytes(range(5)), bytes(range(5, 10)), bytes(range(10, 12))]  # fmt: skip
    assert meter.bytes_read == 24


@pytest.mark.parametrize("dtype", list(DTYPE_BYTES))
def test_every_dtype(dtype: str, tmp_path: Path) -> None:
    width = DTYPE_BYTES[dtype]
    table = {"a": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, 4 * width]}}
    tensors = read_safetensors(write(tmp_path, encode(table, bytes(4 * width))))
    assert tensors["a"].row_bytes == 2 * width
    table["a"]["data_offsets"] = [0, 4 * width - 1]
    assert "does not fit its shape [2, 2]" in str(refused(tmp_path, encode(table, bytes(4 * width))))


def test_a_dtype_that_is_not_known_is_carried(tmp_path: Path) -> None:
    table = {"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}
    assert read_safetensors(write(tmp_path, encode(table)))["a"].dtype == "F4"


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"model.safetensors: the file is empty \(it ends at byte 0\); get it again"):
        read_safetensors(write(tmp_path, b""))


@pytest.mark.parametrize("n", range(1, 8))
def test_fewer_than_8_bytes(n: int, tmp_path: Path) -> None:
    assert "fewer than 8 bytes" in str(refused(tmp_path, encode(TABLE)[:n]))


def test_cut_at_every_byte(tmp_path: Path) -> None:
    data = encode(TABLE)
    for n in range(8, len(data)):
        with pytest.raises(FormatError) as caught:
            read_safetensors(write(tmp_path, data[:n]))
        message = str(caught.value)
        assert re.search(rf"ends at byte {n}(, inside its header| of {len(data)}): the download", message)


@pytest.mark.parametrize("length", [100, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_absurd_header_lengths_allocate_nothing(length: int, tmp_path: Path) -> None:
    path = write(tmp_path, struct.pack("<Q", length) + b"{}")
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"ends at byte 10, inside its header|expected at most 100,000,000 bytes"):
            read_safetensors(path)
        if length > 100_000_000:
            os.truncate(path, 1 << 40)  # now the file is long enough
            with pytest.raises(FormatError, match=r"expected at most 100,000,000 bytes"):
                read_safetensors(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "head",
    [b"", b"{", b"nonsense", b"\xff\xfe", b"{'a': 1}", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000],
    ids=["empty", "cut", "no JSON", "no UTF-8", "quotes", "deep lists", "deep objects", "long number"],
)
def test_headers_that_are_no_json(head: bytes, tmp_path: Path) -> None:
    assert "not JSON" in str(refused(tmp_path, encode(head)))


@pytest.mark.parametrize("table", [[], 1, None, "a", True])
def test_headers_that_are_no_object(table: Any, tmp_path: Path) -> None:
    assert "not a JSON object" in str(refused(tmp_path, encode(table)))


@pytest.mark.parametrize(
    "entry",
    [
        None,
        1,
        "text",
        [],
        {},
        {"dtype": "F32", "shape": [1]},
        {"dtype": "F32", "data_offsets": [0, 4]},
        {"shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [float("inf")], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [None], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]},
        {"dtype": "F32", "shape": [1], "data_offsets": None},
    ],
)
def test_damaged_entries(entry: Any, tmp_path: Path) -> None:
    assert "the entry of tensor 'x' is damaged" in str(refused(tmp_path, encode({"x": entry})))


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        ([2], [0, 4]),
        ([1], [4, 0]),
        ([1], [-4, 0]),
        ([-1, -1], [0, 4]),
        ([1 << 62, 1 << 62], [0, 4]),
        ([0], [0, 4]),
    ],
)
def test_sizes_that_do_not_fit(shape: list[int], offsets: list[int], tmp_path: Path) -> None:
    table = {"x": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}
    assert "the size of tensor 'x' does not fit its shape" in str(refused(tmp_path, encode(table)))


def test_a_tensor_behind_the_end(tmp_path: Path) -> None:
    table = {"x": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}
    n = len(encode(table))
    with pytest.raises(FormatError, match=f"ends at byte {n} of {n + 16}: the download is incomplete, and tensor 'x'"):
        read_safetensors(write(tmp_path, encode(table)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=5))
def test_flipped_bytes_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    import tempfile

    data = bytearray(encode(TABLE))
    for at, value in changes:
        data[at % len(data)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), bytes(data))
        try:
            tensors = read_safetensors(path)
        except NextnError as error:
            assert "\n" not in str(error)
        else:
            assert all(tensor.where.end <= len(data) for tensor in tensors.values())


def test_what_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(StorageError, match="not a regular file"):
            read_safetensors(path)
        with pytest.raises(StorageError, match="not a regular file"), Reader() as reader:
            reader.read(FileRange(path, 0, 4))
    for path in (tmp_path / "no", tmp_path / "fifo" / "below"):
        with pytest.raises(StorageError, match=r"there is no such file|cannot open it"):
            read_safetensors(path)


def test_a_range_behind_the_end(tmp_path: Path) -> None:
    path = write(tmp_path, b"1234")
    with Reader() as reader, pytest.raises(FormatError, match="byte 4: the file ends too early"):
        reader.read(FileRange(path, 2, 9))
