"""`nextn bench --by-tensor`: acceptance with each tensor of the block in each type, all others as they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputExists, QuantizeError, UsageError
from ..ggml.quantize import check_writable
from ..gguf.files import Model, open_model
from ..gguf.types import parse_type_name
from ..layouts.retyped import matrices, plan_retyped
from ..measure.bench_setup import context_for
from ..measure.control import check_room
from ..measure.engine_check import overall_acceptance
from ..measure.target import MeasuredModel, open_target
from ..measure.tasks import read_task, shipped_tasks
from ..measure.tensor_log import TensorLog, table
from ..measure.typed_sidecar import write_sidecar
from ..progress import Say, heard
from ..schemas.base import Documented, EngineName
from ..schemas.tensors import TensorRun, TensorsDocument, TensorSettings
from ..writing.durable import write_file
from ..writing.execute import execute
from ..writing.scratch import scratch_folder

if TYPE_CHECKING:
    from ..engines import EngineChoice
    from ..engines.base import Engine

LOG_SUFFIX = ".runs.jsonl"
LOSS = "_loss"


@dataclass(frozen=True)
class TensorReport(Documented):
    """Acceptance by tensor and type."""

    settings: TensorSettings
    out: Path
    base: TensorRun
    runs: Sequence[TensorRun]
    n_resumed: int
    notes: Sequence[str]

    @property
    def loss_path(self) -> Path:
        """The table of what acceptance loses."""
        return loss_path(self.out)

    @property
    def when_unprinted(self) -> str:
        """What was written."""
        return f"{self.out} is complete"

    @property
    def document(self) -> TensorsDocument:
        """What --json prints."""
        return TensorsDocument(
            settings=self.settings, table=str(self.out), loss_table=str(self.loss_path), base=self.base,
            runs=list(self.runs), n_resumed=self.n_resumed, notes=list(self.notes),
        )  # fmt: skip


def loss_path(out: Path) -> Path:
    """The second table's path."""
    return out.with_name(f"{out.stem}{LOSS}{out.suffix}")


def log_path(out: Path) -> Path:
    """The path of the runs from which a call that was stopped goes on."""
    return out.with_name(f"{out.name}{LOG_SUFFIX}")


