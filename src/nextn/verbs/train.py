"""Train: a draft for a model, from text that the model itself writes, judged on the engine before it is written."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..engines.xllamacpp import Xllamacpp
from ..errors import NoSpace, TrainingMissing, UsageError
from ..gguf.files import Model, open_sound
from ..layouts.places import header_sha256, model_name
from ..progress import Say, heard
from ..schemas.base import Documented, EngineName, filled
from ..schemas.train import DraftSizes, FitMade, StageSeconds, StatesMade, TrainDocument
from ..schemas.written import WrittenFile
from ..shell import shell
from ..training.asked import read_asked
from ..training.before import check_donor, known_draft, made_ready, start_of
from ..training.export import check_export, export, export_taps
from ..training.judge import DraftBefore, Judgement, JudgeOptions, judge
from ..training.judging import judging_prompts
from ..training.kind import ChosenKind, choose_kind
from ..training.libraries import installing
from ..training.place import DraftPlace, draft_place, written
from ..training.prompts import own_prompts
from ..training.provenance import Training, provenance_pairs
from ..training.stages import candidates_of, fit_made, run_fit, run_states
from ..training.states import States
from ..training.work import SHARES, STAGES, Stage, Work, stage_budget
from ..training.write_states import StatesOptions
from ..units import counted, duration, size
from ..writing.scratch import scratch_folder
from ..writing.system import free_bytes

if TYPE_CHECKING:
    from ..engines import Engine, EngineChoice
    from ..training.before import KnownDraft

Outcome = Literal["planned", "stage_done", "exported", "written", "not_better"]
_SPARE_BYTES = 1 << 30  # room that states leave on the disk


@dataclass(frozen=True)
class TrainResult(Documented):
    """What was trained, or in a dry run would be."""

    trunk: Path
    chosen: ChosenKind
    before: str | None  # what drafts for the trunk already
    outcome: Outcome
    sentence: str
    work: Work
    budget_s: float
    max_disk_bytes: int
    seed: int
    stage: Stage | None = None  # the only one of this run, which may use all of the budget
    engine: EngineName | None = None
    states: StatesMade | None = None
    fit: FitMade | None = None
    judgement: Judgement | None = None
    files: tuple[WrittenFile, ...] = ()
    entry: Path | None = None  # the path to load
    sidecar: Path | None = None
    notes: tuple[str, ...] = field(default=())

    def _share(self, stage: Stage) -> float:
        return SHARES[stage] if self.stage is None else float(stage == self.stage)

    @property
    def when_unprinted(self) -> str:
        """What is there."""
        return "nothing was written" if self.entry is None else f"the draft is complete: {self.sidecar or self.entry}"

    @property
    def document(self) -> TrainDocument:
        """What --json prints."""
        known, most = self.chosen, self.max_disk_bytes
        return filled(
            TrainDocument, self,
            draft=known.kind,
            draft_why=known.why,
            work=str(self.work.folder),
            budget=StageSeconds(*(round(self._share(stage) * self.budget_s, 1) for stage in STAGES)),
            spent=self.work.spent,
            sizes=DraftSizes(
                list(known.taps), known.n_embd, known.n_vocab, known.bytes_per_token, most,
                most // known.bytes_per_token,
            ),
            judgement=None if self.judgement is None else self.judgement.document,
            files=list(self.files),
        )  # fmt: skip


def train(
    trunk: str | Path,
    *,
    kind: str = "auto",
    donor: str | Path | None = None,
    budget_s: float = 3600.0,
    work: str | Path | None = None,
    prompts: str | Path | None = None,
    chats: str | Path | None = None,
    max_disk_bytes: int = 10 * 10**9,
    stage: str | None = None,
    export: str | Path | None = None,
    layout: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    threads: int | None = None,
    engine: EngineChoice = None,
    dry_run: bool = False,
    say: Say | None = None,
) -> TrainResult:
    """Train a draft for a trunk: its own text and states, the fit, the judgement on the engine.

    `kind`: "auto" (native MTP where the engine has a graph for it, else EAGLE-3), "native" or "eagle3". `donor`: the
    block or draft to start from and to beat, as in `attach`; None: the trunk's own, or the sidecar beside it.
    `budget_s`: seconds for all stages, earlier runs in the same `work` folder included (None: NAME.train in the current
    folder). `prompts`, `chats`: files that replace the shipped prompts. `stage`: only "states", "fit" or "judge".
    `export`: a folder for what speculators trains an EAGLE-3 draft from; nothing is fitted then. `layout`: "sidecar",
    or "bundle" for a native block. Nothing is written unless the engine accepts more drafts than of what was there: the
    outcome is then "not_better".

    Raises UsageError, UnsupportedModel (no draft of this kind runs beside this architecture), TrainingMissing (without
    torch), EngineMissing, EngineRefused, EngineFailed, OutputExists, NoSpace, StorageError, and what opening files
    raises.
    """
    if stage is not None and stage not in STAGES:
        raise UsageError(f"'{stage}' is not a stage; choose {', '.join(STAGES)}.")
    if export is not None and stage is not None:
        raise UsageError(f"{trunk}: --export writes states and fits nothing, so leave out --stage.")
    if budget_s <= 0:
        raise UsageError("--budget must be longer than no time.")
    model = open_sound(trunk)
    if export is not None and kind == "native":
        raise UsageError(f"{model.entry}: --export is for EAGLE-3 drafts only; leave out --kind.")
    chosen = choose_kind(model, "eagle3" if export is not None and kind == "auto" else kind)
    if export is not None:
        check_export(Path(export))
    known = known_draft(model, donor)
    own = None if prompts is None else Path(prompts), None if chats is None else Path(chats)
    own_prompts(*own)
    place = draft_place(model, chosen.kind, layout, out)
    folder = Path(f"{model_name(model)}.train") if work is None else Path(work)
    start = None if known is None else known.name
    dry = Work(folder, model, chosen.kind, seed, start, dry_run=True)
    check_donor(known, model, chosen.kind, dry.before)
    kept = dry if dry_run else Work(folder, model, chosen.kind, seed, start, dry_run=False)
    asked = _Asked(
        model, chosen, known, place, budget_s, *own, max_disk_bytes, stage, export, seed, threads, kept, heard(say)
    )
    if dry_run:
        most = asked.disk_bytes()
        told = (
            f"would export states of {model.entry.name} to {export} within {duration(budget_s)}" if export is not None
            else f"would train {_ARTICLES[chosen.kind]} for {model.entry.name} within {duration(budget_s)}"
        )  # fmt: skip
        return asked.result("planned", f"{told}; states take up to {size(most)}", notes=place.notes)
    stages = ("states",) if export is not None else STAGES if stage is None else (stage,)
    if "fit" in stages:
        _need_torch(model)
    from ..engines import find_engine

    found = find_engine(engine)
    with scratch_folder("train") as scratch:
        return _Run(asked, found, scratch).run(stages)


_ARTICLES = {"eagle3": "an EAGLE-3 draft", "native": "an MTP block"}


def _need_torch(model: Model) -> None:
    missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainingMissing(
            f"{model.entry}: fitting a draft needs {' and '.join(missing)}, not installed here; {installing(*missing)}."
        )


@dataclass(frozen=True)
class _Asked:
    """What was asked for, checked."""

    model: Model
    chosen: ChosenKind
    known: KnownDraft | None
    place: DraftPlace
    budget_s: float
    prompts: Path | None
    chats: Path | None
    max_disk_bytes: int
    stage: Stage | None
    export: str | Path | None
    seed: int
    threads: int | None
    work: Work
    say: Say

    def disk_bytes(self) -> int:
        """The bound of the states folder: as asked, or as there is room. Raises NoSpace for less than 1,000 tokens."""
        free = free_bytes(self.work.folder.absolute()) - _SPARE_BYTES
        most = min(self.max_disk_bytes, free)
        if most < (need := 1000 * self.chosen.bytes_per_token):
            raise NoSpace(
                f"{self.work.folder}: the states of 1,000 tokens take {need:,} bytes, and {max(0, most):,} may be "
                "used; raise --max-disk, or name a folder with room by --work."
            )
        return most

    def result(self, outcome: Outcome, sentence: str, **more: object) -> TrainResult:
        """The result so far."""
        blank = TrainResult(
            self.model.entry, self.chosen, None if self.known is None else self.known.name, outcome, sentence,
            self.work, self.budget_s, self.max_disk_bytes, self.seed,
            "states" if self.export is not None else self.stage,
        )  # fmt: skip
        return replace(blank, **more)  # type: ignore[arg-type]


class _Run:
    """The stages, one after the other."""

    def __init__(self, asked: _Asked, engine: Engine, scratch: Path) -> None:
        self.asked = asked
        self.engine = engine
        self.scratch = scratch
        self.made: dict[str, object] = {"engine": EngineName(engine.name, engine.version)}
        self.notes = list(asked.place.notes)

    def result(self, outcome: Outcome, sentence: str, **more: object) -> TrainResult:
        """The result, with what the stages made."""
        return self.asked.result(outcome, sentence, notes=tuple(self.notes), **self.made, **more)

    def run(self, stages: Sequence[Stage]) -> TrainResult:
        """Those of `stages`."""
        asked, work = self.asked, self.asked.work
        alone = len(stages) == 1
        if "states" in stages:
            self.made["states"] = self._states(stage_budget(asked.budget_s, work.spent, "states", alone=alone))
        if asked.export is not None:
            return self._exported()
        before = None
        if asked.known is not None and stages != ("states",):
            before = made_ready(asked.known, asked.model, asked.chosen.kind, work.before, asked.say)
        start = None if work.starts_from_nothing else start_of(before, asked.chosen.kind)
        name = "nothing" if start is None or before is None else before.name
        if "fit" in stages:
            seconds = stage_budget(asked.budget_s, work.spent, "fit", alone=alone)
            self.made["fit"] = run_fit(
                asked.model, work, asked.chosen.kind, start, name, seconds, asked.seed, asked.threads, asked.say
            )
        if "judge" not in stages:
            following = STAGES[STAGES.index(stages[-1]) + 1]
            return self.result("stage_done", f"{stages[-1]} is done, kept in {work.folder}; next: --stage {following}")
        return self._judged(before, name)

    def _judged(self, before: DraftBefore | None, start_name: str) -> TrainResult:
        """Judge the candidates, and write the best one if it is better than what was there."""
        asked, work = self.asked, self.asked.work
        made = fit_made(work, start_name)
        self.made.setdefault("fit", made)
        seconds = stage_budget(asked.budget_s, work.spent, "judge", alone=False)
        options = JudgeOptions(before, seconds, threads=asked.threads)
        with work.timed("judge"):
            asked.say("prompts for judging")
            prompts = judging_prompts(
                asked.model, asked.prompts, asked.chats, asked.seed, self._wheel(), options.n_ctx - options.n_predict
            )
            found = judge(
                asked.model.entry, candidates_of(work, made), prompts, options, self.engine, asked.say
            )
        self.made["judgement"] = found
        if found.word != "better" or found.winner is None:
            kept = f"nothing was written; the candidates are in {work.fit}"
            return self.result("not_better", f"not better: {found.reasons[0]}; {kept}")
        pairs = provenance_pairs(self._training(made), found)
        plan = written(asked.model, found.winner.path, pairs, asked.place, self.scratch)
        work.wrote(asked.place.name)
        return self.result(
            "written", f"better: {found.reasons[0]}", files=tuple(plan.written_files),
            entry=asked.model.entry if plan.sidecar is not None else plan.entry, sidecar=plan.sidecar,
        )  # fmt: skip

    def _states(self, seconds: float) -> StatesMade:
        """Text and states, for a fit or an export."""
        asked, known = self.asked, self.asked.chosen
        taps = known.taps if asked.export is None else export_taps(known.taps, known.n_layer)
        options = StatesOptions(
            native=known.kind == "native", taps=taps or None, tokens=None, seconds=seconds, max_disk=asked.disk_bytes(),
            seed=asked.seed, prompts=asked.prompts, chats=asked.chats, threads=asked.threads, engine=self._wheel(),
        )  # fmt: skip
        return run_states(asked.model, asked.work, options, asked.say)

    def _wheel(self) -> Xllamacpp:
        """The engine whose library gives states. Raises EngineMissing."""
        return self.engine if isinstance(self.engine, Xllamacpp) else Xllamacpp.find()

    def _exported(self) -> TrainResult:
        """What speculators reads."""
        asked = self.asked
        assert asked.export is not None
        made = export(asked.model, States.open(asked.work.states), Path(asked.export), asked.say)
        told = f"exported {counted(made.n_texts, 'text')} of {made.n_tokens:,} tokens, {size(made.n_bytes)}"
        self.notes.append(f"train from it with: {shell(*made.command)}")
        self.notes.append(f"then: {shell('nextn', 'extract', 'CHECKPOINT', '--for-trunk', asked.model.entry)}")
        return self.result("exported", f"{told}: {made.folder}")

    def _training(self, made: FitMade) -> Training:
        """How the draft came about, for its header."""
        asked, states = self.asked, States.open(self.asked.work.states)
        own = [Path(path).name for path in (asked.prompts, asked.chats) if path is not None]
        shipped = "shipped and asked by itself" if read_asked(asked.work.states) else "shipped"
        text = f"its own answers to {counted(states.n_prompts('fit'), 'prompt')} ({', '.join(own) or shipped})"
        return Training(
            made.start, asked.model.entry.name, header_sha256(asked.model.files[0]), text, states.n_tokens("fit"),
            asked.seed, made.n_steps, made.n_tokens_seen,
        )  # fmt: skip
