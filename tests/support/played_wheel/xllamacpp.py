"""The wheel xllamacpp, played by the stand-in for llama-server: what nextn's child processes import of it.

PLAYED_WHEEL holds the settings of `standin_server` as JSON: it dies when it is imported ("start"), when it loads a
model, or in the middle of an answer.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import standin_server

SETTINGS = json.loads(os.environ["PLAYED_WHEEL"])
__version__ = "1"
if SETTINGS["at"] == "start":
    standin_server.die(SETTINGS)


class CommonParams:
    """Has every attribute that is asked for."""

    def __getattr__(self, name: str) -> Any:
        made = self.__dict__[name] = CommonParams()
        return made


CommonAdapterLoraInfo = CommonParams


class common_speculative_type:
    """Drafting with MTP blocks is known."""

    COMMON_SPECULATIVE_TYPE_DRAFT_MTP = 1


class Server:
    """Loads, and answers over HTTP."""

    def __init__(self, params: Any) -> None:
        if SETTINGS["at"] == "load":
            standin_server.die(SETTINGS)
        given = {"-m": params.model.path, "-c": str(params.n_ctx)}
        if isinstance(params.speculative.draft.n_max, int):
            given |= {"--spec-type": "draft-mtp", "--spec-draft-n-max": str(params.speculative.draft.n_max)}
        answers = standin_server.Answers(SETTINGS, given)
        server = standin_server.Server(("127.0.0.1", 0), standin_server.handler(answers))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.listening_address = f"http://127.0.0.1:{server.server_address[1]}"
