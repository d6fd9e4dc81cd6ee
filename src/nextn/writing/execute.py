"""Carry out a plan in a local folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import oscalls
from ..absent import whose
from ..brief import Brief
from ..errors import FormatError, NextnError, NoSpace, OutputExists, StorageError
from ..partial import refuse_partial
from ..progress import Progress
from ..sources.ahead import one_ahead
from ..sources.ranges import Meter, Reader
from ..sources.rows import CHUNK_ELEMENTS
from .durable import Workspace
from .leftovers import clean
from .plan import Carry, Convert, Copy, LateHeader, Link, LinkMode, NewBytes, NewFile, Plan, Repack, Segment
from .system import System, allow_open_files, check_reaches, explain, free_bytes, write_all

COPY_BYTES = 8 << 20  # one call of copy_file_range: large enough to be fast, small enough that the disk starts early
SLACK_BYTES = 1 << 20  # room that a file needs besides its bytes, for folders and journal


@dataclass(frozen=True)
class Outcome(Brief):
    """What a run did."""

    plan: Plan
    bytes_read: int
    bytes_written: int
    bytes_linked: int
    wall_s: float
    hashes: dict[str, str]  # of tensors made for files without a group
    links: dict[str, str]  # file name -> "hard", "symlink" or "moved"
    source_sha256: str = ""  # of the block's source bytes, in the order in which they were read


@dataclass(frozen=True)
class Recorded:
    """What the headers of a group of files record."""

    tensors: Mapping[str, str]  # name -> SHA-256, hex
    source: str  # SHA-256 over the block's source bytes, hex


@dataclass
class _Made:
    """The same, while it is made."""

    tensors: dict[str, str] = field(default_factory=dict)
    source: hashlib._Hash = field(default_factory=hashlib.sha256)


@dataclass
class WritingRun:
    """State shared by the steps of one run."""

    plan: Plan
    reader: Reader
    system: System
    progress: Progress | None
    total: int  # bytes that will be written
    n_threads: int = field(default_factory=lambda: min(os.cpu_count() or 1, 8))
    done: int = 0
    known: Mapping[str, Recorded] = field(default_factory=dict)  # by group: of files that are there already, too
    group: str = ""  # of the file that is being made
    _made: dict[str, _Made] = field(default_factory=dict)

    @property
    def hashes(self) -> dict[str, str]:
        """Of the group's tensors, by name."""
        return self._made.setdefault(self.group, _Made()).tensors

    @property
    def source_hash(self) -> hashlib._Hash:
        """Over the source bytes of the group's block."""
        return self._made.setdefault(self.group, _Made()).source

    @property
    def recorded(self) -> dict[str, Recorded]:
        """What headers record, by group."""
        made = {group: Recorded(one.tensors, one.source.hexdigest()) for group, one in self._made.items()}
        return {**made, **self.known}

    def header(self, header: LateHeader) -> bytes:
        """The header of a file of this group, when all of the group's tensors are made."""
        found = self.known.get(self.group) or Recorded(self.hashes, self.source_hash.hexdigest())
        return header.build(found.tensors, found.source)

    def advance(self, n: int) -> None:
        """Count bytes written, for progress."""
        self.done += n
        if self.progress is not None:
            self.progress(self.done, self.total)


def check_outputs(plan: Plan, *, tidy: bool = True) -> None:
    """Check everything that can be known before writing. Raises OutputExists, NoSpace, StorageError.

    With `tidy`, what killed runs left in the folder is removed even when this one is refused.
    """
    try:
        _check(plan)
    except NextnError:
        if tidy:
            with contextlib.suppress(OSError):
                clean(plan.folder)
        raise


def _already_there(path: Path, size_bytes: int) -> str:
    """Half a sentence about an output that exists; one of the size to be written is most likely an earlier result."""
    try:
        found = path.stat().st_size
    except OSError:  # a link that leads nowhere
        found = -1
    if found != size_bytes:
        return "this file already exists, and nextn never overwrites; choose another -o"
    return (
        f"this file already exists, with the {size_bytes:,} bytes that this command would write, so it is most likely "
        "the result of an earlier run; nextn never overwrites: see 'nextn inspect', or choose another -o"
    )


def _check(plan: Plan) -> None:
    try:
        leftovers = clean(plan.folder, remove=False)
        check_place(plan.folder, [out.name for out in plan.outputs])
        is_there = os.path.lexists(plan.folder)
        for out in plan.outputs:
            if isinstance(out, Link):
                refuse_partial(out.source)
            if is_there and os.path.lexists(os.path.join(plan.folder, out.name)):  # noqa: PTH118 - quick for many
                path = plan.folder / out.name
                if path not in leftovers:
                    raise OutputExists(f"{path}: {_already_there(path, out.size_bytes)}.")
        need, free = plan.bytes_written + SLACK_BYTES, free_bytes(plan.folder) + _held(leftovers)
    except OSError as error:
        raise explain(error, plan.folder, "use it") from error
    if need > free:
        less = " (attach writes only the block with --layout sidecar, shards or in-place)" * (plan.layout == "bundle")
        raise NoSpace(
            f"{plan.folder}: {need:,} bytes are needed and {free:,} are free; free some room or choose another "
            f"-o{less}."
        )


