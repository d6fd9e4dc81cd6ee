"""Model families: one file each. `FAMILIES` maps `general.architecture` to its table."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import UnsupportedModel
from . import (
    bailingmoe3,
    cohere2moe,
    deepseek2,
    deepseek4,
    deepseek32,
    glm4moe,
    glm5_next,
    glm_dsa,
    hy_v3,
    mimo2,
    nemotron_h_moe,
    openpangu,
    qwen3next,
    qwen4exp,
    qwen35,
    qwen35moe,
    step35,
)
from .base import (
    ASSISTANTS,
    GENERIC_LAYER_ARRAYS,
    LOADS_ONLY,
    LOADS_ONLY_ARRAYS,
    LOADS_ONLY_CLASSES,
    OTHER_USE,
    Family,
    Tail,
)

FAMILIES: dict[str, Family] = {
    module.FAMILY.arch: module.FAMILY
    for module in (
        qwen3next,
        qwen35,
        qwen35moe,
        glm4moe,
        deepseek2,
        deepseek32,
        glm_dsa,
        glm5_next,
        mimo2,
        hy_v3,
        step35,
        bailingmoe3,
        cohere2moe,
        nemotron_h_moe,
        qwen4exp,
        deepseek4,
        openpangu,
    )
}
BY_CLASS: dict[str, Family] = {name: family for family in FAMILIES.values() for name in family.classes}


def loads_only_of(classes: Iterable[str]) -> str | None:
    """The architecture of a checkpoint's class whose block engines load and never draft with, or None."""
    found = (arch for name in classes for start, arch in LOADS_ONLY_CLASSES.items() if name.startswith(start))
    return next(found, None)


def per_layer_arrays(arch: str) -> dict[str, Tail]:
    """Arrays with an entry for each layer, behind `{arch}.` -> a block's value (None: repeat the last used one)."""
    tails: dict[str, Tail] = dict.fromkeys((*GENERIC_LAYER_ARRAYS, *LOADS_ONLY_ARRAYS.get(arch, ())))
    family = FAMILIES.get(arch)
    return tails if family is None else {**tails, **family.array_tail}


def refuse_other_use(arch: str, where: object) -> None:
    """Raise UnsupportedModel for an architecture that uses the key for something else."""
    if arch in OTHER_USE:
        raise UnsupportedModel(f"{where}: '{arch}' uses the key for {OTHER_USE[arch]}, not for an MTP block.")


def family_of(arch: str, where: object) -> Family:
    """The family of an architecture.

    Raises UnsupportedModel with a sentence that says which kind of unsupported it is.
    """
    family = FAMILIES.get(arch)
    if family is not None:
        return family
    if arch in LOADS_ONLY:
        raise UnsupportedModel(
            f"{where}: no engine drafts with '{arch}' ({LOADS_ONLY[arch]}); a block would only cost memory."
        )
    refuse_other_use(arch, where)
    draft = next((name for name, target in ASSISTANTS.items() if target == arch), None)
    if draft is not None:
        raise UnsupportedModel(
            f"{where}: the draft of '{arch}' is a model of its own; name its GGUF ('{draft}') with --from."
        )
    known = ", ".join(sorted(FAMILIES))
    raise UnsupportedModel(f"{where}: nextn does not know the architecture '{arch}' (it knows {known}).")
