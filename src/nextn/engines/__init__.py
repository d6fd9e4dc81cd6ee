"""Engines: one small class per engine, which finds it, starts it, queries it, and stops it."""

from __future__ import annotations

import os
from typing import TypeAlias

from nextn.engines.base import Completion, Engine, Launch, MemoryUse, Running
from nextn.engines.ik import IK_KIND, IkServer
from nextn.engines.llama_server import LlamaServer
from nextn.engines.xllamacpp import Xllamacpp
from nextn.errors import UsageError

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
    Raises EngineMissing, and UsageError for a word that names neither an engine nor a file.
    """
    if choice is not None and not isinstance(choice, str | os.PathLike):
        return choice
    choice = None if choice is None else os.fspath(choice)
    if choice == Xllamacpp.name:
        return Xllamacpp.find()
    if choice == LlamaServer.name:
        return LlamaServer.find()
    if choice in (IkServer.name, "ik"):
        return IkServer.find()
    if choice is not None:
        if os.sep not in choice and not os.path.lexists(choice):
            raise UsageError(
                f"'{choice}' is not an engine; choose xllamacpp, llama-server, ik, or the path of a llama-server."
            )
        server = LlamaServer.find(choice)
        return IkServer.of(server) if server.kind == IK_KIND else server
    return Xllamacpp.find() if Xllamacpp.installed() else LlamaServer.find()
