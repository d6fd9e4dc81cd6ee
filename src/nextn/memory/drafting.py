"""What drafting adds to a model's memory, from headers alone: for many models, where `plan` would ask an engine."""

from __future__ import annotations

from pathlib import Path

from ..block.model import Block
from ..errors import NextnError
from ..gguf.files import Model
from .estimate import predict
from .settings import DEFAULT_N_CTX, Settings, kv_types
from .setups import BUNDLED_ON, NO_MTP, SHARDS, SIDECAR, make_setups

_SETUPS = {"sidecar": SIDECAR, "shards": SHARDS, "bundle": BUNDLED_ON}


def drafting_bytes(trunk: Model, block: Block, layout: str, scratch: Path) -> int | None:
    """Bytes of memory that drafting with `block` in a layout adds, at 8,192 tokens of context or the trained length.

    None where no such file can be planned. It is the figure that `plan --header-only` shows.
    """
    trained = trunk.arch_int("context_length")
    key, value = kv_types("f16")
    settings = Settings(min(DEFAULT_N_CTX, trained or DEFAULT_N_CTX), key, value)
    try:
        setups = make_setups(trunk, lambda _: block, None, scratch, on_disk=False)
        found = [setups.get(name) for name in (_SETUPS[layout], NO_MTP)]
        if any(setup.model is None for setup in found):
            return None
        with_block, without = (predict(setup, settings, None, None).total_bytes for setup in found)
    except NextnError:
        return None
    return with_block - without
