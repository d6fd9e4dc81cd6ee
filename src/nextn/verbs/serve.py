"""Serve: a model's layout, the sidecar and flags that go with it, and the command that starts an engine with them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EngineMissing, UsageError
from ..gguf.files import Model, open_sound
from ..shell import shell

if TYPE_CHECKING:
    from ..engines import Engine, EngineChoice, LlamaServer
    from ..inspection.model import Inspection
from ..discovery.sidecars import find_sidecars
from ..layouts.beside import check_beside
from ..layouts.places import sidecar_folder
from ..schemas.base import Documented, EngineName, filled
from ..schemas.serve import ServeDocument
from ..tuned import TUNED_SUFFIX, Tuned, read_tuned


@dataclass(frozen=True)
class Serving(Documented):
    """How a model is served."""

    model: Path
    layout: str  # "bundled", "shards", "sidecar", or "none": without MTP
    sidecar: Path | None
    n_max: int | None  # 0: without MTP; None: the engine's default
    p_min: float | None
    threads: int | None
    engine: str
    engine_version: str
    command: tuple[str, ...]
    env: Mapping[str, str]  # variables the command needs on top of the environment
    notes: tuple[str, ...]
    extra: tuple[str, ...] = field(default=())
    cwd: Path | None = None
    listen: tuple[str, int] | None = None  # host and port; None: engine arguments say otherwise

    @property
    def shell(self) -> str:
        """The command as a line for a POSIX shell."""
        return shell(*self.command, env=self.env)

    def run(self) -> int:
        """Start the server, pass signals on to it, and return its exit code.

        Raises EngineMissing, and UsageError for a port that is in use.
        """
        from ..engines.foreground import run_foreground
        from ..engines.ports import check_port

        if self.listen is not None:
            check_port(*self.listen)

        env = {"GGML_NO_BACKTRACE": "1", "PYTHONUNBUFFERED": "1", **self.env}
        return run_foreground(self.command, env=env, cwd=self.cwd)

    @property
    def document(self) -> ServeDocument:
        """What --json prints."""
        return filled(ServeDocument, self, engine=EngineName(self.engine, self.engine_version))



def serve(
    model: str | Path,
    *,
    sidecar: str | Path | None = None,
    engine: EngineChoice = None,
    n_max: int | None = None,
    p_min: float | None = None,
    threads: int | None = None,
    tuned: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    engine_args: Sequence[str] = (),
) -> Serving:
    """Layout, sidecar, flags and command for `model`; nothing is started until `run()` of the result is called.

    The sidecar is `sidecar`, or the one that `discovery.sidecars` finds.
    Settings that are not given come from `tuned`, or from NAME.tune.json beside the model, else from the engine.
    `engine`: "xllamacpp", "llama-server", "ik", the path of a llama-server, or an open `Engine`; None: a llama-server
    of the user's own ($NEXTN_LLAMA_SERVER, PATH), else xllamacpp. `engine_args` come last and win.

    Raises DonorMismatch, NoBlock, EngineMissing, UsageError, and what opening files raises.
    """
    from ..inspection.model import inspect

    seen = inspect(model)
    seen.model.check_whole()
    seen.model.check_known()
    if sidecar is not None:
        open_sound(sidecar)  # what is wrong with it is said before an engine is looked for
    if seen.shape in ("sidecar", "donor"):
        raise UsageError(
            f"{seen.model.entry}: this file holds only an MTP block; name the model that it belongs to"
            + (", and this file with --sidecar." if seen.shape == "sidecar" else ".")
        )
    found = serving_engine(engine)
    notes = [f"{seen.model.entry.name}: {problem}" for problem in seen.problems]
    settings = _tuned(seen.model, tuned, notes)
    if sidecar is None and n_max != 0 and (n_max or settings.n_max):
        sidecar = _tuned_sidecar(settings, notes)
    if settings.args and settings.engine not in (None, found.name):
        notes.append(f"engine arguments of {settings.path.name} are for {settings.engine}, so they are left out")
        settings = replace(settings, args=())
    layout, beside = _layout(seen, sidecar, found, notes)
    if layout == "none":
        if n_max:
            notes.append("--n-max was given, but there is nothing to draft with")
        limit: int | None = 0
    else:
        limit = settings.n_max if n_max is None else n_max
        if limit == 0:
            where = "--n-max 0" if n_max == 0 else settings.path.name
            notes.append(f"MTP is left off, as {where} says")
            beside = None
    choice = Serving(
        model=seen.model.entry,
        layout=layout,
        sidecar=beside,
        n_max=limit,
        p_min=None if limit == 0 else settings.p_min if p_min is None else p_min,
        threads=settings.threads if threads is None else threads,
        engine=found.name,
        engine_version=found.version,
        command=(),
        env={},
        notes=tuple(notes),
        extra=(*settings.args, *engine_args),
        listen=listening(host, port, (*settings.args, *engine_args)),
    )
    return _with_command(choice, found, host, port)


def listening(host: str, port: int, engine_args: Sequence[str]) -> tuple[str, int] | None:
    """Host and port of the server; None if engine arguments, which win, say something about them."""
    told = any(word.partition("=")[0] in ("--host", "--port") for word in engine_args)
    return None if told else (host, port)


def serving_engine(engine: EngineChoice) -> Engine:
    """The engine that serves: the one named, else a llama-server of the user's own, else xllamacpp.

    Raises EngineMissing, EngineFailed, UsageError.
    """
    from ..engines import find_engine
    from ..engines.llama_server import PATH_VARIABLE

    own = bool(os.environ.get(PATH_VARIABLE) or shutil.which("llama-server"))
    return find_engine("llama-server" if engine is None and own else engine)


def _layout(seen: Inspection, sidecar: str | Path | None, engine: Engine, notes: list[str]) -> tuple[str, Path | None]:
    """The layout that is served and its sidecar; anything the user should know is added to `notes`."""
    from ..archs import FAMILIES
    from ..archs.engines import IK, LLAMA_CPP, Does
    from ..inspection.engines import measured

    model, name, arch = seen.model, seen.model.entry.name, seen.architecture
    kind = IK if engine.name.startswith("ik") else LLAMA_CPP
    support = FAMILIES[arch].on(kind) if arch in FAMILIES else None
    takes_sidecar = support is None or support.does("sidecar") is not Does.REFUSES
    if sidecar is not None:
        beside = open_sound(sidecar)
        notes += [f"{beside.entry.name}: {what}" for what in check_beside(beside, model)]
        if seen.shape == "bundled":
            notes.append(f"{name} has its own block; the sidecar's is used for drafting")
        if not takes_sidecar:
            notes.append(f"{beside.entry.name} is a sidecar of '{arch}': {measured(kind, arch, 'sidecar')}")
        return "sidecar", beside.entry
    if seen.shape == "bundled":
        return _bundled(seen, kind, notes), None
    answer = find_sidecars(model)
    found = answer.best()
    if found is None or takes_sidecar:
        notes += answer.notes()
    if found is not None and takes_sidecar:
        return "sidecar", found.path
    if found is not None:
        notes.append(
            f"{found.place}, a sidecar of '{arch}': {measured(kind, arch, 'sidecar')}; to try it with a newer build, "
            "name it with --sidecar"
        )
    without = f"{name} has no MTP block"
    if support is None:
        notes.append(f"{without}, and nextn knows no engine that drafts with '{arch}'")
    elif not support.drafts:
        layout = "sidecar" if FAMILIES[arch].only_sidecar else "bundle"
        notes.append(f"{without}: served without MTP; with one of '{arch}', {measured(kind, arch, layout)}")
    else:
        more = () if takes_sidecar else ("--layout", "bundle")
        command = shell("nextn", "attach", model.entry, "--from", "DONOR", *more)
        notes.append(f"{without}: served without MTP; put one on with '{command}'")
    return "none", None


def _bundled(seen: Inspection, kind: str, notes: list[str]) -> str:
    """The layout of a model with a block on the engine `kind`: "none" if the engine does not draft with the block."""
    from ..archs import FAMILIES
    from ..archs.engines import Does
    from ..archs.others import LOADS_ONLY
    from ..inspection.engines import measured

    name, arch = seen.model.entry.name, seen.architecture
    if arch not in FAMILIES:
        what = "loads it, but no engine drafts" if arch in LOADS_ONLY else "nextn knows no engine"
        notes.append(f"{name} has a block, and {what} with the architecture '{arch}': without MTP")
        return "none"
    layout, support = ("shards" if seen.model.is_sharded else "bundle"), FAMILIES[arch].on(kind)
    if support.does(layout) not in (Does.LOADS, Does.REFUSES):
        return "shards" if seen.model.is_sharded else "bundled"
    refused = support.does(layout) is Does.REFUSES and support.trunk is Does.LOADS
    off = "; take the block off with 'nextn detach'" if refused else ""
    notes.append(f"{name} has a block of '{arch}': {measured(kind, arch, layout)}{off}")
    return "none"


def tuned_path(model: Model) -> Path:
    """Where the settings that 'nextn tune' found for a model are; the file need not exist."""
    name = model.base_name + TUNED_SUFFIX
    beside = model.entry.with_name(name)
    return beside if beside.is_file() else sidecar_folder(model) / name


def _tuned(model: Model, tuned: str | Path | None, notes: list[str]) -> Tuned:
    path = tuned_path(model) if tuned is None else Path(tuned)
    if tuned is None and not path.is_file():
        return Tuned(path)
    where = "beside the model" if path.parent == model.entry.parent else f"in {path.parent}"
    notes.append(f"settings from {path.name}" + (f", found {where}" if tuned is None else ""))
    return read_tuned(path)


def _tuned_sidecar(tuned: Tuned, notes: list[str]) -> Path | None:
    """The sidecar that the settings were found with: at the path they name, or beside them."""
    if tuned.sidecar is None:
        return None
    for path in (tuned.sidecar, tuned.path.with_name(tuned.sidecar.name)):
        if path.is_file():
            return path
    notes.append(f"{tuned.sidecar}, which {tuned.path.name} was tuned with, is missing: run 'nextn tune' again")
    return None


def _with_command(choice: Serving, engine: Engine, host: str, port: int) -> Serving:
    from ..engines.xllamacpp import PACKAGE_ROOT, Xllamacpp

    if isinstance(engine, Xllamacpp):
        command = engine.serving(
            choice.model, choice.sidecar, choice.n_max, choice.p_min, choice.threads, host, port, choice.extra
        )
        return replace(choice, command=tuple(command), cwd=PACKAGE_ROOT)
    found: LlamaServer = engine  # type: ignore[assignment]
    command = [os.fspath(found.binary), "-m", str(choice.model.absolute()), *drafting(choice, found)]
    if choice.threads is not None:
        command += ["-t", str(choice.threads)]
    return replace(choice, command=(*command, "--host", host, "--port", str(port), *choice.extra), env=dict(found.env))


def drafting(choice: Serving, found: LlamaServer) -> list[str]:
    """The options that turn MTP on for this choice; none if it is off. Raises EngineMissing."""
    if choice.n_max == 0:
        return []
    if not found.kind:
        raise EngineMissing(
            f"{found.binary} ({found.version}) cannot draft with MTP blocks: use a newer build, or --n-max 0"
        )
    sidecar = None if choice.sidecar is None else choice.sidecar.absolute()
    return found.options.drafting(choice.n_max, choice.p_min, sidecar)

