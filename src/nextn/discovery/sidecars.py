"""Which sidecar belongs to a model."""

from __future__ import annotations

from pathlib import Path

from ..errors import DonorMismatch, NextnError, UsageError
from ..gguf.files import Model, open_model


def find_sidecar(model: Model, notes: list[str]) -> Path | None:
    """The sidecar that belongs to `model`, as llama.cpp's `-hf` would rank the names, or None.

    Looked for in the model's folder and the one above; one whose block does not fit is passed over with a note.
    """
    from . import llama_cpp_names as hf_rules

    root = model.entry.absolute().parent.parent
    listed = []
    for folder in (model.entry.absolute().parent, root):
        try:
            entries = [path for path in folder.iterdir() if path.is_file()]
        except OSError:
            continue
        listed += [str(path.relative_to(root)) for path in entries if hf_rules.MARK in path.name]
    own = str(model.entry.absolute().relative_to(root))
    for name in hf_rules.sidecars(listed, own):
        path = root / name
        try:
            check_beside(open_model(path), model)
        except NextnError as error:
            notes.append(f"passed over {path.name}: {error}")
            continue
        return path
    return None


def check_beside(sidecar: Model, model: Model) -> None:
    """Raise unless an engine can draft with `sidecar` beside `model`. Raises DonorMismatch, NoBlock, UsageError."""
    from ..archs import FAMILIES
    from ..block.from_gguf import block_from_model
    from ..layouts.donor_check import check_fit

    block = block_from_model(sidecar)
    family = FAMILIES.get(model.architecture)
    if family is None:
        raise DonorMismatch(f"{sidecar.entry}: no engine drafts with the architecture '{model.architecture}'.")
    if "token_embd.weight" not in sidecar.tensors:
        raise UsageError(
            f"{sidecar.entry}: this is a donor file, which no engine runs; make a sidecar of it with "
            "'nextn attach MODEL --from' it."
        )
    check_fit(block, model, family)
