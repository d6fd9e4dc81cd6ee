"""A pack with its card, checksums and manifest as one plan, and how it is carried out.

All or nothing appears: the data files, `README.md`, `SHA256SUMS` and, last, `nextn.json`. The large files are
inputs, hashed before anything is written; new files are hashed in their temporary form. Sizes of sums and manifest
do not depend on the hashes, so the plan is exact before anything is read.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from ..brief import Brief
from ..errors import UsageError
from ..layouts.naming import plain_base, split_quant
from ..layouts.pack import Pack
from ..partial import refuse_partial
from ..printable import printable
from ..progress import Progress
from ..schemas.base import Documented, filled
from ..schemas.pack import PackDocument, PackedFile, PackedQuant
from ..workfile import At
from ..writing.execute import Outcome, check_outputs, execute
from ..writing.leftovers import SUFFIX
from ..writing.plan import Hashes, LateHeader, Link, NewBytes, NewFile, Plan
from ..writing.system import System
from . import card as cards
from . import manifest as manifests
from . import sums
from .accept import wrong_name
from .card import Card
from .verified import read_verified

_TEMP = re.compile(r"\.(.+)\.[0-9a-f]{8}" + re.escape(SUFFIX), re.DOTALL)


@dataclass(frozen=True)
class CardOptions:
    """What a user may set for the model card."""

    title: str | None = None
    repo: str | None = None  # ORG/NAME it will be published as
    base_model: str | None = None
    verified: Sequence[Path] = ()  # what `nextn verify --json` printed


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

    pack: Pack
    plan: Plan  # with card, sums and manifest
    n_verified: int  # verdicts that the card shows
    _ledger: _Ledger

    @property
    def hash_bytes(self) -> int:
        """Bytes read for hashing: every inode once."""
        linked = sums.unique_bytes(out.source for out in _linked(self.plan))
        return linked + sum(out.size_bytes for out in self._hashed_new())

    def _hashed_new(self) -> list[NewFile]:
        small = (cards.NAME, sums.NAME, manifests.NAME)
        return [out for out in self.plan.outputs if isinstance(out, NewFile) and out.name not in small]


@dataclass(frozen=True)
class PackResult(Documented):
    """What packing did, or with `dry_run` would do."""

    package: Package
    outcome: Outcome | None
    bytes_hashed: int
    sha256: Mapping[str, str]  # file name -> hex; empty after a dry run
    bytes_downloaded: int = 0  # from servers, headers included
    why: str | None = None  # how the block's donor was chosen; None: the user named it, or the models contain the block

    @property
    def folder(self) -> Path:
        """The folder to publish."""
        return self.package.plan.folder

    @property
    def bytes_read(self) -> int:
        """Total bytes read, including hashing."""
        return (self.outcome.bytes_read if self.outcome else self.package.plan.bytes_read) + self.bytes_hashed

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
        quants = [filled(PackedQuant, quant, quant=quant.label) for quant in self.package.pack.quants]
        return filled(
            PackDocument, plan, dry_run=done is None, manifest=str(plan.folder / manifests.NAME),
            bytes_read=self.bytes_read, bytes_hashed=self.bytes_hashed, bytes_downloaded=self.bytes_downloaded,
            why=self.why, wall_s=done.wall_s if done else 0.0, files=files, quants=quants,
            links=done.links if done else {},
        )  # fmt: skip



def plan_package(pack: Pack, options: CardOptions | None = None) -> Package:
    """The pack's plan with card, checksums and manifest.

    Raises UsageError (a verdict about another model, ambiguous names), FormatError, StorageError.
    """
    options = options or CardOptions()
    _check_names(pack.plan)
    for link in _linked(pack.plan):
        refuse_partial(link.source)
    sizes = {out.name: out.size_bytes for out in pack.plan.outputs}
    model = pack.model
    title = options.title or str(model.header.get("general.name") or split_quant(plain_base(model.base_name))[0])
    readme = Card(
        title, model.architecture, pack.quants, sizes, options.repo, options.base_model,
        [read_verified(path, sizes) for path in options.verified],
    ).text().encode("utf-8", "surrogateescape")  # fmt: skip
    ledger = _Ledger(
        twins={out.name: out.twin_of for out in pack.plan.outputs if isinstance(out, Link) and out.twin_of is not None}
    )

    def manifest(hashes: Mapping[str, str]) -> bytes:
        return manifests.manifest_of(title, model.architecture, pack.quants, sizes, hashes).encode()

    def all_sums(hashes: Mapping[str, str]) -> bytes:
        known = {name: hashes.get(name, manifests.BLANK) for name in (*sizes, cards.NAME, manifests.NAME)}
        return sums.encode(known)

    def build_sums(tensors: Hashes, source_hash: str) -> bytes:
        known = {name: ledger.digest(name) for name in sizes}
        ledger.hashes[cards.NAME] = _sha256(readme)
        ledger.hashes[manifests.NAME] = _sha256(manifest(known))
        return all_sums(ledger.hashes)

    def build_manifest(tensors: Hashes, source_hash: str) -> bytes:
        return manifest(ledger.hashes)

    outputs = (
        *pack.plan.outputs,
        NewFile(cards.NAME, (NewBytes(readme),)),
        # Checksums are built before the manifest: their header comes first among those that wait.
        NewFile(sums.NAME, (LateHeader(len(all_sums({})), build_sums),)),
        NewFile(manifests.NAME, (LateHeader(len(manifest({})), build_manifest),)),
    )
    return Package(pack, replace(pack.plan, outputs=outputs), len(options.verified), ledger)


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
    if max(ends.values()) > 1:
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
    check_outputs(plan, tidy=not dry_run)
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
    outcome = execute(plan, progress=wrote, system=cast(System, watching))
    wrote(plan.bytes_written, 0)  # headers that wait for hashes are not reported on the way
    return PackResult(package, outcome, ledger.hasher.bytes_hashed, dict(ledger.hashes))
