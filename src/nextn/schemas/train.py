"""`nextn train --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from .base import Bytes, Count, Document, DocumentPart, EngineName, Positive, Seconds, Share, doc
from .written import WrittenFile


class StageSeconds(DocumentPart):
    """Seconds of each stage."""

    states: Seconds
    fit: Seconds
    judge: Seconds


class DraftSizes(DocumentPart):
    """What the states of one token take, computed from the trunk's header."""

    taps: Annotated[list[int], doc("layers of the trunk whose inputs the draft reads; empty: a native block")]
    n_embd: Positive
    n_vocab: Positive
    bytes_per_token: Annotated[Bytes, doc("of states on disk")]
    max_disk_bytes: Annotated[Bytes, doc("bound of the states folder")]
    n_tokens_most: Annotated[Count, doc("tokens of which states fit within that bound")]


class StatesMade(DocumentPart):
    """What the trunk wrote, with the states kept."""

    folder: str
    reader: Annotated[str, doc("engine, or torch where it agreed with the engine")]
    n_sequences: Count
    n_tokens: Count
    n_tokens_held: Annotated[Count, doc("of these, never used to fit")]
    size_bytes: Bytes


class FitPoint(DocumentPart):
    """The state of a fit, on held-out text, without an engine."""

    step: Count
    n_tokens_seen: Annotated[Count, doc("tokens of text, repetitions counted")]
    seconds: Seconds
    loss: float
    agreement: Annotated[
        list[float], doc("share of tokens that the 1st, 2nd, ... drafted token matched, given those before it")
    ]


class FitMade(DocumentPart):
    """What fitting did."""

    start: Annotated[str, doc("the block that it started from, or 'nothing'")]
    n_steps: Count
    n_tokens_seen: Count
    candidates: list[str]
    curve: list[FitPoint]


class DraftCounts(DocumentPart):
    """Drafting with one length on several prompts."""

    n_max: Positive
    n_prompts: Positive
    n_steps: Annotated[Count, doc("verification steps")]
    n_drafted: Count
    n_accepted: Count
    per_step: Annotated[float, doc("accepted drafts per step")]
    by_position: Annotated[list[Share], doc("share of steps in which the 1st, 2nd, ... drafted token was accepted")]
    decode_tps: Annotated[float | None, doc("tokens per second of these runs, which wait politely: no benchmark")]
    per_prompt: Annotated[list[float], doc("accepted drafts per step, prompt by prompt")]


class JudgedDraft(DocumentPart):
    """One draft on one half of the prompts."""

    what: Literal["candidate", "published"]
    name: str
    step: Annotated[Count, doc("optimiser steps of a candidate")]
    prompts: Annotated[Literal["choosing", "final"], doc("which half of the held-out prompts")]
    drafted: list[DraftCounts]


class TrainJudgement(DocumentPart):
    """What the engine says about the candidates."""

    engine: str
    engine_version: str
    word: Literal["better", "not_better", "useless", "text_changed", "cannot_tell"]
    reasons: list[str]
    winner: Annotated[str | None, doc("the candidate that was held against the controls")]
    runs: list[JudgedDraft]
    same_text: Annotated[bool | None, doc("whether its text is that without drafts, token by token")]
    n_near_ties: Annotated[Count, doc("prompts whose texts differ at a near tie only")]
    shuffled: Annotated[Share | None, doc("acceptance at the first position with its weights shuffled")]
    p: Annotated[float | None, doc("of the paired test against the published block")]
    tps_off: Annotated[float | None, doc("tokens per second without drafts")]
    notes: list[str]
    wall_s: Seconds


class TrainDocument(Document, tag="train", kw_only=True):
    """A draft trained for a model."""

    verb: Literal["train"] = "train"
    trunk: str
    draft: Annotated[Literal["eagle3", "native"], doc("kind of draft")]
    draft_why: Annotated[str, doc("why this kind")]
    before: Annotated[str | None, doc("what drafts for the model already; null: nothing")]
    outcome: Annotated[
        Literal["planned", "stage_done", "exported", "written", "not_better"],
        doc("not_better: nothing was written, because what was there is as good"),
    ]
    sentence: str
    work: Annotated[str, doc("folder of states, fit and candidates, from which a later run resumes")]
    seed: int
    budget: Annotated[StageSeconds, doc("what each stage may take in all")]
    spent: Annotated[StageSeconds, doc("what it has taken so far, earlier runs included")]
    sizes: DraftSizes
    engine: EngineName | None
    states: StatesMade | None
    fit: FitMade | None
    judgement: TrainJudgement | None
    files: list[WrittenFile]
    entry: Annotated[str | None, doc("the path to load")]
    sidecar: Annotated[str | None, doc("the draft's file beside it; null in a bundle")]
    notes: list[str]
