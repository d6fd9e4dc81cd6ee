"""The shipped trunks of all families."""

from __future__ import annotations

from pathlib import Path

from conftest import TRUNKS
from tiny_families import TRUNK_OF

PACKED = ("deepseek4",)  # stored in FP8 and FP4 by powers of two: a test of its own
KINDS = sorted(path.name.removesuffix("-Q8_0.gguf") for path in (TRUNKS / "families").glob("*.gguf"))
CODE = ["def read(self):\n", "import os\n\ndef walk(path):\n    for name in os.listdir(path):\n"]


def trunk_of(kind: str) -> Path:
    kind = TRUNK_OF.get(kind, kind.removesuffix("-fp8").removesuffix("-plain"))
    return TRUNKS / "families" / f"{kind}-Q8_0.gguf"
