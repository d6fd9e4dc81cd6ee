"""Doctor: all fixes as one plan, whose outcome is diagnosed before a byte is written, and again once it is written.

The original is never touched: a set gets a new first shard and links, a single file a copy made by the kernel
(a clone where the file system supports it).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..block.anatomy import Anatomy
from ..block.from_gguf import block_from_model
from ..block.model import Block
from ..diagnosis.examine import HALVES, Diagnosis, check_source, diagnose, examine
from ..diagnosis.finding import Finding
from ..diagnosis.fix_plan import plan_fixed
from ..diagnosis.patient import Patient
from ..errors import EngineFailed, NextnError, UsageError
from ..gguf.files import Model, open_model, open_sound
from ..gguf.known import ARCHITECTURE
from ..gguf.types import parse_type_name
from ..printable import printable
from ..progress import Progress, Say
from ..remote.address import parse_source
from ..schemas.base import Documented, filled
from ..schemas.doctor import DoctorDocument, Mended, SkippedCheck
from ..shell import Command
from ..sources.checkpoint import CONFIG
from ..writing.execute import Outcome, check_outputs, execute
from ..writing.plan import LinkMode, Plan

if TYPE_CHECKING:
    from ..donors.open_donor import OpenDonor


@dataclass(frozen=True)
class DoctorResult(Documented):
    """A diagnosis, and what was done about it."""

    before: Diagnosis
    plan: Plan | None = None  # None: nothing was asked for, or nothing can be fixed
    outcome: Outcome | None = None  # None: a dry run, or nothing to do
    after: Diagnosis | None = None  # of what was written, or in a dry run would be
    engine_died: bool = False  # while it was asked; the diagnosis lacks its answer, and a note says of what it died

    @property
    def remaining(self) -> tuple[Finding, ...]:
        """Problems that remain."""
        return (self.after or self.before).problems

    @property
    def when_unprinted(self) -> str:
        """Whether the files were written."""
        if self.plan is None or self.outcome is None:
            return "nothing was written"
        return f"the files are complete, load {self.plan.sidecar or self.plan.entry}"

    @property
    def document(self) -> DoctorDocument:
        """What --json prints."""
        done, before = self.outcome, self.before
        mended = None
        if self.plan is not None and self.after is not None:
            mended = filled(
                Mended,
                self.plan,
                dry_run=done is None,
                files=self.plan.written_files,
                links=done.links if done else {},
                wall_s=done.wall_s if done else 0.0,
                remaining=[finding.entry for finding in self.after.problems],
            )
        return filled(
            DoctorDocument,
            before,
            path=before.name,
            architecture=None if before.architecture is None else printable(before.architecture),
            findings=[finding.entry for finding in before.findings],
            skipped=[SkippedCheck(check, why) for check, why in before.skipped],
            mended=mended,
        )



def doctor(
    model: str | Path,
    *,
    fix: bool = False,
    donor: str | Path | None = None,
    trunk: str | Path | None = None,
    engine: str | None = None,
    threads: int | None = None,
    out: Path | str | None = None,
    link: str | LinkMode = LinkMode.AUTO,
    limit_rate: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> DoctorResult:
    """Say what is wrong with a model, and with `fix` write a fixed one beside it.

    `model`: a GGUF, any shard, a folder, a checkpoint; or a remote one, of which only headers are fetched. `donor`: as
    in `nextn.attach`; it supplies what the model itself does not show, and completes a partly lost block. `trunk`: the
    model that a sidecar belongs to. `engine`: an engine ("xllamacpp", or the path of a llama-server) that tests
    whether the halves of `eh_proj` are swapped. The original is never changed.

    Raises UsageError (`fix` with a remote model), what opening and attaching raise, and OutputExists, NoSpace,
    StorageError.
    """
    from ..writing.result import link_mode

    mode = link_mode(link)
    if fix:
        check_source(model)
    with ExitStack() as stack:
        source = None if donor is None else stack.enter_context(_opened(donor, model, limit_rate))
        block = None if source is None else source.block
        target = None if trunk is None else open_sound(Path(trunk))
        before = _with_sidecars(examine(model, donor=block, trunk=target, limit_rate=limit_rate))
        if source is not None and source.remote is not None:
            before = _with_address(before, source.block.origin, str(donor))
        died = False
        if engine is not None:
            try:
                before = _tried(before, target, engine, threads, say)
            except EngineFailed as error:
                before, died = replace(before, notes=(*before.notes, str(error))), True
        if not fix or before.model is None or not before.fixable:
            return DoctorResult(before, engine_died=died)
        plan, after = _planned(before, block, target, out, mode)
        check_outputs(plan, tidy=not dry_run)
        if dry_run:
            return DoctorResult(before, plan, None, after, died)
        if source is not None and source.remote is not None:
            source.remote.fetch(plan.ranges, progress)
        outcome = execute(plan, progress=progress)
    return DoctorResult(before, plan, outcome, examine(plan.sidecar or plan.entry, trunk=target), died)


@contextmanager
def _opened(donor: str | Path, model: str | Path, limit_rate: float | None) -> Iterator[OpenDonor]:
    """The donor; where the model is here, it may leave out what the model tells, and hold only what that has lost."""
    from ..donors.open_donor import open_block

    place = parse_source(model)
    patient = None
    with suppress(NextnError):  # `examine` says what is wrong with it
        if isinstance(place, Path) and not os.path.exists(place / CONFIG):  # noqa: PTH110 - Path.exists may raise
            patient = open_model(place)
    if patient is None or ARCHITECTURE not in patient.header.by_key:
        with open_block(donor, limit_rate) as source:
            yield source
        return
    seen = Anatomy.of(patient)
    lacking = (*seen.could_be_blocks, *seen.unmarked, *seen.all_blocks)
    with open_block(donor, limit_rate, trunk=patient, mending=lacking) as source:
        yield source


def _with_address(before: Diagnosis, place: Path, address: str) -> Diagnosis:
    """The diagnosis with a remote donor's address instead of its path in the cache, which is not a usable donor."""
    own = os.fspath(place)

    def named(command: Command) -> Command:
        return command.mapped(lambda word: address if word == own else word)

    findings = tuple(each.advised(lambda advice: advice.with_commands(named)) for each in before.findings)
    return replace(before, findings=findings)


