"""Strategies of key-value pairs."""

from __future__ import annotations

from hypothesis import strategies as st

NAMES = {"u8": "UINT8", "i8": "INT8", "u16": "UINT16", "i16": "INT16", "u32": "UINT32", "i32": "INT32",
         "f32": "FLOAT32", "bool": "BOOL", "str": "STRING", "u64": "UINT64", "i64": "INT64",
         "f64": "FLOAT64"}  # fmt: skip
TEXT = st.one_of(st.text(max_size=20), st.binary(max_size=20))


def scalars(kind: str) -> st.SearchStrategy:
    if kind == "str":
        return TEXT
    if kind == "bool":
        return st.booleans()
    if kind[0] == "f":
        return st.floats(width=int(kind[1:]))
    bits = int(kind[1:])
    return st.integers(0, 2**bits - 1) if kind[0] == "u" else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


KINDS = st.sampled_from(list(NAMES))
FLAT = KINDS.flatmap(lambda kind: st.tuples(st.just(kind), st.lists(scalars(kind), max_size=4)))
NESTED = st.tuples(st.just("[]"), st.lists(FLAT, max_size=3))
VALUES = st.one_of(
    KINDS.flatmap(lambda kind: st.tuples(st.just(kind), scalars(kind))),
    FLAT.map(lambda flat: (f"[{flat[0]}]", flat[1])),
    st.lists(st.one_of(FLAT, NESTED), max_size=3).map(lambda some: ("[[]]", some)),
)
PAIRS = st.lists(st.tuples(st.text(max_size=12), VALUES), max_size=6, unique_by=lambda pair: pair[0]).map(
    lambda found: [(key, kind, value) for key, (kind, value) in found if key != "general.alignment"]
)
