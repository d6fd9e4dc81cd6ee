"""Pull: a variant's files from a repository on the Hub, and nothing else.

The revision is pinned to a commit. Files in the folder under another name, or in the user's Hub cache, are linked. The
rest arrives as ranges in a hidden folder (see `staging`), is compared with its hash, and then gets its name.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..bounded import MOST_DOCUMENT, read_bounded
from ..errors import BlockPresent, NoBlock, OutputExists, RemoteError, UsageError
from ..gguf.files import GGUFFile, read_header
from ..layouts.places import check_folder
from ..progress import Progress
from ..schemas.base import Documented, filled
from ..schemas.pull import PullDocument, PulledFile
from ..workfile import Stamp
from ..writing.execute import Outcome, check_outputs, execute
from ..writing.plan import Link, LinkMode, Plan
from ..writing.system import explained
from . import manifest as manifests
from . import sums
from .accept import check_content, check_names
from .choose import Chosen, choose
from .listing import Listed
from .staging import Staging, mismatch, one_at_a_time

if TYPE_CHECKING:
    from ..remote.http import Fetcher, Options
    from ..remote.hub import HubRepo
    from ..remote.model import Remote

PRESENT, CACHED, DOWNLOAD = "present", "cached", "download"
_Found = tuple["Step", Path, Stamp | None]  # a file, where its bytes are, and the stamp of the fetched copy


@dataclass(frozen=True)
class Step:
    """One file of the variant."""

    file: Listed
    name: str  # in the output folder
    state: str  # PRESENT there, CACHED (in the user's Hub cache, or under another name in the folder), or to DOWNLOAD
    source: Path | None = None  # where a CACHED one is


@dataclass(frozen=True)
class PullResult(Documented):
    """What pulling did, or with `dry_run` would do."""

    repo: str
    commit: str
    chosen: Chosen
    folder: Path
    steps: tuple[Step, ...]
    outcome: Outcome | None
    wall_s: float
    bytes_downloaded: int  # of these files; after a dry run, what is missing. What earlier runs left is not counted.

    @property
    def dry_run(self) -> bool:
        """Whether nothing was downloaded although something is missing."""
        return self.outcome is None and any(step.state != PRESENT for step in self.steps)

    @property
    def entry(self) -> Path:
        """The path to load."""
        return self.folder / PurePosixPath(self.chosen.entry).name

    @property
    def sidecar(self) -> Path | None:
        """The path to pass with -md."""
        return None if self.chosen.sidecar is None else self.folder / PurePosixPath(self.chosen.sidecar).name

    @property
    def when_unprinted(self) -> str:
        """Whether the files exist."""
        return "nothing was written" if self.dry_run else f"the files are complete, load {self.entry}"

    @property
    def document(self) -> PullDocument:
        """What --json prints."""
        files = [
            filled(PulledFile, step.file, path=str(self.folder / step.name), source=step.file.path, state=step.state)
            for step in self.steps
        ]
        chosen = self.chosen
        return filled(
            PullDocument, self, files=files, links=self.outcome.links if self.outcome else {},
            quant=chosen.quant, variant=chosen.variant, why=chosen.why, size_bytes=chosen.size_bytes,
        )  # fmt: skip



def pull(
    source: str,
    *,
    out: Path | str,
    variant: str = "mtp",
    quant: str | None = None,
    link: LinkMode = LinkMode.AUTO,
    options: Options | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    root: Path | None = None,
) -> PullResult:
    """Put the files of a variant into the folder `out`; those already in it are left as they are.

    `source`: ORG/NAME, hf:ORG/NAME@REVISION or a Hub address. What has arrived is kept when a run ends early, and
    the next one into the same folder resumes from there. Raises what `choose` raises, RemoteError,
    OutputExists (another file has a required name), NoSpace, StorageError.
    """
    from ..remote.address import HubSource, parse_source
    from ..remote.cache import cache_root
    from ..remote.http import Fetcher
    from ..remote.hub import HubRepo

    started = time.perf_counter()
    place = parse_source(source, maybe_local=False)
    if not isinstance(place, HubSource):
        raise UsageError(f"'{source}' is not a repository on the Hub; write ORG/NAME or hf:ORG/NAME@REVISION.")
    folder = check_folder(Path(out))
    fetcher = Fetcher(options)
    repo = HubRepo(place.repo_id, place.revision, fetcher, (root or cache_root()).absolute())
    turn = contextlib.nullcontext() if dry_run else one_at_a_time(repo.root, folder)
    with turn:
        return _pull(repo, fetcher, folder, variant, quant or place.file, link, dry_run, progress, started)


def _pull(
    repo: HubRepo,
    fetcher: Fetcher,
    folder: Path,
    variant: str,
    quant: str | None,
    link: LinkMode,
    dry_run: bool,
    progress: Progress | None,
    started: float,
) -> PullResult:
    from ..remote.model import Remote

    listing = [Listed(name, file.size_bytes, file.sha256) for name, file in repo.listing.files.items()]
    hasher = sums.Hasher()
    with Remote(repo, fetcher) as remote:
        here = _Here(repo, folder, listing, hasher)
        have = [file.path for file in listing if here.seems_to_have(file)]
        with remote.renaming():
            manifest = _manifest(remote, listing)
            try:
                chosen = choose(listing, manifest, variant, quant, _header(remote), have)
            except (UsageError, NoBlock, BlockPresent) as error:
                error.args = (f"hf:{repo.repo_id}: {error}",)
                raise
            check_names(chosen, repo.origin)
    steps = tuple(_steps(here, chosen))
    missing = [step for step in steps if step.state != PRESENT]
    staging = Staging(repo, fetcher, folder)
    n_moved, outcome = sum(staging.missing_bytes(file) for file in _unique(missing, DOWNLOAD)), None
    check_outputs(_plan(chosen, folder, [(step, Path(step.name), None) for step in missing], link), tidy=not dry_run)
    if not dry_run:
        if missing:
            promised = None if manifest is None else manifest.architecture
            n_moved, outcome = _carry_out(staging, chosen, steps, promised, folder, link, hasher, progress)
        staging.clear(step.file.path for step in steps)
    return PullResult(
        repo.repo_id, str(repo.revision), chosen, folder, steps, outcome, time.perf_counter() - started, n_moved
    )


def _unique(steps: Iterable[Step], state: str | None = None) -> list[Listed]:
    """Files of these steps; identical ones only once."""
    found = (step.file for step in steps if state in (None, step.state))
    return list({file.content: file for file in found}.values())


# -- looking ----------------------------------------------------------------------------------------------------------


def _manifest(remote: Remote, listing: Sequence[Listed]) -> manifests.Manifest | None:
    if not any(file.path == manifests.NAME for file in listing):
        return None
    remote.provide(manifests.NAME)
    data = read_bounded(remote.folder / manifests.NAME, MOST_DOCUMENT)
    return manifests.decode(data, f"{remote.name}:{manifests.NAME}")


def _header(remote: Remote) -> Callable[[str], GGUFFile]:
    known: dict[str, GGUFFile] = {}

    def header(path: str) -> GGUFFile:
        if path not in known:
            remote.provide(path)
            known[path] = read_header(remote.folder / path)
        return known[path]

    return header


@dataclass(frozen=True)
class _Here:
    """What part of a repository is already on this machine."""

    repo: HubRepo
    folder: Path
    listing: Sequence[Listed]
    hasher: sums.Hasher

    def _has_size(self, file: Listed) -> bool:
        path = self.folder / PurePosixPath(file.path).name
        try:
            return path.is_file() and path.stat().st_size == file.size_bytes
        except OSError:
            return False

    def _twins(self, file: Listed) -> list[Listed]:
        """Files of the repository with the same bytes, including this one."""
        if file.sha256 is None:
            return [file]
        return self._by_content.get(file.sha256, [file])  # a manifest may name a hash that no listed file has

    @cached_property
    def _by_content(self) -> dict[str, list[Listed]]:
        found: dict[str, list[Listed]] = {}
        for file in self.listing:
            if file.sha256 is not None:
                found.setdefault(file.sha256, []).append(file)
        return found

    @cached_property
    def _in_folder(self) -> set[str]:
        """Hashes that, by names and sizes, files in the folder may have."""
        return {content for content, files in self._by_content.items() if any(map(self._has_size, files))}

    def seems_to_have(self, file: Listed) -> bool:
        """Judged only by names and sizes."""
        there = self._has_size(file) if file.sha256 is None else file.sha256 in self._in_folder
        return there or self._cached(file) is not None

    def _cached(self, file: Listed) -> Path | None:
        """The file's bytes in the user's Hub cache, under this name or another."""
        from huggingface_hub import constants

        found = self.repo.local(file.path)
        if found is not None or file.sha256 is None:
            return found
        folder = "models--" + self.repo.repo_id.replace("/", "--")
        blob = Path(constants.HF_HUB_CACHE) / folder / "blobs" / file.sha256
        return blob if blob.is_file() and blob.stat().st_size == file.size_bytes else None

    def find(self, file: Listed) -> Path | None:
        """Where the file's bytes are, by their hash: under another name in the folder, or in the Hub cache."""
        for other in self._twins(file):
            path = self.folder / PurePosixPath(other.path).name
            if self._has_size(other) and other.sha256 is not None and self.hasher.digest(path) == other.sha256:
                return path
        return self._cached(file)

    def is_it(self, file: Listed, path: Path) -> bool:
        """Whether `path` holds the file: a name of the cached one, or equal by its hash."""
        if not path.is_file() or path.stat().st_size != file.size_bytes:
            return False
        cached = self._cached(file)
        if cached is not None and path.samefile(cached):
            return True
        return mismatch(self.repo, file, path, self.hasher) is None