def _with_sidecars(before: Diagnosis) -> Diagnosis:
    """The diagnosis, with a note on the sidecars of a model that has no block of its own."""
    from ..discovery.sidecars import find_sidecars, with_sidecars

    if before.model is None or before.remote or before.shape != "trunk-only":
        return before
    answer = find_sidecars(before.model)
    return replace(with_sidecars(before, answer), notes=(*before.notes, *answer.hints()))


def _tried(
    before: Diagnosis, trunk: Model | None, engine: str, threads: int | None, say: Say | None
) -> Diagnosis:
    """The diagnosis, with an engine's verdict on eh_proj."""
    from ..measure.swapped_halves import try_halves

    if before.model is None or before.remote:
        raise UsageError(f"{before.name}: --engine needs a complete local model; get it first, or leave out --engine.")
    found, words = try_halves(
        Anatomy.of(before.model), None if trunk is None else trunk.entry, engine=engine, threads=threads, say=say
    )
    known = {finding.id for finding in before.findings}
    return replace(
        before,
        findings=(*(each for each in found if each.id not in known), *before.findings),
        skipped=tuple(each for each in before.skipped if each[0] != HALVES),
        notes=(*before.notes, words),
    )


def _planned(
    before: Diagnosis, donor: Block | None, trunk: Model | None, out: Path | str | None, link: LinkMode
) -> tuple[Plan, Diagnosis]:
    """What to write, and its diagnosis by headers."""
    from ..layouts.attach import plan_attach
    from ..layouts.options import AttachOptions

    model = before.model
    assert model is not None
    roots = before.shape == "sidecar" and trunk is not None
    attaching = any(finding.attaches for finding in before.fixable) and (roots or donor is not None)
    patient, done = Patient(model), []
    for finding in before.fixable:
        assert finding.change is not None
        changed = finding.change(patient)
        if attaching and not _attachable(model, changed):
            continue  # left for a second --fix, run on what this one writes
        patient = changed
        done.append(finding)
    if attaching and roots and trunk is not None:
        options = AttachOptions(
            "sidecar", embd_type=parse_type_name("q4_0"), out=out or _beside(model, patient), link=link
        )
        return plan_attach(trunk, block_from_model(patient.model), options), _without(before, done)
    if attaching and donor is not None:
        layout = "shards" if len(model.files) > 1 else "bundle"
        plan = plan_attach(patient.model, donor, AttachOptions(layout, out=out, link=link))
        return plan, _without(before, done)
    plan = plan_fixed(model, patient, out, link)
    if patient.added:  # the headers in memory do not include these
        return plan, _without(before, done)
    return plan, diagnose(patient.model, name=str(plan.entry), trunk=trunk, beside=False)


def _attachable(model: Model, patient: Patient) -> bool:
    """Whether attaching keeps the changes: it reads data from the original files and links all shards but the first."""
    pairs = zip(model.files[1:], patient.model.files[1:], strict=True)
    return not patient.replaced and not patient.added and all(old.header == new.header for old, new in pairs)


def _beside(model: Model, patient: Patient) -> Path:
    """A path for the sidecar that replaces another one."""
    folder = model.entry.parent if patient.folder is None else Path(patient.folder)
    return folder / f"{patient.base_name or model.entry.name.removesuffix('.gguf') + '-fixed'}.gguf"


def _without(before: Diagnosis, done: list[Finding]) -> Diagnosis:
    return replace(before, findings=tuple(each for each in before.findings if each not in done))
