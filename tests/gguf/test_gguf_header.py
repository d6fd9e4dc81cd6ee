"""Headers: the corpus, growing buffers, and bytes that come back as they were."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from corpus import CORPUS, INVALID, VALID, sameness
from ggufmaker import F32, IQ4_KS, Q4_K, Q8_0, f32, info, make
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_strategies import PAIRS
from opened import parse_header

import gguf
from conftest import DATA
from nextn.errors import FormatError, UnsupportedFormat
from nextn.gguf.files import read_header
from nextn.gguf.header import build_header, header_size, pad_to, place
from nextn.gguf.parser import HeaderParser
from nextn.gguf.tensors import TensorInfo

TRUNKS = sorted((DATA / "trunks").glob("*.gguf"))
# A word of the sentence that each refused file gets, by the start of its name.
REASONS = {
    "empty": "the file is empty",
    "magic": "not a GGUF file",
    "first": "24 bytes",
    "version-1": "version 1 is not supported",
    "version": "unknown GGUF version",
    "big": "big-endian",
    "kv-count-of": "more key-value pairs than the file can hold",
    "tensor-count": "more tensors than the file can hold",
    "key-length": "absurd",
    "key-twice": "the key 'a' appears twice",
    "value-type": "unknown type",
    "array-item-type": "unknown type",
    "array-length": "more items than the file can hold",
    "array-in-array": "more items than the file can hold",
    "array-nested": "nested too deeply",
    "alignment-of-type": "wrong type",
    "alignment": "'general.alignment' is wrong",
    "tensor-twice": "tensor 'a' appears twice",
    "tensor-name": "absurd",
    "tensor-of-": "too many axes",
    "tensor-axis": "absurd",
    "tensor-elements": "absurd",
    "tensor-offset": "the offset of tensor 'a' is wrong",
    "": "the header ends inside",
}
# Forms of the corpus that gguf-py or the specification do not have.
NOT_FOR_GGUF_PY = {"type-unknown", "type-of-ik", "key-not-utf8", "name-not-utf8", "arrays-of-arrays", "data-missing",
                   "data-reordered", "bool-of-two", "tensor-without-axes", "header-without-padding"}  # fmt: skip
ROWS = {F32: (1, 4), Q8_0: (32, 34), Q4_K: (256, 144), IQ4_KS: (256, 140), 4242: (1, 3)}  # ne[0], bytes of a row


@st.composite
def tensor_lists(draw: st.DrawFn) -> list[tuple[str, tuple[int, ...], int, bytes]]:
    names = draw(st.lists(st.text(max_size=10), max_size=4, unique=True))
    out = []
    for name in names:
        type_id = draw(st.sampled_from(list(ROWS)))
        n, row_bytes = ROWS[type_id]
        more = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
        n_rows = 1
        for axis in more:
            n_rows *= axis
        out.append((name, (n, *more), type_id, bytes(row_bytes * n_rows)))
    return out


@st.composite
def descriptions(draw: st.DrawFn):
    pairs = draw(PAIRS)
    alignment = draw(st.sampled_from([None, 8, 16, 32, 64, 1024, 4096]))
    if alignment is not None:
        pairs.insert(draw(st.integers(0, len(pairs))), ("general.alignment", "u32", alignment))
    return pairs, draw(tensor_lists()), draw(st.sampled_from([2, 3])), alignment or 32


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_accepted_forms_come_back_byte_for_byte(path: Path) -> None:
    data = path.read_bytes()
    header = parse_header(data)
    built = build_header(header.kvs, header.tensors, version=header.version, alignment=header.alignment)
    padded = data.ljust(header.data_offset, b"\0")  # a file without tensors may end unpadded
    assert built == padded[: header.data_offset]
    assert header_size(header.kvs, header.tensors) == header.header_end
    assert sameness(read_header(path).header) == sameness(header)
    for kv in header.kvs:
        if path.stem not in ("arrays-of-arrays", "bool-of-two"):
            assert kv.with_value(kv.value).same_as(kv)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "path", [path for path in VALID if path.stem not in NOT_FOR_GGUF_PY], ids=lambda path: path.stem
)
def test_tensors_are_where_gguf_py_finds_them(path: Path) -> None:
    file = read_header(path)
    theirs = {
        tensor.name: (tuple(int(n) for n in tensor.shape), int(tensor.tensor_type), tensor.data_offset, tensor.n_bytes)
        for tensor in gguf.GGUFReader(path).tensors
    }
    ours = {
        tensor.name: (tensor.ne, tensor.type_id, file.tensor_range(tensor)[0], file.stored_size(tensor))
        for tensor in file.header.tensors
    }
    assert ours == theirs


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_refused_forms_get_one_sentence(path: Path) -> None:
    reason = next(reason for name, reason in REASONS.items() if path.stem.startswith(name))
    with pytest.raises(FormatError) as caught:
        read_header(path)
    error = caught.value
    assert reason in str(error)
    assert "\n" not in str(error)
    if not path.stat().st_size:  # has no byte to point to
        assert str(error).startswith(f"{path}: ") and error.offset is None
        return
    assert error.offset is not None
    assert str(error).startswith(f"{path}, byte {error.offset:,}: ")
    assert 0 <= error.offset <= path.stat().st_size
    assert error.path == path
    assert isinstance(error, UnsupportedFormat) == path.stem.startswith(("version", "big"))
    if "the header ends inside" in str(error):
        assert f"ends at byte {path.stat().st_size:,} of at least " in str(error)
    elif not path.stem.startswith(("version-1", "big", "key-twice", "tensor-twice")):
        assert error.expected
        assert error.found
        assert f"(expected {error.expected}, found {error.found})" in str(error)


def test_the_corpus_is_what_its_script_makes() -> None:
    import make_corpus

    for kind, files in (("valid", make_corpus.valid()), ("invalid", make_corpus.invalid())):
        there = {path.stem: path.read_bytes() for path in (CORPUS / kind).glob("*.gguf")}
        assert there == files


@settings(deadline=None)
@given(descriptions())
def test_parse_and_build_are_inverse(description) -> None:
    pairs, tensors, version, alignment = description
    made = make(pairs, tensors, version=version, alignment=alignment)
    header = parse_header(made.whole)
    assert (header.version, header.alignment) == (version, alignment)
    assert (header.header_end, header.data_offset) == (made.table_end, len(made.header))
    assert build_header(header.kvs, header.tensors, version=version, alignment=alignment) == made.header
    assert [(t.name, t.ne, t.type_id) for t in header.tensors] == [(n, ne, kind) for n, ne, kind, _ in tensors]
    for (_, _, type_id, blob), tensor in zip(tensors, header.tensors, strict=True):
        begin, end = header.data_range(tensor, len(made.whole))
        if type_id == 4242:  # its size follows from the next offset: padding belongs to it
            assert end - begin == pad_to(len(blob), alignment)
        else:
            assert end - begin == len(blob)
    if header.tensors:
        placed, length = place(
            [(tensor, header.stored_size(tensor) or 0) for tensor in header.tensors[:-1]]
            + [(header.tensors[-1], len(tensors[-1][3]))],
            alignment,
        )
        assert tuple(placed) == header.tensors
        assert length == len(made.data)


@settings(deadline=None, max_examples=50)
@given(descriptions(), st.randoms(use_true_random=False))
def test_growing_buffers_give_the_same_header(description, rng: random.Random) -> None:
    pairs, tensors, version, alignment = description
    data = make(pairs, tensors, version=version, alignment=alignment).whole
    whole = parse_header(data)
    for step in (1, 7, 10_000, rng.randrange(1, 60)):
        for kind in (bytes, bytearray):
            parser = HeaderParser(len(data))
            n, header, growing = 0, None, bytearray()
            while header is None:
                n = min(n + step, len(data))
                growing += data[len(growing) : n]
                header = parser.feed(bytes(growing) if kind is bytes else growing)
                assert header is not None or len(data) >= parser.guess >= parser.need > n
            assert sameness(header) == sameness(whole)


def test_a_long_header_is_kept_where_it_was_read_into(tmp_path: Path) -> None:
    tokens = [f"some token {i}" for i in range(60_000)]
    pairs = [("a", "[str]", tokens), ("b", "u32", 7), ("c", "str", "text")]
    data = make(pairs, [("some.weight", [32, 4], F32, bytes(512))]).whole
    (tmp_path / "long.gguf").write_bytes(data + bytes(100_000))
    kept, copied = read_header(tmp_path / "long.gguf").header, parse_header(data)
    buffer = kept.kvs[0].buffer
    assert isinstance(buffer, bytearray) and len(buffer) == kept.data_offset > 1 << 20
    assert isinstance(copied.kvs[0].buffer, bytes)
    assert sameness(kept) == sameness(copied)
    assert kept.get("a") == tokens and kept.by_name["some.weight"] == copied.by_name["some.weight"]
    assert build_header(kept.kvs, kept.tensors) == build_header(copied.kvs, copied.tensors) == bytes(buffer)


def test_the_buffer_of_another_is_never_cut() -> None:
    data = make([("a", "[str]", [f"some token {i}" for i in range(60_000)])]).whole
    fed = bytearray(data) + bytes(1000)
    assert HeaderParser(len(fed)).feed(fed) is not None
    assert fed == data + bytes(1000)


def test_few_keys_and_many_are_judged_alike() -> None:
    """Few are looked up among the known ones, many the other way round."""
    pairs = [
        ("general.architecture", "str", "qwen35"), ("qwen35.block_count", "i32", -1), ("general.url", "u32", 1),
        ("split.count", "str", "two"), ("qwen35.attention.head_count", "f32", 2.0), ("general.type", "str", "model"),
        ("general.base_model.count", "str", "x"), ("general.base_model.0.name", "u32", 3), ("other", "u32", 1),
    ]  # fmt: skip
    few = parse_header(make(pairs).whole)
    many = parse_header(make([*pairs, *((f"more.{i}", "u32", i) for i in range(300))]).whole)
    assert len(few.misfits) == 6
    assert [(misfit.what, misfit.for_engines) for misfit in few.misfits] == [
        (misfit.what, misfit.for_engines) for misfit in many.misfits
    ]
    assert few.known.n_misfits == many.known.n_misfits
    assert [*few.by_key] == [key for key in many.by_key if not key.startswith("more.")]


def test_feeding_what_is_asked_for_takes_few_turns() -> None:
    """A vocabulary of 20,000 tokens: what is needed is a lower bound, what is guessed comes close."""
    tokens = [f"token {i}" for i in range(20_000)]
    data = make([("a", "[str]", tokens), ("b", "[str]", tokens), ("c", "[i32]", [1] * 20_000)]).whole
    parser = HeaderParser(len(data))
    n = turns = 0
    while parser.feed(data[:n]) is None:
        assert n < parser.need <= parser.guess <= len(data)
        n = min(parser.guess + 4096, len(data))
        turns += 1
    assert turns < 12


def test_nothing_is_walked_twice() -> None:
    """Fed in 100 pieces, a long array is walked item by item only once."""
    tokens = ["x" * (i % 9) for i in range(50_000)]
    data = make([("a", "[str]", tokens)]).whole
    parser = HeaderParser(len(data))
    seen = [0]
    for n in range(0, len(data), len(data) // 100):
        if parser.feed(data[:n]) is None and parser._walk is not None:
            _, pos, left = parser._walk
            assert pos >= seen[-1]
            seen.append(pos)
            assert pos + 8 * left <= len(data)
    assert len(set(seen)) > 90


def test_a_damaged_array_is_found_while_it_still_arrives() -> None:
    data = bytearray(make([("a", "[str]", ["xx"] * 1000)]).whole)
    array = bytes(data).index(struct.pack("<Q", 2) + b"xx")
    data[array + 10 * 400 : array + 10 * 400 + 8] = struct.pack("<Q", 1 << 40)
    parser = HeaderParser(len(data))
    with pytest.raises(FormatError, match="item 400 of the array 'a'"):
        parser.feed(bytes(data[: array + 10 * 500]))


def test_a_buffer_that_ends_too_early_is_refused() -> None:
    data = make([("a", "str", "b" * 100)]).whole
    with pytest.raises(FormatError, match="ends inside the header"):
        parse_header(data[:60], file_size=len(data))


def test_a_vocabulary_is_not_decoded(tmp_path: Path) -> None:
    """Opening 60,000 tokens keeps few objects and less than three times the header's bytes."""
    tokens = [f"tok{i}" for i in range(60_000)]
    made = make([("general.architecture", "str", "qwen35"), ("tokenizer.ggml.tokens", "[str]", tokens)], [f32("a", 4)])
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(made.whole + bytes(4 << 20))
    tracemalloc.start()
    try:
        file = read_header(path)
        held, peak = tracemalloc.get_traced_memory()
        n_objects = sum(entry.count for entry in tracemalloc.take_snapshot().statistics("filename"))
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(made.header) + (1 << 20)
    assert held < 2 * len(made.header) + (1 << 16)
    assert n_objects < 500
    assert len(file.header.kvs[0].buffer) == len(made.header)
    assert file.header.get("tokenizer.ggml.tokens") == tokens


