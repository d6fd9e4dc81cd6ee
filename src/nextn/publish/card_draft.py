"""Drafts that are models of their own, as the model card describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..gguf.files import open_model
from ..inspection.model import draft_entry
from ..layouts.pack import MTP, Quant
from ..schemas.inspect import DraftEntry
from ..units import size
from ..writing.plan import Link, Plan
from .packed_folder import PackedFolder


def drafts_of(plan: Plan, quants: Sequence[Quant], existing: PackedFolder | None) -> dict[str, DraftEntry]:
    """Sidecar's name -> what it is, for those that are drafts of their own. Raises what opening them raises."""
    names = {quant.variants[MTP].sidecar for quant in quants if MTP in quant.variants}
    linked = {out.name: out.source for out in plan.outputs if isinstance(out, Link)}
    found = {}
    for name in sorted(filter(None, names)):
        path = linked.get(name) or (None if existing is None else existing.path / name)
        if path is None or not path.is_file():
            continue  # a sidecar that this run writes holds an MTP block
        entry = draft_entry(open_model(path))
        if entry is not None:
            found[name] = entry
    return found


def article(title: str) -> str:
    """The title with its article."""
    return f"{'an' if title.startswith('E') else 'a'} {title}"


def table(drafts: Mapping[str, DraftEntry], sizes: Mapping[str, int], span: Mapping[str, str]) -> str:
    """What each draft is, reads and shares with its model; `span`: its name as shown."""
    rows = ["| draft | kind | made for a hidden size of | reads the inputs of layers | vocabulary "
            "| the model's own parts it uses | drafts at once | size |", "|" + " --- |" * 8]  # fmt: skip
    for name, one in drafts.items():
        shared = [what for what, own in (("embeddings", one.own_embeddings), ("head", one.own_head)) if not own]
        cells = (
            span[name], one.title, f"{one.target_width:,}" if one.target_width else "-",
            ", ".join(map(str, one.target_layers)) if one.target_layers else "-",
            "all tokens" if one.n_draft_vocab is None else f"{one.n_draft_vocab:,} tokens, mapped by d2t",
            " and ".join(shared) or "none", "-" if one.most_tokens is None else f"up to {one.most_tokens}",
            size(sizes[name]),
        )  # fmt: skip
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)
