"""The steps of `nextn up`, one method each: what exists and is right is kept, the rest is done or planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from ..archs import FAMILIES
from ..block.anatomy import Anatomy
from ..discovery.model_names import earlier_download
from ..discovery.sidecars import find_sidecars
from ..donors.infer import Doubt
from ..errors import (
    EXIT_CANNOT_TELL,
    EXIT_FAILED,
    DonorMismatch,
    EngineMissing,
    FormatError,
    NextnError,
    NoBlock,
    NoConnection,
    OutputExists,
    UnsupportedModel,
)
from ..gguf.files import Model, open_sound
from ..layouts.attach import searched_layout
from ..measure.made_from import made_before, made_in_the_way
from ..measure.target import open_target
from ..measure.worth_store import kept_answer
from ..progress import Progress, Say
from ..remote.address import HubSource
from ..schemas.up import StepTaken
from ..shell import shell
from ..units import duration, size
from . import up_estimates as estimates
from .up_programs import IK, LLAMA_CPP, TITLES, needs_of
from .up_report import StepName, StepState, UpReport

if TYPE_CHECKING:
    from ..engines import Engine, EngineChoice
    from ..writing.result import Result

Agree = Callable[[str], None]
"""Called with a question before a step that the user may not want; raises to stop."""
_LAYOUTS = {"sidecar": "a sidecar", "bundle": "a bundle"}
BRIEF_PROMPTS, BRIEF_TOKENS = 3, 24  # of verify
BRIEF_LENGTHS = (1, 2, 3)  # that tune races


class UpSteps:
    """One run; `again`: the command that goes on after an error, given a donor if it is another one; `measures`:
    whether drafting can be faster here.
    """

    def __init__(
        self, report: UpReport, again: Callable[..., str], left: Sequence[StepName], say: Say,
        progress: Progress | None, agree: Agree, *, measures: bool,
    ) -> None:  # fmt: skip
        self.report, self.again, self.say, self.progress, self.agree = report, again, say, progress, agree
        self.left = list(left)
        self.judge: Engine | None = None  # verifies, tunes and serves
        self.out: str | Path | None = None  # where the user wants files of a model that is here
        self.measures = measures

    # -- bookkeeping --------------------------------------------------------------------------------------------------

    def _step(
        self, name: StepName, state: StepState, what: str, *, fetch: int = 0, read: int = 0, write: int = 0,
        seconds: float | None = None,
    ) -> None:  # fmt: skip
        """Note a step, which is no longer left."""
        self.report.steps.append(
            StepTaken(name, state, what, fetch, read, write, None if seconds is None else round(seconds, 3))
        )
        self.left = [each for each in self.left if each != name]

    def _saying(self, step: StepName) -> Say:
        """For messages of a step, which begin with its name."""
        return lambda text: self.say(f"{step}: {text}")

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """An error from the body says what was done, what is left, and how to go on."""
        try:
            yield
        except KeyboardInterrupt:
            self.say(f"left: {', '.join(self.left)}; to go on: {self.again()}")
            raise
        except NextnError as error:
            done = self.report.names("done", "kept")
            text = f"; done: {', '.join(done)}" if done else ""
            unfit = isinstance(error, NoBlock | DonorMismatch)  # the same command would end here again
            donor = [error.candidates[0][0]] if isinstance(error, Doubt) else ["DONOR"] * unfit
            again = "" if isinstance(error, UnsupportedModel) else f"; to go on: {self.again(*donor)}"
            text += f"; left: {', '.join(self.left)}{again}"
            if isinstance(error, FormatError):
                error.what = f"{error.what.rstrip('.')}{text}"
            else:
                error.args = (f"{str(error).rstrip('.')}{text}", *error.args[1:])
            raise

    # -- steps --------------------------------------------------------------------------------------------------------

    def get(self, source: HubSource, quant: str | None, out: str | Path | None) -> Path | None:
        """Download a model with its block if there is one; None in a dry run in which it is not here yet."""
        from .pull import pull

        folder = Path(out) if out is not None else Path(source.repo_id.rpartition("/")[2])
        variant = "mtp"
        self.say(f"looking at {source}")
        try:
            plan = pull(str(source), out=folder, variant=variant, quant=quant, dry_run=True)
        except NoConnection:
            if (here := earlier_download(folder, quant)) is None:
                raise
            self._step("get", "kept", f"{here} is here; the Hub cannot be reached")
            return here
        except NoBlock:
            variant = "plain"
            plan = pull(str(source), out=folder, variant=variant, quant=quant, dry_run=True)
        if not plan.dry_run:
            self._step("get", "kept", f"{plan.entry} is complete")
            return plan.entry
        total, missing = plan.chosen.size_bytes, plan.bytes_downloaded
        what = f"{size(missing)} of {source} into {folder}"
        short = f"{size(missing)} into {folder}"
        if self.report.dry_run:
            seconds = estimates.moving(missing, 0, missing)
            self._step("get", "planned", what, fetch=missing, write=missing, seconds=seconds)
            for name in list(self.left):
                self._step(name, "planned", "what it takes is known once the model is here")
            return None
        self.agree(f"{source}: download {short}?")
        started = perf_counter()
        with self._going_on():
            self.say(f"downloading {what}")
            made = pull(str(source), out=folder, variant=variant, quant=quant, progress=self.progress)
        self._step(
            "get", "done", f"{size(total)} of {source} in {folder}", fetch=made.bytes_downloaded,
            write=made.bytes_downloaded, seconds=perf_counter() - started,
        )  # fmt: skip
        return made.entry

    def find_engine(self, choice: EngineChoice) -> None:
        """Set `judge`; it stays None where another program runs the model, and no engine is here.

        Raises EngineMissing, EngineFailed, UsageError.
        """
        from ..engines import IkServer, find_engine
        from .serve import serving_engine

        program = self.report.program
        try:
            if program is None:
                self.judge = serving_engine(choice)
            else:
                self.judge = IkServer.find() if choice is None and program == IK else find_engine(choice)
        except EngineMissing as error:
            if program is None or choice is not None:
                words = "; nothing was attached: 'nextn up --for llama.cpp' prepares the files without an engine"
                error.args = (f"{str(error).rstrip('.')}{words if program is None else ''}", *error.args[1:])
                raise
            self.report.note(f"no engine is here to verify with: {error}")

    def block(
        self, trunk: Model, donor: str | Path | None, sidecar: str | Path | None
    ) -> tuple[Path, Path | None]:
        """Path to load and sidecar of a model that drafts; made if they are not there."""
        program, name = self.report.program, trunk.entry.name
        if Anatomy.of(trunk).has_block:
            return self._kept(trunk, f"{name} has its block", trunk.entry, None, donor)
        layout = searched_layout(trunk, None, program)
        family = FAMILIES.get(trunk.architecture)
        on_ik = family is not None and family.ik.drafts_with("sidecar")
        takes_sidecar = program in (None, LLAMA_CPP) or (program == IK and on_ik)
        if sidecar is not None and takes_sidecar:
            beside = open_target(trunk.entry, sidecar).sidecar_path
            return self._kept(trunk, f"{sidecar} is the sidecar that was named", trunk.entry, beside, donor)
        if takes_sidecar:
            found = find_sidecars(trunk)
            best = found.best()
            if best is not None:
                self.report.note(*found.notes())
                return self._kept(trunk, best.place, trunk.entry, best.path, donor)
        for made in ("bundle", "shards"):
            if (entry := made_before(trunk, made, program, self.out)) is not None:
                return self._kept(trunk, f"{entry} was made from {name}", entry, None, donor)
        named = sidecar if donor is None else donor
        source = str(named) if named is not None else self._found(trunk, layout)
        self._ask_whether_it_pays(trunk)
        return self._attached(trunk, source)

    def _kept(
        self, trunk: Model, what: str, entry: Path, sidecar: Path | None, donor: str | Path | None
    ) -> tuple[Path, Path | None]:
        self._whether_it_pays(trunk)
        self._step("attach", "kept", what)
        if donor is not None:
            self.report.note(f"{what}, so --from was not used; 'nextn attach --from' makes another")
        return entry, sidecar

    def _found(self, trunk: Model, layout: str) -> str:
        from ..discovery.donors import find

        self.say("looking for the donor")
        with self._going_on():
            found = find(trunk, layout=layout)
        self.report.note(found.why)
        if found.is_guess and not self.report.dry_run:
            self.agree(f"{found.why.rstrip('.')}: attach it?")
        return found.source

    def _whether_it_pays(self, trunk: Model) -> tuple[str, str] | None:
        """What is known or measured now of drafting on this machine: a word and a sentence; noted for the user."""
        known = kept_answer(trunk)
        if known is not None:
            self.report.note(known[1])
            return known
        if not self.measures:
            return None
        judge, seconds = self.judge, estimates.measuring(trunk.size_bytes)
        if judge is None or seconds > estimates.BRIEF_WORTH_S:
            took = duration(max(1.0, seconds))
            command = shell("nextn", "worth", trunk.entry)
            self.report.note(f"whether drafting is faster here was not measured, which takes about {took}: {command}")
            return None
        where = f"{judge.name} {judge.version}"
        if self.report.dry_run:
            what = f"whether drafting can be faster here, measured on {where}"
            self._step("worth", "planned", what, read=trunk.size_bytes, seconds=seconds)
            return None
        from .up_worth import brief_worth

        started = perf_counter()
        found = brief_worth(trunk, judge, self._saying("worth"))
        n_read = trunk.size_bytes if found.state == "done" else 0
        self._step("worth", found.state, found.what, read=n_read, seconds=perf_counter() - started)
        return None if found.word is None else (found.word, found.what)

    def _ask_whether_it_pays(self, trunk: Model) -> None:
        known = self._whether_it_pays(trunk)
        if known is not None and known[0] == "cannot_pay" and not self.report.dry_run:
            self.agree(f"{trunk.entry.name}: {known[1]}; attach a block all the same?")

    def _attached(self, trunk: Model, source: str) -> tuple[Path, Path | None]:
        from .attach import attach

        def run(*, dry: bool) -> Result:
            return attach(
                trunk.entry, source, for_engine=self.report.program, out=self.out, dry_run=dry, say=self.say,
                progress=None if dry else self.progress,
            )  # fmt: skip

        with self._going_on():
            found = run(dry=True)
            made = found.entry if found.sidecar is None else found.sidecar
            what = f"the block of {source} as {_LAYOUTS.get(found.plan.layout, found.plan.layout)}: {made}"
            if self.report.dry_run:
                fetch, read, write = found.bytes_to_download, found.bytes_read, found.bytes_written
                self.report.note(*found.plan.notes)
                self._step(
                    "attach", "planned", what, fetch=fetch, read=read, write=write,
                    seconds=estimates.moving(fetch, read, write),
                )  # fmt: skip
                return found.entry, found.sidecar
            self.say(f"attaching {what}")
            started = perf_counter()
            result = run(dry=False)
        self.report.note(*result.plan.notes)
        self._step(
            "attach", "done", what, fetch=result.bytes_downloaded, read=result.bytes_read, write=result.bytes_written,
            seconds=perf_counter() - started,
        )  # fmt: skip
        return result.entry, result.sidecar

    def detach(self, model: Model) -> Path:
        """The model without its block, for programs that refuse one."""
        from .detach import detach

        with self._going_on():
            try:
                plan = detach(model.entry, for_engine=self.report.program, out=self.out, dry_run=True)
            except OutputExists as error:
                kept = made_in_the_way(error, model)
                if kept is None:
                    raise
                self._step("detach", "kept", f"{kept} is {model.entry.name} without its block")
                return kept
            what = f"{model.entry.name} without its block: {plan.entry}"
            if self.report.dry_run:
                read, write = plan.bytes_read, plan.bytes_written
                seconds = estimates.moving(0, read, write)
                self._step("detach", "planned", what, read=read, write=write, seconds=seconds)
                return plan.entry
            started = perf_counter()
            made = detach(
                model.entry, for_engine=self.report.program, out=self.out, progress=self.progress
            )
        self._step(
            "detach", "done", what, read=made.bytes_read, write=made.bytes_written, seconds=perf_counter() - started
        )
        return made.entry

    def verify(self, entry: Path, sidecar: Path | None, n_bytes: int) -> bool:
        """Whether to go on: the files passed, now or before, or nothing speaks against them."""
        from ..measure.prompts import PROMPTS
        from ..measure.verified_store import keep_verified, verified_on
        from .verify import FAILED, PASSED, verify

        judge = self.judge
        if judge is None:
            self._step("verify", "skipped", "no engine is here to verify with")
            return True
        read = estimates.LOADS_OF_VERIFY * n_bytes
        seconds = estimates.verifying(n_bytes, BRIEF_PROMPTS * BRIEF_TOKENS)
        where = f"{judge.name} {judge.version}"
        if not entry.exists() or (sidecar is not None and not sidecar.exists()):
            self._step("verify", "planned", f"briefly, on {where}", read=read, seconds=seconds)
            return True
        model, beside = open_sound(entry), None if sidecar is None else open_sound(sidecar)
        if (day := verified_on(model, beside, judge)) is not None:
            self._step("verify", "kept", f"passed on {day} on {where}")
            return True
        if self.report.dry_run:
            self._step("verify", "planned", f"briefly, on {where}", read=read, seconds=seconds)
            return True
        started = perf_counter()
        with self._going_on():
            found = verify(
                entry, sidecar=sidecar, engine=judge, prompts=PROMPTS[:BRIEF_PROMPTS], n_predict=BRIEF_TOKENS,
                say=self._saying("verify"),
            )  # fmt: skip
        took, why = perf_counter() - started, "; ".join(found.reasons)
        seen = found.engine
        if found.verdict == PASSED:
            keep_verified(model, beside, judge)
        if found.verdict == PASSED or (found.verdict != FAILED and seen is not None and seen.n_drafted):
            passed = "passed" if found.verdict == PASSED else "cannot tell"
            self._step("verify", "done", f"{passed} on {where}: {why}", read=read, seconds=took)
            return True
        details = shell("nextn", "verify", entry, *(() if sidecar is None else ("--sidecar", sidecar)))
        if found.verdict == FAILED:
            off = shell("nextn", "serve", entry, "--n-max", 0)
            what = f"verify failed on {where} ({why})"
            more = f"'{details}' shows more, and '{off}' serves it without MTP"
        else:
            what = f"{where} did not draft with it ({why})"
            more = f"'{details}' shows more; to go on, perhaps with another --engine: {self.again()}"
        self.report.exit_code = EXIT_FAILED if found.verdict == FAILED else EXIT_CANNOT_TELL
        self._step("verify", "failed", what, read=read, seconds=took)
        rest = ", ".join(self.left)
        self.report.failed = (
            f"{entry}: {what}; done: {', '.join(self.report.names('done', 'kept'))}; left: {rest}; {more}"
        )
        for name in list(self.left):
            self._step(name, "left", "not done, since verify did not pass")
        return False

    def tune(self, entry: Path, sidecar: Path | None, tune_s: float) -> None:
        """Race a few settings, unless some were found before."""
        from .serve import tuned_path
        from .tune import tune

        judge = self.judge
        if judge is None:
            self._step("tune", "skipped", "no engine is here to tune on")
            return
        if entry.exists() and (known := tuned_path(open_sound(entry))).is_file():
            self._step("tune", "kept", f"settings are in {known}")
            return
        if self.report.dry_run:
            self._step("tune", "planned", f"races n_max {', '.join(map(str, BRIEF_LENGTHS))}", seconds=tune_s)
            return
        started = perf_counter()
        with self._going_on():
            found = tune(
                entry, sidecar=sidecar, n_max=BRIEF_LENGTHS, p_min=(), types=(), head_types=(), embd_types=(),
                budget_s=tune_s, patience_s=tune_s, engine=judge, say=self._saying("tune"),
            )  # fmt: skip
        self._step("tune", "done", found.sentence, seconds=perf_counter() - started)

    def serve(
        self, entry: Path, sidecar: Path | None, named: str | Path | None, engine_args: Sequence[str], host: str,
        port: int, n_bytes: int,
    ) -> None:  # fmt: skip
        """Prepare the server, which `serving.run()` starts; `named`: the sidecar that the user named."""
        from .serve import serve

        judge = self.judge
        assert judge is not None
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        self.report.address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
        what, seconds = f"{judge.name} {judge.version} on {self.report.address}", estimates.loading(n_bytes)
        if not entry.exists() or (sidecar is not None and not sidecar.exists()):
            self._step("serve", "planned", what, read=n_bytes, seconds=seconds)
            return
        with self._going_on():
            serving = serve(entry, sidecar=named, engine=judge, engine_args=engine_args, host=host, port=port)
        self.report.serving = serving
        self.report.note(*serving.notes)
        self._step("serve", "planned", what, read=n_bytes, seconds=seconds)

    def hand_over(self, entry: Path, sidecar: Path | None, name: str, known: str | None = None) -> None:
        """What the program needs; `known`: what ollama calls the model already."""
        assert self.report.program is not None
        self.report.needs = needs_of(self.report.program, entry, sidecar, name, known)
        state: StepState = "planned" if self.report.dry_run else "done"
        self._step("hand over", state, f"what {TITLES[self.report.program]} needs is below")
