"""`nextn.json`: the role of each published file in every variant of every quant.

The format is in schemas/manifest.py. A manifest is untrusted: nothing in it is believed that the
repository's own listing contradicts, and no name in it escapes the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from ..errors import FormatError, UnsupportedFormat
from ..layouts.pack import Quant, Role, Variant
from ..schemas.base import filled, plain
from ..schemas.manifest import (
    ManifestDocument,
    PublishedFile,
    PublishedQuant,
    PublishedVariant,
    PublishedVerdict,
    VariantFile,
)
from ..version import __version__
from .verified import Verified

NAME = "nextn.json"
VERSION = 1
BLANK = "0" * 64  # stands for a hash that is not known yet


@dataclass(frozen=True)
class Manifest:
    """What a repository says about itself."""

    model: str  # display name
    architecture: str
    files: tuple[PublishedFile, ...]
    quants: tuple[Quant, ...]
    repo: str | None = None
    base_model: str | None = None
    verified: tuple[Verified, ...] = ()
    card_sha256: str | None = None
    license: str | None = None  # as the model's header names it

    def by_path(self) -> dict[str, PublishedFile]:
        """The files by path."""
        return {file.path: file for file in self.files}

    def encode(self) -> bytes:
        """The file's bytes; their number does not depend on the hashes."""
        quants = [
            filled(
                PublishedQuant,
                quant,
                quant=quant.label,
                variants={name: _published(variant) for name, variant in quant.variants.items()},
            )
            for quant in self.quants
        ]
        document = ManifestDocument(
            tool=f"nextn {__version__}",
            model=self.model,
            architecture=self.architecture,
            repo=self.repo,
            base_model=self.base_model,
            license=self.license,
            card_sha256=self.card_sha256,
            files=list(self.files),
            quants=quants,
            verified=[filled(PublishedVerdict, each) for each in self.verified],
        )
        return (json.dumps(plain(document), indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape")


def _published(variant: Variant) -> PublishedVariant:
    files = [filled(VariantFile, role, path=role.name) for role in variant.roles]
    return PublishedVariant(entry=variant.entry, sidecar=variant.sidecar, files=files)


def safe_path(path: str) -> bool:
    """Whether a repository's path stays inside its target folder."""
    parts = path.split("/")
    return bool(path) and "\\" not in path and "\0" not in path and not any(part in ("", ".", "..") for part in parts)


class _Damaged(Exception):
    """What is wrong with a manifest."""


def decode(data: bytes, where: str) -> Manifest:
    """The manifest in `data`; `where` names it in errors.

    Raises FormatError, and UnsupportedFormat for a version that is newer than this program.
    """
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"this is not valid JSON ({error})", path=where) from error
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise UnsupportedFormat(
            f"the manifest has version {version}, and this nextn reads {VERSION}; get a newer one", path=where
        )
    try:
        if version != VERSION:
            raise _Damaged(f"'version' is {version!r:.80}")
        return _checked(msgspec.convert(value, ManifestDocument))
    except msgspec.ValidationError as error:
        raise FormatError(f"the manifest is damaged: {str(error).replace('`', chr(39))}", path=where) from None
    except _Damaged as error:
        raise FormatError(f"the manifest is damaged: {error}", path=where) from None


def _checked(document: ManifestDocument) -> Manifest:
    """Its parts, if they are consistent with one another."""
    for file in document.files:
        if not safe_path(file.path):
            raise _Damaged(f"the entry of {file.path!r:.200} is not valid")
    known = {file.path for file in document.files}
    if len(known) != len(document.files):
        raise _Damaged("a file is named twice")
    quants = [
        Quant(one.quant, one.layout, {str(name): _variant(found, known) for name, found in one.variants.items()})
        for one in document.quants
    ]
    verified = tuple(Verified(**plain(each)) for each in document.verified or ())
    return Manifest(
        document.model, document.architecture, tuple(document.files), tuple(quants), document.repo,
        document.base_model, verified, document.card_sha256, document.license,
    )  # fmt: skip


def _variant(found: PublishedVariant, known: set[str]) -> Variant:
    names = {file.path for file in found.files}
    named = {found.entry} if found.sidecar is None else {found.entry, found.sidecar}
    if len(names) != len(found.files):
        raise _Damaged(f"the variant of {found.entry!r:.200} names a file twice")
    if not named <= names or not names <= known:
        raise _Damaged(f"the variant of {found.entry!r:.200} names files that are not listed")
    return Variant(found.entry, found.sidecar, tuple(Role(file.path, file.part) for file in found.files))


def manifest_of(
    model: str,
    architecture: str,
    quants: Sequence[Quant],
    sizes: Mapping[str, int],
    hashes: Mapping[str, str],
    repo: str | None = None,
    base_model: str | None = None,
    verified: Sequence[Verified] = (),
    card_sha256: str | None = None,
    license: str | None = None,
) -> Manifest:
    """A manifest from what will be published; hashes that are not known yet are left blank."""
    names = dict.fromkeys(role.name for quant in quants for found in quant.variants.values() for role in found.roles)
    files = tuple(PublishedFile(name, sizes[name], hashes.get(name, BLANK)) for name in sorted(names))
    return Manifest(model, architecture, files, tuple(quants), repo, base_model, tuple(verified), card_sha256, license)
