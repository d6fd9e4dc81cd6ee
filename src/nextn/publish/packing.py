"""A pack with its card, checksums and manifest as one plan, and how it is carried out.

All or nothing appears: the data files, `README.md`, `SHA256SUMS` and, last, `nextn.json`. The large files are
inputs, hashed before anything is written; new files are hashed in their temporary form. Sizes of sums and manifest
do not depend on the hashes, so the plan is exact before anything is read.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from ..bounded import read_bounded
from ..brief import Brief
from ..errors import OutputExists, UsageError
from ..layouts.naming import plain_base, split_quant
from ..layouts.pack import Pack
from ..partial import refuse_partial
from ..printable import printable
from ..progress import Progress
from ..schemas.base import Documented, filled
from ..schemas.pack import PackDocument, PackedFile, PackedQuant
from ..shell import Command
from ..workfile import At
from ..writing.again import Before
from ..writing.durable import renew_files
from ..writing.execute import Outcome, Recorded, check_outputs, execute
from ..writing.leftovers import SUFFIX
from ..writing.plan import LateHeader, Link, NewBytes, NewFile, Plan
from ..writing.system import System
from . import card as cards
from . import manifest as manifests
from . import sums
from .accept import wrong_name
from .card import Card
from .card_draft import drafts_of
from .packed_folder import PackedFolder
from .verified import Verified, read_verified

_TEMP = re.compile(r"\.(.+)\.[0-9a-f]{8}" + re.escape(SUFFIX), re.DOTALL)


@dataclass(frozen=True)
class CardOptions:
    """What a user may set for the model card."""

    title: str | None = None
    repo: str | None = None  # ORG/NAME it will be published as
    base_model: str | None = None
    verified: Sequence[Path] = ()  # what `nextn verify --json` printed
    fragment: bool = False  # write sections for a card of the user's own in place of a whole card


@dataclass
class _Ledger:
    """Hashes of complete files as they become known in a run."""

    temps: dict[str, Path] = field(default_factory=dict)  # output name -> its temporary file
    hashes: dict[str, str] = field(default_factory=dict)
    hasher: sums.Hasher = field(default_factory=sums.Hasher)
    twins: dict[str, str] = field(default_factory=dict)  # output name -> the other output that it is the same file as

    def digest(self, name: str) -> str:
        """The sha256 of an output, hex."""
        if name in self.twins:
            self.hashes[name] = self.digest(self.twins[name])
        elif name not in self.hashes:
            self.hashes[name] = self.hasher.digest(self.temps[name])
        return self.hashes[name]


class _Watching:
    """A System that notes which temporary file each output is written to."""

    def __init__(self, inner: System, ledger: _Ledger, names: Sequence[str]) -> None:
        self._inner, self._ledger = inner, ledger
        self._names = {os.fsencode(name)[-200:]: name for name in names}

    def open_new(self, at: At) -> int:
        """The inner system's `open_new`, noted."""
        match = _TEMP.fullmatch(at.name)
        name = self._names.get(os.fsencode(match[1])) if match else None
        if name is not None:
            self._ledger.temps[name] = at.path
        return self._inner.open_new(at)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@dataclass(frozen=True)
class Package(Brief):
    """All that will be published."""

    pack: Pack | None  # None: no quant is added
    plan: Plan  # with card, sums and manifest
    n_verified: int  # verdicts that the card shows
    card: Card
    existing: PackedFolder | None  # what the folder is before the run
    _recorded: Mapping[str, Recorded]  # in headers of files that are there before the run
    _renews: bool  # the folder has texts that nextn wrote
    _ledger: _Ledger
    _texts: Mapping[str, Callable[[], bytes]]  # by name, in the order in which they are renewed in an existing folder

    @property
    def to_execute(self) -> Plan:
        """The files that appear at once: of an existing folder's texts none, since they are renewed afterwards."""
        if not self._renews:
            return self.plan
        return replace(self.plan, outputs=tuple(out for out in self.plan.outputs if out.name not in self._texts))

    @property
    def kept(self) -> list[str]:
        """Labels of the quants that the folder had already."""
        return [] if self.existing is None else [quant.label for quant in self.existing.manifest.quants]

    @property
    def card_name(self) -> str:
        """The file that has the card, or its sections."""
        return cards.FRAGMENT if cards.FRAGMENT in self._texts else cards.NAME

    @property
    def upload(self) -> list[str]:
        """The command that uploads the folder."""
        return list(Command.of("hf", "upload", self.card.repo or cards.REPO, self.plan.folder, ".").words)

    @property
    def hash_bytes(self) -> int:
        """Bytes read for hashing: every inode once."""
        there = [path for name, path in self._ledger.temps.items() if name not in self._ledger.hashes]
        linked = sums.unique_bytes([*(out.source for out in _linked(self.plan)), *there])
        return linked + sum(out.size_bytes for out in self._hashed_new())

    def _hashed_new(self) -> list[NewFile]:
        return [out for out in self.plan.outputs if isinstance(out, NewFile) and out.name not in self._texts]


