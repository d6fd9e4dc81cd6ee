"""`nextn bench --by-tensor --json`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from .base import Bytes, Count, Document, DocumentPart, EngineName, Positive, Share, doc


class TensorRun(DocumentPart, kw_only=True):
    """The answers with one tensor in one type, or with all as they are."""

    tensor: Annotated[str | None, doc("null: the base, with every tensor as it is")]
    type: Annotated[str, doc("of that tensor; of the base: the types of its tensors, joined by '+'")]
    size_bytes: Annotated[Bytes, doc("of the tensor; of the base: of all tensors that are compared")]
    drafted: Count
    accepted: Count
    acceptance: Annotated[Share | None, doc("accepted / drafted; null: nothing was drafted")]
    by_position: Annotated[
        list[Share] | None, doc("share of steps in which the 1st, 2nd, ... draft was accepted; null: unknown")
    ]
    n_tokens: Annotated[Count, doc("generated tokens")]


class TensorSettings(DocumentPart, kw_only=True):
    """What the runs have in common; a run that was stopped goes on only with the same ones."""

    model: str
    sidecar: Annotated[str, doc("SHA-256 of the file whose tensors are changed")]
    engine: EngineName
    types: Annotated[list[str], Meta(min_length=1)]
    tensors: Annotated[list[str], Meta(min_length=1)]
    n_max: Positive
    n_predict: Positive
    n_prompts: Positive
    prompts: Annotated[str, doc("SHA-256 of the prompts")]
    n_ctx: Positive
    threads: int | None
    engine_args: list[str]


class TensorsDocument(Document, tag="tensors", kw_only=True):
    """Acceptance with each tensor of a block in each type, all others as they are."""

    settings: TensorSettings
    table: Annotated[str, doc("CSV: acceptance, a row per type and a column per tensor")]
    loss_table: Annotated[str, doc("CSV: the base's acceptance less that, in the same form")]
    base: TensorRun
    runs: list[TensorRun]
    n_resumed: Annotated[Count, doc("runs that an earlier call had made")]
    notes: list[str]
