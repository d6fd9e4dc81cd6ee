"""The process that holds xllamacpp: `python -m nextn.engines.child SETUP_JSON`, or `--version`.

It loads the model, prints `nextn: listening on port N` to standard error, and serves HTTP on the loopback
interface until SIGTERM. Its parent, the guard, watches nextn. Wheels differ from month to month in the
attributes of CommonParams: a missing one is skipped where the default will do, and reported where it
will not.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from types import FrameType, ModuleType
from typing import Any, NoReturn
from urllib.parse import urlsplit

_LOG_LEVEL = 4  # from this level up llama.cpp prints acceptance by draft position
_LAST_LINES_S = 0.3  # for llama.cpp's log: it is printed by a thread, which ends with the process in mid-line


def _give_up(why: str) -> NoReturn:
    sys.stderr.write(f"nextn: {why}\n")
    sys.exit(1)


def put(params: Any, value: object, *names: str) -> bool:
    """Set the first of the dotted attributes `names` that exists; False when none does."""
    for name in names:
        holder, (*path, last) = params, name.split(".")
        for step in path:
            holder = getattr(holder, step, None)
        if holder is not None and hasattr(holder, last):
            setattr(holder, last, value)
            return True
    return False


def _extra(params: Any, settings: list[str]) -> None:
    for setting in settings:
        name, equals, text = setting.partition("=")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if not equals or not put(params, value, name):
            hint = "; options of llama-server need --engine llama-server" if name.startswith("-") else ""
            _give_up(f"xllamacpp has no parameter {name!r} (extra arguments are NAME=VALUE of CommonParams{hint})")


def configure(wheel: ModuleType, setup: dict[str, Any]) -> Any:
    """CommonParams of `wheel` for one launch; `host` and `port` are set when the server is for users."""
    params = wheel.CommonParams()
    host = setup.get("host", "127.0.0.1")
    put(params, setup["model"], "model.path", "model")
    put(params, setup.get("port", 0), "port")
    put(params, [host], "hostnames")
    put(params, host, "hostname")
    if setup["n_ctx"] is not None:
        put(params, setup["n_ctx"], "n_ctx")
    if "host" not in setup:
        for value, names in (
            (setup.get("slots", 1), ("n_parallel",)),
            (False, ("fit_params",)),
            (False, ("warmup",)),
            (False, ("ui", "webui")),
            (0, ("cache_ram_mib",)),
            (_LOG_LEVEL, ("verbosity",)),
        ):
            put(params, value, *names)
    if setup["threads"] is not None:
        put(params, setup["threads"], "cpuparams.n_threads")
        put(params, setup["threads"], "cpuparams_batch.n_threads")
    if setup["n_max"] != 0:  # None: draft with the engine's own limit
        kinds = getattr(wheel, "common_speculative_type", None)
        name = setup.get("kind", "draft-mtp").replace("-", "_").upper()
        kind = getattr(kinds, f"COMMON_SPECULATIVE_TYPE_{name}", None)
        if kind is None and name == "DRAFT_MTP":
            _give_up("this xllamacpp cannot draft with MTP blocks: install 2026.5.9294 or later")
        if kind is None:
            _give_up(f"this xllamacpp has no '{setup['kind']}', which the sidecar needs: install a later one")
        if not put(params, [kind], "speculative.types"):
            put(params, kind, "speculative.type")
        put(params, True, "load_mtp")
        if setup["p_min"] is not None:
            put(params, setup["p_min"], "speculative.draft.p_min", "speculative.p_min")
        limits = ("speculative.draft.n_max", "speculative.n_max")
        if setup["n_max"] is not None and not put(params, setup["n_max"], *limits):
            _give_up("this xllamacpp cannot limit the number of drafted tokens")
        places = ("speculative.draft.mparams.path", "speculative.mparams_dft.path", "speculative.model.path")
        if setup["sidecar"] is not None and not put(params, setup["sidecar"], *places):
            _give_up("this xllamacpp cannot use a sidecar")
    _extra(params, setup["extra"])
    return params


def on_stop(number: int, frame: FrameType | None) -> None:
    """Ends the process cleanly: a signal handler."""
    raise SystemExit(0)


def main(argv: list[str]) -> int:
    """Serve one model, or print versions as one line of JSON on standard output."""
    import xllamacpp  # type: ignore[import-not-found,unused-ignore]

    if argv == ["--version"]:
        known = {
            "version": getattr(xllamacpp, "__version__", None),
            "build_info": getattr(xllamacpp, "BUILD_INFO", None),
        }
        sys.stdout.write(json.dumps(known) + "\n")
        return 0
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while it loads, Ctrl-C ends it at once and without a traceback
    params = configure(xllamacpp, json.loads(argv[0]))
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        time.sleep(_LAST_LINES_S)
        sys.stderr.write(f"RuntimeError: {error}\n")
        return 1
    port = urlsplit(server.listening_address).port
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_stop)  # from here on shut down cleanly, so that the log gets its last lines
    os.write(2, f"\nnextn: listening on port {port}\n".encode())
    try:
        threading.Event().wait()
    finally:
        del server
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