@dataclass(frozen=True)
class PackResult(Documented):
    """What packing did, or with `dry_run` would do."""

    package: Package
    outcome: Outcome | None
    bytes_hashed: int
    sha256: Mapping[str, str]  # file name -> hex; empty after a dry run
    bytes_downloaded: int = 0  # from servers, headers included
    bytes_compared: int = 0  # read to compare models with quants that the folder has
    why: str | None = None  # how the block's donor was chosen; None: the user named it, or the models contain the block

    @property
    def folder(self) -> Path:
        """The folder to publish."""
        return self.package.plan.folder

    @property
    def bytes_read(self) -> int:
        """Total bytes read, including hashing."""
        planned = self.outcome.bytes_read if self.outcome else self.package.plan.bytes_read
        return planned + self.bytes_hashed + self.bytes_compared

    @property
    def when_unprinted(self) -> str:
        """Whether the files exist."""
        return "nothing was written" if self.outcome is None else f"the folder {self.folder} is complete"

    @property
    def document(self) -> PackDocument:
        """What --json prints."""
        plan, done = self.package.plan, self.outcome
        files = [
            filled(PackedFile, file, sha256=self.sha256.get(out.name))
            for file, out in zip(plan.written_files, plan.outputs, strict=True)
        ]
        quants = [filled(PackedQuant, quant, quant=quant.label) for quant in self.package.card.quants]
        return filled(
            PackDocument, plan, dry_run=done is None, manifest=str(plan.folder / manifests.NAME),
            bytes_read=self.bytes_read, bytes_hashed=self.bytes_hashed + self.bytes_compared,
            bytes_downloaded=self.bytes_downloaded, kept=self.package.kept, upload=self.package.upload,
            why=self.why, wall_s=done.wall_s if done else 0.0, files=files, quants=quants,
            links=done.links if done else {},
        )  # fmt: skip



