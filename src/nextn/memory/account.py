"""An engine's own memory report: what its log says about a start that loads nothing, or about a real one.

The line forms are llama.cpp's (`common/fit.cpp`, `src/llama-model-loader.cpp`, `src/llama-kv-cache.cpp`,
`src/llama-memory-recurrent.cpp`, `src/llama-context.cpp`).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engines.deaths import explained
from ..engines.draft_type import spec_type
from ..engines.logs import HOST, decisive_line, is_host, lines_of
from ..engines.process import EngineProcess
from ..engines.xllamacpp import Xllamacpp
from ..errors import EngineFailed, EngineRefused
from .settings import Settings

MIB = 1 << 20
TIMEOUT_S = 600.0

_UNUSED = re.compile(r"model has unused tensor (\S+) \(size = (\d+) bytes\)")
_BREAKDOWN = re.compile(
    r"common_memory_breakdown_print: \|\s+- (.+?)\s+\|.*?(\d+) = +(\d+) \+ +(\d+) \+ +(\d+)(?:\)| )"
)
_KV = re.compile(r"llama_kv_cache: size = +([\d.]+) MiB \( *(\d+) cells, +(\d+) layers, +(\d+)/(\d+) seqs\)")
_STATE = re.compile(r"llama_memory_recurrent: size = +([\d.]+) MiB")
_BUFFER = re.compile(r"[: ](\S+) +(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")
# Logged when a context ends: the final size of its buffer.
_FINAL = re.compile(r"~llama_context: +(\S+) compute buffer size (?:is|of) +([\d.]+) MiB")
_CONTEXT = "constructing llama_context"
_LOADER = "llama_model_loader: loaded meta data with"


@dataclass
class ContextUse:
    """What one context allocates, in bytes."""

    kv_bytes: float = 0
    state_bytes: float = 0
    output_bytes: float = 0
    compute: dict[str, float] = field(default_factory=dict)  # by device
    kv: dict[str, float] = field(default_factory=dict)  # by device; empty when nothing was allocated


@dataclass
class Account:
    """What an engine's log says about one start."""

    contexts: list[ContextUse] = field(default_factory=list)  # the target's, then the draft's
    unused: list[frozenset[str]] = field(default_factory=list)  # per loaded model: tensors left out
    model: list[Counter[str]] = field(default_factory=list)  # per loaded model: bytes of weights by buffer, MiB-exact
    buffers: Counter[str] = field(default_factory=Counter)  # bytes of weights that were allocated, by buffer
    final_compute: Counter[str] = field(default_factory=Counter)  # bytes of all contexts when they ended, by device


def read_account(log: str, *, accounting: bool) -> Account:
    """Read the log of a start that only accounts for memory (`accounting`), or of one that loads.

    An accounting start goes on to "load" the model once more; what it logs after its last breakdown is ignored.
    """
    account = Account()
    unused: set[str] = set()
    current: ContextUse | None = None
    model: Counter[str] = Counter()
    for line in lines_of(log):
        if _LOADER in line:
            if unused or model:
                account.unused.append(frozenset(unused))
                account.model.append(model)
            unused, model, current = set(), Counter(), None
        elif _CONTEXT in line:
            current = ContextUse()
            account.contexts.append(current)
        elif match := _UNUSED.search(line):
            unused.add(match[1])
        elif match := _BREAKDOWN.search(line):
            model[match[1]] += int(match[3]) * MIB
        elif match := _KV.search(line):
            if current is not None:
                current.kv_bytes += float(match[1]) * MIB
        elif match := _STATE.search(line):
            if current is not None:
                current.state_bytes += float(match[1]) * MIB
        elif match := _FINAL.search(line):
            account.final_compute[HOST if is_host(match[1]) else match[1]] += round(float(match[2]) * MIB)
        elif match := _BUFFER.search(line):
            _buffer(account, current, match)
    if not accounting or model:
        account.unused.append(frozenset(unused))
        account.model.append(model)
    if accounting:
        n = len(account.model)
        account.unused = [u for u, m in zip(account.unused, account.model, strict=True) if m][:n]
        account.model = [m for m in account.model if m]
        account.contexts = account.contexts[: len(account.model)]
    return account


def _buffer(account: Account, context: ContextUse | None, match: re.Match[str]) -> None:
    device, kind, size = match[1], match[2], float(match[3]) * MIB
    if kind == "model":
        account.buffers[device] += int(size)
        return
    if context is None:
        return
    name = HOST if is_host(device) else device
    if kind == "compute":  # reserved more than once: the largest size counts
        context.compute[name] = max(size, context.compute.get(name, 0.0))
    elif kind == "output":
        context.output_bytes += size
    elif kind == "KV" and size:
        context.kv[name] = context.kv.get(name, 0.0) + size


def engine_settings(settings: Settings, mtp: bool) -> tuple[str, ...]:
    """The settings as `NAME=VALUE` attributes of xllamacpp's CommonParams."""
    k, v = settings.kv_type_k.id, settings.kv_type_v.id
    out = [f"n_parallel={settings.n_parallel}", f"cache_type_k={k}", f"cache_type_v={v}"]
    if mtp:
        out += [f"speculative.draft.cache_type_k={k}", f"speculative.draft.cache_type_v={v}"]
    if settings.n_gpu_layers is not None:
        out.append(f"n_gpu_layers={settings.n_gpu_layers}")
        out += [f"speculative.draft.n_gpu_layers={settings.n_gpu_layers}"] if mtp else []
    return tuple(out)


def account(
    engine: Xllamacpp, model: Path, sidecar: Path | None, settings: Settings, *, mtp: bool, scratch: Path
) -> Account:
    """The engine's memory report for one setup, obtained without loading it.

    Raises EngineRefused, with the engine's decisive line, if there is no report; EngineFailed if the engine dies.
    """
    from ..engines.xllamacpp import PACKAGE_ROOT, _environment

    setup: Mapping[str, Any] = {
        "model": os.fspath(model.absolute()),
        "sidecar": None if sidecar is None or not mtp else os.fspath(sidecar.absolute()),
        "kind": spec_type(sidecar if mtp else None),
        "n_max": settings.n_max if mtp else 0,
        "p_min": 0.0,
        "n_ctx": settings.n_ctx,
        "threads": 1,
        "extra": list(engine_settings(settings, mtp)),
    }
    process = EngineProcess(
        [sys.executable, "-m", "nextn.memory.child", json.dumps(setup)],
        env=_environment(), cwd=PACKAGE_ROOT, log=scratch / "account.log",
    )  # fmt: skip
    try:
        ended, number = process.wait_ended(TIMEOUT_S), process.signal
        log = process.read_log()
    finally:
        process.stop()
    found = read_account(log, accounting=True)
    if len(found.contexts) < (2 if mtp else 1):
        log = log.partition("loading lora adapter from")[0]  # what ends the start is not the reason
        why = decisive_line(log) or ended or f"nothing within {TIMEOUT_S:g} s"
        if number is not None:
            died = f"{engine.name} died while accounting for {model.name}: {explained(number)}"
            raise EngineFailed(died + (f" ({why})" if why != ended else ""), line=why, signal=number)
        raise EngineRefused(f"{engine.name} cannot account for {model.name}: {why}", line=why)
    return found
