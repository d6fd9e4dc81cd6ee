"""Small files of text: results that people keep. Durable like everything else, and nothing is ever replaced."""

from __future__ import annotations

import os
from pathlib import Path

from ..durable import System, Workspace, explained, write_all
from ..errors import OutputExists


def write_new(path: Path, text: str) -> None:
    """Write `text` to a new file at `path`, which gets its name when it is whole and on disk.

    Raises OutputExists, NoSpace, StorageError.
    """
    if os.path.lexists(path):
        raise OutputExists(f"{path}: it is already there; choose another name, or move it away.")
    system = System()
    with Workspace(path.parent, system) as workspace:
        temp, fd = workspace.new_file(path.name)
        write_all(system, fd, text.encode("utf-8"), 0, temp)
        workspace.sync(temp)
        with explained(path, "give it its name"):
            workspace.publish(temp, path.name)
        workspace.finish()
