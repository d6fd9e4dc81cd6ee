"""All checks of one subject: a local model, a model of which only the headers are available, or a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..archs import FAMILIES
from ..archs.drafts import ARCHS as DRAFT_ARCHS
from ..block.anatomy import Anatomy
from ..block.model import Block
from ..brief import Brief
from ..errors import UsageError
from ..gguf.files import Model
from ..remote.address import parse_source
from ..remote.opening import http_options
from ..shell import Command
from ..sources.ranges import Reader
from .advice import Advice
from .arrays import check_arrays
from .blocks import check_blocks
from .checkpoints import check_checkpoint
from .commands import attach_command
from .counts import check_counts
from .data import check_data, check_whole
from .drafts import TABLE, check_draft
from .finding import Finding
from .halves import check_halves
from .journals import check_model
from .known import check_known
from .names import check_names
from .norms import check_norms
from .patient import Patient, fix_command
from .renamed import find_renamed
from .roots import check_roots
from .sidecars import check_sidecar
from .subject import Subject, subject_of
from .unpublished import check_unpublished

_ORDER = {"error": 0, "warning": 1, "note": 2}
# What has to be fixed by hand before anything else.
_NOT_WHOLE = ("file-cut-short", "trunk-layers-lost", "block-at-wrong-index")
NORMS, HALVES = "norms", "eh-proj-halves"


@dataclass(frozen=True)
class Diagnosis(Brief):
    """What was found, and what was not checked."""

    name: str  # path, or address with its commit
    shape: str  # bundled, trunk-only, sidecar, donor, checkpoint; "set" for one that cannot be opened
    architecture: str | None
    findings: tuple[Finding, ...]  # errors first
    skipped: tuple[tuple[str, str], ...] = ()  # (check, why)
    notes: tuple[str, ...] = ()  # what else was seen, such as an engine's trial
    model: Model | None = None
    remote: bool = False
    anatomy: Anatomy | None = field(default=None, compare=False, repr=False)  # of the model

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Errors and warnings."""
        return tuple(finding for finding in self.findings if finding.is_problem)

    @property
    def fixable(self) -> tuple[Finding, ...]:
        """What `--fix` can fix with what was given."""
        return tuple(finding for finding in self.findings if finding.fixable)



def diagnose(
    model: Model,
    *,
    name: str | None = None,
    donor: Block | None = None,
    trunk: Model | None = None,
    reader: Reader | None = None,
    beside: bool = True,
) -> Diagnosis:
    """Check one open model.

    `donor`: a block to compare with, and to complete a partly lost one from. `trunk`: the model that a sidecar belongs
    to. Without `reader` no tensor data is read, and the checks that need it are named as skipped. `beside`: whether
    the files around it may be looked at. Raises FormatError for a file without an architecture.
    """
    renamed = find_renamed(model)
    if renamed is not None:
        return _as_named(model, renamed, name, donor, trunk, reader, beside)
    seen = Anatomy.of(model).telling(None if donor is None else donor.n_layer_trunk)
    findings: list[Finding] = []
    skipped: list[tuple[str, str]] = []
    cut = check_whole(model)
    findings += cut
    findings += check_known(model)
    findings += check_counts(seen, donor, trunk)
    findings += check_arrays(seen, donor, trunk)
    findings += check_blocks(seen, donor, trunk)
    findings += check_roots(seen)
    findings += check_sidecar(seen, trunk)
    findings += check_draft(seen, trunk, None if cut else reader)
    findings += check_names(seen, trunk, beside=beside)
    findings += [] if cut else check_data(model)
    findings += check_model(model) if beside else []
    if seen.arch in DRAFT_ARCHS and TABLE in model.tensors and (reader is None or cut):
        skipped.append((TABLE, "the file is cut short" if cut else "only this model's headers are read"))
    if seen.blocks and seen.is_language_model:
        if reader is None or cut:
            why = "the file is cut short" if cut else "only this model's headers are read"
            skipped += [(NORMS, why), (HALVES, why)]
        else:
            findings += check_norms(seen, reader)
            if donor is None:
                skipped.append((HALVES, "no statistic tells the halves apart: name a donor (--from) or ask an engine "
                                        "(--engine)"))  # fmt: skip
            else:
                findings += check_halves(seen, donor, reader)
    unpublished = list(check_unpublished(seen))
    findings += unpublished
    if not unpublished and not any(found.is_problem for found in findings):
        findings += _could_have_one(seen)
    findings = _untouchable(_block_first(seen, [_as_asked(each, model, donor, trunk) for each in findings]))
    findings.sort(key=lambda found: _ORDER[found.severity])
    return Diagnosis(
        name or os.fspath(model.entry), seen.shape, seen.arch, tuple(findings), tuple(skipped), model=model,
        anatomy=seen,
    )  # fmt: skip