def test_only_the_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file with 64 MiB of tensor data, little more than the header is read."""
    import os

    path = tmp_path / "sparse.gguf"
    made = make([("a", "u8", 1)], [("t", (1 << 24,), F32, b"")])
    path.write_bytes(made.header)
    os.truncate(path, len(made.header) + (64 << 20))
    n_read = 0
    pread = os.pread

    def counted(fd: int, n: int, offset: int) -> bytes:
        nonlocal n_read
        data = pread(fd, n, offset)
        n_read += len(data)
        return data

    monkeypatch.setattr(os, "pread", counted)
    read_header(path).check_whole()
    assert n_read <= 1 << 16


def test_tensor_infos_know_their_sizes() -> None:
    q4 = TensorInfo("a", (256, 3, 2), Q4_K, 64)
    assert (q4.shape, q4.n_elements, q4.type_name, q4.computed_size_bytes) == ((2, 3, 256), 1536, "q4_K", 864)
    assert q4.at(0) == TensorInfo("a", (256, 3, 2), Q4_K, 0)
    assert q4.encode() == info("a", (256, 3, 2), Q4_K, 64)
    strange = TensorInfo("b", (4,), 9999, 0)
    assert (strange.type, strange.type_name, strange.computed_size_bytes) == (None, "type 9999", None)
    assert TensorInfo("c", (256, 3), IQ4_KS, 0).computed_size_bytes == 3 * (4 + 136)
    assert TensorInfo("d", (100,), Q4_K, 0).computed_size_bytes is None  # rows that are no multiple of the block


def test_sizes_of_unknown_types_follow_from_the_next_offset() -> None:
    header = parse_header((CORPUS / "valid" / "type-unknown.gguf").read_bytes())
    assert {info.name: header.stored_size(info) for info in header.tensors} == {"a": 32, "b": 16, "c": None}
    assert header.data_end is None
    assert header.data_range(header.by_name["c"], header.data_offset + 70) == (
        header.data_offset + 64,
        header.data_offset + 70,
    )
    with pytest.raises(FormatError, match="the download is incomplete, and tensor 'c' is cut"):
        header.data_range(header.by_name["c"], header.data_offset + 63)


@pytest.mark.parametrize("path", TRUNKS, ids=lambda path: path.stem)
def test_upstream_files_come_back_byte_for_byte(path: Path) -> None:
    file = read_header(path)
    header = file.header
    data = path.read_bytes()
    built = build_header(header.kvs, header.tensors, version=header.version, alignment=header.alignment)
    assert built == data[: header.data_offset]
    assert header.data_end is not None
    assert pad_to(header.data_end, header.alignment) == len(data)
    theirs = {tensor.name: tensor.data_offset for tensor in gguf.GGUFReader(path).tensors}
    assert {tensor.name: file.tensor_range(tensor)[0] for tensor in header.tensors} == theirs


def test_gguf_py_reads_built_tensors(tmp_path: Path) -> None:
    placed, length = place([(TensorInfo("x", (4, 2), F32, 9), 32), (TensorInfo("y", (3,), F32, 9), 12)], 64)
    made = make([("general.alignment", "u32", 64)]).whole
    head = build_header(parse_header(made).kvs, placed, version=2, alignment=64)
    path = tmp_path / "built.gguf"
    data = struct.pack("<8f", *range(8)).ljust(64, b"\0") + struct.pack("<3f", 7, 8, 9).ljust(64, b"\0")
    path.write_bytes(head + data)
    assert path.stat().st_size == len(head) + length
    x, y = gguf.GGUFReader(path).tensors
    assert x.data.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert y.data.tolist() == [7, 8, 9]
