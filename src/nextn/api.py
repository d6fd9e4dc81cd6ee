"""The verbs as functions: what the command line calls, and what tool builders import.

Every function takes paths as `str` or `Path`, never modifies an input, and raises only `nextn.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .gguf.files import open_model
from .gguf.types import TensorType, parse_type_name
from .inspection.model import Inspection
from .verbs.inspect import CheckpointInspection, inspect
from .writing.execute import Outcome, check_outputs, execute
from .writing.plan import LinkMode, Plan

if TYPE_CHECKING:
    from .block.model import Block
    from .gguf.files import Model
    from .remote.model import Remote

PathLike = str | Path
Progress = Callable[[int, int], None]  # (bytes done, bytes in all)
AS_IS = "as-is"


@dataclass(frozen=True)
class Result:
    """What a writing verb did, or with `dry_run` would do."""

    plan: Plan
    outcome: Outcome | None  # None after a dry run
    donor: DonorInfo | None = None  # where the block came from; None: nothing was taken from elsewhere
    bytes_downloaded: int = 0  # from servers, headers included
    bytes_to_download: int = 0  # what a dry run left there

    @property
    def entry(self) -> Path:
        """The path to load."""
        return self.plan.entry

    @property
    def sidecar(self) -> Path | None:
        """The sidecar to pass with `-md`, or None."""
        return self.plan.sidecar

    @property
    def bytes_written(self) -> int:
        """Bytes of new files."""
        return self.plan.bytes_written

    @property
    def bytes_read(self) -> int:
        """Bytes read from inputs."""
        return self.outcome.bytes_read if self.outcome else self.plan.bytes_read

    @property
    def bytes_linked(self) -> int:
        """Bytes of existing files under new names."""
        return self.plan.bytes_linked

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that were made, links included, the entry's last."""
        return tuple(self.plan.folder / out.name for out in self.plan.outputs)

    def to_json(self) -> dict[str, Any]:
        """JSON as in the schema of attach, detach and extract."""
        done = self.outcome
        return {
            "version": 1,
            "dry_run": done is None,
            **self.plan.to_json(),
            "bytes_read": self.bytes_read,
            "wall_s": done.wall_s if done else 0.0,
            "tensor_sha256": done.hashes if done else {},
            "links": done.links if done else {},
            "donor": self.donor.to_json() if self.donor else None,
            "bytes_downloaded": self.bytes_downloaded,
            "bytes_to_download": self.bytes_to_download,
        }


def _type(name: str | TensorType | None) -> TensorType | None:
    if name is None or isinstance(name, TensorType):
        return name
    return parse_type_name(name)


def _embd_type(name: str | TensorType) -> TensorType | None:
    return None if name == AS_IS else _type(name)


def _run(plan: Plan, dry_run: bool, progress: Progress | None) -> Result:
    if dry_run:
        check_outputs(plan)
        return Result(plan, None)
    return Result(plan, execute(plan, progress=progress))


@dataclass(frozen=True)
class DonorInfo:
    """Where a block came from."""

    name: str  # a file or folder name, or an address with its commit
    revision: str | None  # the commit
    sha256: str | None  # of the block's source bytes (see `fingerprint`); None after a dry run
    why: str | None = None  # how it was chosen; None: it was named

    def to_json(self) -> dict[str, Any]:
        """JSON as in the schema of attach and extract."""
        return {"name": self.name, "revision": self.revision, "sha256": self.sha256, "why": self.why}


@contextmanager
def open_block(donor: PathLike, limit_rate: float | None = None, *, with_tokenizer: bool = False) -> Iterator[Source]:
    """The donor's block, here or on a server: headers are read, and its tensors when they are needed.

    `with_tokenizer`: have everything here that makes a checkpoint's tokenizer. Raises what opening raises, and NoBlock.
    """
    from .block.model import block_of
    from .remote.opening import http_options, opened

    with opened(donor, http_options(limit_rate)) as found:
        if with_tokenizer and found.remote is not None and found.checkpoint is not None:
            found.remote.fetch_tokenizer()
        yield Source(block_of(found), found.remote)


