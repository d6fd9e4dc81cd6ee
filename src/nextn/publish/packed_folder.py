"""A folder that was packed before: what it records about its files, and which of its text files may be renewed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..bounded import read_bounded
from ..errors import IncompleteModel, OutputExists, UsageError
from ..layouts.pack import MTP, PLAIN, Quant
from ..writing.plan import Copy, Link, NewBytes, NewFile
from . import manifest as manifests
from . import sums

_LARGEST_TEXT = sums.MOST_BYTES


@dataclass(frozen=True)
class PackedFolder:
    """What a packed folder says about itself."""

    path: Path
    manifest: manifests.Manifest
    recorded: Mapping[str, str]  # file name -> SHA-256 in its SHA256SUMS

    @classmethod
    def of(cls, path: Path) -> PackedFolder | None:
        """The folder, if `nextn.json` is in it; every file that it names must be there with its size.

        Raises FormatError, UnsupportedFormat, StorageError, IncompleteModel.
        """
        if not os.path.lexists(path / manifests.NAME):
            return None
        data = read_bounded(path / manifests.NAME, _LARGEST_TEXT)
        found = manifests.decode(data, str(path / manifests.NAME))
        for file in found.files:
            there = path / file.path
            size = there.stat().st_size if there.is_file() else None
            if size != file.size_bytes:
                has = "is missing" if size is None else f"has {size:,} bytes"
                raise IncompleteModel(
                    f"{there}: {manifests.NAME} records {file.size_bytes:,} bytes for this file, which {has}; restore "
                    "it, or pack into another folder."
                )
        text = path / sums.NAME
        recorded = sums.decode(read_bounded(text, _LARGEST_TEXT)) if os.path.lexists(text) else {}
        return cls(path, found, recorded)

    def is_ours(self, name: str) -> bool:
        """Whether a card is not there, or still has the SHA-256 that was recorded when it was written.

        Sums and manifest both record it: a run that stopped between them has renewed only one.
        """
        path = self.path / name
        if not os.path.lexists(path):
            return True
        digest = hashlib.sha256(read_bounded(path, _LARGEST_TEXT)).hexdigest()
        return digest in (self.recorded.get(name), self.manifest.card_sha256)

    def check_renewable(self, names: Sequence[str]) -> None:
        """Raise OutputExists for a text file that somebody changed."""
        for name in names:
            if not self.is_ours(name):
                raise OutputExists(
                    f"{self.path / name}: this file is not as nextn wrote it, and it would be renewed; move it away."
                )

    @property
    def sidecar(self) -> Path | None:
        """The sidecar that its quants share, if they do."""
        names = {quant.variants[MTP].sidecar for quant in self.manifest.quants if MTP in quant.variants}
        found = sorted(name for name in names if name is not None)
        return self.path / found[0] if len(found) == 1 else None

    @property
    def donor(self) -> Path | None:
        """A variant in it that contains its block."""
        for quant in self.manifest.quants:
            if MTP in quant.variants and quant.variants[MTP].sidecar is None:
                return self.path / quant.variants[MTP].entry
        return None

    def quant(self, label: str) -> Quant | None:
        """The quant of that label."""
        return next((each for each in self.manifest.quants if each.label.upper() == label.upper()), None)

    def check_same(self, quant: Quant, outputs: Sequence[NewFile | Link], hasher: sums.Hasher | None) -> None:
        """Raise OutputExists unless `outputs` would be the files of the quant's plain variant.

        `hasher` None: only sizes are compared.
        """
        known = self.manifest.by_path()
        old = [known[name] for name in sorted(role.name for role in quant.variants[PLAIN].roles)]
        new = sorted(outputs, key=lambda out: out.name)
        same = [file.size_bytes for file in old] == [out.size_bytes for out in new]
        if same and hasher is not None:
            same = all(
                output_sha256(out, hasher) == file.sha256 for file, out in zip(old, new, strict=True)
            )
        if not same:
            raise OutputExists(
                f"{self.path}: the {quant.label} here is another one: its files differ from those that would be packed "
                "in size or SHA-256; pack into another folder, or give this quant another name."
            )


def same_file(left: Path, right: Path) -> bool:
    """Whether both paths lead to one file that exists."""
    try:
        return os.path.samefile(left, right)  # noqa: PTH121 - links are followed
    except OSError:
        return False


def bytes_to_compare(outputs: Sequence[NewFile | Link]) -> int:
    """The bytes that `output_sha256` reads for all of them."""
    copied = [part.size_bytes for out in outputs if isinstance(out, NewFile) for part in out.segments
              if isinstance(part, Copy)]  # fmt: skip
    return sum(copied) + sums.unique_bytes(out.source for out in outputs if isinstance(out, Link))


def output_sha256(out: NewFile | Link, hasher: sums.Hasher) -> str:
    """The SHA-256 that an output would have, from its sources. Raises UsageError if it needs conversion first."""
    if isinstance(out, Link):
        return hasher.digest(out.source)
    digest = hashlib.sha256()
    for segment in out.segments:
        if isinstance(segment, NewBytes):
            digest.update(segment.data)
        elif isinstance(segment, Copy):
            hasher.add_range(digest, segment.where.path, segment.where.start, segment.where.end)
        else:
            raise UsageError(f"{out.name}: this file cannot be compared before it is written; leave its model out.")
    return digest.hexdigest()
