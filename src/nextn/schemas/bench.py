"""`nextn bench --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .base import Bytes, Count, Document, DocumentPart, EngineName, Positive, Share, doc
from .timing import Computer, Rates, RawRun, SetupComparison, SpreadFigures


class BenchSettings(DocumentPart):
    """How it was timed."""

    tasks: Annotated[dict[str, Positive], doc("task -> number of its prompts")]
    repeats: Annotated[Positive, doc("interleaved passes")]
    n_predict: Annotated[Positive, doc("maximum tokens per answer")]
    temperature: Annotated[float, Meta(ge=0, description="0: greedy")]
    threads: Annotated[int | None, doc("null: the engine's default")]
    n_ctx: Annotated[Positive, doc("tokens of each slot")]
    engine_args: list[str]
    loads: Literal["side by side", "one at a time"]
    slots: Annotated[Positive, doc("answers generated at the same time; speeds are those of all together")] = 1


class EngineMemory(DocumentPart):
    """What an engine allocated on one device, by its own account, in MiB."""

    device: str
    model_mib: float
    context_mib: float
    compute_mib: float


class LoadMemory(DocumentPart):
    """What a load of one setup takes; null: not known."""

    rss_anon_bytes: Annotated[
        int | None, doc("main memory of the engine's processes, the most seen after a run")
    ]
    rss_file_bytes: Annotated[int | None, doc("pages of files in memory: mapped weights, shared between loads")]
    rss_peak_bytes: Annotated[int | None, doc("peak of both together")]
    engine: Annotated[list[EngineMemory], doc("as the engine reports it")]


class BenchSetup(DocumentPart):
    """The figures of one setup."""

    id: Annotated[str, doc('"off", "n_max 2", "q4_0", ...; of the other model: "against " and the same')]
    model: str
    sidecar: str | None
    n_max: Annotated[Count, doc("0: MTP off")]
    p_min: Share
    threads: int | None
    type: Annotated[str | None, doc("type of the block where several are compared")]
    decode_tps: Annotated[
        SpreadFigures | None,
        doc(
            "generated tokens per second over all prompts: all tokens divided by all time; null: no figure, since a "
            "prompt had no undisturbed run"
        ),
    ]
    decode_tps_by_task: dict[str, SpreadFigures | None]
    prompt_tps: Annotated[SpreadFigures | None, doc("prompt tokens per second")]
    acceptance: Rates | None
    acceptance_by_task: dict[str, Rates]
    drafted: Count
    accepted: Count
    mean_length: Annotated[
        Annotated[float, Meta(ge=1)] | None, doc("tokens per verification step, the target's own included")
    ]
    memory: LoadMemory | None
    size_bytes: Annotated[Bytes, doc("bytes of the files that are loaded")]


class BenchDocument(Document, tag="bench", kw_only=True):
    """Speed with and without MTP."""

    verb: Literal["bench"] = "bench"
    model: str
    sidecar: str | None
    against: Annotated[str | None, doc("the other model")]
    engine: EngineName
    machine: Computer
    settings: BenchSettings
    setups: Annotated[list[BenchSetup], Meta(min_length=1)]
    comparisons: list[SetupComparison]
    verdict: Annotated[SetupComparison | None, doc("the comparison that counts most; null: nothing to compare")]
    n_disturbed: Annotated[Count, doc("runs that are not used")]
    notes: list[str]
    runs: list[RawRun]