@dataclass(frozen=True)
class Source:
    """An open block."""

    block: Block
    remote: Remote | None  # None: it is local

    def to_write(self, duplicates: str) -> tuple[Block, list[str]]:
        """The block, with "drop" without what its model has too, and notes on that. Raises UsageError."""
        from .block.duplicates import KEEP, check_choice, without_duplicates

        check_choice(duplicates)
        if duplicates == KEEP:
            return self.block, []
        return without_duplicates(self.block, None if self.remote is None else self.remote.fetch)

    def run(
        self, plan: Plan, *, expect: str | None, why: str | None, dry_run: bool, progress: Progress | None
    ) -> Result:
        """Fetch what the plan needs, compare the block's hash with `expect`, carry the plan out."""
        from .block.fingerprint import block_sha256, check_wanted, demand

        wanted = None if expect is None else check_wanted(expect)
        check_outputs(plan)
        remote, block = self.remote, self.block
        needed = list(plan.ranges)
        if wanted is not None:
            needed += block.ranges
        missing = 0 if remote is None else remote.missing_bytes(needed)
        if remote is not None:
            plan = replace(plan, notes=(*plan.notes, f"{missing:,} bytes to fetch from {remote.name}"))
        steps = Steps(progress, 0 if dry_run else missing, plan.bytes_written)
        if remote is not None and not dry_run:
            remote.fetch(needed, steps.fetched)
        if wanted is not None and not (dry_run and missing):
            demand(block, wanted, block_sha256(block))
        elif wanted is not None:
            plan = replace(plan, notes=(*plan.notes, "the block was not fetched, so its hash was not compared"))
        before = received(remote)
        done = None
        if not dry_run:
            done = execute(plan, progress=lambda n, _: steps.wrote(n, received(remote) - before))
        info = DonorInfo(block.donor_name, block.revision, done.source_sha256 if done else None, why)
        return Result(plan, done, info, received(remote), missing if dry_run else 0)


def received(remote: Remote | None) -> int:
    """Bytes that came from a server so far."""
    return 0 if remote is None else remote.traffic.bytes_received


class Steps:
    """One progress over fetching and writing; what is fetched late, while it is written, counts too."""

    def __init__(self, progress: Progress | None, n_fetch: int, n_write: int) -> None:
        self.progress, self.n_fetch, self.n_write = progress, n_fetch, n_write

    def fetched(self, done: int, total: int) -> None:
        """So much of what is fetched ahead is here."""
        if self.progress is not None:
            self.progress(done, self.n_fetch + self.n_write)

    def wrote(self, done: int, late: int) -> None:
        """So much is written, and `late` bytes were fetched meanwhile."""
        if self.progress is not None:
            self.progress(self.n_fetch + late + done, self.n_fetch + late + self.n_write)


