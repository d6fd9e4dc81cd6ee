"""Describes a GGUF file for the goldens: its key-value pairs, and a hash of every tensor's data.

Read with the reader of llama.cpp's own gguf-py and with nothing of nextn, so that both can be compared.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gguf

# Arrays up to this length are stored as they are: all per-layer arrays, and nothing of a vocabulary.
LONG_ARRAY = 32

# [type, value] of a scalar or string; ["arr[type]", [values]] of a short array;
# ["arr[type]", {"n": length, "sha256": hash of the elements as the file encodes them}] of a long one.
KV = dict[str, list[Any]]


def type_name(value_type: gguf.GGUFValueType) -> str:
    short = {"UINT": "u", "INT": "i", "FLOAT": "f"}
    name = value_type.name
    for long, letter in short.items():
        if name.startswith(long):
            return letter + name.removeprefix(long)
    return {"STRING": "str"}.get(name, name.lower())


def describe_kv(reader: gguf.GGUFReader) -> KV:
    kv: KV = {}
    for name, field in reader.fields.items():
        if name.startswith("GGUF."):  # the reader's own names for version and counts
            continue
        if field.types[0] != gguf.GGUFValueType.ARRAY:
            kv[name] = [type_name(field.types[0]), field.contents()]
            continue
        values = field.contents()
        # The parts are: length and bytes of the key, type, type of the elements, their number, the elements.
        element_type = gguf.GGUFValueType(int(field.parts[3][0]))
        if len(values) > LONG_ARRAY:
            digest = hashlib.sha256(b"".join(part.tobytes() for part in field.parts[5:])).hexdigest()
            values = {"n": len(values), "sha256": digest}
        kv[name] = [f"arr[{type_name(element_type)}]", values]
    return kv


def describe_tensors(reader: gguf.GGUFReader) -> dict[str, list[Any]]:
    """name -> [type, ne, sha256 of the data without padding], in the order of the file."""
    return {
        t.name: [
            t.tensor_type.name,
            [int(n) for n in t.shape],
            hashlib.sha256(t.data.tobytes()).hexdigest(),
        ]
        for t in reader.tensors
    }


def describe(path: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "kv": describe_kv(reader),
        "tensors": describe_tensors(reader),
    }
