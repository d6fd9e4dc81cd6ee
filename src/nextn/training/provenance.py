"""What a trained draft's header says about itself: text, seed, steps, and what the engine accepted of its drafts."""

from __future__ import annotations

from dataclasses import dataclass

from ..gguf.kv import KV, KVType
from ..layouts.metadata import TRAINED
from .judge import N_FIRST, N_MAX, DraftedRuns, JudgedRun, Judgement


@dataclass(frozen=True)
class Training:
    """How a draft came about."""

    start: str  # the block that it started from, or "nothing"
    trunk: str
    trunk_sha256: str  # of its header
    text: str  # what its trunk answered
    n_tokens: int  # of text, held-out text left out
    seed: int
    n_steps: int
    n_tokens_seen: int  # repetitions counted


def provenance_pairs(training: Training, judgement: Judgement) -> list[KV]:
    """The header's pairs, `layouts.metadata.TRAINED`; figures that there are not are left out."""
    mine, before, report = judgement.final, judgement.before, judgement.report
    first, most = _length(mine, N_FIRST), _length(mine, N_MAX)
    old = _length(before, N_MAX)
    values: dict[str, tuple[KVType, object]] = {
        "start": (KVType.STRING, training.start),
        "trunk": (KVType.STRING, training.trunk),
        "trunk_sha256": (KVType.STRING, training.trunk_sha256),
        "text": (KVType.STRING, training.text),
        "n_tokens": (KVType.UINT64, training.n_tokens),
        "seed": (KVType.UINT64, training.seed),
        "n_steps": (KVType.UINT64, training.n_steps),
        "n_tokens_seen": (KVType.UINT64, training.n_tokens_seen),
        "engine": (KVType.STRING, f"{judgement.engine} {judgement.engine_version}"),
    }
    if first is not None and most is not None:
        values["n_prompts"] = (KVType.UINT32, most.n_prompts)
        values["accepted_at_1"] = (KVType.FLOAT32, round(first.rate, 4))
        values["accepted_at_3"] = (KVType.ARRAY, [round(each, 4) for each in most.by_position])
        values["accepted_per_step"] = (KVType.FLOAT32, round(most.per_step, 4))
    if old is not None:
        values["accepted_per_step_before"] = (KVType.FLOAT32, round(old.per_step, 4))
    if report is not None and report.control_acceptance is not None:
        values["accepted_shuffled"] = (KVType.FLOAT32, report.control_acceptance)
    if report is not None and report.same_text is not None:
        values["same_text"] = (KVType.BOOL, report.same_text)
    names = {key.rpartition(".")[2]: key for key in TRAINED}
    return [
        KV.make(names[name], kind, value, KVType.FLOAT32) if kind is KVType.ARRAY else KV.make(names[name], kind, value)
        for name, (kind, value) in values.items()
    ]


def _length(run: JudgedRun | None, n_max: int) -> DraftedRuns | None:
    return None if run is None else next((each for each in run.drafted if each.n_max == n_max), None)