def _as_named(
    model: Model,
    renamed: Finding,
    name: str | None,
    donor: Block | None,
    trunk: Model | None,
    reader: Reader | None,
    beside: bool,
) -> Diagnosis:
    """The diagnosis under the model's real architecture, since any other change assumes that one."""
    assert renamed.change is not None
    real = renamed.change(Patient(model)).model
    inner = diagnose(real, name=name, donor=donor, trunk=trunk, reader=reader, beside=beside)
    findings = (renamed, *inner.problems)
    return replace(
        inner,
        architecture=model.architecture,
        model=model,
        findings=tuple(sorted(findings, key=lambda found: _ORDER[found.severity])),
    )


def _as_asked(finding: Finding, model: Model, donor: Block | None, trunk: Model | None) -> Finding:
    """The finding with its donor and trunk added to its command: without them it may not be found."""
    own = fix_command(model.entry)

    def asked(command: Command) -> Command:
        if not command.starts_with(own):
            return command
        if donor is not None and "--from" not in command.words:
            command = command.more("--from", donor.origin)
        if trunk is not None and "--trunk" not in command.words:
            command = command.more("--trunk", trunk.entry)
        return command

    return finding.advised(lambda advice: advice.with_commands(asked)) if finding.fixable else finding


def _untouchable(findings: list[Finding]) -> list[Finding]:
    """Nothing is fixed in an incomplete model, or one whose layers cannot be told apart: it would look healthy."""
    first = next((each for each in findings if each.id in _NOT_WHOLE and not each.fixable), None)
    if first is None:
        return findings
    before = first.advice
    out = []
    for each in findings:
        if first.id != "file-cut-short" and each.id == "wrong-array-length":
            continue  # counted by the layers that are present
        if each.fixable:
            each = each.advised(lambda advice: Advice.of(before, "; then: ", advice), by_hand=True)
        out.append(each)
    return out


def _block_first(seen: Anatomy, findings: list[Finding]) -> list[Finding]:
    """A sidecar gets its roots once its block is complete."""
    block = next((each for each in findings if each.id == "block-not-whole"), None)
    if block is None or seen.shape != "sidecar":
        return findings
    before = block.advice

    def later(advice: Advice) -> Advice:
        return Advice.of("first the block: ", before, "; then the same for its output: ", advice)

    return [each.advised(later, by_hand=True) if each.attaches else each for each in findings]


def _could_have_one(seen: Anatomy) -> list[Finding]:
    """A trunk of a family that is published with a block: healthy, but worth a note."""
    if seen.shape != "trunk-only" or seen.arch not in FAMILIES or not seen.is_language_model:
        return []
    return [
        Finding(
            "no-block-attached", "note",
            f"this model has no MTP block; models of '{seen.arch}' are published with one.",
            seen.model.entry.name, "", Advice.of(attach_command(seen.model.entry), " attaches one"),
        )
    ]  # fmt: skip


def examine(
    source: str | Path,
    *,
    donor: Block | None = None,
    trunk: Model | None = None,
    limit_rate: float | None = None,
) -> Diagnosis:
    """Check whatever a path or an address names. For remote models, only headers are fetched.

    Raises what opening raises for something that is not a model; incomplete sets and checkpoints are findings.
    """
    with subject_of(source, http_options(limit_rate)) as subject, Reader() as reader:
        found = examined(subject, donor=donor, trunk=trunk, reader=reader)
    return found if found.remote else replace(found, name=os.fspath(source))


def examined(
    subject: Subject, *, donor: Block | None = None, trunk: Model | None = None, reader: Reader | None = None
) -> Diagnosis:
    """Check what was opened; without `reader` by its headers only, as `inspect` does."""
    remote = subject.is_remote
    if subject.checkpoint is not None:
        made = Diagnosis(subject.name, "checkpoint", None, tuple(check_checkpoint(subject.checkpoint)))
    elif subject.model is None:
        made = Diagnosis(subject.name, "set", None, subject.findings)
    else:
        made = diagnose(
            subject.model, name=subject.name, donor=donor, trunk=trunk, reader=None if remote else reader,
            beside=not remote,
        )  # fmt: skip
        if subject.findings:
            more = (each for each in made.findings if each.is_problem)
            made = replace(made, findings=(*subject.findings, *more))
    if not remote:
        return made
    return replace(made, remote=True, findings=tuple(_named(each, subject) for each in made.findings))


def _named(finding: Finding, found: Subject) -> Finding:
    """The finding with addresses instead of cache paths; a command that changes files needs the files locally."""
    text: Callable[[str], str] = found.text

    def fetched(advice: Advice) -> Advice:
        there = advice.with_text(text)
        return Advice.of("get the model ('nextn pull'), then: ", there) if finding.change is not None else there

    named = finding.advised(fetched, by_hand=True)
    return replace(named, what=text(finding.what), where=text(finding.where))


def check_source(source: str | Path) -> Path:
    """The local path of a model to fix. Raises UsageError for a remote one."""
    place = parse_source(source)
    if not isinstance(place, Path):
        raise UsageError(f"{source}: --fix writes beside a local file; get the model with 'nextn pull' first.")
    return place
