"""One way to open what a user names: a checkpoint or a GGUF model, here or on a server, reading only its headers.

    with opened("hf:ORG/NAME") as source:
        source.model or source.checkpoint

Inside the context, errors name addresses if the source is remote, and reading what was not fetched fetches it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..absent import nothing_at
from ..errors import RemoteError, StorageError, UsageError
from ..gguf import strangers
from ..gguf.files import Model, open_model, open_sound
from ..sources.checkpoint import CONFIG, INDEX, Checkpoint, open_checkpoint, without_config
from .address import HubSource, parse_source, say_bare

if TYPE_CHECKING:
    from .http import Options
    from .model import Remote


@dataclass(frozen=True)
class Opened:
    """A model or a checkpoint: exactly one of the two is set."""

    name: str  # a path, or the address with its commit
    model: Model | None
    checkpoint: Checkpoint | None
    remote: Remote | None = None  # None: it is local

    @property
    def revision(self) -> str | None:
        """The commit that a remote source is pinned to."""
        return None if self.remote is None else self.remote.revision

    @property
    def bytes_downloaded(self) -> int:
        """Bytes of files downloaded from the server so far."""
        return 0 if self.remote is None else self.remote.traffic.bytes_received

    @property
    def beside(self) -> tuple[str, ...]:
        """Paths of the files in the repository; empty without a repository, or if the server does not list them."""
        return () if self.remote is None else tuple(self.remote.place.names() or ())

    @property
    def path_in_place(self) -> str | None:
        """A remote model's path in its repository or folder."""
        if self.remote is None or self.model is None:
            return None
        return self.model.entry.relative_to(self.remote.place.folder).as_posix()

    def text(self, text: str) -> str:
        """`text` with addresses instead of cache paths."""
        return text if self.remote is None else self.remote.text(text)


def http_options(limit_rate: float | None) -> Options | None:
    """Options for a rate in bytes per second; None where the defaults will do, so that nothing is imported for them."""
    if limit_rate is None:
        return None
    from .http import Options

    return Options(limit_rate=limit_rate)


@contextmanager
def opened(
    source: str | Path, options: Options | None = None, *, misfits: bool = False, lone: bool = False
) -> Iterator[Opened]:
    """Whatever `source` names (see `spec.parse_source`): its headers are read, and nothing else.

    Local sources are a GGUF, any shard of a set, a folder with one set, and a checkpoint folder or one of its files.
    `misfits` accepts a model with invalid keys, in order to show them. `lone` accepts a safetensors file on a server
    without a config.json beside it, as a checkpoint of only that file (`Checkpoint.files`); the caller supplies the
    config. Raises UsageError, RemoteError, IncompleteModel,
    FormatError, StorageError.
    """
    place = parse_source(source)
    if isinstance(place, Path):
        yield _local(place, misfits)
        return
    from .snapshot import open_remote

    try:
        remote = open_remote(place, options=options, lone=lone)
    except RemoteError as error:
        if isinstance(place, HubSource) and place.bare and "no local" not in str(error):
            error.args = (f"{str(error).rstrip('.')}; there is no local path '{source}' either.",)
        raise
    if isinstance(place, HubSource):
        say_bare(place)
    with remote, remote.renaming():
        if remote.model is not None and not misfits:
            remote.model.check_known()
        yield Opened(remote.name, remote.model, remote.checkpoint, remote)


def _local(path: Path, misfits: bool) -> Opened:
    if path.name == CONFIG or path.suffix == ".safetensors":
        there = os.path.exists  # Path.exists may raise
        if path.name != CONFIG and not there(path):
            raise StorageError(nothing_at(path))
        if path.name != CONFIG and not there(path.parent / CONFIG):
            raise without_config(path)
        path = path.parent
        return Opened(str(path), None, open_checkpoint(path))
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir may raise
        has_config = os.path.exists(path / CONFIG)  # noqa: PTH110 - Path.exists may raise
        has_gguf = any(path.glob("*.gguf"))
        if not (has_config or has_gguf):
            raise UsageError(f"{path}: {strangers.no_gguf(path, f', and no checkpoint either (no {CONFIG})')}.")
        if has_config and (not has_gguf or any(path.glob("*.safetensors")) or (path / INDEX).exists()):
            return Opened(str(path), None, open_checkpoint(path))
    model = open_model(path) if misfits else open_sound(path)
    return Opened(str(model.entry), model, None)
