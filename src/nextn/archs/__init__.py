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
from .base import GENERIC_LAYER_ARRAYS, Family, Memory, Tail, TextSplit
from .others import (
    LOADS_ONLY_ARRAYS,
    LOADS_ONLY_TRUNK_ARRAYS,
    OTHER_USE,
    without_block,
    words_of,
)
from .parts import PLAIN_CACHE

FAMILIES: dict[str, Family] = {}
BY_CLASS: dict[str, Family] = {}
TEXT_SPLITS: dict[tuple[str, ...], TextSplit] = {}  # by the patterns of tokenizer.json


def register(family: Family) -> None:
    """Add a family. Raises ValueError for an architecture or a class that another family already has."""
    if family.arch in FAMILIES or any(name in BY_CLASS for name in family.classes):
        raise ValueError(f"'{family.arch}', or one of its classes, is already in the table")
    FAMILIES[family.arch] = family
    BY_CLASS.update(dict.fromkeys(family.classes, family))
    TEXT_SPLITS.update({known.patterns: known for known in family.splits})


for _module in (
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
):
    register(_module.FAMILY)


def of_classes(classes: Iterable[str]) -> Family | None:
    """The family of a checkpoint's classes, by the first one that is known."""
    return next((BY_CLASS[name] for name in classes if name in BY_CLASS), None)


def per_layer_arrays(arch: str) -> dict[str, Tail]:
    """Arrays with an entry for each layer, after `{arch}.` -> a block's value (None: repeat the last used one)."""
    tails: dict[str, Tail] = dict.fromkeys((*GENERIC_LAYER_ARRAYS, *LOADS_ONLY_ARRAYS.get(arch, ())))
    family = FAMILIES.get(arch)
    return tails if family is None else {**tails, **family.array_tail}


def trunk_arrays(arch: str) -> tuple[str, ...]:
    """Arrays with an entry for each trunk layer only, after `{arch}.`."""
    family = FAMILIES.get(arch)
    return LOADS_ONLY_TRUNK_ARRAYS.get(arch, ()) if family is None else family.trunk_arrays


def longer_arrays(arch: str) -> tuple[str, ...]:
    """Per-layer arrays that engines take when they are too long, after `{arch}.`."""
    family = FAMILIES.get(arch)
    return () if family is None else family.longer_arrays


def memory_of(arch: str) -> Memory:
    """What an engine keeps for a model; a plain cache for an architecture that is not a family."""
    family = FAMILIES.get(arch)
    return PLAIN_CACHE if family is None else family.memory


def refuse_other_use(arch: str, where: object) -> None:
    """Raise UnsupportedModel for an architecture that uses the key for something else."""
    if arch in OTHER_USE:
        raise UnsupportedModel(f"{where}: {words_of(arch)}.")


def family_of(arch: str, where: object) -> Family:
    """The family of an architecture.

    Raises UnsupportedModel with a sentence that says in which way it is unsupported.
    """
    family = FAMILIES.get(arch)
    if family is not None:
        return family
    raise UnsupportedModel(f"{where}: {without_block(arch)}.")
