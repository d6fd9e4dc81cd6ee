"""What is read a column at a time is what the plain loops read, entry by entry."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opened import parse_header

import nextn
import nextn.block.anatomy as anatomy_module
import nextn.block.layers as layers_module
from conftest import CHECKPOINT, Q4
from nextn.block.anatomy import Anatomy
from nextn.block.layers import Layers
from nextn.block.model import MARK, split_name
from nextn.errors import FormatError
from nextn.gguf import bulk, kv_table, names, parser, tensors
from nextn.gguf.files import open_model
from nextn.gguf.header import pad_to
from nextn.gguf.kv import KVType
from nextn.gguf.names import NameIndex, StoredNames
from nextn.gguf.parser import HeaderParser
from nextn.gguf.sets import SetTensors
from nextn.gguf.tensors import TensorInfo, TensorTable
from nextn.inspection.model import Inspection
from nextn.memory import weights
from nextn.memory.weights import Tally

BIG = [0, 1, 2, 31, 32, 33, 256, 1 << 20, 1 << 31, (1 << 61) - 1, 1 << 61, (1 << 62) - 1, 1 << 62, (1 << 64) - 1]
TYPES = [0, 1, 2, 8, 12, 24, 28, 30, 39, 137, 398, 399, 400, 4242, (1 << 32) - 1]
NUMBERS = st.one_of(st.sampled_from(BIG), st.integers(0, 600))


@contextmanager
def columns(least: int) -> Iterator[None]:
    """Tables of this many entries or more are read a column at a time."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (names, parser, tensors, kv_table, weights, layers_module, anatomy_module):
            patch.setattr(module, "LARGE", least)
        yield


def entry(name: bytes, ne: list[int], type_id: int, offset: int) -> bytes:
    head = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(ne))
    return head + struct.pack(f"<{len(ne)}QIQ", *ne, type_id, offset % (1 << 64))


