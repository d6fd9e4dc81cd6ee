"""Damaged headers: cuts at every byte, flipped bytes, absurd promises; one sentence, no other exception, no memory."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest
from corpus import CORPUS, VALID, sameness
from ggufmaker import make, start, text
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opened import parse_header

from nextn.errors import FormatError, NextnError
from nextn.gguf.files import read_header
from nextn.gguf.header import build_header
from nextn.gguf.parser import MAX_HEADER_BYTES, HeaderParser


@pytest.mark.parametrize("name", ["all-scalars", "all-arrays", "arrays-of-arrays", "type-unknown", "alignment-64"])
def test_every_cut_is_refused_or_leaves_a_whole_header(name: str) -> None:
    data = (CORPUS / "valid" / f"{name}.gguf").read_bytes()
    whole = parse_header(data)
    last = max((tensor.offset for tensor in whole.tensors), default=0)
    for n in range(len(data)):
        try:
            header = parse_header(data[:n])
        except FormatError as error:
            assert "the file is empty" in str(error) if n == 0 else error.offset is not None and error.offset <= n
            assert n < whole.header_end or n < last
        else:
            assert n >= whole.header_end
            assert sameness(header) == sameness(whole)


@pytest.mark.parametrize("name", ["all-arrays", "type-of-ik"])
def test_every_cut_file_is_refused_when_its_data_is_asked_for(name: str, tmp_path: Path) -> None:
    data = (CORPUS / "valid" / f"{name}.gguf").read_bytes()
    whole = parse_header(data)
    assert whole.data_end is not None
    path = tmp_path / "cut.gguf"
    for n in range(0, len(data), 7):
        path.write_bytes(data[:n])
        if n < whole.data_end:
            with pytest.raises(FormatError, match="byte"):
                read_header(path).check_whole()
        else:
            read_header(path).check_whole()


SEEDS = [path.read_bytes() for path in VALID if path.stat().st_size < 2500]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_are_parsed_or_refused(data: bytes, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(data)
    for at, value in changes:
        changed[at % len(data)] = value
    parse_and_use(bytes(changed))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SEEDS), st.integers(0, 2**16), st.sampled_from([2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]))
def test_absurd_numbers_anywhere_are_parsed_or_refused(data: bytes, at: int, number: int) -> None:
    at %= len(data)
    parse_and_use(data[:at] + struct.pack("<Q", number) + data[at + 8 :])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
@example(b"")
def test_noise_behind_the_magic_is_parsed_or_refused(data: bytes) -> None:
    parse_and_use(b"GGUF\x03\0\0\0" + data)
    parse_and_use(start(3, 0, 1) + data)
    parse_and_use(start(3, 1, 0) + data)


def parse_and_use(data: bytes) -> None:
    """Parse; a header that is accepted must be usable and come back as it was."""
    try:
        header = parse_header(data)
    except NextnError as error:
        assert "\n" not in str(error)
        return
    for kv in header.kvs:
        _ = kv.value
    try:
        for tensor in header.tensors:
            header.data_range(tensor, len(data))
    except FormatError:
        pass
    built = build_header(header.kvs, header.tensors, version=header.version, alignment=header.alignment)
    assert built[: header.header_end] == data[: header.header_end]


PROMISES = {
    "tensors": start(3, 1 << 40, 0),
    "key-value pairs": start(3, 0, 1 << 40),
    "array": start(3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 0, 1 << 40),
    "array of strings": start(3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 1 << 40),
    "array of arrays": start(3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1 << 40),
    "string": start(3, 0, 1) + text("a") + struct.pack("<IQ", 8, 1 << 40),
    "string in an array": start(3, 0, 1) + text("a") + struct.pack("<IIQQ", 9, 8, 2, 1 << 40),
}


@pytest.mark.parametrize("file_size", [4096, 1 << 50], ids=["small file", "huge sparse file"])
@pytest.mark.parametrize("what", list(PROMISES))
def test_promises_of_2_to_40_items_allocate_nothing(what: str, file_size: int, tmp_path: Path) -> None:
    """Also when the file is so large (and empty) that they could be true."""
    path = tmp_path / "promise.gguf"
    path.write_bytes(PROMISES[what])
    with path.open("r+b") as file:
        try:
            file.truncate(file_size)
        except OSError:  # not every file system takes such sizes
            file.truncate(file_size := 1 << 42)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_header_longer_than_the_limit_is_refused_before_it_is_read() -> None:
    data = start(3, 0, 1) + text("a") + struct.pack("<IQ", 8, MAX_HEADER_BYTES)
    with pytest.raises(FormatError, match="absurdly long"):
        HeaderParser(1 << 40).feed(data)
    parser = HeaderParser(1 << 40)
    assert parser.feed(data[:-8] + struct.pack("<Q", MAX_HEADER_BYTES // 2)) is None
    assert parser.need == len(data) + MAX_HEADER_BYTES // 2


def test_names_with_control_characters_stay_out_of_messages() -> None:
    data = make([("a\n\x1b[31m", "u8", 1), ("a\n\x1b[31m", "u8", 1)]).whole
    with pytest.raises(FormatError, match=r"'a\\n\\x1b\[31m' appears twice"):
        parse_header(data)
    with pytest.raises(FormatError) as caught:
        parse_header(make([("k" * 60_000, "u8", 1), ("k" * 60_000, "u8", 1)]).whole)
    assert len(str(caught.value)) < 300


def test_a_name_that_is_there_twice_is_what_is_said() -> None:
    """Whatever else is wrong with its entry, or after it."""
    for where in ("its type", "a later pair"):
        data = bytearray(make([("a", "u8", 1), ("a", "u8", 1), ("b", "u8", 1)]).whole)
        data[24 + 14 * (1 if where == "its type" else 2) + 9] = 99  # a value type that there is not
        with pytest.raises(FormatError, match="the key 'a' appears twice"):
            parse_header(bytes(data))
    data = bytearray(make([], [("t", (1,), 0, b"1234"), ("t", (1,), 0, b"1234")]).whole)
    data[24 + 2 * 33 - 8] = 7  # an offset that is no multiple of the alignment
    with pytest.raises(FormatError, match="tensor 't' appears twice"):
        parse_header(bytes(data))
