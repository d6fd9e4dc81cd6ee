"""Opening a remote checkpoint or GGUF: which files of a repository or an address are meant, and their headers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import IncompleteModel, NextnError, UsageError
from ..gguf.files import open_model, shard_name, split_shard_name
from ..sources.checkpoint import CONFIG, INDEX, open_checkpoint, without_config
from ..units import are
from .address import HubSource, UrlSource, choose_gguf
from .cache import cache_root
from .model import Remote, RemoteCheckpoint

if TYPE_CHECKING:
    from .http import Options


def open_remote(
    source: HubSource | UrlSource,
    *,
    options: Options | None = None,
    root: Path | None = None,
    endpoint: str | None = None,
    checkpoint_only: bool = False,
    lone: bool = False,
) -> Remote:
    """A remote checkpoint or GGUF: headers only.

    With `checkpoint_only` a repository without a checkpoint is opened as nothing; with `lone` a safetensors
    file without a config.json is opened by itself. `root` is the cache folder (default:
    `cache_root()`), `endpoint` the Hub (default: HF_ENDPOINT). Raises UsageError (nothing or too much to choose from),
    RemoteError, IncompleteModel, FormatError, StorageError.
    """
    from .http import Fetcher
    from .hub import HubRepo, WebFolder

    fetcher = Fetcher(options)
    root = (root or cache_root()).absolute()
    if isinstance(source, UrlSource):
        web = WebFolder(source.url, fetcher, root)
        if web.name.endswith(".gguf"):
            return _open_gguf(Remote(web, fetcher), web.name)
        if web.name in ("", CONFIG, INDEX) or web.name.endswith(".safetensors"):
            remote = Remote(web, fetcher)
            if web.name.endswith(".safetensors") and web.target(CONFIG) is None:
                return _open_lone(remote, [web.name], web.origin, lone=lone)
            return _open_checkpoint(remote)
        raise UsageError(f"{web.origin}: this is neither a .gguf file nor a checkpoint; name the file itself.")
    remark = f", and there is no local '{source.repo_id}' either" if source.bare else ""
    repo = HubRepo(source.repo_id, source.revision, fetcher, root, endpoint, remark)
    names = set(repo.names())
    wanted = (source.file or "").rstrip("/")
    single = wanted if wanted in names and wanted.endswith(".safetensors") else ""
    if wanted in names and not wanted.endswith(".gguf"):
        wanted = wanted.rpartition("/")[0]
    prefix = f"{wanted}/" if wanted else ""
    if f"{prefix}{CONFIG}" in names and any(
        name.endswith(".safetensors") and "/" not in name[len(prefix) :] for name in names if name.startswith(prefix)
    ):
        return _open_checkpoint(Remote(repo, fetcher, prefix))
    if checkpoint_only:
        return Remote(repo, fetcher)
    files = (single,) if single else _only_safetensors(names, prefix)
    if files and f"{prefix}{CONFIG}" not in names:
        what = single or prefix.rstrip("/")
        name = f"{repo.origin}:{what}" if what else repo.origin
        return _open_lone(Remote(repo, fetcher, prefix), [file[len(prefix) :] for file in files], name, lone=lone)
    return _open_gguf(Remote(repo, fetcher), wanted if wanted in names else choose_gguf(source, names, wanted))


@contextlib.contextmanager
def _ours(remote: Remote) -> Iterator[None]:
    """Close it again when it cannot be opened; errors then name it as the user did."""
    try:
        yield
    except BaseException as error:
        remote.__exit__()
        if isinstance(error, NextnError):
            remote.rename(error)
        raise


def _open_checkpoint(remote: Remote) -> Remote:
    with _ours(remote):
        remote.provide(CONFIG)
        open_checkpoint(remote.folder)
        remote.checkpoint = RemoteCheckpoint(remote.folder, provide=remote.provide)
    return remote


def _only_safetensors(names: set[str], prefix: str) -> tuple[str, ...]:
    """The safetensors files directly in a folder; none where there is a GGUF."""
    there = [name for name in sorted(names) if name.startswith(prefix)]
    if any(name.endswith(".gguf") for name in there):
        return ()
    return tuple(name for name in there if name.endswith(".safetensors") and "/" not in name[len(prefix) :])


def _open_lone(remote: Remote, files: Sequence[str], name: str, *, lone: bool) -> Remote:
    """A checkpoint of these files and no config.json."""
    if not lone:
        raise without_config(name)
    with _ours(remote):
        remote.provide_all(files)
        remote.checkpoint = RemoteCheckpoint(remote.folder, provide=remote.provide, files=tuple(files))
        remote.name = name
    return remote


def _open_gguf(remote: Remote, name: str) -> Remote:
    """All shards of the set that `name` belongs to."""
    folder, slash, last = name.rpartition("/")
    shard = split_shard_name(last)
    names = [name]
    if shard is not None:
        names = [folder + slash + shard_name(shard[0], i + 1, shard[2]) for i in range(shard[2])]
    with _ours(remote):
        known = remote.place.names()
        lacking = [] if known is None else sorted(set(names) - set(known))
        if lacking:
            raise IncompleteModel(
                f"{remote.place.origin}: {len(lacking)} of {len(names)} shards {are(len(lacking))} missing "
                f"({lacking[0]}); use another repository."
            )
        remote.provide_all(names)
        remote.model = open_model(remote.folder / name)
        if remote.place.names() is not None:
            remote.name = f"{remote.place.origin}:{name}"
    return remote
