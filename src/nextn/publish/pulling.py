"""Pull: a variant's files from a repository on the Hub, and nothing else.

The revision is pinned to a commit. Files come through huggingface_hub into the user's cache, where equal files are
stored once whatever they are called, and get their names in the output folder by links.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..destinations.local import Outcome, check_outputs, execute
from ..errors import NextnError, OutputExists, RemoteError, UsageError
from ..gguf.files import GGUFFile, read_header
from ..layouts.plan import Link, LinkMode, Plan
from . import manifest as manifests
from . import sums
from .choose import Chosen, choose
from .listing import Listed

if TYPE_CHECKING:
    from ..sources.hub import HubRepo
    from ..sources.remote import Remote

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)
PRESENT, CACHED, DOWNLOAD = "present", "cached", "download"


@dataclass(frozen=True)
class Step:
    """One file of the variant."""

    file: Listed
    name: str  # in the output folder
    state: str  # PRESENT there, CACHED in the user's Hub cache, or to DOWNLOAD


@dataclass(frozen=True)
class PullResult:
    """What pulling did, or with `dry_run` would do."""

    repo: str
    commit: str
    chosen: Chosen
    folder: Path
    steps: tuple[Step, ...]
    outcome: Outcome | None
    wall_s: float

    @property
    def dry_run(self) -> bool:
        """Whether nothing was moved although something is missing."""
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
    def bytes_downloaded(self) -> int:
        """Bytes of files that were neither in the folder nor in the cache; equal files count once."""
        return _unique_bytes(step.file for step in self.steps if step.state == DOWNLOAD)

    def to_json(self) -> dict[str, Any]:
        """JSON as in schemas/pull.json."""
        return {
            "version": 1,
            "dry_run": self.dry_run,
            "verb": "pull",
            "repo": self.repo,
            "commit": self.commit,
            "quant": self.chosen.quant,
            "variant": self.chosen.variant,
            "why": self.chosen.why,
            "entry": str(self.entry),
            "sidecar": None if self.sidecar is None else str(self.sidecar),
            "bytes_downloaded": self.bytes_downloaded,
            "size_bytes": self.chosen.size_bytes,
            "wall_s": self.wall_s,
            "files": [
                {
                    "path": str(self.folder / step.name),
                    "from": step.file.path,
                    "size_bytes": step.file.size_bytes,
                    "sha256": step.file.sha256,
                    "state": step.state,
                }
                for step in self.steps
            ],
            "links": self.outcome.links if self.outcome else {},
        }


def _unique_bytes(files: Any) -> int:
    return sum({file.sha256 or file.path: file.size_bytes for file in files}.values())


def pull(
    source: str,
    *,
    out: Path | str,
    variant: str = "mtp",
    quant: str | None = None,
    link: LinkMode = LinkMode.AUTO,
    dry_run: bool = False,
    progress: Progress | None = None,
    root: Path | None = None,
) -> PullResult:
    """Have the files of a variant in the folder `out`; those that are there already are left as they are.

    `source`: ORG/NAME, hf:ORG/NAME@REVISION or an address of the Hub. Raises what `choose` raises, RemoteError,
    OutputExists (another file has a name that is needed), NoSpace, StorageError.
    """
    from ..sources.cache import cache_root
    from ..sources.http import Fetcher
    from ..sources.hub import HubRepo
    from ..sources.remote import Remote
    from ..sources.spec import HubSource, parse_source

    started = time.perf_counter()
    place = parse_source(source)
    if not isinstance(place, HubSource):
        raise UsageError(f"'{source}' is no repository on the Hub; write ORG/NAME or hf:ORG/NAME@REVISION.")
    fetcher = Fetcher()
    repo = HubRepo(place.repo_id, place.revision, fetcher, (root or cache_root()).absolute())
    listing = [Listed(name, file.size_bytes, file.sha256) for name, file in repo.listing.files.items()]
    folder = Path(out)
    with Remote(repo, fetcher) as remote:
        have = [file.path for file in listing if _in_folder(folder, file) or _cached(repo, file) is not None]
        chosen = choose(listing, _manifest(remote, listing), variant, quant or place.file, _header(remote), have)
    steps = tuple(_steps(repo, chosen, folder))
    missing = [step for step in steps if step.state != PRESENT]
    outcome = None
    if missing and not dry_run:
        outcome = _carry_out(repo, chosen, folder, missing, link, progress)
    elif missing:
        check_outputs(_plan(chosen, folder, [(step, Path(step.name)) for step in missing], link))
    commit = str(repo.revision)
    return PullResult(place.repo_id, commit, chosen, folder, steps, outcome, time.perf_counter() - started)


# -- looking ----------------------------------------------------------------------------------------------------------


def _manifest(remote: Remote, listing: Sequence[Listed]) -> manifests.Manifest | None:
    if not any(file.path == manifests.NAME for file in listing):
        return None
    remote.provide(manifests.NAME)
    try:
        data = (remote.folder / manifests.NAME).read_bytes()
    except OSError as error:
        from ..gguf.files import os_error

        raise os_error(error, remote.folder / manifests.NAME, "read it") from error
    return manifests.decode(data, f"{remote.name}:{manifests.NAME}")


def _header(remote: Remote) -> Callable[[str], GGUFFile]:
    known: dict[str, GGUFFile] = {}

    def header(path: str) -> GGUFFile:
        if path not in known:
            remote.provide(path)
            known[path] = read_header(remote.folder / path)
        return known[path]

    return header


def _in_folder(folder: Path, file: Listed) -> bool:
    path = folder / PurePosixPath(file.path).name
    try:
        return path.stat().st_size == file.size_bytes
    except OSError:
        return False


def _cached(repo: HubRepo, file: Listed) -> Path | None:
    """The file's bytes in the user's Hub cache, under this name or another."""
    from huggingface_hub import constants

    found = repo.local(file.path)
    if found is not None or file.sha256 is None:
        return found
    blob = Path(constants.HF_HUB_CACHE) / ("models--" + repo.repo_id.replace("/", "--")) / "blobs" / file.sha256
    return blob if blob.is_file() and blob.stat().st_size == file.size_bytes else None


def _steps(repo: HubRepo, chosen: Chosen, folder: Path) -> list[Step]:
    """What is to be done for each file. Raises OutputExists for a name that another file has."""
    steps = []
    names: dict[str, str] = {}
    for file in chosen.files:
        name = PurePosixPath(file.path).name
        if names.setdefault(name, file.path) != file.path:
            raise UsageError(f"'{file.path}' and '{names[name]}' would get one name; the repository cannot be pulled.")
        path = folder / name
        cached = _cached(repo, file)
        if os.path.lexists(path):
            if not _is_it(repo, file, path, cached):
                raise OutputExists(
                    f"{path}: another file has this name, and nextn never overwrites; choose another -o."
                )
            steps.append(Step(file, name, PRESENT))
        else:
            steps.append(Step(file, name, DOWNLOAD if cached is None else CACHED))
    return steps


def _is_it(repo: HubRepo, file: Listed, path: Path, cached: Path | None) -> bool:
    """Whether `path` holds the file: a name of the cached one, or equal by its hash."""
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    if cached is not None and path.samefile(cached):
        return True
    return repo.check(file.path, path) is None


# -- doing ------------------------------------------------------------------------------------------------------------


def _plan(chosen: Chosen, folder: Path, found: Sequence[tuple[Step, Path]], link: LinkMode) -> Plan:
    """Links into the folder; the file to load gets its name last."""
    ordered = sorted(found, key=lambda each: each[0].file.path == chosen.entry)
    sidecar = None if chosen.sidecar is None else folder / PurePosixPath(chosen.sidecar).name
    return Plan(
        verb="pull",
        layout=chosen.variant,
        folder=folder,
        outputs=tuple(Link(step.name, path, step.file.size_bytes, link) for step, path in ordered),
        entry=folder / PurePosixPath(chosen.entry).name,
        sidecar=sidecar,
        header_bytes=0,
    )


def _carry_out(
    repo: HubRepo, chosen: Chosen, folder: Path, missing: Sequence[Step], link: LinkMode, progress: Progress | None
) -> Outcome:
    check_outputs(_plan(chosen, folder, [(step, Path(step.name)) for step in missing], link))
    n_load = _unique_bytes(step.file for step in missing if step.state == DOWNLOAD)
    total = n_load + _unique_bytes(step.file for step in missing)
    done = 0

    def moved(n: float) -> None:
        nonlocal done
        done += int(n)
        if progress is not None:
            progress(min(done, total), total)

    found = [(step, _download(repo, step.file, moved)) for step in missing]
    hasher = sums.Hasher(moved)
    for step, path in found:
        _check(repo, step.file, path, hasher)
    return execute(_plan(chosen, folder, found, link))


def _check(repo: HubRepo, file: Listed, path: Path, hasher: sums.Hasher) -> None:
    """Raise RemoteError when the file is not what the Hub, or the manifest, says."""
    why = None
    if file.sha256 is None:
        why = repo.check(file.path, path)
    elif (digest := hasher.digest(path)) != file.sha256:
        why = f"its sha256 is {digest[:12]}..., and should be {file.sha256[:12]}..."
    if why is not None:
        raise RemoteError(
            f"{repo.origin}:{file.path}: what is in the cache is not the file: {why}; remove {path.resolve()} and run "
            "it again."
        )


def _download(repo: HubRepo, file: Listed, moved: Callable[[float], None]) -> Path:
    """The file in the user's Hub cache. Raises RemoteError."""
    import httpx2
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        """Tells our progress what the client's would show."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> Any:
            moved(n or 0)
            return super().update(n)

    try:
        return Path(
            hf_hub_download(
                repo.repo_id, file.path, revision=repo.revision, endpoint=repo.endpoint, library_name="nextn",
                tqdm_class=Bar,
            )
        )  # fmt: skip
    except NextnError:
        raise
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, httpx2.HTTPError, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise RemoteError(
            f"{repo.origin}:{file.path}: it could not be downloaded: {reason}; what has arrived is kept, so run it "
            "again."
        ) from error
