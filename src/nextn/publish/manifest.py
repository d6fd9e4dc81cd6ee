"""`nextn.json`: which part every published file is, in every variant of every quant.

The format is in schemas/manifest.json. A manifest comes from strangers: nothing in it is believed that the
repository's own listing contradicts, and no name in it leaves the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError, UnsupportedFormat
from ..layouts.pack import LAYOUTS, PARTS, VARIANTS, Quant, Role, Variant
from ..version import __version__

NAME = "nextn.json"
VERSION = 1
BLANK = "0" * 64  # stands for a hash that is not known yet
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Published:
    """One published file."""

    path: str
    size_bytes: int
    sha256: str  # hex


@dataclass(frozen=True)
class Manifest:
    """What a repository says of itself."""

    model: str  # name for people
    architecture: str
    files: tuple[Published, ...]
    quants: tuple[Quant, ...]

    def by_path(self) -> dict[str, Published]:
        """The files by path."""
        return {entry.path: entry for entry in self.files}

    def encode(self) -> bytes:
        """The file's bytes; their number does not depend on the hashes."""
        value = {
            "version": VERSION,
            "tool": f"nextn {__version__}",
            "model": self.model,
            "architecture": self.architecture,
            "files": [
                {"path": entry.path, "size_bytes": entry.size_bytes, "sha256": entry.sha256} for entry in self.files
            ],
            "quants": [
                {
                    "quant": quant.label,
                    "layout": quant.layout,
                    "variants": {name: _variant_json(variant) for name, variant in quant.variants.items()},
                }
                for quant in self.quants
            ],
        }
        return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape")


def _variant_json(variant: Variant) -> dict[str, Any]:
    return {
        "entry": variant.entry,
        "sidecar": variant.sidecar,
        "files": [{"path": role.name, "part": role.part} for role in variant.roles],
    }


def safe_path(path: str) -> bool:
    """Whether a repository's path stays inside the folder it is put into."""
    parts = path.split("/")
    return bool(path) and "\\" not in path and "\0" not in path and not any(part in ("", ".", "..") for part in parts)


class _Damaged(Exception):
    """What is wrong with a manifest."""


def decode(data: bytes, where: str) -> Manifest:
    """The manifest in `data`; `where` names it in errors.

    Raises FormatError, and UnsupportedFormat for a version that is newer than this program.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"this is no valid JSON ({error})", path=where) from error
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise UnsupportedFormat(
            f"the manifest has version {version}, and this nextn reads {VERSION}; get a newer one", path=where
        )
    try:
        if version != VERSION:
            raise _Damaged(f"'version' is {version!r}")
        return _read(value)
    except _Damaged as error:
        raise FormatError(f"the manifest is damaged: {error}", path=where) from None


def _need(value: Any, key: str, kind: type) -> Any:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise _Damaged(f"'{key}' should be {kind.__name__} and is {found!r:.80}")
    return found


def _read(value: Any) -> Manifest:
    files = []
    for item in _need(value, "files", list):
        entry = Published(_need(item, "path", str), _need(item, "size_bytes", int), _need(item, "sha256", str))
        if not safe_path(entry.path) or entry.size_bytes < 0 or not _SHA256.match(entry.sha256):
            raise _Damaged(f"the entry of {entry.path!r:.200} makes no sense")
        files.append(entry)
    known = {entry.path for entry in files}
    if len(known) != len(files):
        raise _Damaged("a file is named twice")
    quants = [_read_quant(item, known) for item in _need(value, "quants", list)]
    return Manifest(_need(value, "model", str), _need(value, "architecture", str), tuple(files), tuple(quants))


def _read_quant(item: Any, known: set[str]) -> Quant:
    layout, variants = _need(item, "layout", str), _need(item, "variants", dict)
    if layout not in LAYOUTS or not set(variants) <= set(VARIANTS):
        raise _Damaged(f"layout or variants are unknown: {layout!r:.80}, {', '.join(map(str, variants))[:80]}")
    return Quant(
        _need(item, "quant", str), layout, {name: _read_variant(found, known) for name, found in variants.items()}
    )


def _read_variant(item: Any, known: set[str]) -> Variant:
    roles = tuple(Role(_need(file, "path", str), _need(file, "part", str)) for file in _need(item, "files", list))
    entry, sidecar = _need(item, "entry", str), item.get("sidecar")
    names = {role.name for role in roles}
    named = {entry} if sidecar is None else {entry, sidecar}
    if not named <= names or not names <= known or not all(role.part in PARTS for role in roles):
        raise _Damaged(f"the variant of {entry!r:.200} names files or parts that are not there")
    return Variant(entry, sidecar, roles)


def manifest_of(
    model: str, architecture: str, quants: Sequence[Quant], sizes: Mapping[str, int], hashes: Mapping[str, str]
) -> Manifest:
    """A manifest from what will be published; hashes that are not known yet are left blank."""
    names = dict.fromkeys(role.name for quant in quants for found in quant.variants.values() for role in found.roles)
    files = tuple(Published(name, sizes[name], hashes.get(name, BLANK)) for name in sorted(names))
    return Manifest(model, architecture, files, tuple(quants))