def plan_package(
    pack: Pack | None,
    options: CardOptions | None = None,
    existing: PackedFolder | None = None,
    before: Before | None = None,
) -> Package:
    """The pack's plan with card, checksums and manifest; with `existing`, for a folder that was packed before.

    `pack` None: the existing folder gets no quant, only new texts. `before`: outputs that the folder has already.
    Raises UsageError (a verdict about another model, ambiguous names), OutputExists (a text that somebody changed),
    FormatError, StorageError.
    """
    options, before = options or CardOptions(), before or Before()
    present = before.present
    planned = _planned(pack, existing, {out.name for out in present})
    _check_names(planned)
    for link in _linked(planned):
        refuse_partial(link.source)
    old = None if existing is None else existing.manifest
    sizes = {} if old is None else {file.path: file.size_bytes for file in old.files}
    sizes |= {out.name: out.size_bytes for out in (*planned.outputs, *present)}
    quants = (*(() if old is None else old.quants), *(() if pack is None else pack.quants))
    own_card = options.fragment or (existing is not None and not existing.is_ours(cards.NAME))
    card_name = cards.FRAGMENT if own_card else cards.NAME
    if existing is not None:
        existing.check_renewable((card_name,))
    title, architecture = options.title or (old and old.model) or _title(pack), _architecture(pack, old)
    repo = options.repo or (old and old.repo) or None
    base_model = options.base_model or (old and old.base_model) or None
    verified = _verdicts(old, [read_verified(path, sizes) for path in options.verified])
    card = Card(title, architecture, quants, sizes, repo, base_model, verified, drafts_of(planned, quants, existing))
    readme = card.text(fragment=own_card).encode("utf-8", "surrogateescape")
    ledger = _Ledger(
        temps={out.name: planned.folder / out.name for out in present},
        hashes={} if old is None else {file.path: file.sha256 for file in old.files},
        twins={out.name: out.twin_of for out in planned.outputs if isinstance(out, Link) and out.twin_of is not None},
    )
    others = {} if existing is None else _other_texts(existing, {card_name, manifests.NAME, *sizes})

    def manifest(hashes: Mapping[str, str]) -> bytes:
        return manifests.manifest_of(
            title, architecture, quants, sizes, hashes, repo, base_model, verified, _sha256(readme)
        ).encode()

    def all_sums(hashes: Mapping[str, str]) -> bytes:
        known = {name: hashes.get(name, manifests.BLANK) for name in (*sizes, card_name, manifests.NAME)}
        return sums.encode({**others, **known})

    def make_sums() -> bytes:
        known = {name: ledger.digest(name) for name in sizes}
        ledger.hashes[card_name] = _sha256(readme)
        ledger.hashes[manifests.NAME] = _sha256(manifest(known))
        return all_sums(ledger.hashes)

    def make_manifest() -> bytes:
        return manifest({name: ledger.digest(name) for name in sizes})

    outputs = (
        *planned.outputs,
        NewFile(card_name, (NewBytes(readme),)),
        # Checksums are built before the manifest: their header comes first among those that wait.
        NewFile(sums.NAME, (LateHeader(len(all_sums({})), lambda tensors, source_hash: make_sums()),)),
        NewFile(manifests.NAME, (LateHeader(len(manifest({})), lambda tensors, source_hash: make_manifest()),)),
    )
    # The manifest comes first: with it, a run that stops before the other texts are renewed can be repeated.
    texts = {manifests.NAME: make_manifest, card_name: lambda: readme, sums.NAME: make_sums}
    notes = planned.notes
    if own_card and not options.fragment:
        notes = (*notes, f"{cards.NAME} was changed by hand and stays as it is; {card_name} has new sections for it")
    plan = replace(planned, outputs=outputs, notes=notes)
    recorded = {*sizes, card_name, manifests.NAME}
    renews = existing is not None or _was_stopped(planned.folder, card_name, readme, recorded)
    return Package(pack, plan, len(verified), card, existing, before.recorded, renews, ledger, texts)


def _planned(pack: Pack | None, existing: PackedFolder | None, present: Collection[str]) -> Plan:
    """The data files to write, without those that are `present`."""
    if pack is None:
        assert existing is not None
        first = existing.manifest.quants[0].variants
        sidecar = existing.sidecar
        entry = existing.path / next(iter(first.values())).entry
        return Plan("pack", existing.manifest.quants[0].layout, existing.path, (), entry, sidecar, 0)
    outputs = [out for out in pack.plan.outputs if out.name not in present]
    linked = [
        replace(out, twin_of=None) if isinstance(out, Link) and out.twin_of in present else out for out in outputs
    ]
    return replace(pack.plan, outputs=tuple(linked))


def _title(pack: Pack | None) -> str:
    assert pack is not None
    model = pack.model
    return str(model.header.get("general.name") or split_quant(plain_base(model.base_name))[0])


def _architecture(pack: Pack | None, old: manifests.Manifest | None) -> str:
    """Raises UsageError for a quant of another model than the folder's."""
    if pack is None:
        assert old is not None
        return old.architecture
    found = pack.model.architecture
    if old is not None and old.architecture != found:
        raise UsageError(
            f"{pack.model.entry}: the folder is of a model with the architecture '{printable(old.architecture)}', and "
            f"this one has '{printable(found)}'; pack it into another folder."
        )
    return found


