"""File names and folders that hide a model, or a sidecar, from llama.cpp's own search.

The rules are in common/download.cpp and common/preset.cpp of llama.cpp: a name with one of the auxiliary marks is
never taken for a model; a sidecar's path contains the mark of its kind, such as `mtp-`, and it is in the model's folder
or in a parent of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..archs.drafts import ARCHS, MARKS, kind_of
from ..block.anatomy import Anatomy
from ..block.draft import Draft
from ..errors import NextnError
from ..gguf.files import AUXILIARY_MARKS, Model, open_model, split_shard_name
from ..layouts import naming
from ..layouts.draft_fit import misfits
from .advice import Advice
from .commands import doctor_command
from .finding import Finding
from .patient import Patient, fix_command

_MTP = "mtp-"
# Replacements for marks: people and nextn still read them as before, llama.cpp does not.
_INSTEAD = {"mmproj": "MMProj", "imatrix": "imat", "mtp-": "MTP-", "eagle3-": "EAGLE3-", "dflash-": "DFlash-",
            "dspark-": "DSpark-"}  # fmt: skip
_MOST_FOLDERS = 64  # searched for a sidecar that is too deep


def check_names(seen: Anatomy, trunk: Model | None = None, *, beside: bool = True) -> Iterator[Finding]:
    """Findings about the model's own name; with `beside`, also about sidecars just out of its reach."""
    if seen.arch in ARCHS:
        yield from _sidecar(seen, trunk)
        return
    if not seen.is_language_model or (seen.lost_layers and not seen.blocks):
        return  # an incomplete model is not a main model: perhaps a sidecar whose block lost its marks
    if seen.shape in ("bundled", "trunk-only"):
        yield from _main(seen)
        if seen.shape == "trunk-only" and beside:
            yield from _deep_sidecars(seen)
    elif seen.shape == "sidecar":
        yield from _sidecar(seen, trunk)


def mark_of(sidecar: Model) -> str:
    """What a sidecar's name has to contain for llama.cpp to find it."""
    kind = kind_of(sidecar.header.get("general.architecture"), sidecar.tensors)
    return _MTP if kind is None else kind.mark


def main_base(base: str, bundled: bool) -> str:
    """A base name under which llama.cpp recognizes a file as a model."""
    clean = base.removeprefix(next((mark for mark in (_MTP, *MARKS) if base.startswith(mark)), ""))
    for mark, instead in _INSTEAD.items():
        clean = clean.replace(mark, instead)
    return naming.bundled_base(clean) if bundled else clean


def _main(seen: Anatomy) -> Iterator[Finding]:
    name = seen.model.entry.name
    mark = next((mark for mark in AUXILIARY_MARKS if mark in name), None)
    if mark is None:
        return
    base = main_base(_base(seen.model), seen.shape == "bundled")
    yield Finding(
        "name-hides-model",
        "warning",
        f"the file name contains '{mark}', which to llama.cpp marks an auxiliary file.",
        name,
        "llama.cpp's -hf, and its list of cached models, never take it for a model; mtp-, dflash- or dspark- in front "
        "hides it from --models-dir too; -m PATH loads it",
        Advice.of(f"rename it to {base}.gguf, or: ", doctor_command(seen)),
        partial(_renamed, base=base),
    )


def _base(model: Model) -> str:
    parts = split_shard_name(model.entry.name)
    return parts[0] if parts else model.entry.name.removesuffix(".gguf")


def _renamed(patient: Patient, base: str, folder: str | None = None) -> Patient:
    return replace(patient, base_name=base, folder=folder)


def _sidecar(seen: Anatomy, trunk: Model | None) -> Iterator[Finding]:
    model = seen.model
    base = _base(model)
    mark = mark_of(model)
    engine = "llama.cpp's -hf and --models-dir do not find it; -md PATH loads it"
    if mark not in model.entry.name:
        fresh = mark + main_base(base, bundled=False) if seen.is_draft else f"{mark}{base}"
        yield Finding(
            "name-hides-sidecar",
            "warning",
            f"the file name of this sidecar does not contain '{mark}'.",
            model.entry.name,
            engine,
            Advice.of(f"rename it to {fresh}.gguf, or: ", doctor_command(seen)),
            partial(_renamed, base=fresh),
        )
    elif trunk is not None and not _in_reach(model.entry, trunk.entry):
        home = trunk.entry.parent
        yield Finding(
            "folder-hides-sidecar",
            "warning",
            f"the sidecar is in {model.entry.parent}, which is neither the folder of {trunk.entry.name} nor one "
            "above it.",
            os.fspath(model.entry),
            engine,
            Advice.of(f"move it to {home}, or: ", doctor_command(seen, "--trunk", trunk.entry)),
            partial(_renamed, base=base, folder=os.fspath(home)),
        )


def _in_reach(sidecar: Path, model: Path) -> bool:
    own = Path(os.path.abspath(sidecar.parent))  # noqa: PTH100 - links count by name here, not by target
    return Path(os.path.abspath(model.parent)).is_relative_to(own)  # noqa: PTH100


def _deep_sidecars(seen: Anatomy) -> Iterator[Finding]:
    """A sidecar of this model in a subfolder that has no model of its own."""
    folder = seen.model.entry.parent
    try:
        below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except OSError:
        return
    for path in below[:_MOST_FOLDERS]:
        try:
            names = sorted(name for name in os.listdir(path) if name.endswith(".gguf"))  # noqa: PTH208
        except OSError:
            continue
        if any(not any(mark in name for mark in AUXILIARY_MARKS) for name in names):
            continue  # the folder has a model of its own
        for name in (name for name in names if any(mark in name for mark in (_MTP, *MARKS))):
            if _belongs(Path(path, name), seen):
                yield Finding(
                    "folder-hides-sidecar",
                    "warning",
                    f"a matching sidecar is in a folder below the model, {path}.",
                    os.fspath(Path(path, name)),
                    "llama.cpp's -hf looks in the model's own folder and those above it; -md PATH loads it",
                    Advice.of(
                        f"move it to {folder}, or: ", fix_command(Path(path, name), "--trunk", seen.model.entry)
                    ),
                )


def _belongs(path: Path, seen: Anatomy) -> bool:
    try:
        other = Anatomy.of(open_model(path))
        draft = Draft.of(other.model)
        if draft is not None:
            return not any(misfits(draft, seen.model))
        width = other.model.arch_int("embedding_length") == seen.model.arch_int("embedding_length")
        return other.shape == "sidecar" and other.arch == seen.arch and width and other.n_trunk == seen.n_trunk
    except NextnError:
        return False
