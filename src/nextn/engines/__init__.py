"""Engines: one small class each that finds an engine, starts it, asks it, and stops it."""

from __future__ import annotations

from nextn.engines.base import Completion, Engine, Launch, MemoryUse, Running
from nextn.engines.ik import IK_KIND, IkServer
from nextn.engines.llama_server import LlamaServer
from nextn.engines.xllamacpp import Xllamacpp

__all__ = [
    "Completion",
    "Engine",
    "IkServer",
    "Launch",
    "LlamaServer",
    "MemoryUse",
    "Running",
    "Xllamacpp",
    "find_engine",
]


def find_engine(choice: str | None = None) -> Engine:
    """The engine called `choice`: "xllamacpp", "llama-server", "ik_llama.cpp" ("ik"), or the path of a `llama-server`.

    None takes xllamacpp, or failing that the `llama-server` that is found first.
    Raises EngineMissing.
    """
    if choice == Xllamacpp.name:
        return Xllamacpp.find()
    if choice == LlamaServer.name:
        return LlamaServer.find()
    if choice in (IkServer.name, "ik"):
        return IkServer.find()
    if choice is not None:
        server = LlamaServer.find(choice)
        return IkServer.of(server) if server.kind == IK_KIND else server
    return Xllamacpp.find() if Xllamacpp.installed() else LlamaServer.find()
