"""An open donor: its block, and the execution of a plan that needs its bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..writing.plan import Plan

if TYPE_CHECKING:
    from ..block.draft_checkpoint import PublishedDraft
    from ..block.model import Block
    from ..gguf.files import Model
    from ..remote.model import Remote
from ..errors import UsageError
from ..progress import Progress
from ..writing.result import DonorInfo, Result, check, execute


@contextmanager
def open_block(
    donor: str | Path,
    limit_rate: float | None = None,
    *,
    with_tokenizer: bool = False,
    trunk: Model | None = None,
    mending: Collection[int] | None = None,
) -> Iterator[OpenDonor]:
    """The donor's block, local or on a server: headers are read now, its tensors when they are needed.

    `with_tokenizer`: fetch everything that makes up a checkpoint's tokenizer. `trunk`: the model that gets the block,
    which tells what the donor leaves out (see `bare`). `mending`: layers of that model whose block is incomplete, so
    that the donor may be incomplete as well. Raises what opening raises, and NoBlock.
    """
    from ..block.opening import block_of
    from ..remote.opening import http_options, opened
    from .bare import bare_checkpoint, named_as, with_config_of

    with ExitStack() as stack:
        found = bare = None if trunk is None else bare_checkpoint(donor, trunk)
        if found is None:
            found = stack.enter_context(opened(donor, http_options(limit_rate), lone=trunk is not None))
            lone = None if found.remote is None else found.checkpoint
            if trunk is not None and lone is not None and lone.files is not None:
                found = bare = replace(found, checkpoint=with_config_of(lone, trunk, lone.place))
        notes = []
        if bare is not None:
            notes.append("the donor has no config.json: its sizes were taken from the trunk's header")
        elif trunk is not None and found.model is not None and (like := named_as(found.model, trunk)) != found.model:
            found = replace(found, model=like)
            notes.append(f"the donor does not name its architecture: it was taken for '{trunk.architecture}'")
        if with_tokenizer and found.remote is not None and found.checkpoint is not None:
            found.remote.fetch_tokenizer()
        block = block_of(found, mending)
        if bare is not None:
            block = replace(block, n_layer_trunk=block.n_layer_trunk or None)
        yield OpenDonor(block, found.remote, tuple(notes))


@contextmanager
def open_draft(
    source: str | Path, limit_rate: float | None = None, *, option: str = "--for-trunk"
) -> Iterator[tuple[PublishedDraft, OpenDonor]]:
    """A published EAGLE-3, DFlash or DSpark draft, opened like a donor; `option` is what errors call the choice.

    Raises what opening raises, and UsageError.
    """
    from ..block.draft_checkpoint import draft_from_checkpoint
    from ..remote.opening import http_options, opened

    with opened(source, http_options(limit_rate)) as found:
        draft = None if found.checkpoint is None else draft_from_checkpoint(found.checkpoint, found.beside)
        if draft is None:
            what = "a GGUF already" if found.model is not None else "a checkpoint of another kind"
            raise UsageError(
                f"{found.name}: {option} is for checkpoints of EAGLE-3, DFlash and DSpark drafts, and this is "
                f"{what}; leave it out."
            )
        block = draft.block
        if found.remote is not None:
            block = replace(block, revision=found.revision, label=found.name)
        yield replace(draft, block=block), OpenDonor(block, found.remote)


@dataclass(frozen=True)
class OpenDonor:
    """An open block."""

    block: Block
    remote: Remote | None  # None: it is local
    notes: tuple[str, ...] = ()  # what it leaves out

    def to_write(self, duplicates: str) -> tuple[Block, list[str]]:
        """The block, for "drop" without what duplicates its model, and notes on that. Raises UsageError."""
        from ..block.duplicates import KEEP, check_choice, without_duplicates

        check_choice(duplicates)
        if duplicates == KEEP:
            return self.block, list(self.notes)
        block, notes = without_duplicates(self.block, None if self.remote is None else self.remote.fetch)
        return block, [*self.notes, *notes]

    def run(
        self, plan: Plan, *, expect: str | None, why: str | None, dry_run: bool, progress: Progress | None
    ) -> Result:
        """Fetch what the plan needs, compare the block's hash with `expect`, carry out the plan."""
        from ..block.fingerprint import block_sha256, check_wanted, demand

        wanted = None if expect is None else check_wanted(expect)
        check(plan, tidy=not dry_run)
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
    """Bytes received from a server so far."""
    return 0 if remote is None else remote.traffic.bytes_received


class Steps:
    """One progress for fetching and writing; what is fetched late, while writing, counts as well."""

    def __init__(self, progress: Progress | None, n_fetch: int, n_write: int) -> None:
        self.progress, self.n_fetch, self.n_write = progress, n_fetch, n_write

    def fetched(self, done: int, total: int) -> None:
        """Report `done` bytes of what is fetched in advance."""
        if self.progress is not None:
            self.progress(done, self.n_fetch + self.n_write)

    def wrote(self, done: int, late: int) -> None:
        """Report `done` bytes written, and `late` bytes fetched meanwhile."""
        if self.progress is not None:
            self.progress(self.n_fetch + late + done, self.n_fetch + late + self.n_write)
