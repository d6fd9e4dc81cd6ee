"""`nextn tune --json`, and NAME.tune.json, which serve reads."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .base import Count, Document, DocumentPart, EngineName, Positive, Seconds, Share, doc
from .timing import Computer, RawRun, SetupComparison, SpreadFigures

BlockType = Annotated[str | None, doc("null: as it is in the user's own file")]


class TuneAnswer(DocumentPart):
    """What to do."""

    word: Literal["mtp", "off", "machine_busy", "not_tried"]
    sentence: str
    block_type: BlockType
    head_type: BlockType
    embd_type: BlockType


class TuneSettings(DocumentPart):
    """What was tried, and how."""

    tasks: Annotated[dict[str, Positive], doc("task -> number of its prompts")]
    n_predict: Annotated[Positive, doc("maximum tokens per answer in the final")]
    n_ctx: Annotated[Positive, doc("tokens")]
    budget_s: Annotated[float | None, doc("time limit of the races; null: none")]
    n_max: list[int]
    p_min: list[float]
    block_types: list[str]
    head_types: list[str]
    embd_types: list[str]
    threads: Annotated[list[int | None], doc("the search uses the first")]
    n_grid: Annotated[Positive, doc("combinations that a search without racing would time")]


class PlannedRuns(DocumentPart):
    """Runs that were planned, repetitions not counted."""

    least: int
    most: int


class TuneCandidate(DocumentPart):
    """One setting that was tried."""

    id: str
    n_max: Count
    p_min: float
    threads: int | None
    block_type: BlockType
    head_type: BlockType
    embd_type: BlockType
    stages: Annotated[list[str], doc("races it ran in")]
    outcome: Literal["winner", "finalist", "beaten", "stopped", "refused", "not tried"]
    why: Annotated[str | None, doc("why it was refused")]
    relative: Annotated[
        float | None, doc("speed divided by that of MTP off in its last race; null: no undisturbed run")
    ]
    decode_tps: Annotated[SpreadFigures | None, doc("tokens per second in the final")]
    n_runs: Count


class TuneDocument(Document, tag="tune", kw_only=True):
    """The fastest settings on this machine, or that MTP is best left off."""

    verb: Literal["tune"] = "tune"
    dry_run: bool
    model: str
    sidecar: Annotated[str | None, doc("the file to draft with; null: the model's own block, or MTP off")]
    n_max: Annotated[Count | None, doc("0: leave MTP off; null: undecided")]
    p_min: Share | None
    threads: Positive | None
    args: Annotated[list[str], doc("engine arguments of all runs")]
    answer: TuneAnswer
    comparison: Annotated[SetupComparison | None, doc("the best MTP setting against MTP off, in the final")]
    engine: EngineName
    machine: Computer
    settings: TuneSettings
    planned_runs: PlannedRuns
    candidates: list[TuneCandidate]
    n_disturbed: Annotated[Count, doc("runs that are not used")]
    wall_s: Seconds
    command: Annotated[str | None, doc("a line for a POSIX shell that runs an engine with these settings")]
    files: Annotated[list[str], doc("what was written, or with dry_run would be")]
    notes: list[str]
    runs: list[RawRun]


class TunedEngine(Struct):
    """The engine that settings are for."""

    name: str | None = None


class TunedSettings(Struct):
    """What serve reads of NAME.tune.json: any of these, written by tune or by hand; other keys are passed over."""

    version: Literal[1] = 1
    n_max: Annotated[int, Meta(ge=0, le=1024)] | None = None
    p_min: Share | None = None
    threads: Annotated[int, Meta(ge=1, le=65536)] | None = None
    args: list[str] | None = None
    sidecar: str | None = None
    engine: TunedEngine | None = None
