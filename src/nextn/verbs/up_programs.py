"""What another program needs in order to use the files that `nextn up --for` prepared."""

from __future__ import annotations

from pathlib import Path

from ..engines.draft_type import spec_type
from ..layouts.places import plain
from ..layouts.programs import LMSTUDIO, OLLAMA, lm_studio_where
from ..shell import quoted, shell

LLAMA_CPP, IK = "llama.cpp", "ik"
PROGRAMS = (LMSTUDIO, OLLAMA, LLAMA_CPP, IK)
TITLES = {LMSTUDIO: "LM Studio", OLLAMA: "ollama", LLAMA_CPP: "llama.cpp", IK: "ik_llama.cpp"}


def needs_of(program: str, model: Path, sidecar: Path | None, name: str, known: str | None = None) -> list[str]:
    """One line each: commands, and where to find the model; `known`: what ollama calls it already."""
    if program == OLLAMA:
        text = f"FROM {model.absolute()}"
        name = plain(name) or "model"
        make = [f"printf '%s\\n' {quoted(text)} > Modelfile", shell("ollama", "create", name, "-f", "Modelfile")]
        return [
            *(make if known is None else ()),
            shell("ollama", "run", name if known is None else known),
            "ollama drafts with no block of a GGUF; 'nextn up' without --for serves this model with drafts",
        ]
    if program == LMSTUDIO:
        return [lm_studio_where(model)]
    beside = () if sidecar is None else ("-md", sidecar)
    kind = ("--spec-type", "mtp" if program == IK else spec_type(sidecar))
    return [shell("llama-server", "-m", model, *beside, *kind)]
