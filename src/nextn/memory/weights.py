"""Weights from headers: which tensors an engine loads, on which device, and which ones the CPU keeps a second copy of.

Sources: llama.cpp b11549, `src/llama-model.cpp` (placement of layers, buffer types), `src/models/*.cpp` (which tensors
of a block are skipped without MTP), `ggml/src/ggml-cpu/repack.cpp` (types that the CPU rearranges).
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

from ..archs import memory_of
from ..block.anatomy import Anatomy
from ..block.model import DRAFT_ROOTS, layer_of, suffix_of
from ..gguf.files import GGUFFile, Model
from ..gguf.header import TensorInfo

Loaded: TypeAlias = tuple[GGUFFile, TensorInfo, int, int]  # with the tensor's absolute start and end

HOST, GPU = "Host", "GPU"
EMBEDDINGS, HEAD = "token_embd.weight", "output.weight"

# Read by rows, or small: never in a matrix product that the CPU rearranges weights for.
NOT_MULTIPLIED = (EMBEDDINGS, "nextn.embed_tokens.weight", "ssm_conv1d.weight")


@dataclass(frozen=True)
class Weights:
    """Bytes of weights on one device."""

    weights_bytes: int = 0  # every loaded tensor once
    repacked_bytes: int = 0  # of these, what the CPU rearranges
    mapped_bytes: int = 0  # what is mapped from the files, in main memory only


def loaded(model: Model, *, mtp: bool, unused: frozenset[str] | None = None) -> Iterator[Loaded]:
    """The tensors that the engine allocates, with their files and ranges.

    `unused`: those it reported as left out; None: by the families' rules.
    """
    seen = Anatomy.of(model)
    anyway = memory_of(model.architecture).loaded_anyway

    def wanted(name: str) -> bool:
        if unused is not None:
            return name not in unused
        if mtp:
            return True
        if seen.of_block(name):
            return suffix_of(name).startswith(anyway) if anyway else False
        return name not in DRAFT_ROOTS

    for file in model.files:
        for info, start, end in file.ranges():
            if wanted(info.name):
                yield file, info, start, end


def layer_devices(n_layer_all: int, n_gpu_layers: int | None) -> list[str]:
    """The device of each layer, then that of the head; the engine fills the GPU from the last layer backwards.

    None (the engine's choice) counts as none: without an engine nothing is known about a GPU.
    """
    first = max(0, n_layer_all + 1 - (n_gpu_layers or 0))
    return [GPU if i >= first else HOST for i in range(n_layer_all + 1)]


@cache
def repacked_types() -> dict[str, int]:
    """Types that this machine's CPU rearranges for speed, each with the multiple that their rows must come in."""
    flags = _cpu_flags()
    found: dict[str, int] = {}
    if "avx2" in flags:
        found |= dict.fromkeys(("q4_0", "q4_K", "iq4_nl", "mxfp4"), 8)
        found |= {"q2_K": 8} if "avx512f" in flags else {}
    elif "asimddp" in flags:
        found |= dict.fromkeys(("q4_0", "iq4_nl", "mxfp4", "q8_0"), 4) | dict.fromkeys(("q4_K", "q5_K", "q6_K"), 8)
    return found


def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: a Mac's ARM cores have the dot product
        return frozenset(("asimddp",) if platform.machine() == "arm64" else ())
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def is_repacked(info: TensorInfo) -> bool:
    """Whether the CPU keeps a rearranged copy: for matrices and stacked experts of certain types."""
    multiple = repacked_types().get(info.type_name)
    if multiple is None or info.name.endswith(NOT_MULTIPLIED) or len(info.ne) < 2 or info.ne[1] % multiple:
        return False
    n_axes = max(i + 1 for i, n in enumerate(info.ne) if n > 1) if any(n > 1 for n in info.ne) else 1
    return n_axes == 2 or (n_axes == 3 and "_exps" in info.name)


def weights(
    tensors: Iterable[Loaded], model: Model, devices: list[str], *, has_gpu: bool
) -> dict[str, Weights]:
    """Weights by device; `devices` as `layer_devices` gives them."""
    sums: dict[str, list[int]] = {HOST: [0, 0, 0]}
    mapped: dict[Path, tuple[int, int]] = {}
    tied = HEAD not in model.tensors
    for file, info, start, end in tensors:
        layer = layer_of(info.name)
        device = devices[min(layer, len(devices) - 1)] if layer is not None else HOST
        if layer is None and info.name.startswith("output"):
            device = devices[-1]
        again = tied and info.name == EMBEDDINGS
        own = sums.setdefault(device, [0, 0, 0])
        own[0] += end - start
        if device == HOST and not has_gpu and is_repacked(info):
            own[1] += end - start
            continue
        if device == HOST:
            first, last = mapped.get(file.path, (start, end))
            mapped[file.path] = min(first, start), max(last, end)
        if again and devices[-1] != HOST:  # the head is a separate copy on the GPU
            sums.setdefault(devices[-1], [0, 0, 0])[0] += end - start
        elif again and not has_gpu and is_repacked(TensorInfo(HEAD, info.ne, info.type_id, 0)):
            own[0] += end - start
            own[1] += end - start
    sums[HOST][2] = sum(last - first for first, last in mapped.values())
    return {device: Weights(*values) for device, values in sums.items()}