ENTRIES = st.lists(
    st.tuples(
        st.binary(max_size=12), st.lists(NUMBERS, max_size=5), st.sampled_from(TYPES),
        st.one_of(st.just(None), NUMBERS.map(lambda n: n * 32), NUMBERS),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


def outcome(data: bytes, file_size: int, steps: list[int]) -> object:
    """All columns, the error, or how many bytes are wanted, after the data was fed in pieces."""
    reader = HeaderParser(file_size)
    try:
        for step in [*steps, len(data)]:
            header = reader.feed(data[:step])
            if header is not None:
                table = header.tensors
                one = table._columns
                found = [table.find(name) for name in table.names()]
                return one.starts, one.ends, one.offsets, one.sizes, one.type_ids, list(table), found
    except FormatError as error:
        return str(error)
    return reader.need


@given(ENTRIES, st.integers(0, 40), st.sampled_from([0, 1 << 12, 1 << 40, 1 << 63]), st.lists(st.integers(24, 400)))
def test_tables_are_read_alike(
    entries: list[tuple[bytes, list[int], int, int | None]], cut: int, more: int, steps: list[int]
) -> None:
    """Entries of any shape, type and offset, often right after the previous one, in files that were cut or not."""
    body, end = b"", 0
    for i, (name, ne, type_id, offset) in enumerate(entries):
        at = end if offset is None else offset
        body += entry(b"%d" % i + name, ne, type_id, at)
        size = tensors.column_size(type_id, ne)
        end = at + -(-size // 32) * 32 if 0 <= size < 1 << 62 else at
    data = b"GGUF" + struct.pack("<IQQ", 3, len(entries), 0) + body + bytes(64)
    data = data[: len(data) - cut]
    steps = sorted(steps)
    with columns(1 << 40):
        plain = outcome(data, len(data) + more, steps)
    with columns(0):
        assert outcome(data, len(data) + more, steps) == plain


PARTS = st.sampled_from(["blk", ".", "0", "1", "9", "00", "123456789", MARK, "x", "é", "\udcff", "nextn", "blk.1."])
NAMES = st.lists(st.one_of(st.lists(PARTS, max_size=6).map("".join), st.text(max_size=4)), max_size=12, unique=True)


def stored(some: list[str]) -> TensorTable:
    data = b"".join(entry(name.encode("utf-8", "surrogateescape"), [1], 0, 0) for name in some)
    table, at = tensors.TensorColumns(), 0
    for name in some:
        end = at + 8 + len(name.encode("utf-8", "surrogateescape")) + 24
        table.add(at, end, 0, 4, 0)
        at = end
    return TensorTable(data, table)


class _File:
    def __init__(self, table: TensorTable) -> None:
        self.header = type("Header", (), {"tensors": table})()


@given(NAMES.filter(lambda some: all("\ud800" not in name for name in some)))
def test_layers_and_names_are_read_alike(some: list[str]) -> None:
    some = [name for name in some if not any("\ud800" <= char <= "\udc7f" for char in name)]
    found = []
    for least in (1 << 40, 0):
        with columns(least):
            table, marked = stored(some), set()
            layers = Layers(SetTensors((_File(table),)), marked)  # type: ignore[arg-type]
            content = {n: (sorted(layers[n]), list(layers.rows(n)), len(layers[n])) for n in layers}
            prefixed = {
                prefix: list(StoredNames(table.stored_names.buffer, table.stored_names.starts).starting_with(prefix))
                for prefix in (b"blk.", b"blk.1.nextn", b"x", b"")
            }
            rows = range(0, len(table), 2)
            half = table.rows(rows)
            places = list(table.rows_of(half))
            found.append((
                list(layers.of_rows), marked, content, list(table.names()), prefixed, list(half), places,
                [table.row(name) for name in some], table.row("none"), list(layers),
            ))  # fmt: skip
    assert found[0] == found[1]
    assert found[0][3] == some and found[0][7] == list(range(len(some))) and found[0][6] == list(rows)
    assert all(f"blk.{n}." + name in some for n, (suffixes, _, _) in found[0][2].items() for name in suffixes)


@given(st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), max_size=8))
def test_the_first_name_that_is_there_twice_is_found(some: list[bytes]) -> None:
    twice = next((i for i, name in enumerate(some) if name in some[:i]), None)
    for least in (1 << 40, 0):
        with columns(least):
            index = NameIndex(iter(some), some.__getitem__)
            assert index.twice == twice
            assert [index.find(name.decode()) for name in some] == [some.index(name) for name in some]


KEYS = st.lists(st.sampled_from(["a.x", "a.y", "b.x", "b.y", "c"]), unique=True, min_size=1)


@given(KEYS, st.sampled_from([KVType.STRING, KVType.UINT8]), st.integers(0, 3))
def test_values_that_are_not_texts_are_found_alike(keys: list[str], kind: KVType, most: int) -> None:
    from ggufmaker import make

    kvs = [(key, "str" if i % 2 or kind is KVType.STRING else "u8", "x" * i if i % 2 or kind is KVType.STRING else 1)
           for i, key in enumerate(keys)]  # fmt: skip
    found = []
    for least in (1 << 40, 0):
        with columns(least):
            table = parse_header(make(kvs).whole).kvs
            places = array("I", table.starting_with("a.", "b."))
            found.append((list(places), list(table.not_texts(places, most)), table.size_bytes))
    assert found[0] == found[1]
    assert found[0][1] == [i for i in found[0][0] if kvs[i][1] != "str" or len(kvs[i][2]) > most]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1 << 40), st.integers(0, 1 << 40)), min_size=1))
def test_groups_are_counted_alike(rows: list[tuple[int, int, int]]) -> None:
    codes, offsets, sizes = (array(kind, column) for kind, column in zip("HQq", zip(*rows, strict=True), strict=True))
    tallies = []
    for least in (1 << 40, 0):
        with columns(least):
            tally = Tally()
            tally.add(0, codes, offsets, sizes, 100)
            tally.add(0, codes[:1], offsets[:1], sizes[:1], 100)
            tallies.append(tally.groups)
    assert tallies[0] == tallies[1]
    assert sum(size for size, _, _ in tallies[0].values()) == sum(sizes) + sizes[0]


def test_sizes_within_rounding_of_the_largest_are_left_to_the_plain_loop() -> None:
    """2^63 bytes of f64, and a little less: the first is not added by the columns, and read all the same."""
    data = entry(b"a", [1 << 60], 28, 0) + entry(b"b", [1 << 50], 28, 0)
    known = tensors.TensorColumns()
    end = bulk.read_tensors(data, 0, 2, len(data), known, most_name=9, file_size=1 << 40, alignment=32)
    assert end == 0 and not known.starts
    whole = b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + data + bytes(32)
    with columns(0):
        assert list(parse_header(whole).tensors.sizes) == [tensors.LARGEST, 1 << 53]


