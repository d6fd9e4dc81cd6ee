"""Tables of pairs and tensors: what lists of objects would be, without the objects."""

from __future__ import annotations

import tracemalloc
from array import array

import pytest
from ggufmaker import arch_kvs, f32, info, make
from hypothesis import given
from hypothesis import strategies as st
from opened import parse_header

from nextn.errors import FormatError
from nextn.gguf.header import build_header
from nextn.gguf.kv import KV, KVType
from nextn.gguf.kv_table import KVTable, edit
from nextn.gguf.names import NameIndex
from nextn.gguf.tensors import TensorInfo, TensorTable

KEYS = ["a", "b", "p.a", "p.b", "c", "d"]
SOME = st.lists(st.sampled_from(KEYS), unique=True)


def pairs(keys: list[str], value: int) -> list[KV]:
    return [KV.make(key, KVType.UINT32, value + i) for i, key in enumerate(keys)]


def shown(kvs: KVTable | list[KV]) -> list[tuple[str, object]]:
    return [(kv.key, kv.value) for kv in kvs]


def edited(kvs: list[KV], put: list[KV], drop: list[str], prefixes: list[str]) -> list[KV]:
    """What `edit` has to do, in the plainest way."""
    fresh = {kv.key: kv for kv in put}
    out = []
    for kv in kvs:
        if kv.key in fresh:
            out.append(fresh.pop(kv.key))
        elif kv.key not in drop and not any(kv.key.startswith(prefix) for prefix in prefixes):
            out.append(kv)
    return out + list(fresh.values())


EDITS = st.lists(st.tuples(SOME, SOME, st.lists(st.sampled_from(["p.", "c", "x"]), max_size=2)), max_size=4)


@given(SOME, EDITS)
def test_edits_of_a_table_are_those_of_a_list(there: list[str], edits: list[tuple[list[str], ...]]) -> None:
    table = parse_header(make([(key, "u32", i) for i, key in enumerate(there)]).whole).kvs
    plain = list(table)
    for i, (put, drop, prefixes) in enumerate(edits):
        table = edit(table, put=pairs(put, 100 * i), drop=drop, drop_prefixes=prefixes)
        plain = edited(plain, pairs(put, 100 * i), drop, prefixes)
    assert shown(table) == shown(plain)
    assert b"".join(table.pieces()) == b"".join(bytes(kv.raw) for kv in plain)
    assert table.size_bytes == sum(kv.size_bytes for kv in plain)
    assert list(table.keys()) == [kv.key for kv in plain]
    keys = [kv.key for kv in plain]
    assert {key: table.position(key) for key in KEYS} == {key: keys.index(key) if key in keys else None for key in KEYS}
    assert list(table.starting_with("p.")) == [i for i, key in enumerate(keys) if key.startswith("p.")]
    assert shown(table[1:]) == shown(plain[1:]) and table == plain and table == table[:]
    more = KV.make("more", KVType.STRING, "text")
    assert shown(table.plus([more])) == [*shown(plain), ("more", "text")]
    for i in (0, 1, -1):
        plain.insert(i, more)
        table = table.inserted(i, more)
        assert shown(table) == shown(plain)


def test_text_bytes_are_those_of_strings() -> None:
    table = parse_header(make([("a", "str", "four"), ("b", "u8", 1), ("c", "[str]", ["x"])]).whole).kvs
    table = table.plus([KV.make("d", KVType.STRING, "é"), KV.make("e", KVType.BOOL, True)])
    assert [table.text_bytes(i) for i in range(5)] == [4, None, None, 2, None]


def test_tables_compare_by_their_bytes() -> None:
    kvs = [("a", "u8", 1), ("b", "str", "x")]
    one, other = parse_header(make(kvs).whole).kvs, parse_header(make([("c", "u8", 1), *kvs]).whole).kvs
    assert one != other and one == other[1:] and one == tuple(other)[1:] and one != list(other)
    assert one != "ab"


NAMES = ["token_embd.weight", "blk.0.a", "blk.0.b", "blk.1.a", "\udcff"]


def table_of(names: list[str]) -> TensorTable:
    return parse_header(make([], [f32(name, 2, i + 1) for i, name in enumerate(names)]).whole).tensors


@given(st.permutations(NAMES), st.sets(st.sampled_from(NAMES)))
def test_a_choice_of_tensors_is_that_of_a_list(names: list[str], kept: set[str]) -> None:
    table = table_of(names)
    plain = list(table)
    assert [one.name for one in plain] == names == list(table.names())
    assert list(table.offsets) == [one.offset for one in plain]
    assert list(table.sizes) == [one.computed_size_bytes for one in plain]
    chosen = table.named(kept.__contains__)
    wanted = [one for one in plain if one.name in kept]
    assert chosen == wanted and [chosen.find(name) for name in names] == [
        one if one.name in kept else None for one in plain
    ]
    assert b"".join(chosen.pieces()) == b"".join(one.encode() for one in wanted)
    backwards = table.rows(range(len(table) - 1, -1, -1))
    assert backwards == plain[::-1] and backwards.by_offset() == plain
    more = TensorInfo("more", (3,), 0, 4096)
    assert backwards.plus([more]) == [*plain[::-1], more] and backwards.plus([more]).find("more") == more
    assert table[1:3] == plain[1:3] and table[-1] == plain[-1]
    assert build_header([], chosen) == build_header([], wanted)


