"""The process that lets an engine account for memory without loading: `python -m nextn.memory.child SETUP_JSON`.

llama.cpp's own fitting step makes model and contexts with `no_alloc` and logs the size of every buffer. It is part of
starting a server, which must not go any further: the start fails on an empty adapter file. The log
is the result; the exit code says nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time

from nextn.engines.child import configure, put

_LOG_LAG_S = 0.2
DEBUG = 5  # the fitting step's buffers are logged from this level up


def main(argv: list[str]) -> int:
    """Account for one setup."""
    import xllamacpp  # type: ignore[import-not-found,unused-ignore]

    setup = json.loads(argv[0])
    params = configure(xllamacpp, setup)
    modes = getattr(xllamacpp, "llama_load_mode", None)
    nothing = xllamacpp.CommonAdapterLoraInfo()
    nothing.path, nothing.scale = os.devnull, 0.0
    missing = [
        name
        for name, value in (
            ("fit_params", True),
            ("no_alloc", True),
            ("load_mode", getattr(modes, "LLAMA_LOAD_MODE_NONE", 0)),
            ("verbosity", DEBUG),
            ("lora_adapters", [nothing]),
        )
        if not put(params, value, name)
    ]
    if missing:
        sys.stderr.write(f"nextn: this xllamacpp cannot account without loading ({', '.join(missing)} missing)\n")
        return 1
    try:
        xllamacpp.Server(params)
    except RuntimeError as error:
        time.sleep(_LOG_LAG_S)  # the engine writes its log in a separate thread
        sys.stderr.write(f"{error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
