"""What a draft that is a model of its own is, in words that inspect and the page share."""

from __future__ import annotations

from ..schemas.inspect import DraftEntry
from ..units import counted


def draft_facts(draft: DraftEntry, n_layer: int, n_vocab: int | None) -> list[tuple[str, str]]:
    """What it is, what it was made for, and its vocabulary."""
    made_for = f"a hidden size of {draft.target_width:,}" if draft.target_width else "a hidden size not given"
    if draft.target_layers:
        made_for += f", reads the inputs of layers {', '.join(map(str, draft.target_layers))}"
    total = "all tokens" if n_vocab is None else f"{n_vocab:,} tokens"
    some = total if draft.n_draft_vocab is None else f"{draft.n_draft_vocab:,} of {total}, mapped by d2t"
    shared = [name for name, own in (("embeddings", draft.own_embeddings), ("head", draft.own_head)) if not own]
    rows = [("draft", f"{draft.title}, {counted(n_layer, 'layer')}"), ("made for", made_for)]
    rows += [("vocabulary", some + (f"; the model's {' and '.join(shared)}" if shared else ""))]
    return rows + ([] if draft.most_tokens is None else [("drafts", f"up to {draft.most_tokens} tokens at once")])
