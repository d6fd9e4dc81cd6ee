"""Keys with invalid content: nextn reads none of them, and most commands refuse the file."""

from __future__ import annotations

from collections.abc import Iterator

from ..gguf.files import Model
from .finding import Finding, Severity

_AGAIN = "get the model again, or write it again with the tool that made it"


def check_known(model: Model) -> Iterator[Finding]:
    """One finding per key."""
    for misfit in model.misfits:
        key = misfit.kv.key
        severity: Severity = "error" if misfit.for_engines else "warning"
        effect = "engines ignore it, and so does nextn"
        if misfit.for_engines:
            effect = f"llama.cpp refuses to load it: 'key {key} has wrong type', or computes with a meaningless value"
        yield Finding("wrong-key-type", severity, f"{misfit.what}.", key, effect, _AGAIN)
    more = model.header.known.n_misfits - len(model.header.misfits)
    if more > 0:
        what = f"{more:,} more keys that say where the model comes from have the wrong type."
        yield Finding("wrong-key-type", "warning", what, model.entry.name, "engines ignore them", _AGAIN)
