"""The block of whatever a user names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
