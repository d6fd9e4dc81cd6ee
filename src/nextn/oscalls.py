"""The calls that differ between Linux, macOS and Windows, and what nextn does where one is missing.

Everything else in the package calls these, so a system without flock, pread or copy_file_range is missing it in one
place. `MISSING` has a sentence for each call whose absence costs something, `lacks()` those that apply here; the first
use of a slower replacement is also logged.

Windows: files are opened with FILE_SHARE_DELETE, since nextn renames and removes files that it keeps open for their
locks; a lock is one byte far beyond the end of any file, since locked bytes cannot be read by others there.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

    from _typeshed import ReadableBuffer as Buffer

LOGGER = logging.getLogger("nextn")

CLOEXEC = getattr(os, "O_CLOEXEC", 0)
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
NONBLOCK = getattr(os, "O_NONBLOCK", 0)
BINARY = getattr(os, "O_BINARY", 0)
DIRECTORY = getattr(os, "O_DIRECTORY", 0)
READ = os.O_RDONLY | CLOEXEC | NONBLOCK | BINARY  # links are followed, pipes never block

_PIECE_BYTES = 8 << 20  # what a copy keeps in memory where the kernel cannot copy
_LOCK_BYTE = 1 << 43  # 8 TiB: beyond any data, and within what file systems allow
_BLOCKING = {errno.EACCES, errno.EAGAIN, errno.EDEADLK, getattr(errno, "EDEADLOCK", errno.EDEADLK)}

MISSING = {
    "copies": "files are copied through 8 MiB of memory, not inside the kernel: a bundle takes longer",
    "insert": "the file system cannot insert room into a file: --layout in-place needs padding that is large enough",
    "folders": "a folder cannot be synced: after a power cut, a file just written may be missing, never half there",
    "descriptors": "folders have no descriptors: a program that replaces a folder at the same moment can mislead nextn",
    "users": "it cannot be seen which programs have a file open: close them before a change in place",
    "engines": "engines are not started: verify, worth, bench, tune, train, serve and up need Linux or macOS",
    "cpu": "the load of the CPUs is not known: disturbed runs are not repeated",
}


def lacks() -> list[str]:
    """What is degraded on this system, a sentence for each (see `MISSING`)."""
    here = {
        "copies": sys.platform == "linux",
        "insert": sys.platform == "linux",
        "folders": bool(DIRECTORY),
        "descriptors": has_folder_descriptors(),
        "users": Path("/proc/self/fd").is_dir(),
        "engines": can_guard_processes(),
        "cpu": Path("/proc/stat").is_file(),
    }
    return [text for name, text in MISSING.items() if not here[name]]


def has_folder_descriptors() -> bool:
    """Whether names can be given relative to an open folder."""
    return {os.open, os.mkdir, os.stat, os.link, os.unlink, os.rename} <= os.supports_dir_fd


def can_guard_processes() -> bool:
    """Whether processes have groups, which the guard of an engine ends."""
    return sys.platform != "win32"


# -- opening ----------------------------------------------------------------------------------------------------------


def open_file(path: str | Path, flags: int, mode: int = 0o666, *, dir_fd: int | None = None) -> int:
    """os.open; on Windows the open file can also be renamed and removed, as elsewhere."""
    if sys.platform == "win32":
        return _open_shared(os.fspath(path), flags | BINARY)
    return os.open(path, flags, mode, dir_fd=dir_fd)


if sys.platform == "win32":
    import msvcrt

    def _open_shared(path: str, flags: int) -> int:
        """os.open by CreateFileW with all three ways of sharing (fileapi.h, winnt.h)."""
        import ctypes

        write = flags & (os.O_WRONLY | os.O_RDWR)
        access = (0 if flags & os.O_WRONLY else 0x80000000) | (0x40000000 if write else 0)  # GENERIC_READ, _WRITE
        if flags & os.O_EXCL and flags & os.O_CREAT:
            make = 1  # CREATE_NEW
        elif flags & os.O_TRUNC:
            make = 2 if flags & os.O_CREAT else 5  # CREATE_ALWAYS, TRUNCATE_EXISTING
        else:
            make = 4 if flags & os.O_CREAT else 3  # OPEN_ALWAYS, OPEN_EXISTING
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.CreateFileW.restype = ctypes.c_void_p
        handle = kernel.CreateFileW(
            ctypes.c_wchar_p(path), ctypes.c_uint32(access), ctypes.c_uint32(7), None,
            ctypes.c_uint32(make), ctypes.c_uint32(0x80), None,
        )  # fmt: skip
        if handle is None or handle == ctypes.c_void_p(-1).value:
            error = ctypes.WinError(ctypes.get_last_error())
            error.filename = path
            raise error
        return msvcrt.open_osfhandle(handle, flags & (os.O_RDONLY | os.O_APPEND | BINARY))


# -- names and folders ------------------------------------------------------------------------------------------------

_NOT_ON_WINDOWS = frozenset('<>:"|?*\\')
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])(\s*\..*)?", re.IGNORECASE)


def invalid_on_windows(name: str) -> bool:
    """Whether Windows cannot have a file of this name, or has it under another one."""
    return bool(_NOT_ON_WINDOWS & set(name)) or name != name.rstrip(" .") or _DEVICES.fullmatch(name) is not None


def is_no_name(name: str) -> bool:
    """Whether `name` is not that of a file in a folder on this system."""
    if sys.platform == "win32" and invalid_on_windows(name):
        return True
    return name in ("", ".", "..") or "/" in name or "\0" in name


def link_itself(source: str | Path, target: str | Path, *, src_dir_fd: int | None, dst_dir_fd: int | None) -> None:
    """os.link; a symlink itself is linked, not its target."""
    if os.link in os.supports_follow_symlinks:
        os.link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=False)
    else:  # Windows: CreateHardLinkW does so anyway
        os.link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)


def remove_tree(name: str | Path, *, dir_fd: int | None) -> None:
    """Remove a folder and everything in it; links in it are removed, not followed."""
    if sys.platform == "win32" or dir_fd is None:
        shutil.rmtree(name)
        return
    for _, folders, files, fd in os.fwalk(name, topdown=False, onerror=_fail, dir_fd=dir_fd):
        for each in files:
            os.unlink(each, dir_fd=fd)
        for each in folders:
            is_link = stat.S_ISLNK(os.stat(each, dir_fd=fd, follow_symlinks=False).st_mode)
            (os.unlink if is_link else os.rmdir)(each, dir_fd=fd)
    os.rmdir(name, dir_fd=dir_fd)


def _fail(error: OSError) -> None:
    raise error


def set_mode(fd: int, mode: int) -> None:
    """os.fchmod, where files have modes."""
    if sys.platform != "win32":
        os.fchmod(fd, mode)


# -- reading and writing at an offset ---------------------------------------------------------------------------------

_position = threading.Lock()  # the replacements move the descriptor's position

if sys.platform != "win32":
    pread = os.pread
    pwrite = os.pwrite
else:

    def pread(fd: int, length: int, offset: int, /) -> bytes:
        """os.pread."""
        with _position:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.read(fd, length)

    def pwrite(fd: int, data: Buffer, offset: int, /) -> int:
        """os.pwrite."""
        with _position:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.write(fd, data)


def pread_into(fd: int, view: memoryview, offset: int) -> int:
    """Read into `view` from `offset`; returns the number of bytes, 0 at the end of the file."""
    if sys.platform != "win32":
        return os.preadv(fd, [view], offset)
    data = pread(fd, len(view), offset)
    view[: len(data)] = data
    return len(data)


# -- copying ----------------------------------------------------------------------------------------------------------


def copy_range(src: int, dst: int, count: int, src_offset: int, dst_offset: int) -> int:
    """os.copy_file_range. Raises OSError (ENOSYS) where there is none."""
    if sys.platform == "linux":
        return os.copy_file_range(src, dst, count, src_offset, dst_offset)
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def copy_otherwise(src: int, dst: int, count: int, src_offset: int, dst_offset: int) -> int:
    """A copy for pairs of files that `copy_range` cannot handle: inside the kernel on Linux, else through memory."""
    if sys.platform == "linux":  # elsewhere it writes to sockets only
        os.lseek(dst, dst_offset, os.SEEK_SET)
        return os.sendfile(dst, src, src_offset, count)
    _say_once("copies")
    data = memoryview(pread(src, min(count, _PIECE_BYTES), src_offset))
    done = 0
    while done < len(data):
        done += pwrite(dst, data[done:], dst_offset + done)
    return done


@cache
def _say_once(what: str) -> None:
    LOGGER.info("%s", MISSING[what])


# -- making it permanent ----------------------------------------------------------------------------------------------


def fsync(fd: int) -> None:
    """os.fsync; on macOS also out of the drive's own cache (fcntl(2): F_FULLFSYNC), where the file system can."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def start_writing(fd: int, offset: int, size: int) -> None:
    """Ask the kernel to begin writing this range to disk, and do not wait: sync_file_range(2) with only
    SYNC_FILE_RANGE_WRITE, which leaves errors for a later fsync to report. Nothing where there is no such call.

    Memory and disk work at the same time so, and fsync does not stand still at the end of a large file.
    """
    function = _sync_file_range()
    if function is not None:
        function(fd, offset, size, 2)


