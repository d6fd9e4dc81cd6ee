"""nextn as it finds itself on another system: `python other_system.py windows|macos`.

Standard input has a JSON list of command lines; the answer is a list of exit codes and of what was printed.

What that system lacks is taken away (calls, flags, modules), what differs is replaced: on "windows" a file that is open
can be neither renamed nor removed unless it was opened by CreateFileW with FILE_SHARE_DELETE, folders cannot be
opened, locked bytes are a lock, and links need a right that the user does not have. Libraries other than nextn are
imported first, since they would look for the rest of that system. This shows that nextn does not need what is not
there; it does not show that Windows and macOS do what their manuals say.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import stat
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

_NOT_ON_MACOS = ("copy_file_range", "O_TMPFILE", "posix_fadvise", "posix_fallocate", "sched_getaffinity", "splice")
_NOT_ON_WINDOWS = (
    *_NOT_ON_MACOS, "pread", "preadv", "pwrite", "pwritev", "sendfile", "statvfs", "fstatvfs", "pathconf", "sysconf",
    "geteuid", "getuid", "getegid", "getgid", "chown", "fchown", "lchown", "fchmod", "fwalk", "killpg", "getpgid",
    "setpgid", "setsid", "getsid", "fork", "uname", "major", "minor", "getloadavg", "mkfifo", "mknod", "WIFEXITED",
    "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_SYNC", "SEEK_DATA", "SEEK_HOLE",
)  # fmt: skip
_NO_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty")
_NO_SIGNALS = ("SIGKILL", "SIGHUP", "SIGCHLD", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGQUIT", "pthread_sigmask")


def _remove(module: ModuleType, names: tuple[str, ...]) -> None:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def _import_libraries() -> None:
    """Everything that nextn's modules import and that is not nextn."""
    import ast
    import importlib
    from pathlib import Path

    for name in ("trio", "h2", "brotli", "zstandard"):  # which the HTTP client looks for when it is used
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    package = Path(__file__).resolve().parents[2] / "src" / "nextn"
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules, parts = [], []
            if isinstance(node, ast.Import):
                modules = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules, parts = [node.module], [each.name for each in node.names]
            for name in modules:
                if name.partition(".")[0] not in ("nextn", "xllamacpp", *_NO_MODULES, "msvcrt"):
                    with contextlib.suppress(ImportError):
                        module = importlib.import_module(name)
                        for part in parts:  # some packages import their parts when these are asked for
                            getattr(module, part, None)


def become_macos() -> None:
    """No copy_file_range, a sendfile to sockets only, and no /proc."""
    import fcntl

    def sendfile(*_: Any) -> int:
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))

    _remove(os, _NOT_ON_MACOS)
    os.sendfile = sendfile
    fcntl.F_FULLFSYNC = 51  # type: ignore[attr-defined]
    real = fcntl.fcntl

    def control(fd: Any, command: int, arg: Any = 0) -> Any:
        if command == fcntl.F_FULLFSYNC:  # type: ignore[attr-defined]
            os.fsync(fd)
            return 0
        return real(fd, command, arg)

    fcntl.fcntl = control  # type: ignore[assignment]
    _without_proc()
    sys.platform = "darwin"


def _without_proc() -> None:
    """/proc and /sys are not there."""
    opened, listed, real_stat = os.open, os.listdir, os.stat

    def is_there(path: Any) -> bool:
        return not (isinstance(path, str | os.PathLike) and os.fspath(path).startswith(("/proc", "/sys")))

    def check(path: Any) -> None:
        if not is_there(path):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", os.fspath(path))

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir") and args:
            check(args[0])

    del opened, listed

    def stat_(path: Any, *args: Any, **more: Any) -> os.stat_result:
        check(path)
        return real_stat(path, *args, **more)

    sys.addaudithook(audit)
    os.stat = stat_  # type: ignore[assignment]


