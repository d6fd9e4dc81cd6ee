"""What is timed against what: a bench's setups, its context size and the machine."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..gguf.types import parse_type_name
from ..memory.answers import this_machine
from ..progress import Say
from .cpu_watch import cpu_name, n_cpus
from .target import MeasuredModel
from .tasks import Task
from .timed_run import TimedSetup
from .typed_sidecar import loaded_bytes, typed_sidecar

if TYPE_CHECKING:
    pass

N_MAX = (1, 2, 3)  # draft lengths by default; 3 is the engines' default
TYPES_N_MAX = (2,)  # the default where types are compared: one row per type
LEAST_REPEATS = 3
SAMPLED_TEMPERATURE = 0.8  # the engines' own default
OFF = "off"
AGAINST = "against "  # before the id of each setup of the other model
_CONTEXT_TOKENS = 1024
_TOKENS_A_BYTE = 0.6  # more than any kind of text needs; only bounds the context


def machine() -> dict[str, Any]:
    """The machine, as far as it affects speed."""
    return {
        "cpu": cpu_name(),
        "n_cpus": n_cpus(),
        "memory_bytes": this_machine().ram_bytes,
        "system": f"{platform.system()} {platform.release()}",
    }


def draft_lengths(n_max: Sequence[int] | None, types: Sequence[str]) -> tuple[int, ...]:
    for name in types:
        parse_type_name(name)
    lengths = tuple(sorted(set(n_max))) if n_max is not None else TYPES_N_MAX if types else N_MAX
    if any(length < 0 for length in lengths):
        raise UsageError(
            f"n_max {min(lengths)} is below 0: name the maximum number of tokens to draft, or 0 for MTP off."
        )
    return tuple(length for length in lengths if length)


def setups_of(
    target: MeasuredModel, lengths: Sequence[int], p_min: float, threads: int | None, mark: str
) -> list[TimedSetup]:
    entry = target.model.entry
    out = [TimedSetup(f"{mark}{OFF}", entry, threads=threads)]
    if target.has_block:
        out += [TimedSetup(f"{mark}n_max {n}", entry, target.sidecar_path, n, p_min, threads) for n in lengths]
    return out


def typed_setups(
    target: MeasuredModel,
    donor: str | Path | None,
    types: Sequence[str],
    lengths: Sequence[int],
    p_min: float,
    threads: int | None,
    embd_type: str,
    folder: Path,
    say: Say,
) -> list[TimedSetup]:
    out = []
    for name in dict.fromkeys(parse_type_name(one).name.lower() for one in types):
        say(f"making a block in {name}")
        made = typed_sidecar(target, donor, name, folder, embd_type)
        for length in lengths:
            title = name if len(lengths) == 1 else f"{name} n_max {length}"
            out.append(TimedSetup(title, target.model.entry, made, length, p_min, threads, name))
    return out


def context_for(tasks: Sequence[Task], n_predict: int) -> int:
    """A context size, in tokens, that fits every prompt with its answer."""
    longest = max(len(prompt.encode()) for task in tasks for prompt in task.prompts)
    need = int(longest * _TOKENS_A_BYTE) + n_predict + 64
    return max(_CONTEXT_TOKENS, -(-need // 256) * 256)


def setup_bytes(setup: TimedSetup, target: MeasuredModel, other: MeasuredModel | None) -> int:
    of = other if other is not None and setup.id.startswith(AGAINST) else target
    return loaded_bytes(of.model, setup.sidecar if setup.n_max else None)
