"""Is drafting likely to be faster? What was measured here, else the classes of models in which it seldom is."""

from __future__ import annotations

from dataclasses import dataclass

from ..block.anatomy import Anatomy
from ..gguf.files import Model
from ..memory.answers import Machine
from ..units import size
from .worth_store import kept_answer

CAN_PAY, CANNOT_PAY, UNLIKELY, NOT_MEASURED = "can_pay", "cannot_pay", "unlikely", "not_measured"
SMALL = 2_000_000_000  # parameters below which a token takes so little time that a draft costs as much as it saves


@dataclass(frozen=True)
class Prospect:
    """Whether drafting is likely to be faster, and the reason."""

    word: str  # CAN_PAY and CANNOT_PAY: measured on this machine; UNLIKELY: by its class; NOT_MEASURED
    why: str  # a clause
    short: str = ""  # of UNLIKELY: the reason in a few words


def n_parameters(model: Model) -> int:
    """Elements of all tensors besides the block's."""
    seen = Anatomy.of(model)
    return 0 if seen.is_draft else sum(seen.trunk_table(file).n_elements for file in model.files)


def prospect(model: Model, machine: Machine) -> Prospect:
    """What is known before anything is run. The class is only asked where nothing was measured."""
    measured = kept_answer(model)
    if measured is not None:
        return Prospect(*measured)
    n = n_parameters(model)
    if n < SMALL:
        few = f"{n / 1e9:.2g} billion" if n >= 10**8 else f"{n / 1e6:.2g} million"
        why = f"it has {few} parameters; below 2 billion a draft costs about what it saves"
        return Prospect(UNLIKELY, why, "under 2 billion parameters")
    needed, gpu = model.size_bytes, machine.gpu_memory_bytes
    if machine.ram_bytes is not None and needed > machine.ram_bytes + (gpu or 0):
        return Prospect(UNLIKELY, f"its {size(needed)} do not fit into this machine's memory", "does not fit in memory")
    if gpu is not None and needed > gpu:
        experts = ", and a batch of tokens reads more experts than one token" if model.arch_int("expert_count") else ""
        why = f"its {size(needed)} do not fit into {size(gpu)} of GPU memory, so a part runs on the CPU{experts}"
        return Prospect(UNLIKELY, why, "partly on the CPU")
    return Prospect(NOT_MEASURED, "not measured on this machine")