def bench_tensors(
    model: str | Path,
    *,
    types: Sequence[str],
    out: str | Path,
    sidecar: str | Path | None = None,
    donor: str | Path | None = None,
    n_max: int = 2,
    tasks: Sequence[str] | None = None,
    prompts: str | Path | None = None,
    n_predict: int = 96,
    threads: int | None = None,
    engine: EngineChoice = None,
    engine_args: Sequence[str] = (),
    n_ctx: int | None = None,
    say: Say | None = None,
) -> TensorReport:
    """Measure acceptance with each matrix of the block in each of `types`, the others as they are in MODEL or `donor`.

    Greedy, so that every run drafts for the same text. `out` gets a table of acceptance with a row per type and a
    column per tensor; a second one beside it has the loss against the block as it is. Runs are noted beside it as they
    are made, and a call that was stopped goes on there. A draft that is a model of its own is measured in the same way.

    Raises OutputExists, UsageError, NoBlock, EngineMissing, EngineRefused, EngineFailed, QuantizeError, NoSpace, and
    what opening and making files raises.
    """
    from ..engines import find_engine

    say, out = heard(say), Path(out)
    for path in (out, loss_path(out)):
        if os.path.lexists(path):
            raise OutputExists(f"{path}: this file already exists; choose another name for --by-tensor.")
    if not types:
        raise UsageError("--by-tensor needs the types to compare: name them with --types.")
    if n_max < 1:
        raise UsageError(f"n_max is {n_max}; --by-tensor drafts at least 1 token at a time.")
    kinds = {kind.name: kind for kind in map(parse_type_name, types)}
    for kind in kinds.values():
        check_writable(kind)
    wanted = list(kinds)
    asked = (read_task(prompts),) if prompts is not None else shipped_tasks(tasks)
    questions = [prompt for task in asked for prompt in task.prompts]
    target = open_target(model, sidecar, needs_block=donor is None)
    judge = find_engine(engine)
    context = n_ctx or context_for(asked, n_predict)
    notes = list(target.notes) if donor is None else []  # they are about the sidecar, which the donor's replaces
    with scratch_folder("bench") as folder:
        base_file = _base_file(target, donor, folder)
        base = open_model(base_file)
        names = matrices(base)
        if not names:
            raise UsageError(f"{base_file}: there is no matrix in the block whose type could be changed.")
        settings = TensorSettings(
            model=str(target.model.entry), sidecar=_sha256(base_file), engine=EngineName(judge.name, judge.version),
            types=wanted, tensors=names, n_max=n_max, n_predict=n_predict, n_prompts=len(questions),
            prompts=hashlib.sha256("\0".join(questions).encode()).hexdigest(), n_ctx=context, threads=threads,
            engine_args=list(engine_args),
        )  # fmt: skip
        log = TensorLog(log_path(out), settings)
        n_resumed = len(log.runs)
        run = _Runs(judge, target.model, settings, questions)
        if log.find(None, None) is None:
            say("the block as it is")
            of_base = "+".join(sorted({base.tensors[name][1].type_name for name in names}))
            sizes = sum(file.stored_size(info) for file, info in map(base.tensors.__getitem__, names))
            log.add(run.measured(base_file, None, of_base, sizes))
        todo = [(name, title) for title in wanted for name in names]
        for number, (name, title) in enumerate(todo, start=1):
            if log.find(name, title) is not None:
                continue
            say(f"{number} of {len(todo)}: {name} as {title}")
            changed = folder / "changed.gguf"
            try:
                plan = plan_retyped(base, name, kinds[title], changed)
            except QuantizeError as error:
                notes.append(str(error))
                continue
            check_room(plan.folder, plan.bytes_written, "a temporary sidecar")
            execute(plan)
            try:
                file, info = open_model(changed).tensors[name]
                log.add(run.measured(changed, name, title, file.stored_size(info)))
            finally:
                changed.unlink()
    first = log.find(None, None)
    assert first is not None
    runs = [one for one in log.runs if one.tensor is not None]
    write_file(out, table(settings, first, runs, loss=False).encode())
    write_file(loss_path(out), table(settings, first, runs, loss=True).encode())
    return TensorReport(settings, out, first, runs, n_resumed, notes)


def _base_file(target: MeasuredModel, donor: str | Path | None, folder: Path) -> Path:
    """A single file with the block as it is: the model's sidecar, or a temporary one."""
    if donor is None and target.sidecar_path is not None:
        return target.sidecar_path
    source = target.block_origin if donor is None else donor
    return write_sidecar(target.model, source, folder / "base.gguf", type=None, embd_type=None, scratch=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(4 << 20):
            digest.update(data)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Runs:
    """Asks an engine with one sidecar after the other."""

    engine: Engine
    model: Model
    settings: TensorSettings
    questions: Sequence[str]

    def measured(self, sidecar: Path, tensor: str | None, kind: str, size_bytes: int) -> TensorRun:
        """All prompts with this sidecar. Raises EngineRefused, EngineFailed."""
        from ..engines.base import Launch

        asked = self.settings
        launch = Launch(
            self.model.entry, sidecar, asked.n_max, asked.n_ctx, asked.threads, tuple(asked.engine_args)
        )
        with self.engine.start(launch) as running:
            answers = [running.complete(prompt, asked.n_predict) for prompt in self.questions]
        drafted = sum(answer.draft_n for answer in answers)
        accepted = sum(answer.draft_n_accepted for answer in answers)
        return TensorRun(
            tensor=tensor, type=kind, size_bytes=size_bytes, drafted=drafted, accepted=accepted,
            acceptance=accepted / drafted if drafted else None, by_position=overall_acceptance(answers),
            n_tokens=sum(len(answer.tokens) for answer in answers),
        )  # fmt: skip
