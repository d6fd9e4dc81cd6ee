"""Which sidecar belongs to a model: the single answer that all verbs share.

Searched in this order: in the model's folder and those above it, as llama.cpp's `-hf` does (in a cached repository
up to its root, elsewhere one folder up); under names that llama.cpp does not know; in `MTP/` folders below those; in
other snapshots of the same cached repository; and where `nextn attach` put it. Each file is judged by its header: one
that belongs to another model, or that doctor calls an error, is passed over with the reason. A sidecar made for a
trunk of a different depth comes after all others. Within one place the model's own name ranks first, then llama.cpp's
ranking applies (`llama_cpp_names`). Verbs decide only what to do with the answer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ..archs.drafts import kind_of
from ..archs.others import ASSISTANTS
from ..block.anatomy import Anatomy
from ..diagnosis.drafts import does_not_fit
from ..diagnosis.examine import Diagnosis, diagnose
from ..diagnosis.renamed import find_renamed
from ..donors.infer import names_of, same_name
from ..errors import NextnError, UsageError
from ..gguf.files import Model, model_candidates, open_model, set_prefix, split_shard_name
from ..layouts.places import header_sha256, hub_repository, in_store, is_named_by_hash, real_place, snapshots
from ..printable import printable
from . import llama_cpp_names as names
from .kept import kept_for
from .once import Asking, each_time

# Names such as X-Q4_K_M-mtp and X.eagle3.
_WORD = re.compile(r"(?:^|[^A-Za-z])(?:MTP|EAGLE-?3|DFlash|DSpark)(?:[^A-Za-z]|$)", re.IGNORECASE)
_OWN_MARKS = re.compile(
    rf"^(?:{'|'.join(names.MARKS)})|-MTP-donor(?=-|\Z)|-(?:MTP|EAGLE-?3|DFlash|DSpark)(?=-|\Z)", re.IGNORECASE
)
_NO_SIDECARS = ("mmproj", "imatrix")
_MTP_FOLDER = "mtp"  # in any letter case
MOST_FILES = 64  # at most this many files have their headers read
_APART = 3  # where in a rank it says how far the file's name is from the model's
_FAR = 100  # more folders than any path has: a link's target counts as farther away than the link

# Where a sidecar was found, in order of preference.
BESIDE, ABOVE, OTHER_NAME, BELOW, OTHER_SNAPSHOT, KEPT, KEPT_NEAR = range(7)
WORDS = {
    BESIDE: "is beside it",
    ABOVE: "is in a folder above it",
    OTHER_NAME: "is beside it under a name that llama.cpp does not look for",
    BELOW: "is in the MTP folder below it",
    OTHER_SNAPSHOT: "is in another snapshot of the same repository",
    KEPT: "was put there by 'nextn attach'",
    KEPT_NEAR: "was put there by 'nextn attach' for another file in the same folder",
}


@dataclass(frozen=True)
class Candidate:
    """A file that may be the model's sidecar."""

    path: Path
    where: int  # BESIDE to KEPT_NEAR
    fits: bool
    why: str  # how it differs from one made for this model, '' if it does not; or why it was passed over
    rank: tuple[int, ...]  # smallest first; equal ranks fit equally well
    model: Model | None = field(default=None, repr=False)  # None: it could not be opened

    @property
    def place(self) -> str:
        """What it is and where, as part of a sentence."""
        shown = self.path.name if self.where in (BESIDE, ABOVE, OTHER_NAME) else self.path
        return f"the sidecar {printable(str(shown), 1000)} {WORDS[self.where]}"


