"""KV pairs: decoding against the tests' own writer and gguf-py, encoding, editing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from ggufmaker import FORMS, make, pair
from ggufmaker import KV as Pair
from hypothesis import given
from hypothesis import strategies as st
from kv_strategies import NAMES, PAIRS
from opened import parse_header

import gguf
from conftest import DATA
from nextn.errors import FormatError
from nextn.gguf.files import read_header
from nextn.gguf.header import build_header
from nextn.gguf.kv import KV, KVType, encode_text
from nextn.gguf.kv_table import edit
from nextn.printable import printable


def plain(value):
    """What a description should decode to: bytes as text, nested arrays as lists."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, tuple):  # an inner array: (item type, items)
        return plain(value[1])
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def same(left, right) -> bool:
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    return left == right


def one(key: str, kind: str, value) -> KV:
    return parse_header(make([(key, kind, value)]).whole).kvs[0]


@given(PAIRS)
def test_values_decode_to_what_was_written(pairs: list[Pair]) -> None:
    header = parse_header(make(pairs).whole)
    assert [kv.key for kv in header.kvs] == [key for key, _, _ in pairs]
    for kv, (key, kind, value) in zip(header.kvs, pairs, strict=True):
        assert kv.type is (KVType.ARRAY if kind.startswith("[") else KVType[NAMES[kind]])
        assert same(kv.value, plain(value))
        assert bytes(kv.raw) == pair(key, kind, value)
        assert kv.size_bytes == len(pair(key, kind, value))


@given(PAIRS.map(lambda pairs: [pair for pair in pairs if pair[1] != "[[]]"]))
def test_made_pairs_equal_written_ones(pairs: list[Pair]) -> None:
    for key, kind, value in pairs:
        array = kind.startswith("[")
        item_type = KVType[NAMES[kind[1:-1]]] if array else None
        kv = KV.make(key, KVType.ARRAY if array else KVType[NAMES[kind]], plain(value), item_type)
        assert bytes(kv.raw) == pair(key, kind, value)
        assert same(kv.value, plain(value))
        assert kv.same_as(one(key, kind, value))


@pytest.mark.parametrize("kind", list(FORMS))
def test_limits_of_numbers(kind: str) -> None:
    """The largest and smallest of each type come back, and nothing beyond is written."""
    if kind == "bool" or kind[0] == "f":
        return
    bits = int(kind[1:])
    low, high = (0, 2**bits - 1) if kind[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert [one("a", kind, low).value, one("a", kind, high).value] == [low, high]
    for wrong in (low - 1, high + 1):
        with pytest.raises(FormatError):
            KV.make("a", KVType[NAMES[kind]], wrong)


@given(st.binary(max_size=40))
def test_any_bytes_survive_as_text(data: bytes) -> None:
    kv = one("a", "str", data)
    assert kv.value.encode("utf-8", "surrogateescape") == data
    assert encode_text(kv.value)[8:] == data
    assert bytes(kv.with_value(kv.value).raw) == bytes(kv.raw)


def test_renaming_keeps_the_value_bytes() -> None:
    kv = one("old", "[str]", ["a", b"\xff"])
    new = kv.renamed("a.longer.key")
    assert bytes(new.raw) == pair("a.longer.key", "[str]", ["a", b"\xff"])
    assert new.value == kv.value
    assert (new.type, new.item_type, new.n_items) == (kv.type, kv.item_type, kv.n_items)
    assert bytes(new.renamed("old").raw) == bytes(kv.raw)


def test_with_value_keeps_the_types() -> None:
    kv = one("a", "[u16]", [1, 2]).with_value([7])
    assert bytes(kv.raw) == pair("a", "[u16]", [7])
    assert bytes(one("a", "i64", 1).with_value(-2).raw) == pair("a", "i64", -2)


def test_nested_arrays_are_carried_not_written() -> None:
    kv = one("a", "[[]]", [("u8", [1]), ("str", ["x"])])
    assert kv.value == [[1], ["x"]]
    with pytest.raises(TypeError):
        kv.with_value([[2]])
    with pytest.raises(TypeError):
        KV.make("a", KVType.ARRAY, [1])


def kvs(*keys: str) -> list[KV]:
    return [KV.make(key, KVType.UINT8, i) for i, key in enumerate(keys)]


def test_edit_replaces_in_place_drops_and_appends() -> None:
    old = kvs("a", "b.x", "c", "b.y", "d")
    put = [KV.make("new", KVType.STRING, "n"), KV.make("c", KVType.UINT64, 9)]
    out = edit(old, put=put, drop=["a", "not there"], drop_prefixes=["b."])
    assert [(kv.key, kv.value) for kv in out] == [("c", 9), ("d", 4), ("new", "n")]
    assert out[1] is old[4]
    assert [kv.key for kv in old] == ["a", "b.x", "c", "b.y", "d"]


def test_edit_keeps_what_is_both_put_and_dropped() -> None:
    out = edit(kvs("a", "b"), put=kvs("a"), drop=["a"], drop_prefixes=["a"])
    assert [kv.key for kv in out] == ["a", "b"]


def test_edit_takes_the_last_of_two_new_ones() -> None:
    out = edit(kvs("a"), put=[KV.make("a", KVType.UINT8, 1), KV.make("a", KVType.UINT8, 2)])
    assert [kv.value for kv in out] == [2]


def test_edit_of_nothing_changes_nothing() -> None:
    old = kvs("a", "b")
    assert edit(old) == old
    assert edit([]) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("general.name", "general.name"),
        ("grün", "grün"),
        ("two\nlines\x1b[31m", "two\\nlines\\x1b[31m"),
        ("\udcff", "\\udcff"),
        ("x" * 200, "x" * 117 + "..."),
    ],
)
def test_names_in_messages_are_one_printable_line(text: str, shown: str) -> None:
    assert printable(text) == shown


def gguf_py(path: Path) -> dict[str, object]:
    fields = gguf.GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}


@pytest.mark.parametrize("path", sorted((DATA / "trunks").glob("*.gguf")), ids=lambda path: path.stem)
def test_values_equal_those_of_gguf_py_on_upstream_files(path: Path) -> None:
    header = read_header(path).header
    assert {kv.key: kv.value for kv in header.kvs} == gguf_py(path)
    assert len(header.kvs) > 10


@pytest.mark.parametrize("name", ["all-scalars", "all-arrays", "version-2", "alignment-8", "alignment-4096"])
def test_values_equal_those_of_gguf_py_on_the_corpus(name: str) -> None:
    path = DATA / "gguf_corpus" / "valid" / f"{name}.gguf"
    ours = {kv.key: kv.value for kv in read_header(path).header.kvs}
    assert ours == gguf_py(path) | {key: [] for key, value in ours.items() if value == []}


def test_gguf_py_reads_what_is_built(tmp_path: Path) -> None:
    made = [
        KV.make("general.architecture", KVType.STRING, "qwen35"),
        KV.make("test.texts", KVType.ARRAY, ["a", "", "ü"], KVType.STRING),
        KV.make("test.flags", KVType.ARRAY, [True, False], KVType.BOOL),
        KV.make("test.number", KVType.INT64, -5),
        KV.make("test.float", KVType.FLOAT32, 0.5),
    ]
    path = tmp_path / "built.gguf"
    path.write_bytes(build_header(made, []))
    assert gguf_py(path) == {kv.key: kv.value for kv in made}
