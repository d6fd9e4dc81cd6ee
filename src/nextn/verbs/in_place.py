"""What attach and detach share when they change a file in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import ChangeUnfinished, UsageError
from ..gguf.files import Model
from ..layouts.options import Room, RoomPolicy, least_room
from ..progress import Say, heard
from ..remote.address import parse_source
from ..writing.guards import check_own_file
from ..writing.plan import Plan
from ..writing.ranges import grain_of
from ..writing.recover import recover, unfinished
from ..writing.system import explained

INSTEAD_OF_ATTACH = "use --layout sidecar, shards or bundle, which write new files"
INSTEAD_OF_DETACH = "use 'nextn detach' without --in-place, which writes a new file"

Confirm = Callable[[Plan], None]
"""Called with the plan before a file is changed in place; raises to stop."""


def end_interrupted(path: str | Path, *, dry_run: bool, say: Say | None) -> None:
    """Resolve an interrupted change to a local model before it is opened for writing.

    Raises ChangeUnfinished if `dry_run` forbids it, UsageError if the path is not local, and what `recover` raises.
    """
    place = parse_source(path)
    if not isinstance(place, Path):
        raise UsageError(f"{path}: only a local file can be changed in place; get the model with 'nextn pull' first.")
    for found in unfinished(place):
        if dry_run:
            raise ChangeUnfinished(found.sentence())
    for done in recover(place) if place.exists() else []:
        heard(say)(f"{done.journal}: the interrupted {done.verb or 'change'} was {done.what}")


def check_files(paths: Sequence[Path], *, all_links: bool, instead: str) -> None:
    """Raise for files that must not be changed (links followed): InPlaceRefused, StorageError, UsageError.

    `instead`: what the user can do, for the message.
    """
    real = [path.resolve() for path in paths]
    for path in real:
        check_own_file(path, all_links=all_links, instead=instead)
    n_folders = len({path.parent for path in real})
    if n_folders > 1:
        raise UsageError(
            f"{paths[0]}: the files to change are in {n_folders} folders, and one journal must be beside all of "
            "them; move them into one folder first."
        )


def room_for(path: Path, policy: RoomPolicy | None = None) -> Room:
    """How room can be made for a longer header in a file (links followed). Raises NoSpace, StorageError."""
    folder = path.resolve().parent
    with explained(folder, "create a file in the folder"):
        return Room(grain_of(folder), policy or least_room)


def named(plan: Plan, model: Model) -> Plan:
    """The plan, with a note naming the actual files if the user named a link to them."""
    links = [file.path for file in model.files if file.path.is_symlink()]
    changed = {change.path for change in plan.changes}
    notes = [f"{path} is a symbolic link: the file that is changed is {path.resolve()}" for path in links
             if path.resolve() in changed]  # fmt: skip
    return replace(plan, notes=(*notes, *plan.notes))
