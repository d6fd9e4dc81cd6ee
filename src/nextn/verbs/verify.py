"""Verify: on files, on the real engine, and with a control that must fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from ..block.anatomy import Anatomy
from ..gguf.files import Model, open_sound
from ..measure.control import make_control
from ..measure.file_check import FileReport, check_files
from ..measure.target import MeasuredModel, open_target
from ..progress import Say, heard
from ..schemas.base import Documented, filled
from ..schemas.verify import VerifyDocument
from ..sources.ranges import Reader
from ..writing.scratch import scratch_folder

if TYPE_CHECKING:
    from ..engines import EngineChoice
    from ..engines.base import Engine
    from ..measure.engine_check import EngineReport

PASSED, FAILED, CANNOT_TELL = "passed", "failed", "cannot_tell"
MANY_PROBLEMS = 3


@dataclass(frozen=True)
class Verdict(Documented):
    """What verifying showed."""

    model: Path
    sidecar: Path | None
    trunk: Path | None
    verdict: str  # "passed", "failed" or "cannot_tell"
    reasons: tuple[str, ...]  # one sentence each
    files: FileReport
    engine: EngineReport | None
    notes: tuple[str, ...] = field(default=())

    @property
    def document(self) -> VerifyDocument:
        """What --json prints."""
        if self.engine is not None:
            seen = self.engine.documented
        else:
            seen = {"same_text": None, "acceptance": {}, "control": None, "divergences": [], "engine": UNSET}
        return filled(VerifyDocument, self, **{**seen, "verdict": self.verdict, "reasons": self.reasons})


def verify(
    model: str | Path,
    *,
    sidecar: str | Path | None = None,
    trunk: str | Path | None = None,
    engine: EngineChoice = None,
    prompts: Sequence[str] | None = None,
    n_predict: int = 64,
    n_ctx: int | None = None,
    threads: int | None = None,
    engine_args: Sequence[str] = (),
    slots: int = 1,
    say: Say | None = None,
) -> Verdict:
    """Prove a model with its block: files against `trunk`, drafts and text on the engine, including a control.

    `engine`: "xllamacpp" (default), "llama-server", "ik", the path of a llama-server, or an open `Engine`. `say` is
    called for each step. `slots`: prompts that are answered at the same time with MTP. A model that the engine refuses
    only with MTP is a failed verdict, not an exception; an engine that dies, or that refuses it without MTP too, leaves
    the verdict open.

    Raises NoBlock if there is nothing to verify, EngineMissing without an engine, and what opening files raises.
    """
    say = heard(say)
    original = None if trunk is None else open_sound(trunk)
    target = open_target(model, sidecar, needs_block=original is None)
    opened, beside, notes = target.model, target.sidecar, target.notes
    if not target.has_block:
        notes = (*notes, "there is no block: only files were compared, and text was generated without MTP")
    say("comparing files")
    files = _files(opened, beside, original)
    if files.problems:
        reasons = _summary(files)
        return Verdict(opened.entry, _entry(beside), _entry(original), FAILED, reasons, files, None, notes)
    from ..engines import find_engine

    report = _on_engine(find_engine(engine), target, prompts, n_predict, n_ctx, threads, engine_args, slots, say)
    if report.verdict == CANNOT_TELL and report.same_text is None and report.n_drafted:
        report.reasons[:0] = _why_only_with_mtp(opened)
    return Verdict(
        opened.entry,
        _entry(beside),
        _entry(original),
        report.verdict,
        tuple(report.reasons),
        files,
        report,
        notes,
    )


def _why_only_with_mtp(model: Model) -> list[str]:
    """Why an engine that drafts with a model does not run it without MTP, and what to do; empty: that is not known."""
    from ..diagnosis.blocks import check_factors

    return [
        f"{model.entry}: there is no text to compare with, since without MTP llama.cpp refuses this model for the "
        f"NVFP4 factors beside its block's matrices (from '{found.where}' on); verify another copy: {found.mend}"
        for found in check_factors(Anatomy.of(model))
    ]


def _summary(files: FileReport) -> tuple[str, ...]:
    """The problems, or what they have in common if there are many; the file report lists them all."""
    if len(files.problems) <= MANY_PROBLEMS:
        return tuple(files.problems)
    return (
        f"{len(files.problems)} differences from the original, of {files.n_tensors} tensors compared: "
        "is this the model it was made from?",
        *files.problems[:MANY_PROBLEMS],
    )


def _entry(model: Model | None) -> Path | None:
    return None if model is None else model.entry


def _files(model: Model, beside: Model | None, original: Model | None) -> FileReport:
    with Reader() as reader:
        files = check_files(model, original, reader)
        if beside is not None:
            own = check_files(beside, None, reader)
            files.n_hashed += own.n_hashed
            files.problems += [f"sidecar: {problem}" for problem in own.problems]
    return files


def _on_engine(
    engine: Engine,
    target: MeasuredModel,
    prompts: Sequence[str] | None,
    n_predict: int,
    n_ctx: int | None,
    threads: int | None,
    engine_args: Sequence[str],
    slots: int,
    say: Say,
) -> EngineReport:
    from ..measure.engine_check import check_on_engine

    model, sidecar, has_block = target.model, target.sidecar_path, target.has_block

    def control(folder: Path) -> tuple[Path, Path | None]:
        return make_control(model, sidecar, folder, takes_sidecar=engine.name != "ik_llama.cpp")

    with scratch_folder("verify") as scratch:
        return check_on_engine(
            engine,
            model.entry,
            sidecar,
            control=control if has_block else None,
            prompts=prompts,
            n_predict=n_predict,
            n_max=(1, 2, 3) if has_block else (),
            n_ctx=n_ctx,
            threads=threads,
            extra_args=tuple(engine_args),
            scratch=scratch,
            say=say,
            slots=slots,
        )