def check_place(folder: Path, names: Sequence[str], option: str = "-o") -> None:
    """Check that `folder` is one or can be made, is writable, and allows these names; `option` chooses another.

    Raises OutputExists for a file, StorageError.
    """
    there = folder
    new = list(names)
    while not os.path.lexists(there):
        new.append(there.name)
        there = there.parent
    if not there.is_dir():
        if there == folder:
            raise OutputExists(f"{there}: this is a file, not a folder; choose another {option}.")
        raise StorageError(f"{folder}: cannot create the folder, since {there} is a file; choose another {option}.")
    longest = oscalls.longest_name(there)
    for name in new:
        if oscalls.is_no_name(name):
            raise StorageError(
                f"{there}: this system cannot have a file called '{name}'; choose a {option} without "
                "< > : \" | ? * \\, with no dot or space at its end, and not called like a device (CON, NUL, COM1)."
            )
        if len(os.fsencode(name)) > longest:
            raise StorageError(
                f"{there}: the name '{name}' has {len(os.fsencode(name))} bytes, and at most {longest} fit here; "
                f"choose a shorter {option}."
            )
    if not os.access(there, os.W_OK | os.X_OK):
        raise StorageError(
            f"{there}: cannot create files in it: permission denied, or it is read-only{whose(there)}; "
            f"choose another {option}."
        )


def _held(leftovers: list[Path]) -> int:
    """Bytes freed by removing these files: the sizes of those with no other name."""
    stats = [os.lstat(path) for path in leftovers]
    names = Counter(stat.st_ino for stat in stats)
    unique = {stat.st_ino: stat for stat in stats if stat.st_nlink <= names[stat.st_ino]}
    return sum(oscalls.disk_bytes(stat) for stat in unique.values())


def execute(
    plan: Plan,
    *,
    progress: Progress | None = None,
    system: System | None = None,
    known: Mapping[str, Recorded] | None = None,
) -> Outcome:
    """Carry `plan` out. Inputs are never written to; all outputs appear, the entry last, or none.

    `known`: what headers record of groups of which some files are there already, see `written_before`.

    Raises OutputExists, NoSpace, StorageError, FormatError (a source shrank during the run), QuantizeError.
    """
    started = time.perf_counter()
    check_outputs(plan)
    system = system or System()
    meter = Meter()
    links: dict[str, str] = {}
    n_new = sum(isinstance(out, NewFile) for out in plan.outputs)
    allow_open_files(n_new + len({where.path for where in plan.ranges}), plan.folder)
    with Reader(meter) as reader, Workspace(plan.folder, system) as space:
        run = WritingRun(plan, reader, system, progress, plan.bytes_written, known=known or {})
        temps: dict[str, Path] = {}
        late: list[tuple[int, LateHeader, NewFile]] = []
        for out in plan.outputs:
            if isinstance(out, NewFile):
                temps[out.name], fd = space.new_file(out.name)
                run.group = out.group
                late += [(fd, header, out) for header in _write_file(run, out, fd, temps[out.name])]
        for fd, header, file in late:
            run.group = file.group
            data = run.header(header)
            if len(data) != header.size_bytes:
                raise AssertionError(f"a header of {len(data)} bytes was planned with {header.size_bytes}")
            write_all(system, fd, data, 0, temps[file.name])
            run.advance(len(data))
        run.group = ""
        space.sync(temps.values())
        reader.check_unchanged()
        if len(plan.outputs) > 1:
            space.announce(
                {out.name: _bytes_of(out, temps) for out in plan.outputs}
            )
        for out in plan.outputs:
            if out is plan.outputs[-1] and len(plan.outputs) > 1:
                space.settle()  # the entry never reaches the disk before the others
            if isinstance(out, Link) and out.staged:
                assert out.stamp is not None
                links[out.name] = space.adopt(out.source, out.name, out.stamp)
            elif isinstance(out, Link):
                links[out.name] = space.add_link(
                    out.source,
                    out.name,
                    out.stamp,
                    hard=out.mode is not LinkMode.SYMLINK,
                    symbolic=out.mode is not LinkMode.HARD,
                )
            else:
                space.publish(temps[out.name], out.name, out.size_bytes)
        space.finish()
    return Outcome(
        plan,
        plan.header_bytes + meter.bytes_read,
        plan.bytes_written,
        plan.bytes_linked,
        time.perf_counter() - started,
        run.hashes,
        links,
        run.source_hash.hexdigest(),
    )