def become_windows() -> None:
    """As the module's docstring says."""
    import ctypes
    import fcntl
    import platform
    import shutil
    import signal

    platform.uname()  # which is kept
    locks, shared = fcntl.flock, set[int]()
    how = (fcntl.LOCK_EX, fcntl.LOCK_NB)
    real = {name: getattr(os, name) for name in ("open", "close", "unlink", "replace", "link")}
    opened: dict[int, tuple[int, int]] = {}  # descriptors opened by os.open

    def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: None = None) -> int:
        assert dir_fd is None
        fd = real["open"](path, flags | 0o2000000, mode)
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            real["close"](fd)
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        opened[fd] = (found.st_dev, found.st_ino)
        return fd

    def close(fd: int) -> None:
        opened.pop(fd, None)
        shared.discard(fd)
        real["close"](fd)

    def check(path: Any) -> None:
        try:
            found = os.lstat(path)
        except OSError:
            return
        if (found.st_dev, found.st_ino) in [mark for fd, mark in opened.items() if fd not in shared]:
            error = PermissionError(errno.EACCES, "The process cannot access the file: it is being used", str(path))
            raise error

    def unlink(path: Any, *, dir_fd: None = None) -> None:
        assert dir_fd is None
        check(path)
        real["unlink"](path)

    def replace(source: Any, target: Any, *, src_dir_fd: None = None, dst_dir_fd: None = None) -> None:
        assert src_dir_fd is None is dst_dir_fd
        check(source)
        check(target)
        real["replace"](source, target)

    def link(source: Any, target: Any, *, src_dir_fd: None = None, dst_dir_fd: None = None, **more: Any) -> None:
        assert src_dir_fd is None is dst_dir_fd
        if more:
            raise NotImplementedError("link: follow_symlinks unavailable on this platform")
        real["link"](source, target, follow_symlinks=False)

    def symlink(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    class Kernel:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.CreateFileW = _CreateFile()

    class _CreateFile:
        restype: Any = None

        def __call__(self, path: Any, access: Any, share: Any, security: None, make: Any, flags: Any, _: None) -> int:
            reads, writes = bool(access.value & 0x80000000), bool(access.value & 0x40000000)
            mode = os.O_RDWR if reads and writes else os.O_WRONLY if writes else os.O_RDONLY
            new = os.O_CREAT
            mode |= {1: new | os.O_EXCL, 2: new | os.O_TRUNC, 3: 0, 4: new, 5: os.O_TRUNC}[make.value]
            try:
                fd = os.open(path.value, mode, 0o666)
            except OSError as error:
                ctypes.last = error  # type: ignore[attr-defined]
                return ctypes.c_void_p(-1).value or 0
            if share.value & 4:
                shared.add(fd)
            return fd

    appending = set[int]()
    real_write = os.write

    def from_handle(handle: int, flags: int) -> int:
        if flags & os.O_APPEND:
            appending.add(handle)
        return handle

    def write(fd: int, data: Any) -> int:
        if fd in appending:
            os.lseek(fd, 0, os.SEEK_END)
        return real_write(fd, data)

    def locking(fd: int, kind: int, n_bytes: int) -> None:
        assert n_bytes == 1 and os.lseek(fd, 0, os.SEEK_CUR) > os.fstat(fd).st_size, "a lock on data"
        try:
            locks(fd, how[0] | how[1])
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    msvcrt: Any = ModuleType("msvcrt")
    msvcrt.open_osfhandle, msvcrt.locking, msvcrt.LK_NBLCK, msvcrt.LK_LOCK = from_handle, locking, 2, 1
    sys.modules["msvcrt"] = msvcrt
    made: Any = ctypes
    made.WinDLL, made.get_last_error, made.WinError = Kernel, lambda: 0, lambda _: made.last
    statvfs = os.statvfs

    def disk_usage(path: Any) -> Any:
        found = statvfs(path)
        return SimpleNamespace(free=found.f_bavail * found.f_frsize)

    shutil.disk_usage = disk_usage
    made_of: Any = shutil  # which chose by the system when it was imported
    made_of._use_fd_functions = False
    made_of._rmtree_impl = made_of._rmtree_unsafe  # since Python 3.14
    made_of._winapi = SimpleNamespace(NeedCurrentDirectoryForExePath=lambda _: True)
    _remove(os, _NOT_ON_WINDOWS)
    _remove(signal, _NO_SIGNALS)
    for name in _NO_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    os.O_BINARY = 0  # type: ignore[attr-defined]
    os.supports_dir_fd.clear()
    os.supports_follow_symlinks.discard(real["link"])
    for name, call in {"open": open_, "close": close, "unlink": unlink, "remove": unlink, "replace": replace,
                       "rename": replace, "link": link, "symlink": symlink, "write": write}.items():  # fmt: skip
        setattr(os, name, call)
    _without_proc()
    sys.platform = "win32"


if __name__ == "__main__":
    _import_libraries()
    {"windows": become_windows, "macos": become_macos}[sys.argv[1]]()
    from nextn.cli import main
    from nextn.ggml import mainline

    mainline._FILE_NAMES.clear()  # the library of this machine, by its own name
    answers = []
    for line in json.load(sys.stdin):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main(line)
        answers.append((code, said.getvalue()))
    json.dump(answers, sys.stdout)
