"""The experts' gate and up as one tensor, in a family whose loader takes them only as two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..archs.engines import IK_SPLITS_EXPERTS, Does
from ..block.anatomy import Anatomy
from ..block.from_gguf import block_from_model
from ..errors import NextnError
from ..layouts.experts import BOTH, HALVES, fused_layers, takes_both
from .advice import Advice, Help
from .commands import doctor_command
from .finding import Change, Finding
from .patient import Patient

if TYPE_CHECKING:
    from ..layouts.parts import Part

GATE_UP = f"{BOTH}.weight"
GATE_AND_UP = tuple(f"{half}.weight" for half in HALVES)
OF_TRUNK, OF_BLOCK = "trunk-wants-split-experts", "block-wants-split-experts"


def only_llama_cpp(seen: Anatomy, ident: str) -> bool:
    """Whether a finding keeps llama.cpp from loading the file, and ik_llama.cpp not."""
    return ident in (OF_TRUNK, OF_BLOCK) and seen.arch not in IK_SPLITS_EXPERTS


def fused_block(seen: Anatomy, layer: int) -> Finding:
    """The finding for a block."""
    return Finding(
        OF_BLOCK,
        "error",
        f"the MTP block in layer {layer} has its experts' gate and up as one tensor, and llama.cpp's loader of "
        f"'{seen.arch}' takes only two.",
        f"blk.{layer}.{GATE_UP}",
        _effect(seen, layer),
        Advice.of(doctor_command(seen), " splits it, row by row"),
        partial(_block_halved, layer=layer),
    )


def check_trunk_experts(seen: Anatomy) -> Iterator[Finding]:
    """The same in the layers of a trunk, as converters write them when they are asked to."""
    family = seen.family
    if family is None or takes_both(family) or family.llama_cpp.trunk is not Does.LOADS:
        return
    layers = fused_layers(seen)
    if not layers:
        return
    change: Change | None = partial(_trunk_halved, layers=layers)
    advice: Help = Advice.of(doctor_command(seen), " splits it, row by row")
    try:
        _trunk_parts(Patient(seen.model), layers)
    except NextnError as error:
        change, advice = None, f"get the model with two tensors: {str(error).rstrip('.')}"
    which = f"layer {layers[0]} has its" if len(layers) == 1 else f"{len(layers):,} layers have their"
    yield Finding(
        OF_TRUNK,
        "error",
        f"{which} experts' gate and up as one tensor, and llama.cpp's loader of '{seen.arch}' takes only two.",
        f"blk.{layers[0]}.{GATE_UP}",
        _effect(seen, layers[0]),
        advice,
        change,
    )


def _effect(seen: Anatomy, layer: int) -> str:
    refuses = f"llama.cpp refuses to load it: 'tensor 'blk.{layer}.{GATE_AND_UP[0]}' not found'"
    ik = "; ik_llama.cpp takes it (read in the source of 8337e4cd)"
    return refuses if seen.arch in IK_SPLITS_EXPERTS else refuses + ik


def _block_halved(patient: Patient, layer: int) -> Patient:
    from ..layouts import build, experts

    block = experts.split_experts(block_from_model(patient.model))
    names = {f"blk.{layer}.{name}" for name in GATE_AND_UP}
    parts = build.block_parts(block, block.n_layer_trunk or 0, None, [], in_model=True)
    return _halved(patient, [layer], [part for part in parts if part.info.name in names])


def _trunk_halved(patient: Patient, layers: list[int]) -> Patient:
    return _halved(patient, layers, _trunk_parts(patient, layers))


def _trunk_parts(patient: Patient, layers: list[int]) -> list[Part]:
    from ..layouts.experts import split_stored

    return [part for layer in layers for part in split_stored(patient.model, layer)]


def _halved(patient: Patient, layers: list[int], parts: list[Part]) -> Patient:
    stems = tuple(f"blk.{layer}.{BOTH}." for layer in layers)
    gone = [name for name in patient.model.tensors if name.startswith(stems)]
    return replace(patient.without(gone), added=(*patient.added, *parts))