def _steps(here: _Here, chosen: Chosen) -> list[Step]:
    """What has to be done for each file. Raises OutputExists for a name taken by another file."""
    steps = []
    for file in chosen.files:
        name = PurePosixPath(file.path).name
        path = here.folder / name
        if os.path.lexists(path):
            if not here.is_it(file, path):
                raise OutputExists(
                    f"{path}: another file has this name, and nextn never overwrites; choose another -o."
                )
            steps.append(Step(file, name, PRESENT))
        else:
            found = here.find(file)
            steps.append(Step(file, name, DOWNLOAD if found is None else CACHED, found))
    return steps


# -- doing ------------------------------------------------------------------------------------------------------------


def _plan(chosen: Chosen, folder: Path, found: Sequence[_Found], link: LinkMode) -> Plan:
    """Names in the folder; the file to load gets its name last. Staged files only need a name, the rest a link."""
    ordered = sorted(found, key=lambda each: each[0].file.path == chosen.entry)
    sidecar = None if chosen.sidecar is None else folder / PurePosixPath(chosen.sidecar).name
    return Plan(
        verb="pull",
        layout=chosen.variant,
        folder=folder,
        outputs=tuple(
            Link(step.name, path, step.file.size_bytes, link, stamp, staged=step.state == DOWNLOAD)
            for step, path, stamp in ordered
        ),
        entry=folder / PurePosixPath(chosen.entry).name,
        sidecar=sidecar,
        header_bytes=0,
    )