@cache
def _sync_file_range() -> ctypes._NamedFuncPointer | None:
    if sys.platform != "linux":
        return None
    import ctypes

    found = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if found is not None:
        found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return found


# -- locks ------------------------------------------------------------------------------------------------------------


def lock(fd: int, *, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file until it is closed; one that ends with its process.

    Windows has no shared locks here: the second of two that ask for one goes without, and the open file cannot be
    taken away from either. Raises BlockingIOError when another holds it (without `wait`), OSError where there are none.
    """
    if sys.platform == "win32":
        position = os.lseek(fd, 0, os.SEEK_CUR)
        try:
            os.lseek(fd, _LOCK_BYTE, os.SEEK_SET)
            while True:
                try:
                    msvcrt.locking(fd, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                    return
                except OSError as error:
                    if error.errno not in _BLOCKING:
                        raise
                    if not wait:  # LK_LOCK gives up after ten seconds
                        raise BlockingIOError(errno.EAGAIN, "locked by another process") from error
        finally:
            os.lseek(fd, position, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


# -- disks, files, users ----------------------------------------------------------------------------------------------


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write to the file system of `folder`."""
    if sys.platform == "win32":
        return shutil.disk_usage(folder).free
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def disk_bytes(found: os.stat_result) -> int:
    """What a file takes on disk; its size where the system does not say."""
    blocks: int | None = getattr(found, "st_blocks", None)
    return found.st_size if blocks is None else blocks * 512


def longest_name(folder: Path) -> int:
    """How many bytes (on Windows: characters) a file name may have. Raises OSError."""
    if sys.platform == "win32":
        return 255
    return os.pathconf(folder, "PC_NAME_MAX")


def user_name(uid: int) -> str:
    """A user's name, or their number."""
    if sys.platform == "win32":
        return f"user {uid}"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def memory_bytes() -> int | None:
    """The machine's memory; None where the system does not say."""
    if sys.platform == "win32":
        return None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def allow_open_files(need: int) -> int | None:
    """Let this process keep `need` files open; the system's limit where it allows fewer, else None."""
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or need <= soft:
        return None
    if hard != resource.RLIM_INFINITY and need > hard:
        return hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))
    return None


def device_numbers(device: int) -> tuple[int, int]:
    """Major and minor number of a device; zeros where there are none."""
    if sys.platform == "win32":
        return 0, 0
    return os.major(device), os.minor(device)


# -- processes --------------------------------------------------------------------------------------------------------


def clock_ticks() -> int:
    """Ticks per second in /proc; 100 where the system does not say."""
    if sys.platform == "win32":
        return 100
    return os.sysconf("SC_CLK_TCK")


def kill_group(group: int) -> None:
    """SIGKILL to a process group. Raises ProcessLookupError."""
    if sys.platform != "win32":
        os.killpg(group, signal.SIGKILL)


def block_signals(numbers: Iterable[signal.Signals]) -> None:
    """Hold these signals back in this thread."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def unblock_signals(numbers: Iterable[signal.Signals]) -> None:
    """Let these signals through again."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
