"""`nextn up --json`."""

from __future__ import annotations

from typing import Annotated, Literal

from .base import Bytes, Document, DocumentPart, Seconds, doc


class StepTaken(DocumentPart):
    """One step on the way from a model's name to a running server."""

    step: Literal["get", "worth", "attach", "detach", "verify", "tune", "serve", "hand over"]
    state: Annotated[
        Literal["kept", "done", "planned", "skipped", "failed", "left"],
        doc(
            "kept: what it makes exists and is right; planned: a dry run, and the server, which starts last; skipped: "
            "not possible now; left: after one that failed"
        ),
    ]
    what: Annotated[str, doc("one sentence")]
    fetch_bytes: Annotated[Bytes, doc("downloaded, or to download")]
    read_bytes: Annotated[Bytes, doc("read from local files; for steps that load a model, every load counted")]
    write_bytes: Bytes
    seconds: Annotated[
        Seconds | None,
        doc("taken; when planned, estimated (docs/scan-and-up.md says from what); null: nothing was or will be done"),
    ]


class UpDocument(Document, tag="up", kw_only=True):
    """What it took to get a model running with drafts."""

    dry_run: Annotated[bool, doc("true: nothing was written or started")]
    asked: Annotated[str, doc("the model as the user named it")]
    program: Annotated[
        Literal["llama.cpp", "ik", "lmstudio", "ollama"] | None, doc("whom the files are for; null: it is served")
    ]
    model: Annotated[str | None, doc("path to load; null: a dry run of a model that is not on this machine yet")]
    sidecar: str | None
    steps: list[StepTaken]
    address: Annotated[str | None, doc("where the server answers; null: nothing is served")]
    command: Annotated[list[str], doc("that starts the server, which --json does not do; empty: nothing is served")]
    env: Annotated[dict[str, str], doc("additional environment variables that it needs")]
    needs: Annotated[list[str], doc("what the program needs, one line each")]
    failed: Annotated[str | None, doc("why it ended early, and how to go on")]
    notes: list[str]
