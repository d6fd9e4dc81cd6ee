"""Makes the corpus of tiny GGUF files: every accepted form, and every refused one named after what is wrong with it.

python scripts/make_corpus.py [FOLDER]
"""

from __future__ import annotations

import argparse
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import ggufmaker as g  # noqa: E402

ARCH: g.KV = ("general.architecture", "str", "qwen35")
SCALARS: list[g.KV] = [
    ("test.u8", "u8", 255),
    ("test.i8", "i8", -128),
    ("test.u16", "u16", 65535),
    ("test.i16", "i16", -32768),
    ("test.u32", "u32", 2**32 - 1),
    ("test.i32", "i32", -(2**31)),
    ("test.u64", "u64", 2**64 - 1),
    ("test.i64", "i64", -(2**63)),
    ("test.f32", "f32", 0.5),
    ("test.f64", "f64", 0.1),
    ("test.true", "bool", True),
    ("test.false", "bool", False),
    ("test.str", "str", "grün ✓"),
    ("test.empty", "str", ""),
]
ARRAYS: list[g.KV] = [
    *((f"test.array.{key.removeprefix('test.')}", f"[{kind}]", [value] * 3) for key, kind, value in SCALARS),
    ("test.array.none", "[u32]", []),
]
NESTED: g.KV = ("test.nested", "[[]]", [("str", ["a", ""]), ("u32", [1, 2, 3]), ("[]", [("u8", [7]), ("f64", [])])])
PAIR = g.f32("a.weight", 4, 2), g.f32("b.weight", 4)


def valid() -> dict[str, bytes]:
    """File name -> bytes."""
    ik_row = 4 + 136  # row meta + one block of iq4_ks
    files = {
        "no-kv-no-tensors": g.make().whole,
        "no-tensors": g.make([ARCH]).whole,
        "header-without-padding": g.make([ARCH]).header[: g.make([ARCH]).table_end],
        "version-2": g.make([ARCH], PAIR, version=2).whole,
        "all-scalars": g.make([ARCH, *SCALARS], PAIR).whole,
        "all-arrays": g.make([ARCH, *ARRAYS], PAIR).whole,
        "arrays-of-arrays": g.make([ARCH, NESTED]).whole,
        "key-not-utf8": g.make([(b"test.\xff\xfe", "u8", 1), (b"test.\xed\xa0\x80", "str", b"\xc3")]).whole,
        "key-of-no-bytes": g.make([("", "u8", 1)]).whole,
        "name-not-utf8": g.make([ARCH], [(b"n\xff", (1,), g.F32, bytes(4))]).whole,
        "bool-of-two": g.make([ARCH]).whole[:16] + struct.pack("<Q", 1) + g.text("test.bool") + b"\x07\0\0\0\x02",
        "architecture-last": g.make([*SCALARS, ARCH], PAIR).whole,
        "type-unknown": g.make([ARCH], [("a", (4,), 9999, b"12345"), g.f32("b", 4), ("c", (3,), 77, b"123")]).whole,
        "type-of-ik": g.make([ARCH], [("a", (256, 3), g.IQ4_KS, bytes(3 * ik_row)), g.f32("b", 4)]).whole,
        "tensor-without-axes": g.make([ARCH], [("a", (), g.F32, bytes(4))]).whole,
        "tensor-without-elements": g.make([ARCH], [("a", (4, 0), g.F32, b""), g.f32("b", 4)]).whole,
        "data-behind-last-tensor": g.make([ARCH], PAIR).whole + b"more",
        "data-missing": g.make([ARCH], PAIR).header,  # the header is whole; reading the tensors is refused
        "data-reordered": g.make([ARCH], PAIR, offsets=[32, 0]).whole,
        "padding-of-4-KiB": g.make([ARCH, ("nextn.padding", "str", " " * 4096)], PAIR).whole,
    }
    for alignment in (8, 64, 4096):
        key: g.KV = ("general.alignment", "u32", alignment)
        files[f"alignment-{alignment}"] = g.make([ARCH, key], PAIR, alignment=alignment).whole
    return files


def kv_raw(key: str, type_number: int, value: bytes) -> bytes:
    """A file of one pair with whatever type and value."""
    return g.start(3, 0, 1) + g.text(key) + struct.pack("<I", type_number) + value


def tensor_raw(entry: bytes) -> bytes:
    """A file of one tensor info with whatever in it."""
    return g.pad(g.start(3, 1, 0) + entry, 32) + bytes(64)


