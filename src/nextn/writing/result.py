"""What a writing verb did, or with `dry_run` would do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..errors import UsageError
from ..progress import Progress
from ..schemas import document_type
from ..schemas.base import Documented, filled
from ..schemas.written import WritingDocument
from . import execute as new_files
from . import in_place
from .execute import Outcome
from .plan import LinkMode, Plan
from .system import System


@dataclass(frozen=True)
class Result(Documented):
    """What a writing verb did, or with `dry_run` would do."""

    plan: Plan
    outcome: Outcome | None  # None after a dry run
    donor: DonorInfo | None = None  # where the block came from; None: no donor was involved
    bytes_downloaded: int = 0  # from servers, including headers
    bytes_to_download: int = 0  # what a dry run did not download

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
        """All files that were made or changed, links included, the entry's last."""
        made = tuple(self.plan.folder / out.name for out in self.plan.outputs)
        return made + tuple(change.path for change in self.plan.changes)

    @property
    def when_unprinted(self) -> str:
        """Whether the files are there."""
        return "nothing was written" if self.outcome is None else f"the files are complete, load {self.entry}"

    @property
    def document(self) -> WritingDocument:
        """What --json prints."""
        done = self.outcome
        return filled(
            cast(type[WritingDocument], document_type(self.plan.verb)),
            self.plan,
            dry_run=done is None,
            files=self.plan.written_files,
            bytes_read=self.bytes_read,
            wall_s=done.wall_s if done else 0.0,
            tensor_sha256=done.hashes if done else {},
            links=done.links if done else {},
            donor=self.donor,
            bytes_downloaded=self.bytes_downloaded,
            bytes_to_download=self.bytes_to_download,
            **({"steps": list(self.plan.change_steps)} if self.plan.changes else {}),
        )


def check(plan: Plan, *, tidy: bool) -> None:
    """Check what can be known before writing. Raises OutputExists, NoSpace, StorageError, ChangeUnfinished."""
    if plan.changes:
        in_place.check_changes(plan)
    else:
        new_files.check_outputs(plan, tidy=tidy)


def execute(plan: Plan, *, progress: Progress | None = None, system: System | None = None) -> Outcome:
    """Write a plan's new files, or change its files in place. Raises what either raises."""
    run = in_place.change_files if plan.changes else new_files.execute
    return run(plan, progress=progress, system=system)


def carry_out(plan: Plan, dry_run: bool, progress: Progress | None) -> Result:
    """Carry out a plan that needs nothing from a server; with `dry_run`, only check that it is possible."""
    if dry_run:
        check(plan, tidy=False)
        return Result(plan, None)
    return Result(plan, execute(plan, progress=progress))


@dataclass(frozen=True)
class DonorInfo:
    """Where a block came from."""

    name: str  # a file or folder name, or an address with its commit
    revision: str | None  # the commit
    sha256: str | None  # of the block's source bytes (see `fingerprint`); None after a dry run
    why: str | None = None  # how it was chosen; None: the user named it


def link_mode(name: str | LinkMode) -> LinkMode:
    """A link mode by name. Raises UsageError."""
    try:
        return LinkMode(name)
    except ValueError:
        raise UsageError(f"'{name}' is not a link mode; choose auto, hard or symlink.") from None