@dataclass(frozen=True)
class FoundSidecars:
    """The answer: sidecars that fit, best first, and those that were passed over."""

    model: Model
    candidates: tuple[Candidate, ...] = ()
    passed_over: tuple[Candidate, ...] = ()

    @cached_property
    def equals(self) -> tuple[Candidate, ...]:
        """Those that fit as well as the best, of copies the first; more than one means doubt."""
        found = [each for each in self.candidates if each.rank == self.candidates[0].rank]
        distinct: dict[object, Candidate] = {}
        for each in found:
            distinct.setdefault(_content(each) if len(found) > 1 else each.path, each)
        return tuple(distinct.values())

    def best(self, option: str = "--sidecar") -> Candidate | None:
        """The sidecar to use, or None. Raises UsageError if several fit equally well; `option` names one."""
        if len(self.equals) > 1:
            several = ", ".join(printable(str(each.path), 1000) for each in self.equals)
            raise UsageError(
                f"{self.model.entry}: {len(self.equals)} sidecars fit it equally well ({several}); name one with "
                f"{option}."
            )
        return self.candidates[0] if self.candidates else None

    def notes(self) -> list[str]:
        """What a user should know about the choice: what was ignored, and what was chosen."""
        taken = self.candidates[0] if self.candidates else None
        out = [
            f"ignored {printable(each.path.name, 200)}: {each.why}"
            for each in self.passed_over
            if taken is None or each.rank < taken.rank
        ]
        if taken is not None:
            out.append(f"{taken.place} and was chosen" + (f": {taken.why}" if taken.why else ""))
        return out

    def hints(self) -> list[str]:
        """What to say about sidecars without choosing one."""
        out = []
        if len(self.equals) > 1:
            several = ", ".join(printable(each.path.name, 200) for each in self.equals)
            out.append(f"{len(self.equals)} sidecars fit it equally well ({several}): name one with --sidecar")
        elif self.candidates:
            best = self.candidates[0]
            out.append(best.place + (f": {best.why}" if best.why else ""))
        names = [(printable(each.path.name, 200), each.why) for each in self.passed_over]
        return out + [f"{name} is not a sidecar for it: {why}" for name, why in names]


def _content(candidate: Candidate) -> object:
    """Equal for copies: the headers that nextn writes have the hash of each tensor. Else the path."""
    file = candidate.model.files[0] if candidate.model is not None else None
    if file is None or file.header.get("nextn.tensor_sha256") is None:
        return candidate.path
    return file.size_bytes, header_sha256(file)


def find_sidecars(model: Model, ask: Asking = each_time) -> FoundSidecars:
    """The sidecars of a trunk-only model; none for a model with its own block, or for a sidecar."""
    if Anatomy.of(model).shape != "trunk-only":
        return FoundSidecars(model)
    own = {_identity(file.path) for file in model.files}
    seen: set[tuple[int, int]] = set()
    judged: list[Candidate] = []
    fitting = _Fitting(model, ask)
    for path, where, depth in _files(model, ask):
        if (identity := _identity(path)) is None or identity in own:
            continue
        if len(judged) >= MOST_FILES:
            break
        if identity in seen:
            continue
        seen.add(identity)
        judged += fitting.judged(path, where, depth)
    judged.sort(key=lambda each: (each.rank, each.path.name, each.path))
    return FoundSidecars(
        model, tuple(each for each in judged if each.fits), tuple(each for each in judged if not each.fits)
    )


_NOTHING_DRAFTS = ("no-block-attached", "no-block-published")  # findings that a sidecar settles


def with_sidecars(diagnosis: Diagnosis, found: FoundSidecars) -> Diagnosis:
    """The diagnosis of a model with what was found beside it: a sidecar, so that no block needs to be attached, or one
    of its own that it cannot be used with.
    """
    kept = [each for each in diagnosis.findings if not (found.candidates and each.id in _NOTHING_DRAFTS)]
    own = (each for each in found.passed_over if _is_its_own(each, found.model))
    misfits = [does_not_fit(each.path, each.why, found.model) for each in own]
    return replace(diagnosis, findings=(*misfits, *kept))


def _is_its_own(candidate: Candidate, model: Model) -> bool:
    """Whether a draft that does not fit is this model's by its name, or because there is no other beside it."""
    of_draft = (names.mark_of(candidate.path.name) or 0) > 0
    if not of_draft or candidate.where != BESIDE:
        return False
    return candidate.rank[_APART] == 0 or len(model_candidates(model.entry.parent)) == 1


def nearer_than(model: Model, fresh: Path) -> Candidate | None:
    """The sidecar that takes precedence over one at `fresh`, which need not exist yet."""
    near = fresh.absolute().parent == model.entry.absolute().parent
    where = (OTHER_NAME if names.mark_of(fresh.name) is None else BESIDE) if near else KEPT
    found = find_sidecars(model).candidates
    return found[0] if found and found[0].where < where and not found[0].why else None


