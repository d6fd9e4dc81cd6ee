"""What every model needs besides its layers: embeddings, the last norm, a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator

from ..block.anatomy import Anatomy
from .finding import Finding

_ROOTS = ("token_embd.weight", "output_norm.weight")  # of most families
_TOKENIZER = "tokenizer.ggml.model"


def check_roots(seen: Anatomy) -> Iterator[Finding]:
    """Findings about a trunk of a known family, bundled or not, without one of these."""
    if seen.family is None or not seen.is_language_model or not seen.has_trunk:
        return
    lost = [name for name in _ROOTS if name in seen.family.root and name not in seen.model.tensors]
    what, words = [f"tensor '{name}'" for name in lost], f"tensor '{lost[0]}' not found" if lost else ""
    if _TOKENIZER not in seen.model.header.by_key:
        what.append("tokenizer")
        words = words or f"key not found in model: {_TOKENIZER}"
    if what:
        yield Finding(
            "model-without-roots",
            "error",
            f"the model has no {' and no '.join(what)}, which every engine needs.",
            lost[0] if lost else _TOKENIZER,
            f"llama.cpp refuses to load it: '{words}'",
            "get the model again from where it came from",
        )
