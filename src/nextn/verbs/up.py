"""Up: from a model's name to a server that drafts, or to what another program needs, in one command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..block.anatomy import Anatomy
from ..discovery.model_names import resolve
from ..engines.ports import check_port
from ..errors import UsageError
from ..gguf.files import open_sound
from ..layouts.naming import plain_base
from ..layouts.places import model_name
from ..layouts.programs import OLLAMA
from ..progress import Progress, Say, heard
from ..shell import shell
from .serve import listening
from .up_programs import PROGRAMS
from .up_report import StepName, UpReport
from .up_steps import Agree, UpSteps

if TYPE_CHECKING:
    from ..engines import EngineChoice


def up(
    model: str | Path,
    *,
    donor: str | Path | None = None,
    sidecar: str | Path | None = None,
    quant: str | None = None,
    out: str | Path | None = None,
    for_program: str | None = None,
    worth: bool = True,
    verify: bool = True,
    tune_s: float | None = None,
    engine: EngineChoice = None,
    engine_args: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 8080,
    agree: Agree | None = None,
    starts: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> UpReport:
    """Find a model's donor, attach the block, verify briefly, tune for about `tune_s` seconds, prepare the server.

    `model`: a path, a name in LM Studio or ollama, or ORG/NAME on the Hub, of which `quant` is downloaded into the
    folder `out` (default: NAME in the current folder) unless it is on this machine; then `out` is where attach puts
    what it writes (default: as in attach). `donor`: as in attach. `sidecar`:
    the one to draft with, where several fit. `worth`: say whether drafting can be faster here, measured if that takes
    seconds; with `tune_s`, tune answers it. `for_program`: "llama.cpp", "ik", "lmstudio" or "ollama"; nothing is
    served then, and `needs` of the result says what that program needs. `engine` verifies, tunes and serves, as in
    serve. A step whose result exists and is right is kept. `agree` is called with a question before a download, where
    the donor is a guess, and where drafting was measured not to pay here; None agrees. The server starts when
    `serving.run()` of the result is called; `starts`: at once, so a port that is in use is refused first.

    Raises what the verbs of the steps raise, among them `donors.infer.Doubt`; the message says what was done, what is
    left and how to go on. A verification that does not pass is not raised: see `failed` of the result.
    """
    if for_program is not None and for_program not in PROGRAMS:
        raise UsageError(f"'{for_program}' is not a program to prepare for; choose one of {', '.join(PROGRAMS)}.")
    report, say = UpReport(str(model), for_program, dry_run), heard(say)
    last: StepName = "serve" if for_program is None else "hand over"
    left: list[StepName] = ["attach", *(["verify"] if verify else []), *(["tune"] if tune_s else []), last]  # type: ignore[list-item]

    def again(other: object = donor) -> str:
        return _again(
            model, other, sidecar, quant, out, for_program, worth, verify, tune_s, engine, engine_args, host, port
        )

    steps = UpSteps(
        report, again, left, say, progress, agree or (lambda question: None), measures=worth and tune_s is None
    )
    named = resolve(model, quant)
    if named.said is not None:
        say(f"{model}: {named.said}")
    if quant is not None and named.path is not None and named.place in ("", OLLAMA):
        report.note(f"--quant was not used: {named.path} is one model")
    for adapter in named.adapters:
        report.note(
            f"ollama applies the adapter {adapter} to {named.name}; what is served is the model without it"
        )
    path = named.path
    if path is None:
        assert named.hub is not None
        path = steps.get(named.hub, quant, out)
        if path is None:
            return report
    else:
        steps.out = out
    trunk = open_sound(path)
    seen = Anatomy.of(trunk)
    if seen.is_block_only:
        command = shell("nextn", "up", "MODEL", "--sidecar", trunk.entry)
        raise UsageError(
            f"{trunk.entry}: this file holds only an MTP block; name the model that it belongs to: {command}"
        )
    name = model_name(trunk)
    if for_program == OLLAMA:
        steps.left = ["hand over"]
        report.model = steps.detach(trunk) if seen.has_block else trunk.entry
        known = named.name if named.place == OLLAMA and report.model == trunk.entry else None
        steps.hand_over(report.model, None, name if report.model == trunk.entry else plain_base(name), known)
        return report
    if verify or tune_s or for_program is None:
        steps.find_engine(engine)
    if starts and (where := listening(host, port, engine_args)) is not None and for_program is None:
        try:
            check_port(*where)
        except UsageError as error:
            if not dry_run:
                raise
            report.note(f"it would be refused now: {error}")
    entry, beside = steps.block(trunk, donor, sidecar)
    report.model, report.sidecar = entry, beside
    if verify and not steps.verify(entry, beside, trunk.size_bytes):
        return report
    if tune_s:
        steps.tune(entry, beside, tune_s)
    if for_program is not None:
        steps.hand_over(entry, beside, name)
        return report
    steps.serve(entry, beside, sidecar, engine_args, host, port, trunk.size_bytes)
    return report


def _again(
    model: str | Path, donor: object, sidecar: object, quant: str | None, out: object, program: str | None,
    worth: bool, verify: bool, tune_s: float | None, engine: object, engine_args: Sequence[str], host: str, port: int,
) -> str:  # fmt: skip
    """The command that goes on."""
    words: list[object] = ["nextn", "up", Path(model) if str(model).startswith("-") else model]
    named = engine if isinstance(engine, str | Path) else None
    files = (("--from", donor), ("--sidecar", sidecar), ("--quant", quant), ("-o", out))
    for option, value in (*files, ("--for", program), ("--engine", named)):
        words += [] if value is None else [option, value]
    words += [] if worth else ["--no-worth"]
    words += [] if verify else ["--no-verify"]
    words += ["--tune", f"{tune_s:g}"] if tune_s else []
    words += ["--host", host] if host != "127.0.0.1" else []
    words += ["--port", port] if port != 8080 else []
    return shell(*words, *(["--", *engine_args] if engine_args else []))
