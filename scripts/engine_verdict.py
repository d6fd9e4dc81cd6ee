"""What the pinned engine does with models: one line of JSON for each line "MODEL [SIDECAR]" of standard input.

Run in the development environment; `golden_variants.py` starts it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nextn.engines import Xllamacpp
from nextn.engines.base import Launch
from nextn.errors import EngineFailed, EngineRefused

PROMPT = "import os\n\ndef walk(path):\n    for name in os.listdir(path):\n"


def verdict(model: Path, sidecar: Path | None) -> str:
    """`drafts`, or what it does instead: `refuses`, `aborts`, `drafts nothing`."""
    try:
        launch = Launch(model, sidecar, n_max=1, n_ctx=256, threads=1, start_timeout_s=120, answer_timeout_s=120)
        with Xllamacpp.find().start(launch) as running:
            return "drafts" if running.complete(PROMPT, 8).draft_n else "drafts nothing"
    except EngineRefused:
        return "refuses"
    except EngineFailed:
        return "aborts"


def main() -> None:
    for line in sys.stdin:
        paths = [Path(text) for text in json.loads(line)]
        print(json.dumps(verdict(paths[0], paths[1] if len(paths) > 1 else None)), flush=True)


if __name__ == "__main__":
    main()
