"""`nextn verify --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from .base import Count, Document, DocumentPart, EngineName, Positive, Share, doc


class FileComparison(DocumentPart):
    """What comparing files showed."""

    n_tensors: Annotated[Count, doc("trunk tensors compared with the original")]
    n_same_bytes: Annotated[Count, doc("equal, every byte compared")]
    n_same_file: Annotated[Count, doc("equal, being the same bytes on disk")]
    n_hashed: Annotated[Count, doc("block tensors that have the recorded sha256")]
    changed_keys: Annotated[list[str], doc("keys that had to change, and did")]
    problems: list[str]


class ControlRun(DocumentPart):
    """The same model with the block's weights shuffled: its drafts must no longer be accepted."""

    acceptance: Annotated[float | None, doc("accepted at n_max 1 with the block's weights shuffled")]
    collapsed: bool | None


class TextDivergence(DocumentPart):
    """The first place where one prompt's text with MTP parts from the text without."""

    n_max: int
    prompt: Annotated[int, doc("index of the prompt")]
    position: Annotated[int, doc("index of the generated token")]
    token_off: Annotated[int | None, doc("the token without MTP; null: the text had ended")]
    token_on: Annotated[int | None, doc("the token with MTP; null: the text had ended")]
    gap_nats: Annotated[
        float | None, doc("by how much token_off is more likely to the engine without MTP, in nats; null: unknown")
    ]
    gap_is_lower_bound: bool
    batch_shift_nats: Annotated[float | None, doc("how far the gap moves when the text is decoded as one batch")]
    near_tie: Annotated[bool, doc("rounding explains it")]
    came_back: Annotated[
        bool | None, doc("beyond rounding on several slots: whether asking once more gave it again; null: not asked")
    ] = None


class Speeds(DocumentPart):
    """Decoded tokens per second."""

    off: float | None
    on: Annotated[dict[str, float], doc("by n_max")]


class VerifyDocument(Document, tag="verify", kw_only=True):
    """Whether a model with its block works, and writes the same text."""

    verdict: Literal["passed", "failed", "cannot_tell"]
    reasons: Annotated[list[str], Meta(min_length=1)]
    notes: list[str]
    model: str
    sidecar: str | None
    trunk: Annotated[str | None, doc("the original that files were compared with")]
    files: FileComparison
    same_text: Annotated[bool | None, doc("greedy text with and without MTP; null: not compared")]
    acceptance: Annotated[dict[str, list[Share]], doc("n_max -> share of drafts accepted at position 1, 2, ...")]
    control: ControlRun | None
    divergences: list[TextDivergence]
    engine: Annotated[EngineName, doc("absent when only files were compared")] | UnsetType = UNSET
    n_prompts: int | UnsetType = UNSET
    n_drafted: int | UnsetType = UNSET
    slots: Annotated[Positive, doc("prompts that were answered at the same time with MTP")] | UnsetType = UNSET
    tps: Annotated[Speeds, doc("single runs, not a benchmark")] | UnsetType = UNSET
