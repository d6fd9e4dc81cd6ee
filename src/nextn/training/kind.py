"""Which kind of draft is trained for a trunk: what the engine's graph for its architecture can use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..archs import FAMILIES
from ..archs.drafts import N_EAGLE_LAYERS
from ..archs.engines import LLAMA_CPP
from ..block.anatomy import Anatomy
from ..block.draft import tokens_of
from ..compat.graphs import graphs
from ..errors import UnsupportedModel, UsageError
from ..gguf.files import Model
from ..units import counted
from .cost import bytes_per_token

DraftName = Literal["eagle3", "native"]
KINDS = ("auto", "eagle3", "native")
NATIVE = ("qwen35", "deepseek2")  # families whose block is fitted
_LEAST_LAYERS = 2  # for three different taps


@dataclass(frozen=True)
class ChosenKind:
    """The kind, why, and what it reads of the trunk."""

    kind: DraftName
    why: str  # a clause
    taps: tuple[int, ...]  # layers whose inputs it reads; empty for a native block
    n_layer: int
    n_embd: int
    n_vocab: int

    @property
    def bytes_per_token(self) -> int:
        """Of states on disk: the token, its states in f16, the trunk's top logits with their ids, their sum."""
        return bytes_per_token(self.n_embd, len(self.taps))


def usual_taps(n_layer: int) -> tuple[int, int, int]:
    """The layers whose inputs EAGLE-3's authors read: 2, the middle, and the third from the end.

    Of shallow trunks, where those coincide, others: three different states, the output of the last layer included.
    """
    if n_layer < 4:
        return n_layer - 2, n_layer - 1, n_layer
    last = max(3, n_layer - 3)
    return min(2, last - 2), max(min(n_layer // 2, last - 1), 2), last


def choose_kind(trunk: Model, asked: str) -> ChosenKind:
    """The kind of draft to train: `asked`, or with "auto" native MTP where the engine has a graph for it, else EAGLE-3.

    Raises UnsupportedModel where the engine could not use it or nextn cannot fit it, UsageError for a sidecar or an
    unknown kind.
    """
    if asked not in KINDS:
        raise UsageError(f"'{asked}' is not a kind of draft; choose {', '.join(KINDS)}.")
    seen = Anatomy.of(trunk)
    if seen.is_block_only:
        raise UsageError(f"{trunk.entry}: this is a sidecar or donor file; name the model that it belongs to.")
    arch = trunk.architecture
    why_native, why_eagle = _no_native(arch), _no_eagle(arch, seen.n_layer_trunk)
    if asked == "auto":
        asked = "native" if not why_native else "eagle3" if not why_eagle else ""
    if not asked:
        raise UnsupportedModel(f"{trunk.entry}: no draft can be trained for it: {why_native}, and {why_eagle}.")
    why = why_native if asked == "native" else why_eagle
    if why:
        raise UnsupportedModel(f"{trunk.entry}: --kind {asked} does not fit it: {why}.")
    taps = usual_taps(seen.n_layer_trunk) if asked == "eagle3" else ()
    assert len(taps) in (0, N_EAGLE_LAYERS)
    told = (
        f"llama.cpp {graphs().build} has an MTP graph for '{arch}'" if asked == "native"
        else f"the graph of '{arch}' in llama.cpp {graphs().build} hands its layer inputs to a draft"
    )  # fmt: skip
    kind: DraftName = "native" if asked == "native" else "eagle3"
    return ChosenKind(kind, told, taps, seen.n_layer_trunk, trunk.arch_int("embedding_length"), tokens_of(trunk))


def _no_native(arch: str) -> str:
    """Why no native block is trained, or ""."""
    family = FAMILIES.get(arch)
    if family is None or not family.on(LLAMA_CPP).drafts:
        return f"llama.cpp {graphs().build} has no MTP graph for '{arch}'"
    if arch not in NATIVE:
        return f"fitting an MTP block of '{arch}' is not implemented"
    return ""


def _no_eagle(arch: str, n_layer: int) -> str:
    """Why no EAGLE-3 draft is trained, or ""."""
    known = graphs()
    if known.has_taps(arch) is False:
        return f"the graph of '{arch}' in llama.cpp {known.build} hands no layer inputs to an EAGLE-3 draft"
    if known.has_taps(arch) is None:
        return f"whether llama.cpp {known.build} accepts an EAGLE-3 draft for '{arch}' was not measured"
    if n_layer < _LEAST_LAYERS:
        return f"with {counted(n_layer, 'layer')} there are not three different states for an EAGLE-3 draft to read"
    return ""
