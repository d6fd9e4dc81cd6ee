"""Engines: one small class per engine, which finds it, starts it, queries it, and stops it."""

from __future__ import annotations

import difflib
import os
from typing import TypeAlias

from nextn.engines.base import Completion, Engine, Launch, MemoryUse, Running
from nextn.engines.ik import IK_KIND, IkServer
from nextn.engines.llama_server import LlamaServer
from nextn.engines.ring import refuse_without_groups
from nextn.engines.xllamacpp import Xllamacpp
from nextn.errors import EngineFailed, EngineMissing, UsageError

__all__ = [
    "Completion",
    "Engine",
    "EngineChoice",
    "IkServer",
    "Launch",
    "LlamaServer",
    "MemoryUse",
    "Running",
    "Xllamacpp",
    "find_engine",
]


EngineChoice: TypeAlias = "str | os.PathLike[str] | Engine | None"


def find_engine(choice: EngineChoice = None) -> Engine:
    """The engine called `choice`: "xllamacpp", "llama-server", "ik", or the path of a `llama-server`; or an `Engine`.

    None picks xllamacpp, or failing that the first `llama-server` found.
    Raises EngineMissing, which names an engine that is there, and UsageError for a word that names neither an engine
    nor a file.
    """
    if choice is not None and not isinstance(choice, str | os.PathLike):
        return choice
    refuse_without_groups()  # an engine that is missing there need not be installed
    try:
        return _find(None if choice is None else os.fspath(choice))
    except EngineMissing as error:
        error.args = (f"{str(error).rstrip('.')}; {_instead()}.",)
        raise


def _instead() -> str:
    """What to do where the engine that was wanted is missing."""
    if Xllamacpp.installed():
        return "xllamacpp is installed, so leave out --engine"
    try:
        return f"a llama-server that works is {LlamaServer.find().binary}: name it with --engine"
    except (EngineMissing, EngineFailed):
        return (
            "add llama.cpp with 'pipx inject nextn xllamacpp' (in a virtual environment: pip install xllamacpp), or "
            "name a llama-server, b9294 or newer, with --engine"
        )


def _find(choice: str | None) -> Engine:
    if choice == Xllamacpp.name:
        return Xllamacpp.find()
    if choice == LlamaServer.name:
        return LlamaServer.find()
    if choice in (IkServer.name, "ik"):
        return IkServer.find()
    if choice is not None:
        if os.sep not in choice and not os.path.lexists(choice):
            near = difflib.get_close_matches(choice.lower(), (Xllamacpp.name, LlamaServer.name), 1)
            raise UsageError(
                f"'{choice}' is not an engine; "
                + (f"did you mean {near[0]}?" if near
                   else "choose xllamacpp, llama-server, ik, or the path of a llama-server.")
            )  # fmt: skip
        server = LlamaServer.find(choice)
        return IkServer.of(server) if server.kind == IK_KIND else server
    return Xllamacpp.find() if Xllamacpp.installed() else LlamaServer.find()