def _verdicts(old: manifests.Manifest | None, new: Sequence[Verified]) -> list[Verified]:
    """The recorded verdicts, each replaced by a new one about the same files on the same engine."""
    named = {(one.model, one.sidecar, one.engine): one for one in (*(old.verified if old else ()), *new)}
    return list(named.values())


def _other_texts(existing: PackedFolder, known: Collection[str]) -> dict[str, str]:
    """What else the folder's SHA256SUMS records, as far as it is there and unchanged: the other form of the card."""
    return {
        name: existing.recorded[name]
        for name in (cards.NAME, cards.FRAGMENT)
        if name not in known and name in existing.recorded and existing.is_ours(name)
    }


def _was_stopped(folder: Path, card_name: str, card: bytes, names: Collection[str]) -> bool:
    """Whether a run that made this very pack stopped between its card and its manifest.

    Raises OutputExists for a card, or sums, that somebody else wrote.
    """
    path = folder / card_name
    if not os.path.lexists(path):
        return False
    if _differs(path, card):
        beside = f"--fragment writes {cards.FRAGMENT} beside it" if card_name == cards.NAME else "move it away"
        raise OutputExists(f"{path}: nextn did not write this card, and does not replace it; {beside}.")
    there = folder / sums.NAME
    if os.path.lexists(there) and sums.decode(read_bounded(there, sums.MOST_BYTES)).keys() != set(names):
        raise OutputExists(f"{there}: these are the sums of other files, which nextn does not replace; move it away.")
    return True


def _linked(plan: Plan) -> list[Link]:
    """Links to files that exist before the run."""
    return [out for out in plan.outputs if isinstance(out, Link) and out.twin_of is None]


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _check_names(plan: Plan) -> None:
    """Check that `pull` accepts the names; temporary files are told apart by the end of their output's name."""
    for out in plan.outputs:
        if (why := wrong_name(out.name)) is not None:
            raise UsageError(
                f"'{printable(out.name)}': this name {why}, so nobody could pull the file; rename the model and pack "
                "it again."
            )
    ends = Counter(os.fsencode(out.name)[-200:] for out in plan.outputs)
    if max(ends.values(), default=0) > 1:
        raise UsageError(
            "two names are longer than 200 bytes and differ only at the start; give the models shorter names."
        )


def pack_up(
    package: Package, *, dry_run: bool = False, progress: Progress | None = None, system: System | None = None
) -> PackResult:
    """Carry out the package, including hashing; all files appear, the manifest last, or none.

    Raises whatever carrying out a plan raises.
    """
    plan, ledger = package.plan, package._ledger
    check_outputs(package.to_execute, tidy=not dry_run)
    n_hash = package.hash_bytes
    if dry_run:
        return PackResult(package, None, n_hash, {})
    total = n_hash + plan.bytes_written
    written = 0

    def report() -> None:
        if progress is not None:
            progress(ledger.hasher.bytes_hashed + written, total)

    def wrote(done: int, _: int) -> None:
        nonlocal written
        written = done
        report()

    ledger.hasher.advance = lambda n: report()
    for link in _linked(plan):
        ledger.hashes[link.name] = ledger.hasher.digest(link.source)
    watching = _Watching(system or System(), ledger, [out.name for out in plan.outputs])
    outcome = execute(package.to_execute, progress=wrote, system=cast(System, watching), known=package._recorded)
    if package._renews:
        ledger.temps |= {out.name: plan.folder / out.name for out in package._hashed_new()}
        if package.existing is not None:
            package.existing.check_renewable([name for name in package._texts if name == package.card_name])
        made = {name: make() for name, make in package._texts.items()}
        changed = {name: data for name, data in made.items() if _differs(plan.folder / name, data)}
        renew_files(plan.folder, changed, system)
        done = tuple(out for out in plan.outputs if out.name not in made or out.name in changed)
        plan = replace(plan, outputs=done)
        package, outcome = replace(package, plan=plan), replace(outcome, plan=plan, bytes_written=plan.bytes_written)
    wrote(plan.bytes_written, 0)  # headers that wait for hashes are not reported on the way
    return PackResult(package, outcome, ledger.hasher.bytes_hashed, dict(ledger.hashes))


def _differs(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() != data
    except OSError:
        return True
