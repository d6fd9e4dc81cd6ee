"""Remote models as local files that hold only the bytes needed.

`snapshot.open_remote` puts a folder into the cache that looks like the remote one: complete small files, and sparse
weight files with their real headers. Checkpoints and GGUF models are then opened like local ones; `Remote.fetch` fills
the ranges that a plan will read. Reading anything else fetches it while the source is open, and is refused afterwards
(see `cache`).
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FormatError, NextnError, NoSpace, RemoteError, StorageError
from ..gguf.files import Model, os_error, split_shard_name
from ..partial import Identity, Range, fill_with, merged
from ..progress import Progress
from ..sources.checkpoint import INDEX, TOKENIZER, Checkpoint
from ..sources.ranges import FileRange
from ..sources.safetensors import SourceTensor
from ..workfile import At, Folder, private_folder
from .cache import PartialFile, in_own_cache
from .fetch import (
    FIRST_READ_BYTES,
    JOIN_SHARE,
    SHARD_READ_BYTES,
    RangeSink,
    RemoteFile,
    fetch_gguf_header,
    fetch_safetensors_header,
    joined,
)

if TYPE_CHECKING:
    from .http import Fetcher, Traffic
    from .hub import Place

PIECE_BYTES = (4 << 20, 32 << 20)  # minimum and maximum size of one request
SINGLE = "model.safetensors"
TOKENIZER_FILES = (TOKENIZER, "tokenizer_config.json", "generation_config.json", "chat_template.jinja",
                   "chat_template.json")  # fmt: skip


@dataclass(frozen=True)
class RemoteCheckpoint(Checkpoint):
    """A checkpoint whose files are fetched on demand."""

    provide: Callable[[str], bool] = field(kw_only=True, compare=False, repr=False)

    @cached_property
    def weight_map(self) -> dict[str, str]:
        """Tensor name -> file name; without an index, from the header of the one file."""
        if self.files is None and not self.provide(INDEX):
            self.provide(SINGLE)
        return super().weight_map

    @cached_property
    def vocabulary(self) -> dict[int, str] | None:
        """Token texts by id."""
        self.provide(TOKENIZER)
        return super().vocabulary

    def _header(self, file: str) -> dict[str, SourceTensor]:
        self.provide(file)
        return super()._header(file)


# -- an opened source -------------------------------------------------------------------------------------------------


class Remote:
    """An opened remote source: its folder in the cache, and the way to fill it.

    Use it as a context manager, until everything that was fetched has been read.
    """

    def __init__(self, place: Place, fetcher: Fetcher, prefix: str = "") -> None:
        self.place, self.fetcher, self.prefix = place, fetcher, prefix
        self.folder = place.folder / prefix
        self.checkpoint: RemoteCheckpoint | None = None
        self.model: Model | None = None
        self.name = place.origin  # for display and provenance
        self._files: dict[Path, RemoteFile] = {}
        self._homes: dict[Path, Folder] = {}  # the private folders of these files
        self._lock = threading.Lock()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        for path, file in self._files.items():
            fill_with(path, None)
            file.here.close()
        self._files.clear()
        for home in self._homes.values():
            home.close()
        self._homes.clear()

    @property
    def revision(self) -> str | None:
        """The commit, pinned when the source was opened."""
        return self.place.revision

    @property
    def traffic(self) -> Traffic:
        """Requests and bytes so far."""
        return self.fetcher.traffic

    def text(self, text: str) -> str:
        """`text` with addresses instead of cache paths."""
        folder = str(self.place.folder)
        return text.replace(f"{folder}/", self.place.address("")).replace(folder, self.place.origin)

    def rename(self, error: NextnError) -> None:
        """Make an error name addresses; disk errors keep their path."""
        if isinstance(error, StorageError | NoSpace):
            return
        error.args = tuple(self.text(arg) if isinstance(arg, str) else arg for arg in error.args)
        if isinstance(error, FormatError):
            error.what = self.text(error.what)
            error.where = None if error.where is None else self.text(error.where)

    @contextlib.contextmanager
    def renaming(self) -> Iterator[None]:
        """Errors from the body name addresses."""
        try:
            yield
        except NextnError as error:
            self.rename(error)
            raise

    # -- getting files here -------------------------------------------------------------------------------------------

    def _home(self, path: Path) -> Folder:
        """The private folder that a file of the place is in. Raises StorageError."""
        with self._lock:
            if path.parent not in self._homes:
                try:
                    parts = path.parent.relative_to(self.place.root).parts
                    self._homes[path.parent] = Folder.private(self.place.root, parts, make=True)
                except OSError as error:
                    raise os_error(error, path.parent, "use the folder") from error
            return self._homes[path.parent]

    def _open(self, name: str) -> RemoteFile | Path | None:
        """A file of the place, the path of a complete copy that was linked, or None: no file has that name."""
        path = self.place.folder / name
        with self._lock:
            if path in self._files:
                return self._files[path]
        target = self.place.target(name)
        if target is None:
            self._forget(path)
            return None
        if self._link(name, path):
            return path
        origin = f"{self.place.origin}:{name}" if target.is_hub else target.label
        here = PartialFile(self._home(path), path.name, Identity(origin, target.size_bytes, target.etag))
        file = RemoteFile(target, here, self.fetcher)
        with self._lock:
            self._files[path] = file
        fill_with(path, file.ensure)
        return file

    def _forget(self, path: Path) -> None:
        """Remove what has the name of a file that the place does not have: readers would take it for its own."""
        with (
            contextlib.suppress(OSError),
            private_folder(self.place.root, path.parent.relative_to(self.place.root).parts) as home,
        ):
            if home is not None:
                home.unlink(path.name, missing_ok=True)

    def _link(self, name: str, path: Path) -> bool:
        """Whether the user's own cache has the file; if so, it is linked."""
        found = self.place.local(name)
        if found is None:
            return False
        real = found.resolve()
        home = self._home(path)
        if home.readlink(path.name) == str(real):
            return True
        with contextlib.suppress(OSError):
            temp = f".{secrets.token_hex(8)}.link"
            home.symlink(real, temp)
            home.rename(temp, At(home, path.name))
            return True
        return False

    def provide(self, name: str) -> bool:
        """Make a file available here: weight files as sparse files with their header, all others complete.

        Returns whether the place has it. Raises RemoteError, StorageError, FormatError.
        """
        full = self.prefix + name
        file = self._open(full)
        if not isinstance(file, RemoteFile):
            return file is not None
        size = file.target.size_bytes
        if name.endswith(".safetensors"):
            fetch_safetensors_header(file, size)
        elif name.endswith(".gguf"):
            shard = split_shard_name(full.rpartition("/")[2])
            fetch_gguf_header(file, size, SHARD_READ_BYTES if shard and shard[1] > 1 else FIRST_READ_BYTES)
        elif file.here.missing(0, size):
            file.ensure(0, size)
            self._check_whole(full, file)
        file.here.publish()
        return True

    def provide_all(self, names: Sequence[str]) -> None:
        """`provide` for several files, some in parallel."""
        self._parallel([partial(self.provide, name) for name in names])

    def _check_whole(self, name: str, file: RemoteFile) -> None:
        """Compare a complete file with the server's hash; drop it if it differs."""
        there = file.here.content_path
        why = self.place.check(name, there) if not file.here.missing(0, file.target.size_bytes) else None
        if why is not None:
            file.here.drop()
            raise RemoteError(f"{file.target.label}: what arrived is not the file: {why}; run it again.")

    def fetch_tokenizer(self) -> None:
        """Fetch everything that makes up a checkpoint's tokenizer."""
        names = self.place.names()
        more = [] if names is None else [
            name[len(self.prefix) :] for name in names
            if name.startswith(f"{self.prefix}additional_chat_templates/") and name.endswith(".jinja")
        ]  # fmt: skip
        self.provide_all([*TOKENIZER_FILES, *more])

    def _missing(self, ranges: Iterable[FileRange]) -> dict[Path, list[Range]]:
        wanted: dict[Path, list[Range]] = {}
        for where in ranges:
            if where.path in self._files:
                wanted.setdefault(where.path, []).append((where.start, where.end))
        found = {
            path: [gap for start, end in merged(some) for gap in self._files[path].here.missing(start, end)]
            for path, some in wanted.items()
        }
        limit = JOIN_SHARE * sum(end - start for some in found.values() for start, end in some)
        out = {}
        for path, some in found.items():
            out[path] = joined(some, limit)
            limit -= sum(end - start for start, end in out[path]) - sum(end - start for start, end in some)
        return {path: some for path, some in out.items() if some}

    def missing_bytes(self, ranges: Iterable[FileRange]) -> int:
        """Bytes that `fetch` would download; ranges of local files do not count."""
        return sum(end - start for some in self._missing(ranges).values() for start, end in some)

    def whole(self, name: str) -> FileRange:
        """All of a file, to be fetched. Raises RemoteError when the place has no file of that name."""
        file = self._open(name)
        if not isinstance(file, RemoteFile):
            raise RemoteError(f"{self.place.address(name)}: there is no such file.")
        return FileRange(self.place.folder / name, 0, file.target.size_bytes)

    def publish(self, name: str) -> Path:
        """Give an opened file its name in the cache."""
        path = self.place.folder / name
        self._files[path].here.publish()
        return path

    def drop(self, name: str) -> None:
        """Forget the bytes of an opened file."""
        self._files[self.place.folder / name].here.drop()

    def fetch(self, ranges: Iterable[FileRange], progress: Progress | None = None, *, check: bool = True) -> int:
        """Fetch these ranges; returns the bytes downloaded. Ranges of local files are skipped.

        Nearby ranges are read in one request, and several in parallel. What arrives is always kept, so that another
        run resumes from there. With `check`, a file that is then complete is compared with the server's hash. Raises
        RemoteError, NoSpace, StorageError.
        """
        missing = self._missing(ranges)
        total = sum(end - start for some in missing.values() for start, end in some)
        if not total:
            return 0
        free = shutil.disk_usage(self.place.folder).free
        if free < total:
            raise NoSpace(
                f"{self.place.folder}: {total:,} bytes are needed and {free:,} are free; free some room"
                + (
                    " ('nextn cache --clear'), or set NEXTN_CACHE to a folder elsewhere."
                    if in_own_cache(self.place.folder)
                    else "."
                )
            )
        done, lock = 0, threading.Lock()

        def moved(n: int) -> None:
            nonlocal done
            with lock:
                done += n
                if progress is not None:
                    progress(done, total)

        if progress is not None:
            progress(0, total)
        least, most = PIECE_BYTES
        step = max(least, min(most, -(-total // self.fetcher.options.n_streams)))
        jobs = [
            partial(self._fetch_piece, self._files[path], low, min(low + step, end), moved)
            for path, some in missing.items()
            for start, end in some
            for low in range(start, end, step)
        ]
        self._parallel(jobs)
        for path in missing if check else ():
            self._check_whole(path.relative_to(self.place.folder).as_posix(), self._files[path])
        return total

    def _fetch_piece(self, file: RemoteFile, start: int, end: int, moved: Callable[[int], None]) -> None:
        self.fetcher.read(file.target, start, end, RangeSink(file.here, moved))

    def _parallel(self, jobs: Sequence[Callable[[], object]]) -> None:
        """Run all, several in parallel; the first error stops the others and is raised."""
        stop = self.fetcher.stop
        with ThreadPoolExecutor(self.fetcher.options.n_streams, "nextn-fetch") as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                for future in (each for each in futures if each.done()):
                    future.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            finally:
                stop.clear()