def named(paths: Iterable[str], model: str, tag: str = "") -> list[str]:
    """Sidecars, by name, in a repository's listing: those within llama.cpp's reach, then those in MTP/ folders."""
    listing = list(paths)
    folder = Path(model).parent
    above = {folder, *folder.parents}
    below = [
        path
        for path in listing
        if path.endswith(".gguf")
        and Path(path).parent.name.lower() == _MTP_FOLDER
        and Path(path).parent.parent in above
        and not any(mark in Path(path).name for mark in _NO_SIDECARS)
    ]
    near = names.sidecars(listing, model, tag)
    below.sort(key=lambda path: (-len(Path(path).parts), names.distance(path, model, tag), path))
    return [*near, *(path for path in below if path not in near and path != model)]


# -- where to look ----------------------------------------------------------------------------------------------------


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _files(model: Model, ask: Asking) -> Iterator[tuple[Path, int, int]]:
    """Files to check, where they are, and how many folders away; nearest first."""
    for i, entry in enumerate(_locations(model.entry)):
        folders = _in_reach(entry)
        snapshot = _snapshot(entry)
        away = i * _FAR
        for depth, folder in enumerate(folders, away):
            for path in ask(_ggufs, folder):
                if names.mark_of(path.name) is not None:
                    yield path, BESIDE if depth == away else ABOVE, depth
        for depth, folder in enumerate(folders, away):
            for path in ask(_ggufs, folder):
                if names.mark_of(path.name) is None and _WORD.search(path.stem):
                    yield path, OTHER_NAME, depth
        for depth, folder in enumerate(folders, away):
            for below in ask(_mtp_folders, folder):
                for path in ask(_ggufs, below):
                    yield path, BELOW, depth
        if snapshot is not None:
            for path, depth in _in_other_snapshots(snapshot, entry, ask):
                yield path, OTHER_SNAPSHOT, away + depth
    own, near = kept_for(model, ask)
    for path in own:
        yield path, KEPT, 0
    for path in near:
        yield path, KEPT_NEAR, 0


def _locations(entry: Path) -> list[Path]:
    """The model's paths: as the user named it, the targets of links, and a blob's names in snapshots."""
    at = Path(os.path.abspath(entry))  # noqa: PTH100 - links are kept here, not resolved
    out = [at]
    for _ in range(8):  # nobody makes longer chains of links
        at = real_place(at)
        out.append(at)
        if not at.is_symlink():
            break
        at = at.parent / at.readlink()
    repository = hub_repository(at)
    if repository is not None and at.parent == repository / "blobs":
        blob = _identity(at)
        for snapshot in snapshots(repository):
            out += [path for path in sorted(snapshot.rglob("*")) if path.is_symlink() and _identity(path) == blob]
    return [
        path
        for path in dict.fromkeys(out)
        if not (is_named_by_hash(path) or (in_store(path) and _snapshot(path) is None))
    ]


def _snapshot(entry: Path) -> Path | None:
    """The snapshot folder of a Hub cache that an entry is in."""
    repository = hub_repository(entry)
    if repository is None:
        return None
    parts = entry.relative_to(repository).parts
    return repository / parts[0] / parts[1] if parts[0] == "snapshots" and len(parts) > 2 else None


def _in_reach(entry: Path) -> list[Path]:
    """The entry's folder and the parents that llama.cpp searches, nearest first."""
    snapshot = _snapshot(entry)
    if snapshot is None:
        return [entry.parent, entry.parent.parent] if entry.parent != entry.parent.parent else [entry.parent]
    return [folder for folder in entry.parents if folder.is_relative_to(snapshot)]


def _in_other_snapshots(snapshot: Path, entry: Path, ask: Asking) -> Iterator[tuple[Path, int]]:
    """Sidecars by name in other snapshots, and how far from the model's folder there."""
    relative = entry.relative_to(snapshot)
    for other in snapshots(snapshot.parent.parent):
        if other == snapshot:
            continue
        for name in named(ask(_listing, other), relative.as_posix()):
            yield other / name, len(relative.parts) - 1 - len(_shared(relative.parent, Path(name).parent))


def _listing(snapshot: Path) -> list[str]:
    return [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf")]


def _shared(left: Path, right: Path) -> tuple[str, ...]:
    return tuple(a for a, b in zip(left.parts, right.parts, strict=False) if a == b)


def _ggufs(folder: Path) -> list[Path]:
    """GGUF files in a folder, only first shards of sets, sorted; none if the folder cannot be listed."""
    try:
        found = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".gguf") and entry.is_file())
    except OSError:
        return []
    return [
        folder / name
        for name in found
        if not any(mark in name for mark in _NO_SIDECARS) and (split_shard_name(name) or ("", 1, 1))[1] == 1
    ]


