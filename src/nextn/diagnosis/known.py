"""Keys and tensors that are not what they have to be: nextn reads none of them, and most verbs refuse the file."""

from __future__ import annotations

from collections.abc import Iterator

from ..gguf.files import Model
from .finding import Finding

_AGAIN = "get the model again, or write it again with the tool that made it"


def check_known(model: Model) -> Iterator[Finding]:
    """One finding for each."""
    for misfit in model.misfits:
        if misfit.kv is None:
            refused = "llama.cpp refuses to load it: 'tensor ... has wrong shape'"
            yield Finding("wrong-tensor-shape", "error", f"{misfit.what}.", misfit.name, refused, _AGAIN)
        elif misfit.for_engines:
            refused = f"llama.cpp refuses to load it: 'key {misfit.name} has wrong type', or counts with nonsense"
            yield Finding("wrong-key-type", "error", f"{misfit.what}.", misfit.name, refused, _AGAIN)
        else:
            passed_over = "engines pass over it, and so does nextn"
            yield Finding("wrong-key-type", "warning", f"{misfit.what}.", misfit.name, passed_over, _AGAIN)
