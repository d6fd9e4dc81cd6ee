"""`nextn worth --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from .base import Count, Document, DocumentPart, EngineName, Positive, Seconds, Share, doc
from .timing import Computer, RawRun

Cost = Annotated[float, Meta(ge=0)]


class CurvePoint(DocumentPart):
    """A batch of one size, by the time of one token with MTP off; medians of the undisturbed passes."""

    n_tokens: Annotated[Positive, doc("tokens of the batch; with several slots: of each")]
    depth: Annotated[Count, doc("tokens of context in front of it, as asked for")]
    cost: Cost
    low: Cost
    high: Cost
    n: Annotated[Positive, doc("undisturbed passes")]


class DepthToken(DocumentPart):
    """The time of one token at one depth."""

    depth: Count
    token_s: Annotated[Seconds, doc("seconds of a batch of one token (of each slot) with MTP off")]
    state_cost: Annotated[
        Cost, doc("saving and restoring recurrent state once per step, where the engine keeps no snapshots")
    ]


class DraftFigures(DocumentPart):
    """What drafting costs beside the verification: per_step + n * per_token + catch_up * cost of the verification."""

    source: Annotated[Literal["measured", "estimated"], doc("estimated: from bytes, for a block of one layer")]
    per_token: Cost
    per_step: float
    catch_up: Cost


class LengthBreakEven(DocumentPart):
    """Above what this length is faster than MTP off."""

    accepted_per_step: Annotated[Cost, doc("mean number of accepted drafts per step")]
    per_position: Annotated[
        Share | None,
        doc("chance of each drafted token, given those before it; null: not even a perfect draft pays"),
    ]


class LengthSpeedup(DocumentPart):
    """A length and what it reaches."""

    n_max: Positive
    speedup: Annotated[float, doc("speed over that with MTP off")]


class KinkedBatch(DocumentPart):
    """A batch that is cheaper than a shorter one."""

    n_tokens: Positive
    cheaper_than: Positive


class WorthSettings(DocumentPart):
    """How it was measured."""

    depths: Annotated[list[int], doc("tokens of context in front of the batches")]
    sizes: list[int]
    slots: Positive
    threads: Annotated[int | None, doc("null: the engine's default")]
    n_ctx: Annotated[Positive, doc("tokens of each slot")]
    engine_args: list[str]
    timed: Annotated[
        Literal["library", "server"],
        doc("library: batches decoded in the engine's process; server: its own timings of prompts"),
    ]


class BatchPass(DocumentPart):
    """One pass over all sizes; null: not known."""

    depth: Count
    pass_no: Annotated[Count, doc("number of the pass at this depth, from 0")] = field(name="pass")
    attempt: Annotated[Count, doc("0, and one more for each repetition of a disturbed pass")]
    n_rounds: Annotated[Positive, doc("times that each size was timed")]
    seconds: Annotated[dict[str, float], doc("size of the batch -> median of its rounds in seconds")]
    state_s: Seconds
    wall_s: Seconds
    cpu_s: float | None
    wait_share: float | None
    others_cpus: float | None
    steal_cpus: float | None
    disturbed: list[Literal["cpu_wait", "others_busy", "cpu_stolen", "slower_than_repeats"]]
    used: bool


class WorthDocument(Document, tag="worth", kw_only=True):
    """Whether drafting can pay on this machine: the batch curve and what follows from it."""

    verb: Literal["worth"] = "worth"
    model: str
    sidecar: str | None
    word: Annotated[Literal["can_pay", "cannot_pay", "machine_busy"], doc("at the first depth")]
    sentence: str
    measured: Annotated[str, doc("when, in UTC")]
    engine: EngineName
    machine: Computer
    settings: WorthSettings
    curve: list[CurvePoint]
    tokens: list[DepthToken]
    draft: DraftFigures | None
    break_even: Annotated[dict[str, LengthBreakEven], doc("n_max -> what it needs, at the first depth")]
    ceiling: Annotated[LengthSpeedup | None, doc("all drafts accepted, at the first depth")]
    best: Annotated[dict[str, LengthSpeedup], doc('acceptance per position ("0.5", ...) -> the best length')]
    kinks: list[KinkedBatch]
    sentences: Annotated[dict[str, str], doc("depth -> the sentence at that depth")]
    n_disturbed: Annotated[Count, doc("passes and runs that are not used")]
    notes: list[str]
    passes: list[BatchPass]
    runs: Annotated[list[RawRun], doc("with and without drafts, from which the draft's cost was measured")]