def _bytes_of(out: NewFile | Link, temps: Mapping[str, Path]) -> Path:
    """Where an output's bytes are before it has its name."""
    if isinstance(out, NewFile):
        return temps[out.name]
    return out.source if out.twin_of is None else temps[out.twin_of]


def _write_file(run: WritingRun, out: NewFile, fd: int, path: Path) -> list[LateHeader]:
    """Write all segments; headers that wait for hashes are left open and returned."""
    late = []
    offset = end = 0
    for segment in out.segments:
        if isinstance(segment, LateHeader):
            late.append(segment)
        else:
            check_reaches(fd, end, path)
            end = offset + segment.size_bytes
            written = write_segment(run, segment, fd, offset, path)
            if written != segment.size_bytes:
                raise AssertionError(f"{segment} was planned with {segment.size_bytes} bytes and made {written}")
        offset += segment.size_bytes
    return late


def write_segment(run: WritingRun, segment: Segment, fd: int, offset: int, path: Path) -> int:
    """Write one segment (other than a late header) at `offset`; returns the number of bytes."""
    if isinstance(segment, NewBytes):
        data = segment.data
        write_all(run.system, fd, data, offset, path)
        run.advance(len(data))
        return len(data)
    if isinstance(segment, Copy):
        return _copy(run, segment, fd, offset, path)
    start = offset
    with contextlib.closing(stream(run, segment)) as pieces:
        for made in pieces:
            if offset > start:
                check_reaches(fd, offset, path)
            write_all(run.system, fd, made, offset, path)
            offset += len(made)
            run.advance(len(made))
    return offset - start


def stream(run: WritingRun, segment: Segment) -> Generator[bytearray | memoryview, None, None]:
    """The bytes of a tensor that is carried or converted, in pieces; its hashes are noted in `run` on the way.

    To be closed before the run's reader is: another thread may be reading.
    """
    if not isinstance(segment, Carry | Convert):
        raise AssertionError(segment)
    digest = hashlib.sha256()
    pieces: Generator[bytearray | memoryview, None, None]
    if isinstance(segment, Carry):
        pieces = _seen(run, run.reader.pieces(segment.where), segment.of_block)
    else:
        pieces = _converted(run, segment)
    with contextlib.closing(pieces):
        for data in pieces:
            digest.update(data)
            yield data
    run.hashes[segment.name] = digest.hexdigest()


def _seen(run: WritingRun, pieces: Iterable[bytearray], of_block: bool) -> Generator[bytearray, None, None]:
    for data in pieces:
        if of_block:
            run.source_hash.update(data)
        yield data


def _copy(run: WritingRun, segment: Copy, fd: int, offset: int, path: Path) -> int:
    """Move a range inside the kernel."""
    where = segment.where
    src = run.reader.fd_for(where)
    pos, end = where.start, where.end
    start = offset
    while pos < end:
        if offset > start:
            check_reaches(fd, offset, path)
        try:
            n = run.system.copy_range(src, fd, min(COPY_BYTES, end - pos), pos, offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise explain(error, path, "write it") from error
            n = 0
        if n == 0:  # not possible for this pair of files, or end of file
            n = _copy_otherwise(src, fd, pos, offset, min(COPY_BYTES, end - pos), path)
        if n == 0:
            raise FormatError("the file ends too early: it was changed while it was read", path=where.path, offset=pos)
        oscalls.start_writing(fd, offset, n)
        pos += n
        offset += n
        run.reader.meter.bytes_read += n
        run.advance(n)
    return where.size_bytes


def _copy_otherwise(src: int, dst: int, src_offset: int, dst_offset: int, count: int, path: Path) -> int:
    """The fallback for pairs of file systems that cannot copy ranges; inside the kernel where it can."""
    try:
        return oscalls.copy_otherwise(src, dst, count, src_offset, dst_offset)
    except OSError as error:
        raise explain(error, path, "write it") from error


def _converted(run: WritingRun, segment: Convert) -> Generator[memoryview, None, None]:
    """The tensor's new bytes in pieces; the next one is read and decoded while one is quantized, hashed and written."""
    seen = run.source_hash.update if segment.of_block else None
    if isinstance(segment, Repack):
        for blocks in segment.rows.blocks(run.reader, seen):
            yield blocks.data.cast("B")
        return
    from ..ggml.quantize import quantize_rows

    with contextlib.ExitStack() as stack:
        chunks = segment.rows.chunks(run.reader, seen)
        if segment.rows.n_rows * segment.rows.n_per_row > CHUNK_ELEMENTS:
            chunks = stack.enter_context(contextlib.closing(one_ahead(chunks)))
        for rows in chunks:
            blocks = quantize_rows(rows, segment.type, n_threads=run.n_threads)
            del rows  # before the next but one is made
            yield blocks.data.cast("B")
