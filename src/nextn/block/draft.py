"""What a draft that is a model of its own demands of its target: EAGLE-3, DFlash and DSpark, from their headers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..archs.drafts import (
    BLOCK_SIZE,
    D2T,
    DSPARK,
    EAGLE3,
    MASK,
    TARGET_LAYERS,
    TARGET_WIDTH,
    DraftKind,
    kind_of,
)
from ..gguf.files import Model
from ..gguf.known import ARCHITECTURE
from ..gguf.kv import KV

if TYPE_CHECKING:
    from .draft_checkpoint import PublishedDraft

TOKENS = "tokenizer.ggml.tokens"
_HEAD, _EMBEDDINGS = "output.weight", "token_embd.weight"


def tokens_of(model: Model) -> int:
    """Tokens in a model's list; without one, rows of its embeddings; 0 without both."""
    kv = model.header.by_key.get(TOKENS)
    if kv is not None and kv.n_items:
        return kv.n_items
    found = model.tensors.get(_EMBEDDINGS)
    return found[1].ne[1] if found is not None and len(found[1].ne) > 1 else 0


@dataclass(frozen=True)
class Draft:
    """A draft's header, reduced to what its target has to fit."""

    kind: DraftKind
    path: Path  # for messages
    n_layer: int
    width: int  # its own hidden size; 0: the header does not say
    target_width: int  # the target's hidden size that it was made for
    target_layers: tuple[int, ...] | None  # layers of the target whose inputs it reads; None: the header has no list
    n_vocab: int  # tokens in its tokenizer; 0: the header has none
    n_draft_vocab: int | None  # tokens that d2t maps to the target's; None: no table
    n_head: int | None  # rows of its output head; None: the target's serves
    own_embeddings: bool
    table_type: str | None  # type of d2t
    block_size: int | None  # tokens drafted at once, for DFlash and DSpark
    mask: int | None  # token that stands for one to be drafted, for DFlash and DSpark

    @classmethod
    def of(cls, model: Model) -> Draft | None:
        """From a GGUF; None for another kind of model."""
        kind = kind_of(model.header.get(ARCHITECTURE), model.tensors)
        if kind is None:
            return None
        head, table = (found[1] if (found := model.tensors.get(name)) else None for name in (_HEAD, D2T))
        tokens = model.header.by_key.get(TOKENS)
        return cls._made(
            kind, model.entry, model.arch_value,
            mask=model.header.get(MASK),
            n_vocab=(tokens.n_items or 0) if tokens is not None else 0,
            n_draft_vocab=table.ne[0] if table is not None and table.ne else None,
            n_head=head.ne[1] if head is not None and len(head.ne) > 1 else None,
            own_embeddings=_EMBEDDINGS in model.tensors,
            table_type=table.type_name if table is not None else None,
        )  # fmt: skip

    @classmethod
    def published(cls, draft: PublishedDraft, pairs: list[KV]) -> Draft:
        """Of a checkpoint, with the header pairs that its GGUF will have."""
        values = {kv.key.removeprefix(f"{draft.kind.arch}."): kv.value for kv in pairs}
        there = {tensor.suffix: tensor.ne for tensor in draft.block.tensors}
        return cls._made(
            draft.kind, draft.block.origin, values.get,
            mask=None,
            n_vocab=draft.block.n_vocab or 0,
            n_draft_vocab=draft.n_draft_vocab,
            n_head=there[_HEAD][1] if _HEAD in there else None,
            own_embeddings=_EMBEDDINGS in there,
            table_type=None if draft.table is None else "i64",
        )  # fmt: skip

    @classmethod
    def _made(cls, kind: DraftKind, path: Path, find: Callable[[str], Any], *, mask: Any, **more: Any) -> Draft:
        layers = find(TARGET_LAYERS)
        whole = isinstance(layers, list) and all(isinstance(n, int) for n in layers)
        width = _integer(find("embedding_length")) or 0
        return cls(
            kind=kind, path=path, n_layer=_integer(find("block_count")) or 0, width=width,
            target_width=(_integer(find(TARGET_WIDTH)) or 0) if kind is EAGLE3 else width,
            target_layers=tuple(layers) if whole else None,
            block_size=None if kind is EAGLE3 else _integer(find(BLOCK_SIZE)),
            mask=_integer(mask),
            **more,
        )  # fmt: skip

    @property
    def own_head(self) -> bool:
        """Whether it has an output head; else the target's serves."""
        return self.n_head is not None

    @property
    def most_tokens(self) -> int | None:
        """Tokens that llama.cpp drafts at most at once; None: as many as it is told to."""
        return None if self.block_size is None else max(1, self.block_size - (self.kind is not DSPARK))


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
