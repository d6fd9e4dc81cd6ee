"""Headers and tensors in the form of the goldens."""

from __future__ import annotations

import hashlib
from typing import Any

from conftest import stored
from nextn.gguf.files import Model
from nextn.gguf.kv import KV, KVType

SHORT = {"STRING": "str", "BOOL": "bool"}


def type_name(kind: KVType) -> str:
    return SHORT.get(kind.name, kind.name.replace("UINT", "u").replace("FLOAT", "f").replace("INT", "i"))


def described(kv: KV) -> list[Any]:
    """A pair as the goldens describe it."""
    if kv.type is not KVType.ARRAY:
        return [type_name(kv.type), kv.value]
    assert kv.item_type is not None
    value: Any = kv.value
    if len(value) > 32:
        data = bytes(memoryview(kv.buffer)[kv.value_start : kv.end])
        value = {"n": len(value), "sha256": hashlib.sha256(data).hexdigest()}
    return [f"arr[{type_name(kv.item_type)}]", value]


def stored_sha256(model: Model, name: str) -> str:
    return hashlib.sha256(stored(model, name)).hexdigest()
