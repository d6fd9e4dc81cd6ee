"""The corpus of valid and damaged GGUF files."""

from __future__ import annotations

from conftest import DATA
from nextn.gguf.header import Header

CORPUS = DATA / "gguf_corpus"
VALID = sorted((CORPUS / "valid").glob("*.gguf"))
INVALID = sorted((CORPUS / "invalid").glob("*.gguf"))


def sameness(header: Header) -> tuple[object, ...]:
    """Everything in a header that does not depend on how it was fed."""
    kvs = [(kv.key, kv.type, kv.item_type, kv.n_items, kv.start, kv.value_start, kv.end, bytes(kv.raw))
           for kv in header.kvs]  # fmt: skip
    return (header.version, kvs, header.tensors, header.header_end, header.data_offset, header.alignment)