def attach(
    trunk: PathLike,
    donor: PathLike | None = None,
    *,
    layout: str | None = None,
    type: str | TensorType | None = None,
    draft_head: str | TensorType | None = None,
    embd_type: str | TensorType = "q4_0",
    out: PathLike | None = None,
    link: str | LinkMode = LinkMode.AUTO,
    qkv: str | None = None,
    aim: str | None = None,
    duplicates: str = "keep",
    expect: str | None = None,
    limit_rate: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Result:
    """Put the donor's MTP block onto a trunk.

    `trunk`: a GGUF, any shard of a set, or a folder with one set; for a dry run also a remote one, of which the header
    is read. `donor`: a checkpoint folder, a bundled GGUF, a sidecar, a donor file; or ORG/NAME,
    hf:ORG/NAME@REVISION:FILE or an address; None looks beside the trunk and then where its metadata point, and tells
    `say` what was chosen and why. `layout`: "shards" (default for a set), "sidecar" (default for a single file) or
    "bundle". `type`: the block's matrices (default: q8_0 from a checkpoint, unchanged from a GGUF). `draft_head`: type
    of an extra low-bit head made from the trunk's. `embd_type`: type of a sidecar's embeddings and head, "as-is" to
    carry the trunk's. `expect`: the sha256 that the donor's block must have (see `fingerprint`), compared before
    anything is written. `qkv`: q, k and v of the block's attention,
    in a bundle the trunk's too, "split", "fused" or "as-trunk", moved as rows without quantizing them anew.
    `aim`: the engines that have to take the file, "llama.cpp", "ik" or "both"; names and types are chosen so, and it
    is refused with the reason where no such file exists. `duplicates`: "drop" leaves out embeddings and heads that the
    block brings and that are the model's own (see `duplicates`). `limit_rate`: bytes per second from a server.

    Raises DonorMismatch, BlockPresent, NoBlock, UnsupportedModel, QuantizeError, FormatError, IncompleteModel,
    OutputExists, NoSpace, StorageError, RemoteError, UsageError; of the last, `sources.infer.Doubt` when several donors
    fit equally well.
    """
    from .layouts.attach import Options, default_layout, plan_attach
    from .remote.opening import http_options, opened

    options = Options(layout, _type(type), _type(draft_head), _embd_type(embd_type), out, link_mode(link), qkv, aim)
    with opened(trunk) as found:
        if found.model is None:
            raise UsageError(f"{found.name}: this is a checkpoint, not a GGUF; name the quant to put the block onto.")
        if found.remote is not None and not dry_run:
            raise UsageError(
                f"{found.name}: a block is attached to local files only (a dry run reads the header of a remote one); "
                "get the model with 'nextn pull', then attach."
            )
        why, n_before = None, 0
        if donor is None:
            from .donors.find import find

            wanted = layout or (default_layout(found.model) if aim in (None, "llama.cpp") else "bundle")
            chosen = find(found.model, layout=wanted, options=http_options(limit_rate))
            donor, why, n_before = chosen.source, chosen.why, chosen.bytes_downloaded
            if say is not None:
                say(why)
        if (assistant := _assistant(donor)) is not None:
            from .layouts.assistant import plan_place

            return _run(plan_place(found.model, assistant, options), dry_run, progress)
        with open_block(donor, limit_rate) as source:
            block, notes = source.to_write(duplicates)
            plan = plan_attach(found.model, block, options).noted(notes)
            result = source.run(plan, expect=expect, why=why, dry_run=dry_run, progress=progress)
            return replace(result, bytes_downloaded=result.bytes_downloaded + n_before + found.bytes_downloaded)


def _assistant(donor: PathLike) -> Model | None:
    """A local draft that is placed as it is, None for all other donors."""
    from .layouts.assistant import is_assistant
    from .remote.address import parse_source

    place = parse_source(donor)
    if not isinstance(place, Path) or place.suffix != ".gguf":
        return None
    model = open_model(place)
    return model if is_assistant(model) else None


def detach(
    model: PathLike,
    *,
    out: PathLike | None = None,
    link: str | LinkMode = LinkMode.AUTO,
    qkv: str | None = None,
    aim: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Take the MTP block off: a trunk-only model beside the bundled one, which stays as it is.

    `qkv`: "split" or "fused" writes the model anew as one file, q, k and v in that form, whether it has a block or not.
    `aim`: as in `attach`.

    Raises NoBlock, UsageError, FormatError, IncompleteModel, OutputExists, NoSpace, StorageError.
    """
    from .layouts.detach import plan_detach

    return _run(plan_detach(open_model(model), out, link_mode(link), qkv, aim), dry_run, progress)


def extract(
    donor: PathLike,
    *,
    out: PathLike | None = None,
    donor_file: bool = False,
    type: str | TensorType | None = None,
    embd_type: str | TensorType = "q4_0",
    qkv: str | None = None,
    aim: str | None = None,
    duplicates: str = "keep",
    expect: str | None = None,
    limit_rate: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Write the block to a file of its own: a runnable sidecar, or with `donor_file` nothing but the block.

    `donor`, `expect`, `aim`, `duplicates` and `limit_rate` are as in `attach`, `qkv` too, for GGUF donors.

    Raises NoBlock, UnsupportedModel, QuantizeError, FormatError, DonorMismatch (`expect`), OutputExists, NoSpace,
    StorageError, RemoteError, UsageError.
    """
    from .layouts.extract import ExtractOptions, plan_extract

    options = ExtractOptions(donor_file, _type(type), _embd_type(embd_type), out, qkv, aim)
    with open_block(donor, limit_rate, with_tokenizer=True) as source:
        block, notes = source.to_write(duplicates)
        plan = plan_extract(block, options).noted(notes)
        return source.run(plan, expect=expect, why=None, dry_run=dry_run, progress=progress)


def link_mode(name: str | LinkMode) -> LinkMode:
    """A link mode by name. Raises UsageError."""
    try:
        return LinkMode(name)
    except ValueError:
        raise UsageError(f"there is no link mode '{name}'; choose auto, hard or symlink.") from None


__all__ = ["CheckpointInspection", "DonorInfo", "Inspection", "Result", "attach", "detach", "extract", "inspect"]
