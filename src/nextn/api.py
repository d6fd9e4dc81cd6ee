"""The verbs as functions: what the command line calls, and what tool builders import.

Every function takes paths as `str` or `Path`, never modifies an input, and raises only `nextn.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .destinations.local import Outcome, check_outputs, execute
from .errors import RemoteError, UsageError
from .gguf.files import open_model
from .gguf.types import TensorType, parse_type_name
from .inspection import Inspection, inspect
from .layouts.plan import LinkMode, Plan

if TYPE_CHECKING:
    from .block import Block
    from .sources.remote import Remote

PathLike = str | Path
Progress = Callable[[int, int], None]  # (bytes done, bytes in all)
AS_IS = "as-is"


@dataclass(frozen=True)
class Result:
    """What a writing verb did, or with `dry_run` would do."""

    plan: Plan
    outcome: Outcome | None  # None after a dry run

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


@contextmanager
def _donor(donor: PathLike, limit_rate: float | None, *, with_tokenizer: bool) -> Iterator[tuple[Block, Remote | None]]:
    """The donor's block, and the open remote source when it is not a local path."""
    from .block import block_from_checkpoint, block_from_model, open_donor
    from .sources.spec import HubSource, parse_source

    source = parse_source(donor)
    if isinstance(source, Path):
        yield open_donor(source), None
        return
    from .sources.http import Options as HttpOptions
    from .sources.remote import open_remote

    with ExitStack() as stack:
        try:
            remote = stack.enter_context(open_remote(source, options=HttpOptions(limit_rate=limit_rate)))
        except RemoteError as error:
            if not (isinstance(source, HubSource) and source.bare):
                raise
            raise RemoteError(f"{str(error).rstrip('.')}; there is no local path '{donor}' either.") from error
        if remote.checkpoint is not None:
            if with_tokenizer:
                remote.fetch_tokenizer()
            block = block_from_checkpoint(remote.checkpoint)
        else:
            assert remote.model is not None
            block = block_from_model(remote.model)
        yield replace(block, revision=remote.revision, label=remote.name), remote


def _fetch_and_run(plan: Plan, remote: Remote | None, dry_run: bool, progress: Progress | None) -> Result:
    """Fetch what the plan needs of a remote donor, then run it; a dry run says what it would fetch."""
    if remote is None:
        return _run(plan, dry_run, progress)
    check_outputs(plan)
    n_bytes = remote.missing_bytes(plan.ranges)
    plan = replace(plan, notes=(*plan.notes, f"{n_bytes:,} bytes to fetch from {remote.name}"))
    if not dry_run:
        remote.fetch(plan.ranges, progress)
    return _run(plan, dry_run, progress)


def attach(
    trunk: PathLike,
    donor: PathLike,
    *,
    layout: str | None = None,
    type: str | TensorType | None = None,
    draft_head: str | TensorType | None = None,
    embd_type: str | TensorType = "q4_0",
    out: PathLike | None = None,
    link: str | LinkMode = LinkMode.AUTO,
    qkv: str | None = None,
    limit_rate: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Put the donor's MTP block onto a trunk.

    `trunk`: a GGUF, any shard of a set, or a folder with one set. `donor`: a checkpoint folder, a bundled GGUF,
    a sidecar, or a donor file. `layout`: "shards" (default for a set), "sidecar" (default for a single file) or
    "bundle". `type`: the block's matrices (default: q8_0 from a checkpoint, unchanged from a GGUF).
    `draft_head`: type of an extra low-bit head made from the trunk's. `embd_type`: type of a sidecar's
    embeddings and head, "as-is" to carry the trunk's. `qkv`: q, k and v of the block's attention, in a bundle the
    trunk's too, "split", "fused" or "as-trunk", moved as rows without quantizing them anew.

    Raises DonorMismatch, BlockPresent, NoBlock, UnsupportedModel, QuantizeError, FormatError, IncompleteModel,
    OutputExists, NoSpace, StorageError, UsageError.
    """
    from .layouts.attach import Options, plan_attach

    options = Options(layout, _type(type), _type(draft_head), _embd_type(embd_type), out, link_mode(link), qkv)
    opened = open_model(trunk)
    with _donor(donor, limit_rate, with_tokenizer=False) as (block, remote):
        return _fetch_and_run(plan_attach(opened, block, options), remote, dry_run, progress)


def detach(
    model: PathLike,
    *,
    out: PathLike | None = None,
    link: str | LinkMode = LinkMode.AUTO,
    qkv: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Take the MTP block off: a trunk-only model beside the bundled one, which stays as it is.

    `qkv`: "split" or "fused" writes the model anew as one file, q, k and v in that form, whether it has a block or not.

    Raises NoBlock, UsageError, FormatError, IncompleteModel, OutputExists, NoSpace, StorageError.
    """
    from .layouts.detach import plan_detach

    return _run(plan_detach(open_model(model), out, link_mode(link), qkv), dry_run, progress)


def extract(
    donor: PathLike,
    *,
    out: PathLike | None = None,
    donor_file: bool = False,
    type: str | TensorType | None = None,
    embd_type: str | TensorType = "q4_0",
    qkv: str | None = None,
    limit_rate: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Write the block to a file of its own: a runnable sidecar, or with `donor_file` nothing but the block.

    `qkv` as for `attach`, for GGUF donors.

    Raises NoBlock, UnsupportedModel, QuantizeError, FormatError, OutputExists, NoSpace, StorageError, UsageError.
    """
    from .layouts.extract import ExtractOptions, plan_extract

    options = ExtractOptions(donor_file, _type(type), _embd_type(embd_type), out, qkv)
    with _donor(donor, limit_rate, with_tokenizer=True) as (block, remote):
        return _fetch_and_run(plan_extract(block, options), remote, dry_run, progress)


def link_mode(name: str | LinkMode) -> LinkMode:
    """A link mode by name. Raises UsageError."""
    try:
        return LinkMode(name)
    except ValueError:
        raise UsageError(f"there is no link mode '{name}'; choose auto, hard or symlink.") from None


__all__ = ["Inspection", "Result", "attach", "detach", "extract", "inspect"]
