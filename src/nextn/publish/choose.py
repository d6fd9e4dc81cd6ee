"""Exactly the files that a variant of a quant needs, from a listing: by our manifest, or by names and headers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from ..discovery.sidecars import named
from ..errors import BlockPresent, FormatError, IncompleteModel, NoBlock, UsageError
from ..layouts.pack import MTP, PLAIN, VARIANTS
from ..units import counted
from .listing import BROKEN, Group, Headers, Listed, groups, is_sidecar_of, kind_of
from .manifest import NAME, Manifest


@dataclass(frozen=True)
class Chosen:
    """The files of one variant."""

    quant: str
    variant: str
    entry: str  # path in the repository to load
    sidecar: str | None  # path in the repository to pass with -md
    files: tuple[Listed, ...]
    why: str  # one sentence

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


def choose(
    files: Sequence[Listed],
    manifest: Manifest | None,
    variant: str,
    quant: str | None,
    header: Headers,
    have: Collection[str] = (),
) -> Chosen:
    """The files to pull. `quant`: a label, or a GGUF of the repository, which stands for its model. `have`: paths that
    need no download; of several options the one that downloads least is taken.

    Raises UsageError (no such quant, or several to choose from), NoBlock or BlockPresent (the variant does not exist),
    IncompleteModel, FormatError (the manifest contradicts the listing).
    """
    if variant not in VARIANTS:
        raise UsageError(f"'{variant}' is not a variant; choose one of {', '.join(VARIANTS)}.")
    if manifest is not None:
        return _by_manifest(files, manifest, variant, quant)
    return _by_headers(files, variant, quant, header, set(have))


def pick_label(sizes: Mapping[str, int], quant: str | None) -> str:
    """The label that `quant` means: exactly, ignoring case, or as the end of just one (`Q4_K_M`: `UD-Q4_K_M`).

    Raises UsageError, listing all labels with their sizes in bytes.
    """
    if quant is None and len(sizes) == 1:
        return next(iter(sizes))
    wanted = (quant or "").upper()
    exact = [label for label in sizes if label.upper() == wanted]
    near = exact or [label for label in sizes if wanted and label.upper().endswith(f"-{wanted}")]
    if len(near) == 1:
        return near[0]
    known = ", ".join(f"{label} ({n_bytes:,} bytes)" for label, n_bytes in sizes.items()) or "none"
    if quant is None:
        raise UsageError(f"there are {len(sizes)} quants here, so name one with --quant: {known}.")
    meant = difflib.get_close_matches(_plain(wanted), {_plain(label): label for label in sizes}, 1, 0.78)
    hint = "" if near or not meant else next(f"; did you mean {label}?" for label in sizes if _plain(label) == meant[0])
    raise UsageError(f"'{quant}' names {len(near) or 'none'} of the quants here: {known}{hint or '.'}")


def _is_file(quant: str | None) -> TypeGuard[str]:
    return quant is not None and quant.lower().endswith(".gguf")


def _named_by(name: str, files: Iterable[tuple[str, str]]) -> str:
    """What the file `name`, a path or the last part of one, belongs to, of pairs of that and a path.

    Raises UsageError, naming the files.
    """
    known = {path: owner for owner, path in files}
    near = [path for path in known if path == name] or [path for path in known if path.rpartition("/")[2] == name]
    owners = {known[path] for path in near}
    if len(owners) == 1:
        return owners.pop()
    some = ", ".join(sorted(known)[:4]) + (", ..." if len(known) > 4 else "")
    raise UsageError(f"'{name}' is {'several models' if near else 'not a model'} of this repository; it has {some}.")


def _plain(label: str) -> str:
    """Without what people leave out: Q4KM."""
    return re.sub("[-_. ]", "", label.upper())


# -- by manifest ------------------------------------------------------------------------------------------------------


def _by_manifest(files: Sequence[Listed], manifest: Manifest, variant: str, quant: str | None) -> Chosen:
    entries, listing = manifest.by_path(), {file.path: file for file in files}
    sizes = {
        each.label: sum(entries[role.name].size_bytes for role in each.variants[variant].roles)
        for each in manifest.quants
        if variant in each.variants
    }
    if _is_file(quant):
        variants = ((each.label, one) for each in manifest.quants for one in each.variants.values())
        quant = _named_by(quant, ((of, role.name) for of, one in variants for role in one.roles))
    label = pick_label(sizes, quant)
    found = next(each for each in manifest.quants if each.label == label).variants[variant]
    chosen = []
    for role in found.roles:
        entry, there = entries[role.name], listing.get(role.name)
        if there is None:
            raise IncompleteModel(
                f"{NAME} names '{role.name}', which the repository does not have; tell its owner to upload the rest."
            )
        if there.size_bytes != entry.size_bytes or there.sha256 not in (None, entry.sha256):
            raise FormatError(
                f"'{role.name}' is not the file that the manifest describes",
                path=NAME,
                expected=f"{entry.size_bytes:,} bytes, sha256 {entry.sha256[:12]}...",
                found=f"{there.size_bytes:,} bytes, sha256 {(there.sha256 or 'unknown')[:12]}...",
            )
        chosen.append(Listed(role.name, entry.size_bytes, entry.sha256))
    why = f"{NAME} names {counted(len(chosen), 'file')} for {label}, {variant}"
    return Chosen(label, variant, found.entry, found.sidecar, tuple(chosen), why)


# -- by names and headers ---------------------------------------------------------------------------------------------


def _by_headers(
    files: Sequence[Listed], variant: str, quant: str | None, header: Headers, have: set[str]
) -> Chosen:
    by_label: dict[str, list[Group]] = {}
    found = groups(files)
    if _is_file(quant) and found:
        entry = _named_by(quant, ((group.entry, file.path) for group in found for file in group.files))
        found = [group for group in found if group.entry == entry]
        quant = None
    for group in found:
        by_label.setdefault(group.label or group.entry, []).append(group)
    if not by_label:
        is_checkpoint = any(file.path.endswith(".safetensors") for file in files)
        more = ", only a checkpoint, which --from takes as a donor; name a repository of its quants" * is_checkpoint
        raise UsageError(f"there is no GGUF model in this repository{more}.")
    label = pick_label({label: min(one.size_bytes for one in some) for label, some in by_label.items()}, quant)
    whole = [group for group in by_label[label] if not group.lacking]
    if not whole:
        broken = by_label[label][0]
        raise IncompleteModel(
            f"'{broken.entry}': this set is incomplete ({', '.join(broken.lacking[:3])} cannot be found in the "
            "repository); tell its owner."
        )
    kinds = {group.entry: kind_of(group, header) for group in whole}
    plain = [group for group in whole if kinds[group.entry] == PLAIN]
    bundled = [group for group in whole if kinds[group.entry] == MTP]
    if variant == PLAIN:
        if not plain:
            raise _no_plain(label, bundled, [group for group in whole if kinds[group.entry] == BROKEN])
        return _cheapest(
            [Chosen(label, PLAIN, one.entry, None, one.files, f"{one.entry} has no MTP block") for one in plain], have
        )
    ways = [Chosen(label, MTP, one.entry, None, one.files, f"{one.entry} has its MTP block") for one in bundled]
    for one in plain:
        beside = _sidecar(files, one, label, header)
        if beside is not None:
            why = f"{beside.path} is the sidecar of {one.entry}"
            ways.append(Chosen(label, MTP, one.entry, beside.path, (*one.files, beside), why))
    if not ways:
        raise NoBlock(
            f"no {label} in this repository has an MTP block, and there is no sidecar for it; pull --variant plain and "
            "put a block on with 'nextn attach'."
        )
    return _cheapest(ways, have)


def _no_plain(label: str, bundled: Sequence[Group], broken: Sequence[Group]) -> BlockPresent | UsageError:
    if bundled:
        return BlockPresent(
            f"every {label} in this repository has its MTP block inside; pull --variant mtp and take it off with "
            "'nextn detach'."
        )
    names = ", ".join(group.entry for group in broken) or "its files"
    return UsageError(
        f"no {label} in this repository is a complete model without a block: {names} declare a block that is missing, "
        "or hold only a block."
    )


def _cheapest(ways: Iterable[Chosen], have: set[str]) -> Chosen:
    """What downloads least; of equals the first, and bundled ones come first: every engine takes those."""
    return min(ways, key=lambda way: sum(file.size_bytes for file in way.files if file.path not in have))


def _sidecar(files: Sequence[Listed], model: Group, label: str, header: Headers) -> Listed | None:
    """The first by name among those that fit."""
    listing = {file.path: file for file in files}
    reach = named(listing, model.entry, label)
    own = header(model.entry) if reach else None
    return next((listing[path] for path in reach if own is not None and is_sidecar_of(header(path), own)), None)