def test_a_table_of_infos_is_encoded_as_they_are() -> None:
    infos = [TensorInfo("a", (), 4242, 7), TensorInfo("a", (1, 2, 3, 4), 0, 1 << 40)]
    table = TensorTable.of(infos)
    assert list(table) == infos and table == tuple(infos) and table.twice == 1
    assert b"".join(table.pieces()) == info("a", (), 4242, 7) + info("a", (1, 2, 3, 4), 0, 1 << 40)
    assert list(table.sizes) == [-1, 96]
    with pytest.raises(FormatError, match="absurd"):
        TensorTable.of([TensorInfo("a", (-1,), 0, 0)])


def test_sizes_beyond_any_file_are_refused_when_data_is_asked_for() -> None:
    data = make([], [("a", (1 << 61,), 28, b"")]).whole  # 2^64 bytes of f64
    header = parse_header(data)
    assert header.stored_size(header.tensors[0]) == 1 << 64
    with pytest.raises(FormatError, match="18,446,744,073,709,551,"):
        header.data_range(header.tensors[0], len(data))


def test_colliding_names_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hash that is the same for all names, only slower."""
    import nextn.gguf.names as names

    monkeypatch.setattr(names, "hash", lambda name: 7, raising=False)
    stored = [f"n{i}".encode() for i in range(200)]
    index = NameIndex(iter(stored), stored.__getitem__)
    assert [index.find(f"n{i}") for i in range(201)] == [*range(200), None] and index.twice is None
    twice = [*stored, b"n5", b"n3"]
    assert NameIndex(iter(twice), twice.__getitem__).twice == 200
    assert index.find("\ud800") is None  # a text that no bytes decode to


def test_mappings_make_values_on_demand() -> None:
    header = parse_header(make(arch_kvs(2), [f32("a", 1), f32("b", 2)]).whole)
    assert list(header.by_name) == ["a", "b"] and "c" not in header.by_name and len(header.by_name) == 2
    assert dict(header.by_name) == {"a": header.tensors[0], "b": header.tensors[1]}
    assert list(header.by_name.items()) == [("a", header.tensors[0]), ("b", header.tensors[1])]
    assert list(header.by_key) == [kv.key for kv in header.kvs] == [kv.key for kv in header.by_key.values()]
    with pytest.raises(KeyError):
        header.by_name["c"]


def grown(make_data, n: int) -> tuple[int, int]:
    """(most memory while a header of `n` items is read beyond twice its bytes, what is kept beyond its bytes)."""
    data = make_data(n)
    tracemalloc.start()
    try:
        header = parse_header(data)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - header.data_offset, held - header.data_offset


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_data", "most"),
    [
        (lambda n: make([(f"k{i:06x}", "u8", 1) for i in range(n)]).whole, 48),
        (lambda n: make([(f"k{i:06x}", "[u8]", [1]) for i in range(n)]).whole, 48),
        (lambda n: make([], [f32(f"t{i:06x}", 1) for i in range(n)]).whole, 72),
    ],
    ids=["pairs", "arrays", "tensors"],
)
def test_an_item_of_a_header_costs_few_bytes(make_data, most: int) -> None:
    """Tables and index, while they grow; an object for each would take 250 bytes or more."""
    grown(make_data, 30_000)  # imports what only long headers need
    (peak, held), (base, kept) = grown(make_data, 30_000), grown(make_data, 10_000)
    assert peak - base < most * 20_000
    assert held - kept < most * 20_000


def test_keys_are_not_mistaken_for_values_that_hold_them() -> None:
    """A search of the bytes finds prefixes in values too, after what could be a length, and in shorter keys."""
    decoy = "p.a" + "\x03\0\0\0\0\0\0\0p.b"
    kvs = [("x", "str", decoy), ("p", "str", ".a"), ("p.c", "[str]", ["p.a", decoy])]
    kvs += [("xp.d", "u32", 1), ("p.", "u8", 1)]
    table = parse_header(make(kvs).whole).kvs
    assert [table[at].key for at in table.starting_with("p.")] == ["p.c", "p."]
    assert [table[at].key for at in table.starting_with("x", "p.c")] == ["x", "p.c", "xp.d"]
    fewer = edit(table, drop=["x"], put=pairs(["p.new"], 1), drop_prefixes=["xp"])
    assert [fewer[at].key for at in fewer.starting_with("p.")] == ["p.c", "p.", "p.new"]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.lists(st.integers(0, 1 << 40), min_size=8, max_size=8))
def test_some_tensors_at_other_offsets(chosen: list[bool], offsets: list[int]) -> None:
    infos = [TensorInfo(f"t{i}" + "x" * i, (i + 1,), 0, 32 * i) for i in range(len(chosen))]
    some = [i for i, is_chosen in enumerate(chosen) if is_chosen]
    for rows in (some, some[::-1]):
        table = TensorTable.of(infos).rows(rows).moved(array("Q", offsets[: len(rows)]))
        plain = [infos[row].at(offset) for row, offset in zip(rows, offsets, strict=False)]
        assert list(table) == plain and [*map(table.__getitem__, range(len(rows)))] == plain
        assert b"".join(table.pieces()) == b"".join(info.encode() for info in plain)
        assert table.size_bytes == sum(len(info.encode()) for info in plain)
        assert table.plus(infos[:1]) == [*plain, infos[0]]
        assert [table.find(info.name) for info in infos] == [
            next((one for one in plain if one.name == info.name), None) for info in infos
        ]