AXES = st.lists(st.sampled_from([0, 1, 2, 8, 12, 16, 1 << 20]), max_size=4)
MATRICES = ["blk.0.ffn_up.weight", "blk.0.ffn_up_exps.weight", "blk.2.ssm_conv1d.weight", "blk.2.nextn.x.weight",
            "token_embd.weight", "output.weight", "output_norm.weight", "output_extra.weight", "x"]  # fmt: skip


@cache
def anatomy(least: int) -> Anatomy:
    """Of a model that was opened with columns from `least` entries on."""
    with columns(least):
        return Anatomy.of(open_model(Q4))


@given(st.lists(st.tuples(AXES, st.sampled_from([0, 2, 12, 20, 39])), min_size=len(MATRICES), max_size=len(MATRICES)))
def test_what_the_cpu_repacks_is_found_alike(shapes: list[tuple[list[int], int]]) -> None:
    infos = [tensors.TensorInfo(name, tuple(ne), kind, 0) for name, (ne, kind) in zip(MATRICES, shapes, strict=True)]
    found = []
    for least in (1 << 40, 0):
        with columns(least), pytest.MonkeyPatch.context() as patch:
            patch.setattr(weights, "repacked_types", lambda: {"q4_0": 8, "q4_K": 8, "iq4_nl": 4, "mxfp4": 8})
            coder = weights.Coder(anatomy(least), Tally())
            table = TensorTable.of(infos)
            marked: set[int] = set()
            layers = Layers(SetTensors((_File(table),)), marked)  # type: ignore[arg-type]
            codes = list(coder.rows(table, layers.of_rows))
            assert codes == [coder.code(split_name(info.name)[0], info) for info in infos]
            found.append(codes)
    assert found[0] == found[1]


@given(ENTRIES, st.integers(0, 1 << 64), st.lists(st.sampled_from([b"", b"a", b"scale", b"x.scale"]), max_size=6))
def test_questions_about_whole_tables(
    found: list[tuple[bytes, list[int], int, int | None]], n_bytes: int, ends: list[bytes]
) -> None:
    """What is asked of all tensors has the same answer with columns, also near what 64 bits hold."""
    infos = [
        TensorInfo((name + end).decode("latin-1"), tuple(ne[:4]), type_id, (offset or 0) % (1 << 64))
        for (name, ne, type_id, offset), end in zip(found, [*ends, *[b""] * len(found)], strict=False)
    ]
    table = TensorTable.of(info for info in infos if all(0 <= axis < 1 << 64 for axis in info.ne))

    def answers() -> object:
        names = table.stored_names
        return (
            [list(names.ending_with(end)) for end in (b"", b"a", b"scale", b".scale")],
            [list(names.longer_than(n)) for n in (0, 3, 12)],
            table.is_within(n_bytes),
        )

    plain = answers()
    with columns(1):
        assert answers() == plain
        by_type, is_contiguous = table.bytes_by_type(n_bytes), table.is_contiguous(32, n_bytes)
    if by_type is not None:
        assert table.is_within(n_bytes)
        sums: dict[int, int] = {}
        for type_id, size in zip(table.type_ids, table.sizes, strict=True):
            sums[type_id] = sums.get(type_id, 0) + size
        assert by_type == sums
    at, follow = 0, []
    for offset, size in zip(table.offsets, table.sizes, strict=True):
        follow.append(offset == at)
        at += pad_to(size, 32)
    if is_contiguous:
        assert all(follow)
    elif all(follow) and len(table):
        small = max(table.offsets) < 1 << 62 and max(table.sizes) < 1 << 62
        assert not (small and table.is_within(n_bytes))


def test_inspecting_and_diagnosing_with_columns(tmp_path: Path) -> None:
    """A model whose tables are read in columns is inspected, and found healthy, as with plain loops."""
    bundle = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path / "bundle.gguf").entry
    for path in (Q4, bundle):
        plain = nextn.inspect(path)
        with columns(1):
            seen = nextn.inspect(path)
        assert isinstance(plain, Inspection) and isinstance(seen, Inspection)
        assert (seen.types, seen.block_bytes, seen.findings) == (plain.types, plain.block_bytes, plain.findings)
        assert list(seen.types) == list(plain.types)
    assert plain.block_bytes > 0