def invalid() -> dict[str, bytes]:
    """File name -> bytes."""
    good = g.make([ARCH, *SCALARS], PAIR)
    array = struct.pack("<I", g.CODES["u32"])
    deep: g.KV = ("test.deep", "[[]]", [("[]", [("[]", [("[]", [])])])])
    return {
        "empty": b"",
        "magic-cut": b"GG",
        "magic-wrong": b"GGML" + good.whole[4:],
        "first-bytes-cut": good.whole[:20],
        "version-0": g.start(0, 0, 0),
        "version-1": b"GGUF" + struct.pack("<III", 1, 0, 0) + bytes(16),
        "version-4": g.start(4, 0, 0),
        "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        "kv-cut": good.whole[: good.table_end // 2],
        "tensor-table-cut": good.whole[: good.table_end - 1],
        "tensor-count-of-2-63": g.start(3, 1 << 63, 0) + bytes(64),
        "kv-count-of-2-63": g.start(3, 0, 1 << 63) + bytes(64),
        "kv-count-one-too-many": g.start(3, 0, 2) + g.pair(*ARCH),
        "key-length-of-2-63": g.start(3, 0, 1) + struct.pack("<Q", 1 << 63) + bytes(64),
        "key-length-of-2-64-less-1": g.start(3, 0, 1) + struct.pack("<Q", 2**64 - 1) + bytes(64),
        "key-twice": g.make([ARCH, ("a", "u8", 1), ("a", "u8", 1)]).whole,
        "value-type-13": kv_raw("a", 13, bytes(64)),
        "value-type-of-2-32-less-1": kv_raw("a", 2**32 - 1, bytes(64)),
        "string-length-of-2-63": kv_raw("a", 8, struct.pack("<Q", 1 << 63) + bytes(64)),
        "array-item-type-13": kv_raw("a", 9, struct.pack("<IQ", 13, 1) + bytes(64)),
        "array-length-of-2-40": kv_raw("a", 9, array + struct.pack("<Q", 1 << 40) + bytes(64)),
        "array-length-of-2-63": kv_raw("a", 9, array + struct.pack("<Q", 1 << 63) + bytes(64)),
        "array-string-length-of-2-62": kv_raw("a", 9, struct.pack("<IQQ", 8, 2, 1 << 62) + bytes(64)),
        "array-string-length-of-2-64-less-1": kv_raw("a", 9, struct.pack("<IQQ", 8, 2, 2**64 - 1) + bytes(64)),
        "array-last-string-too-long": kv_raw("a", 9, struct.pack("<IQQ", 8, 1, 1000) + bytes(64)),
        "array-in-array-length-of-2-60": kv_raw("a", 9, struct.pack("<IQIQ", 9, 1, 8, 1 << 60) + bytes(64)),
        "array-nested-too-deeply": g.make([deep]).whole,
        "alignment-0": g.make([("general.alignment", "u32", 0)], PAIR).whole,
        "alignment-3": g.make([("general.alignment", "u32", 3)], PAIR).whole,
        "alignment-4": g.make([("general.alignment", "u32", 4)], PAIR).whole,
        "alignment-of-2-31": g.make([("general.alignment", "u32", 1 << 31)], PAIR).whole,
        "alignment-of-type-u64": g.make([("general.alignment", "u64", 32)], PAIR).whole,
        "alignment-of-type-str": g.make([("general.alignment", "str", "32")], PAIR).whole,
        "tensor-twice": g.make([ARCH], [g.f32("a", 4), g.f32("a", 4)]).whole,
        "tensor-name-length-of-2-63": tensor_raw(struct.pack("<Q", 1 << 63)),
        "tensor-name-of-2-KiB": tensor_raw(g.info("a" * 2048, (1,), 0, 0)),
        "tensor-of-5-axes": tensor_raw(g.info("a", (1, 1, 1, 1, 1), 0, 0)),
        "tensor-of-2-32-less-1-axes": tensor_raw(g.text("a") + struct.pack("<I", 2**32 - 1)),
        "tensor-axis-of-2-63": tensor_raw(g.info("a", (1 << 63,), 0, 0)),
        "tensor-elements-overflow": tensor_raw(g.info("a", (1 << 32, 1 << 32), 0, 0)),
        "tensor-offset-not-aligned": tensor_raw(g.info("a", (1,), 0, 4)),
        "tensor-offset-behind-file": tensor_raw(g.info("a", (1,), 0, 1 << 40)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "tests" / "data" / "gguf_corpus")
    folder = parser.parse_args().folder
    for kind, files in (("valid", valid()), ("invalid", invalid())):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / kind / f"{name}.gguf").write_bytes(data)
        print(f"{folder / kind}: {len(files)} files")


if __name__ == "__main__":
    main()
