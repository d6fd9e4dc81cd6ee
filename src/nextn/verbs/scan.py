"""Scan: the models on this machine, and what could be done for each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

from ..block.anatomy import Anatomy
from ..diagnosis.examine import diagnose
from ..diagnosis.journals import check_journals
from ..discovery.library import HUB, OLLAMA, LibraryEntry, ModelLibrary, Spoilt, library
from ..discovery.once import Asking, Once
from ..errors import NextnError
from ..gguf.files import Model, NotALanguageModel, open_model
from ..inspection.model import Inspection, inspection_of
from ..layouts.places import header_sha256
from ..layouts.programs import lm_studio_use, ollama_use
from ..measure.prospect import Prospect, n_parameters, prospect
from ..memory.answers import Machine, this_machine
from ..printable import printable
from ..progress import Say, heard
from ..schemas.base import Documented, filled
from ..schemas.scan import (
    DonorOffer,
    Outlook,
    Place,
    ProgramUse,
    SameModel,
    ScanDocument,
    ScannedModel,
    ScannedOther,
    ScannedPlace,
    SpoiltFile,
)
from ..shell import shell
from ..writing.scratch import scratch_folder
from .offers import GUESS, NOT_ASKED, HubQuestions, LocalOffers, Offer, kind_of_model

LOOKUP_S = 20.0  # seconds for all questions to the Hub together
_THREADS = 8
_KINDS = {"sidecar": "a sidecar", "donor": "a donor file: only a block"}
_How = Literal["symlink", "hard link", "same blob", "copy"]


@dataclass(frozen=True)
class ShelvedModel:
    """A language model, reduced to what is shown of it: headers of a thousand models are not kept."""

    entry: LibraryEntry
    path: Path
    title: str | None
    architecture: str
    n_parameters: int
    shape: str  # "bundled" or "trunk-only"
    sidecars: tuple[Path, ...]
    programs: dict[str, ProgramUse]
    problems: tuple[str, ...]
    prospect: Prospect
    kind: str  # the same for quants of one model
    offer: Offer | None
    projectors: tuple[Path, ...] = ()
    same: tuple[tuple[LibraryEntry, _How], ...] = ()

    @property
    def block(self) -> str:
        """Where it has something to draft with."""
        return "in the model" if self.shape == "bundled" else "sidecar" if self.sidecars else "none"

    @property
    def command(self) -> str | None:
        """What to run next."""
        if self.problems:
            return shell("nextn", "doctor", self.path)
        if self.block != "none":
            return shell("nextn", "serve", self.path)
        if self.offer is not None and self.offer.is_there:
            return shell("nextn", "up", self.path)
        if self.offer is not None and self.offer.state == NOT_ASKED:
            return shell("nextn", "attach", self.path, "--dry-run")
        return None

    @property
    def document(self) -> ScannedModel:
        """What --json prints of it."""
        has_outlook = self.block != "none" or (self.offer is not None and self.offer.is_there)
        return filled(
            ScannedModel,
            self,
            place=self.entry.place,
            name=self.entry.name,
            size_bytes=self.entry.size_bytes,
            n_files=len(self.entry.files),
            projectors=list(map(str, self.projectors)),
            same=[SameModel(str(one.path), cast(Place, one.place), one.name, how) for one, how in self.same],
            offer=None if self.offer is None else filled(DonorOffer, self.offer),
            faster=filled(Outlook, self.prospect) if has_outlook else None,
        )


@dataclass(frozen=True)
class ShelvedOther:
    """A sound GGUF that is not a model by itself."""

    entry: LibraryEntry
    what: str
    is_projector: bool = False
    models: tuple[Path, ...] = ()

    @property
    def document(self) -> ScannedOther:
        """What --json prints of it."""
        entry = self.entry
        return filled(
            ScannedOther, self, path=str(entry.path), place=entry.place, size_bytes=entry.size_bytes,
            models=list(map(str, self.models)),
        )  # fmt: skip


@dataclass(frozen=True)
class ScanReport(Documented):
    """Everything that was found."""

    places: tuple[tuple[str, Path], ...]
    offline: bool
    models: tuple[ShelvedModel, ...]
    others: tuple[ShelvedOther, ...]
    spoilt: tuple[Spoilt, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def wasted_bytes(self) -> int:
        """Bytes of copies."""
        return sum(each.size_bytes for model in self.models for each, how in model.same if how == "copy")

    @property
    def document(self) -> ScanDocument:
        """What --json prints."""
        return filled(
            ScanDocument,
            self,
            places=[ScannedPlace(cast(Place, place), str(path)) for place, path in self.places],
            models=[each.document for each in self.models],
            others=[each.document for each in self.others],
            spoilt=[filled(SpoiltFile, each) for each in self.spoilt],
        )


def scan(
    folders: Sequence[str | Path] = (),
    *,
    only: bool = False,
    offline: bool = False,
    gpu_memory_bytes: int | None = None,
    lookup_s: float = LOOKUP_S,
    say: Say | None = None,
) -> ScanReport:
    """Find the models in the Hub's cache, LM Studio's, ollama's and llama.cpp's folders, and in and below `folders`.

    `only`: just in `folders`. Of each model it is said whether it has a block, which programs use it as it is, where it
    could get a block from, what that takes, and whether it is likely to be faster. Only headers are read. `offline`:
    the Hub is not asked; otherwise it is asked about donors for at most `lookup_s` seconds in all, and its answers are
    kept for a week. `gpu_memory_bytes`: the GPU's memory, to tell models that do not fit into it.

    Raises UsageError for a file in place of a folder, StorageError for one that is not there or cannot be listed.
    """
    say = heard(say)
    say("listing folders")
    found = library(folders, only=only)
    machine, ask = this_machine(gpu_memory_bytes), Once()
    with scratch_folder("scan") as scratch, ThreadPoolExecutor(_THREADS) as pool:
        groups, offers, n_done = _by_identity(found), LocalOffers(scratch, ask), 0

        def read(group: list[LibraryEntry]) -> _Read:
            nonlocal n_done
            seen = _read(group, machine, offers, ask)
            n_done += 1
            say(f"reading headers: {n_done:,} of {len(groups):,}")
            return seen

        read_all = list(pool.map(read, groups))
        models = _merged_copies([each for each in read_all if isinstance(each.what, ShelvedModel)])
        questions = {
            model.kind: (model.kind, model.path, model.offer)
            for model in models
            if model.offer is not None and model.offer.state in (NOT_ASKED, GUESS)
        }
        notes = list(found.notes)
        if questions and not offline:
            say(f"asking the Hub about {len(questions):,} of them")
            hub = HubQuestions(scratch, ask, lookup_s)
            answers = hub.answers(list(questions.values()))
            models = [_answered(model, answers) for model in models]
            if hub.unreachable is not None:
                notes.append(f"the Hub was not asked further: {hub.unreachable}")
    others = [each.what for each in read_all if isinstance(each.what, ShelvedOther)]
    models, others = _together(models, others)
    spoilt = [*found.spoilt, *(each.what for each in read_all if isinstance(each.what, Spoilt))]
    notes += _interrupted(models)
    return ScanReport(
        tuple(found.roots), offline, tuple(models), tuple(others), tuple(sorted(spoilt, key=lambda one: one.path)),
        tuple(notes),
    )  # fmt: skip


# -- one model --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """What one file turned out to be, and a digest that is the same for copies."""

    what: ShelvedModel | ShelvedOther | Spoilt
    digest: tuple[str, ...] = ()


def _by_identity(found: ModelLibrary) -> list[list[LibraryEntry]]:
    """Entries that are the same files under several names; those that are no links first."""
    groups: dict[tuple[tuple[int, int], ...], list[LibraryEntry]] = {}
    for entry in found.entries:
        groups.setdefault(entry.identity, []).append(entry)
    return [sorted(group, key=lambda one: one.path.is_symlink()) for group in groups.values()]


def _read(group: list[LibraryEntry], machine: Machine, offers: LocalOffers, ask: Asking) -> _Read:
    entry = group[0]
    try:
        model = ask(open_model, Path(os.path.abspath(entry.path)))  # noqa: PTH100 - as its neighbours are asked for
        seen = Anatomy.of(model)
        digest = tuple(f"{header_sha256(file)} {file.size_bytes}" for file in model.files)
        if seen.is_block_only or not (seen.layers or seen.is_empty):
            kind = _KINDS.get(seen.shape, "a GGUF without layers, perhaps only a vocabulary")
            return _Read(ShelvedOther(entry, "a draft model" if seen.is_draft else kind), digest)
        inspected = inspection_of(model, diagnose(model, beside=False), ask=ask)
        shelved = _shelved(entry, inspected, machine, offers)
    except NotALanguageModel as error:
        return _Read(ShelvedOther(entry, error.kind, is_projector="mmproj" in error.kind))
    except NextnError as error:
        what = str(error).rstrip(".")
        for known in (os.path.abspath(entry.path), os.path.abspath(entry.path.parent)):  # noqa: PTH100
            what = what.removeprefix(f"{known}: ").removeprefix(f"{known}, ")
        refused = isinstance(error.__cause__, PermissionError)
        return _Read(Spoilt(entry.path, entry.size_bytes, what, refused=refused))
    return _Read(replace(shelved, same=tuple((each, _how(each, entry)) for each in group[1:])), digest)


def _how(other: LibraryEntry, entry: LibraryEntry) -> _How:
    if other.place == OLLAMA:
        return "same blob"
    same_path = os.path.realpath(other.path) == os.path.realpath(entry.path)  # through a link, perhaps of a folder
    return "symlink" if same_path or other.path.is_symlink() else "hard link"


def _shelved(entry: LibraryEntry, seen: Inspection, machine: Machine, offers: LocalOffers) -> ShelvedModel:
    model = seen.model
    has_block, kind = seen.shape == "bundled" or bool(seen.sidecars), kind_of_model(model)
    return ShelvedModel(
        entry=entry,
        path=entry.path,
        title=_title(model),
        architecture=printable(seen.architecture),
        n_parameters=n_parameters(model),
        shape=seen.shape,
        sidecars=seen.sidecars,
        programs=_programs(seen),
        problems=seen.problems,
        prospect=prospect(model, machine),
        kind=kind,
        offer=None if has_block or seen.problems else offers.of(model, kind),
        projectors=entry.projectors,
    )


def _title(model: Model) -> str | None:
    name = model.header.get("general.name")
    return printable(name) if isinstance(name, str) else None


def _programs(seen: Inspection) -> dict[str, ProgramUse]:
    """llama.cpp and ik_llama.cpp as measured, LM Studio and ollama as their users report."""
    if not seen.uses:
        return {}
    found = {engine: filled(ProgramUse, use) for engine, use in seen.uses.items()}
    runs = found["llama.cpp"].word in ("drafts", "runs")
    for title, use in (("LM Studio", lm_studio_use), ("ollama", ollama_use)):
        word, says = use(seen.shape, has_sidecar=bool(seen.sidecars))
        if not runs:
            word, says = "unknown", "has llama.cpp inside, which does not run it as it is"
        found[title] = filled(ProgramUse, None, word=word, says=says)
    return found


# -- all together -----------------------------------------------------------------------------------------------------


def _merged_copies(read: Iterable[_Read]) -> list[ShelvedModel]:
    """One model for files with the same headers and sizes, with a sidecar if one has it; the others are copies."""
    first: dict[tuple[str, ...], ShelvedModel] = {}
    for each in read:
        model = each.what
        assert isinstance(model, ShelvedModel)
        known = first.get(each.digest)
        if known is None:
            first[each.digest] = model
            continue
        if known.block == "none" and model.block != "none":
            known, model = model, known
        first[each.digest] = replace(known, same=(*known.same, (model.entry, "copy"), *model.same))
    return list(first.values())


def _answered(model: ShelvedModel, answers: dict[str, Offer]) -> ShelvedModel:
    if model.offer is None or model.offer.state not in (NOT_ASKED, GUESS):
        return model
    return replace(model, offer=answers.get(model.kind, model.offer))


def _together(
    models: Sequence[ShelvedModel], others: Sequence[ShelvedOther]
) -> tuple[list[ShelvedModel], list[ShelvedOther]]:
    """Sidecars, projectors and the like, each with its models."""
    by_sidecar: dict[str, list[Path]] = {}
    by_folder: dict[Path, list[Path]] = {}
    by_projector: dict[Path, list[Path]] = {}
    for model in models:
        for sidecar in model.sidecars:
            by_sidecar.setdefault(os.path.realpath(sidecar), []).append(model.path)
        by_folder.setdefault(model.path.parent, []).append(model.path)
        for path in model.projectors:
            by_projector.setdefault(path, []).append(model.path)
    placed = []
    for other in others:
        path = other.entry.path
        near = by_folder.get(path.parent, []) if other.entry.place != OLLAMA else []
        own = by_projector.get(path, near) if other.is_projector else by_sidecar.get(os.path.realpath(path), [])
        placed.append(replace(other, models=tuple(own)))
    projectors: dict[Path, list[Path]] = {}
    for other in placed:
        for owner in other.models if other.is_projector else ():
            projectors.setdefault(owner, []).append(other.entry.path)
    with_them = [
        replace(model, projectors=tuple(dict.fromkeys((*model.projectors, *projectors.get(model.path, ())))))
        for model in models
    ]
    return with_them, placed


def _interrupted(models: Iterable[ShelvedModel]) -> list[str]:
    """Changes in place that were interrupted, in the folders of models."""
    folders = {model.path.parent for model in models if model.entry.place not in (HUB, OLLAMA)}
    found = [finding.entry for folder in sorted(folders) for finding in check_journals(folder)]
    return [f"{each.where}: {each.what.rstrip('.')}; {each.mend}" for each in found]
