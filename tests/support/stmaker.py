"""Safetensors bytes from a table, right or wrong."""

from __future__ import annotations

import json
import struct
from typing import Any


def encode(table: Any, data: bytes = bytes(16)) -> bytes:
    head = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(head)) + head + data
