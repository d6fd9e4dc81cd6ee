"""The engine as the judge of eh_proj: the block as it is against the block with its halves swapped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..block.anatomy import Anatomy
from ..block.from_gguf import block_from_model
from ..block.model import EH_PROJ
from ..diagnosis.finding import Finding
from ..diagnosis.fix_plan import plan_fixed
from ..diagnosis.halves import swapped_finding, swapped_segments
from ..diagnosis.patient import Patient
from ..errors import EngineFailed, EngineRefused
from ..gguf.files import open_model
from ..layouts.extract import plan_extract
from ..layouts.options import ExtractOptions
from ..progress import Say, heard
from ..writing.execute import execute
from ..writing.scratch import scratch_folder
from .engine_check import overall_acceptance
from .prompts import PROMPTS

if TYPE_CHECKING:
    from ..engines.base import Engine

N_PREDICT = 32
LEAST_ACCEPTED = 0.15  # by the swapped block, for it to be called the right one
RATIO = 3.0  # and at least this many times the acceptance of the block as it is
LEAST_DRAFTED = 16


def try_halves(
    seen: Anatomy,
    trunk: Path | None = None,
    *,
    engine: str | None = None,
    threads: int | None = None,
    say: Say | None = None,
) -> tuple[list[Finding], str]:
    """Findings, and what was observed, as one sentence.

    `trunk` is the model that a sidecar belongs to. Both trials draft one token at a time, from sidecars in a temporary
    folder: a bundled model's block is extracted, so that llama.cpp uses the sidecar. Raises EngineMissing, NoSpace, and
    EngineFailed when a signal kills the engine.
    """
    from ..engines import find_engine

    model = seen.model
    target = model.entry if seen.has_trunk else trunk
    if not seen.whole_blocks or len(seen.blocks) != 1 or target is None:
        return [], "the engine was not asked: a trunk and one complete block are needed (name a sidecar's with --trunk)"
    layer = seen.blocks[0]
    name = f"blk.{layer}.{EH_PROJ}"
    segments = swapped_segments(*model.tensors[name])
    if segments is None:
        return [], f"the engine was not asked: the halves of '{name}' cannot be swapped in its type"
    judge = find_engine(engine)
    tell = heard(say)
    with scratch_folder("doctor") as folder:
        as_it_is = model.entry
        if seen.has_trunk:
            plan = plan_extract(block_from_model(model), ExtractOptions(out=folder / "mtp-as-it-is.gguf"))
            execute(plan)
            as_it_is = folder / "mtp-as-it-is.gguf"
        sidecar = open_model(as_it_is)
        file, info = sidecar.tensors[name]
        patient = Patient(sidecar).with_bytes(name, swapped_segments(file, info) or ())
        crossed = folder / "mtp-swapped.gguf"
        execute(plan_fixed(sidecar, patient, crossed))
        shares = []
        for what, path in (("as it is", as_it_is), ("with its halves swapped", crossed)):
            tell(f"drafting with eh_proj {what}")
            try:
                shares.append(_acceptance(judge, target, path, threads))
            except EngineRefused as error:
                if isinstance(error, EngineFailed) and error.signal is not None:
                    raise
                return [], f"the engine was asked and did not draft: {error.line or error}"
    plain, other = shares
    if plain is None or other is None:
        return [], "the engine drafted too little to tell"
    words = f"the engine accepts {100 * plain:.0f} % of the drafts as it is and {100 * other:.0f} % with them swapped"
    if other >= LEAST_ACCEPTED and other >= RATIO * plain:
        of_trunk = () if trunk is None else ("--trunk", trunk)
        return [swapped_finding(seen, layer, words, "--engine", engine or "xllamacpp", *of_trunk)], words
    return [], words


def _acceptance(engine: Engine, model: Path, sidecar: Path, threads: int | None) -> float | None:
    from ..engines.base import Launch

    with engine.start(Launch(model, sidecar, 1, 1024, threads, ())) as running:
        answers = [running.complete(prompt, N_PREDICT) for prompt in PROMPTS]
    if sum(answer.draft_n for answer in answers) < LEAST_DRAFTED:
        return None
    rates = overall_acceptance(answers)
    return rates[0] if rates else None