def _mtp_folders(folder: Path) -> list[Path]:
    try:
        return sorted(
            Path(entry.path) for entry in os.scandir(folder) if entry.name.lower() == _MTP_FOLDER and entry.is_dir()
        )
    except OSError:
        return []


# -- what fits --------------------------------------------------------------------------------------------------------


class _Fitting:
    """Judges files as sidecars of one model."""

    def __init__(self, model: Model, ask: Asking) -> None:
        self.model, self.ask = model, ask
        entries = [path.name for path in _locations(model.entry)] or [model.entry.name]
        self.name = entries[-1]  # for a blob, its name in the snapshot
        self.file_names = {base_of(name) for name in entries}
        self.names = names_of(model)

    def judged(self, path: Path, where: int, depth: int) -> list[Candidate]:
        """The file as a candidate; nothing if it is not a sidecar and does not claim to be one."""
        try:
            sidecar = self.ask(open_model, path)
            shape = Anatomy.of(sidecar).shape
            if shape != "sidecar" and names.mark_of(path.name) is None:
                return []
            differences = self._differences(sidecar, shape)
        except NextnError as error:
            why = str(error).rstrip(".")
            for known in (f"{path} does not fit {self.model.entry.name}: ", f"{path}: ", f"{path}, "):
                why = why.removeprefix(known)
            return [Candidate(path, where, False, why, self._rank(path, None, where, depth, True))]
        rank = self._rank(path, sidecar, where, depth, not differences)
        return [Candidate(path, where, True, "; ".join(differences), rank, sidecar)]

    def _differences(self, sidecar: Model, shape: str) -> list[str]:
        """How it differs from this model's own sidecar. Raises NextnError if no engine drafts with it."""
        from ..layouts.beside import check_beside

        renamed = find_renamed(sidecar)
        if renamed is not None:
            raise UsageError(f"{sidecar.entry}: {renamed.what}")
        if not _is_assistant(sidecar):
            if shape == "bundled":
                raise UsageError(f"{sidecar.entry}: this is a model with its block, not a sidecar.")
            if shape == "sidecar":
                _refuse_errors(sidecar, None)
        differences = check_beside(sidecar, self.model)
        if not _is_assistant(sidecar):
            _refuse_errors(sidecar, self.model)
        return differences

    def _rank(self, path: Path, sidecar: Model | None, where: int, depth: int, alike: bool) -> tuple[int, ...]:
        far = names.distance(path.name, self.name, names.own_tag(self.name))
        apart = self._name_apart(path, sidecar)
        return (int(not alike), where, depth, apart, _kind_rank(path, sidecar), *map(int, far))

    def _name_apart(self, path: Path, sidecar: Model | None) -> int:
        """0: the file's name is the model's; 1: its metadata names the model; 2: neither."""
        base = base_of(path.name)
        if any(same_name(base, name) for name in self.file_names):
            return 0
        known = [base, *(names_of(sidecar) if sidecar is not None else ())]
        return 1 if any(same_name(one, name) for one in known for name in self.names) else 2


def _kind_rank(path: Path, sidecar: Model | None) -> int:
    """The sidecar's kind as a number, in the order in which llama.cpp's -hf takes them."""
    kind = None if sidecar is None else kind_of(sidecar.header.get("general.architecture"), sidecar.tensors)
    return (names.mark_of(path.name) or 0) if kind is None else names.MARKS.index(kind.mark)


def _is_assistant(model: Model) -> bool:
    return model.header.get("general.architecture") in ASSISTANTS


def base_of(name: str) -> str:
    """A GGUF's name without its extension, shard numbers and the marks of sidecars, donors and bundles."""
    return _OWN_MARKS.sub("", set_prefix(name))


def _refuse_errors(sidecar: Model, model: Model | None) -> None:
    """Raises UsageError for what doctor calls an error, by headers."""
    for finding in diagnose(sidecar, trunk=model, beside=False).findings:
        if finding.severity == "error":
            raise UsageError(f"{sidecar.entry}: {finding.what}")
