"""What the pinned engine does with the files of a row: drafts, loads without drafting, refuses, or dies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nextn.engines import Xllamacpp
from nextn.engines.base import Launch
from nextn.errors import EngineFailed, EngineRefused

PROMPT = "import os\n\ndef walk(path):\n    for name in os.listdir(path):\n"
DRAFTS, RUNS, REFUSES, ABORTS = "drafts", "runs", "refuses", "aborts"


@dataclass(frozen=True)
class Did:
    """One start of the engine."""

    what: str  # DRAFTS, RUNS (answers, and drafts nothing), REFUSES, ABORTS
    said: str = ""  # with what sentence


def run(model: Path, sidecar: Path | None, *, mtp: bool) -> Did:
    """Start the engine on a model of a few megabytes, with or without drafting, and ask it once."""
    launch = Launch(
        model, sidecar, n_max=int(mtp), n_ctx=256, threads=1, start_timeout_s=120, silence_timeout_s=60,
        answer_timeout_s=120,
    )  # fmt: skip
    try:
        with Xllamacpp.find().start(launch) as running:
            return Did(DRAFTS if running.complete(PROMPT, 8).draft_n else RUNS)
    except EngineFailed as error:
        said, what = error, ABORTS
    except EngineRefused as error:
        said, what = error, REFUSES
    if said.log is not None:
        said.log.unlink(missing_ok=True)
    return Did(what, str(said))
