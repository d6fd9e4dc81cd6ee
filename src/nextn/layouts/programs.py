"""Programs with an engine inside and folders of their own: LM Studio and ollama.

What they do with MTP blocks is reported by their users, not measured here. LM Studio loads a block that is in the
model; it takes no sidecar (lmstudio-bug-tracker, 2244). ollama drafts in its MLX engine with Gemma 4's drafts from
safetensors (ollama, 15980) and with no block of a GGUF; 0.24.0 refuses models that hold one (ollama, 16282).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..block.anatomy import Anatomy
from ..errors import UnsupportedModel
from ..gguf.files import Model
from ..shell import shell
from . import naming, places

LMSTUDIO, OLLAMA = "lmstudio", "ollama"
PROGRAMS = (LMSTUDIO, OLLAMA)
_MOST_SETTINGS = 1 << 20


def ollama_folder() -> Path:
    """Where ollama keeps `blobs` and `manifests`."""
    return Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models")


def lm_studio_folders() -> list[Path]:
    """Where LM Studio keeps models as PUBLISHER/REPOSITORY/FILE.gguf: the user's choice, its own folder, older ones."""
    home = Path.home()
    found = [home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"]
    try:
        settings = home / ".lmstudio" / "settings.json"
        if settings.stat().st_size < _MOST_SETTINGS:
            found.insert(0, Path(json.loads(settings.read_bytes())["downloadsFolder"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return [path for path in dict.fromkeys(found) if path.is_absolute()]


def in_lm_studio(path: Path) -> bool:
    """Whether LM Studio lists a file: it is two folders below one of its own."""
    above = list(places.real_place(path.absolute()).parents)
    return len(above) > 2 and any(os.path.realpath(root) == os.fspath(above[2]) for root in lm_studio_folders())


def lm_studio_folder(model: Model) -> Path:
    """Where a bundled model goes for LM Studio to find it: beside the model if it is found there, else a folder of its
    own below LM Studio's; beside the model where there is no LM Studio.
    """
    if in_lm_studio(model.entry):
        return model.entry.parent
    root = next((path for path in lm_studio_folders() if path.is_dir()), None)
    if root is None:
        return places.default_folder(model)
    name = naming.split_quant(naming.bundled_base(places.model_name(model)))[0]
    return root / "nextn" / f"{name}-GGUF"


def lm_studio_notes(made: Path, trunk: Model) -> list[str]:
    """What to do for LM Studio to find the file, and the trunk's projector."""
    folder = trunk.entry.parent
    other = folder.resolve() != made.parent.resolve() and not places.in_store(trunk.entry)
    found = sorted(path.name for path in folder.glob("mmproj*.gguf")) if other else []
    images = [f"for images, {name} has to lie beside it: copy it from {folder}" for name in found[:1]]
    return [lm_studio_where(made), *images]


def lm_studio_where(made: Path) -> str:
    """How LM Studio lists a file, or where it has to be for that."""
    if in_lm_studio(made):
        return f"LM Studio lists it as {made.parent.parent.name}/{made.parent.name}; its MTP was not tried here"
    return (
        "LM Studio lists models that are at PUBLISHER/REPOSITORY/FILE.gguf below its folder of models (for example "
        f"{lm_studio_folders()[0]}): put the file there; its MTP was not tried here"
    )


def lm_studio_use(shape: str, *, has_sidecar: bool) -> tuple[str, str]:
    """What LM Studio does with a model, as its users report: a word of the measured table, and a sentence's end."""
    if shape == "bundled":
        return "drafts", "is reported to draft with a block in the model; not tried here"
    more = "; it takes no sidecar" if has_sidecar else ""
    return "runs", f"runs it without MTP{more}; not tried here"


def ollama_use(shape: str, *, has_sidecar: bool) -> tuple[str, str]:
    """The same of ollama."""
    if shape == "bundled":
        return "refuses", "is reported to refuse models that hold a block (0.24.0); not tried here"
    more = " or sidecar" if has_sidecar else ""
    return "runs", f"runs it without MTP: it drafts with no block{more} of a GGUF; not tried here"


def check_ollama(for_engine: str | None, trunk: Model) -> None:
    """Raise UnsupportedModel for ollama: no file of a GGUF with a block is of use to it."""
    if for_engine != OLLAMA:
        return
    rest = f"'{shell('nextn', 'detach', trunk.entry)}' writes one" if Anatomy.of(trunk).has_block else "as it is"
    raise UnsupportedModel(
        f"{trunk.entry}: there is nothing to write for ollama: it does not draft with the MTP block of a GGUF, and "
        f"0.24.0 is reported to refuse models that hold one; give it the model without a block ({rest}), and use "
        "llama-server ('nextn serve') to draft."
    )
