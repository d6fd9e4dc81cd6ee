"""The block of whatever a user names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ..remote.opening import Opened
from .from_gguf import block_from_model
from .model import Block


def block_of(source: Opened, mending: Collection[int] | None = None) -> Block:
    """The block of an opened source, with its origin. Raises what `block_from_model` and its siblings raise.

    `mending`: layers of a model whose block is to be completed, for which a part of a block will do.
    """
    if source.model is not None:
        block = block_from_model(source.model, mending or ())
    else:
        from .from_checkpoint import block_from_checkpoint

        assert source.checkpoint is not None
        block = block_from_checkpoint(source.checkpoint, partial=mending is not None)
    if source.remote is not None:
        return replace(block, revision=source.revision, label=source.name)
    known = cached_name(block.origin)
    return block if known is None else replace(block, revision=known[1], label=f"hf:{known[0]}@{known[1]}")


def cached_name(path: Path) -> tuple[str, str] | None:
    """ORG/NAME and commit of a file or folder in a snapshot of the Hub's local cache; None for any other path."""
    for folder in (path, *path.absolute().parents):
        kind, *parts = folder.parent.parent.name.split("--")
        if folder.parent.name == "snapshots" and kind == "models" and len(parts) == 2:
            return "/".join(parts), folder.name
    return None
