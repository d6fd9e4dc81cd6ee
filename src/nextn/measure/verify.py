"""Verify: on files, on the real engine, and with a control that must fail."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..block import block_layers, layer_of
from ..errors import NoBlock, UsageError
from ..gguf.files import Model, open_model
from ..sources.ranges import Reader
from .control import make_control
from .file_check import FileReport, check_files

if TYPE_CHECKING:
    from ..engines.base import Engine
    from .engine_check import EngineReport

PASSED, FAILED, CANNOT_TELL = "passed", "failed", "cannot_tell"
Say = Callable[[str], None]
MANY_PROBLEMS = 3


@dataclass(frozen=True)
class Verdict:
    """What verifying showed."""

    model: Path
    sidecar: Path | None
    trunk: Path | None
    verdict: str  # "passed", "failed" or "cannot_tell"
    reasons: tuple[str, ...]  # one sentence each
    files: FileReport
    engine: EngineReport | None
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """JSON as in the schema of verify."""
        seen = self.engine.to_json() if self.engine is not None else {}
        return {
            "same_text": None,
            "acceptance": {},
            "control": None,
            "divergences": [],
            **seen,
            "version": 1,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "model": str(self.model),
            "sidecar": None if self.sidecar is None else str(self.sidecar),
            "trunk": None if self.trunk is None else str(self.trunk),
            "files": self.files.to_json(),
        }


def verify(
    model: str | Path,
    *,
    sidecar: str | Path | None = None,
    trunk: str | Path | None = None,
    llama_server: str | Path | None = None,
    engine: Engine | None = None,
    prompts: Sequence[str] | None = None,
    n_predict: int = 64,
    n_ctx: int | None = None,
    threads: int | None = None,
    engine_args: Sequence[str] = (),
    progress: Say | None = None,
) -> Verdict:
    """Prove a model with its block: files against `trunk`, drafts and text on the engine, control included.

    The engine is `engine`, or the server binary `llama_server`, or xllamacpp. Raises NoBlock when there is
    nothing to verify, EngineMissing without an engine, and what opening files raises. A model that the engine
    refuses is no exception but a failed verdict.
    """
    say = progress or (lambda text: None)
    opened = open_model(model)
    beside = None if sidecar is None else open_model(sidecar)
    original = None if trunk is None else open_model(trunk)
    beside, notes = _choose_sidecar(opened, beside, original)
    say("comparing files")
    files = _files(opened, beside, original)
    if files.problems:
        reasons = _summary(files)
        return Verdict(opened.entry, _entry(beside), _entry(original), FAILED, reasons, files, None, notes)
    if engine is None:
        from ..engines import find_engine

        engine = find_engine(None if llama_server is None else str(llama_server))
    report = _on_engine(engine, opened, beside, prompts, n_predict, n_ctx, threads, engine_args, say)
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


def _summary(files: FileReport) -> tuple[str, ...]:
    """The problems, or what they have in common when there are many; all of them stand in the report on files."""
    if len(files.problems) <= MANY_PROBLEMS:
        return tuple(files.problems)
    return (
        f"{len(files.problems)} differences from the original, of {files.n_tensors} tensors compared: "
        "is this the model it was made from?",
        *files.problems[:MANY_PROBLEMS],
    )


def _entry(model: Model | None) -> Path | None:
    return None if model is None else model.entry


def _choose_sidecar(
    model: Model, beside: Model | None, original: Model | None
) -> tuple[Model | None, tuple[str, ...]]:
    """The sidecar to draft with, and what the user should know of the choice."""
    names = list(model.tensors)
    layers = block_layers(names)
    if layers and not any(layer_of(name) == 0 for name in names):
        raise UsageError(
            f"{model.entry}: this is a sidecar or donor file; verify its trunk, with --sidecar naming this file."
        )
    if beside is not None:
        if not block_layers(list(beside.tensors)):
            raise NoBlock(f"{beside.entry}: there is no MTP block in this sidecar.")
        if layers:
            return beside, ("the model has a block of its own; the sidecar's is the one that is verified",)
        return beside, ()
    if layers:
        return None, ()
    from ..inspection import inspect

    found = inspect(model.entry).sidecars
    if len(found) == 1:
        return open_model(found[0]), (f"the sidecar {found[0].name} lies beside the model and was taken",)
    if found:
        several = ", ".join(path.name for path in found)
        raise UsageError(f"{model.entry}: {len(found)} sidecars lie beside it ({several}); name one with --sidecar.")
    if original is not None:
        return None, ("there is no block: only files were compared and the text without MTP was tried",)
    raise NoBlock(f"{model.entry}: there is no MTP block to verify; name its sidecar with --sidecar.")


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
    model: Model,
    beside: Model | None,
    prompts: Sequence[str] | None,
    n_predict: int,
    n_ctx: int | None,
    threads: int | None,
    engine_args: Sequence[str],
    say: Say,
) -> EngineReport:
    from .engine_check import check_on_engine

    sidecar = _entry(beside)
    has_block = bool(block_layers(list(model.tensors))) or sidecar is not None

    def control(folder: Path) -> tuple[Path, Path | None]:
        return make_control(model, sidecar, folder, takes_sidecar=engine.name != "ik_llama.cpp")

    with tempfile.TemporaryDirectory(prefix="nextn-verify-") as scratch:
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
            scratch=Path(scratch),
            progress=say,
        )
