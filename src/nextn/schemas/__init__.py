"""Every document that nextn prints or writes: one definition per verb, from which its schema is generated.

The module of a verb holds its document (`schemas.plan.PlanDocument`), and `plan.json` beside it is the
JSON Schema that scripts/make_schemas.py generates from it. `manifest` is the `nextn.json` of a published folder.
"""

from __future__ import annotations

import importlib

from .base import Document

KINDS = (
    "inspect", "doctor", "attach", "detach", "recover", "extract", "explode", "assemble", "verify", "worth", "plan",
    "bench", "tensors", "tune", "train", "serve", "report", "pack", "pull", "cache", "demo", "scan", "up",
    "error",
)  # fmt: skip


def document_type(kind: str) -> type[Document]:
    """The document of that kind, which must be one of KINDS."""
    found: type[Document] = getattr(importlib.import_module(f".{kind}", __name__), f"{kind.capitalize()}Document")
    return found
