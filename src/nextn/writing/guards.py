"""Files that are never changed in place: those that others rely on, or that are in use."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from .. import oscalls
from ..errors import InPlaceRefused, StorageError
from ..partial import refuse_partial
from ..remote.cache import in_own_cache

# Names that are hashes: blobs of the Hub's cache (git's SHA-1 or SHA-256), of ollama, of other stores.
_HASH_NAME = re.compile(r"(?:sha(?:1|256|512)[-_:])?(?:[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{128})(?:\.gguf)?", re.I)
_PATIENCE_S = 1.0  # for a process that only opens the file briefly


def check_own_file(path: Path, *, all_links: bool, instead: str) -> None:
    """Refuse a file (links followed) that is not exclusively this user's; `instead` ends the message.

    Raises InPlaceRefused, StorageError.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise StorageError(f"{path}: cannot examine it: {error.strerror}.") from error
    refuse_partial(path)
    why = None
    if not stat.S_ISREG(found.st_mode):
        why = "this is not a regular file"
    elif _HASH_NAME.fullmatch(path.name) or in_own_cache(path):
        why = "this file is in a cache that names files by their hash, and the name would no longer be right"
    elif hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        why = f"this file belongs to another user ({oscalls.user_name(found.st_uid)})"
    elif not found.st_mode & stat.S_IWUSR or not os.access(path, os.W_OK):
        why = "this file is read-only"
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        why = "its folder is read-only, and the journal must be beside it"
    elif found.st_nlink > 1 and not all_links:
        raise InPlaceRefused(
            f"{path}: this file has {found.st_nlink} names (hard links), and all of them would show the change; add "
            f"--all-links if that is intended, or {instead}."
        )
    if why is not None:
        raise InPlaceRefused(f"{path}: {why}, so it is not changed in place; {instead}.")


def check_unused(path: Path, fd: int) -> None:
    """Refuse a file that another process has open or mapped, as an engine has a model. Raises InPlaceRefused."""
    until = time.monotonic() + _PATIENCE_S
    while (user := next(_users(fd), None)) is not None:
        if time.monotonic() >= until:
            pid, name, how = user
            raise InPlaceRefused(
                f"{path}: {name} (process {pid}) has this file {how}, and would read data in the wrong places while it "
                "is changed; stop that process, then run it again."
            )
        time.sleep(0.05)


def _users(fd: int) -> Iterator[tuple[int, str, str]]:
    """(process, its name, "mapped" or "open") for other processes that this user may inspect (Linux)."""
    wanted = os.fstat(fd)
    here = os.getpid()
    try:
        processes = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    except OSError:
        return
    for pid in processes:
        if pid == here:
            continue
        folder = f"/proc/{pid}"  # text, since there are thousands of descriptors on a busy machine
        how = "mapped" if _maps(folder, wanted) else "open" if _opens(folder, wanted) else None
        if how is not None:
            try:
                name = Path(folder, "comm").read_text(errors="replace").strip()
            except OSError:
                name = "a process"
            yield pid, name, how


def _maps(folder: str, wanted: os.stat_result) -> bool:
    """Whether a line of `maps` (addresses, rights, offset, major:minor, inode, path) refers to the file."""
    try:
        with open(f"{folder}/maps", "rb", buffering=0) as file:  # noqa: PTH123
            text = file.readall()
    except OSError:
        return False
    inode = b" %d " % wanted.st_ino
    if inode not in text:
        return False
    device = b"%02x:%02x" % oscalls.device_numbers(wanted.st_dev)
    for line in text.splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[4] == inode.strip() and (fields[3] == device or _leads_to(fields[5], wanted)):
            return True  # btrfs and overlay show a different device from stat's
    return False


def _leads_to(path: bytes, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), wanted)  # noqa: PTH116
    except OSError:
        return False


def _opens(folder: str, wanted: os.stat_result) -> bool:
    try:
        names = os.listdir(f"{folder}/fd")  # noqa: PTH208
    except OSError:
        return False
    for name in names:
        try:
            if os.path.samestat(os.stat(f"{folder}/fd/{name}"), wanted):  # noqa: PTH116 - follows to the open file
                return True
        except OSError:
            continue
    return False
