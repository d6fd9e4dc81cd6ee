"""The block of whatever a user names."""

from __future__ import annotations

from dataclasses import replace

from ..remote.opening import Opened
from .from_gguf import block_from_model
from .model import Block


def block_of(source: Opened) -> Block:
    """The block of an opened source, with its origin. Raises what `block_from_model` and its siblings raise."""
    if source.model is not None:
        block = block_from_model(source.model)
    else:
        from .from_checkpoint import block_from_checkpoint

        assert source.checkpoint is not None
        block = block_from_checkpoint(source.checkpoint)
    return block if source.remote is None else replace(block, revision=source.revision, label=source.name)