def _carry_out(
    staging: Staging,
    chosen: Chosen,
    steps: Sequence[Step],
    architecture: str | None,
    folder: Path,
    link: LinkMode,
    hasher: sums.Hasher,
    progress: Progress | None,
) -> tuple[int, Outcome]:
    """Fetch, compare with the hashes and with what was promised, give names. Also returns the bytes downloaded.

    Headers come first, and files refused by their headers are not downloaded. `architecture` is the manifest's.
    """
    missing = [step for step in steps if step.state != PRESENT]
    local = {step.file.path: step.source or folder / step.name for step in steps if step.state != DOWNLOAD}
    wanted = _unique(missing, DOWNLOAD)
    n_load = sum(staging.missing_bytes(file) for file in wanted)
    done, total = 0, n_load + sum(file.size_bytes for file in _unique(missing))

    def hashed(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(min(done, total), total)

    def fetched(n: int, _: int) -> None:
        nonlocal done
        done = n_local + n_heads
        hashed(n)

    hasher.advance = hashed
    here: dict[str, Stamp] = {}
    for step in missing:
        if step.source is not None:
            here[step.name] = _check(staging.repo, step.file, step.source, hasher)
    n_local = done
    with staging:
        with staging.dropping(file.path for file in chosen.files):
            heads = staging.headers(wanted)
            local |= {step.file.path: heads[step.file.content] for step in missing if step.state == DOWNLOAD}
            _check_content(staging, chosen, local, architecture)
        n_heads = n_load - sum(staging.missing_bytes(file) for file in wanted)
        n_moved = n_heads + staging.fetch(wanted, fetched)
        done = n_local + n_load
        staged = {file.content: staging.whole(file, hasher) for file in wanted}
        found: list[_Found] = [
            (step, *(staged[step.file.content] if step.source is None else (step.source, here[step.name])))
            for step in missing
        ]
        with staging.dropping(file.path for file in chosen.files):
            _check_content(staging, chosen, local, architecture)  # now on bytes with the right hash
        return n_moved, execute(_plan(chosen, folder, found, link))


def _check_content(staging: Staging, chosen: Chosen, local: Mapping[str, Path], architecture: str | None) -> None:
    """Raise FormatError when the headers disagree with names and manifest."""
    known: dict[str, GGUFFile] = {}

    def header(path: str) -> GGUFFile:
        if path not in known:
            known[path] = read_header(local[path])
        return known[path]

    check_content(chosen, header, architecture, staging.repo.origin)


def _check(repo: HubRepo, file: Listed, path: Path, hasher: sums.Hasher) -> Stamp:
    """The stamp of a file that is already here. Raises RemoteError when it is not what the Hub says."""
    with explained(path, "read it"):
        stamp = Stamp.of(path.stat())
    why = mismatch(repo, file, path, hasher)
    if why is not None:
        raise RemoteError(
            f"{repo.origin}:{file.path}: what is in the cache is not the file: {why}; remove {path.resolve()} and run "
            "it again."
        )
    return stamp
