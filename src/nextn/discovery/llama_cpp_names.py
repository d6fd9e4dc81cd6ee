"""Which files llama.cpp's `-hf` takes from a repository: its rules (common/download.cpp) as pure functions.

The model: the first path, in the listing's order, whose name has no mark of an auxiliary file and in which the tag
precedes a dot or a dash, ignoring case; of a set, only the first shard, with the others found by prefix and count.
The sidecar: a path with the lower-case mark of its kind (`mtp-`, `dspark-`, `dflash-`, `eagle3-`) in the model's folder
or one of its parents; the deeper folder wins, then `-TAG.`, then the nearest bit count. Of several kinds it takes the
first of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from ..gguf.files import AUXILIARY_MARKS, split_shard_name

DEFAULT_TAGS = ("Q4_K_M", "Q8_0")
MARKS = ("mtp-", "dspark-", "dflash-", "eagle3-")  # of sidecars, the kind that -hf takes first in front
_TAG = re.compile(r"[-.]([A-Za-z0-9_]+)\Z")


def is_main_name(path: str) -> bool:
    """Whether a path's name can be that of a model."""
    name = PurePosixPath(path).name
    return name.endswith(".gguf") and not any(mark in name for mark in AUXILIARY_MARKS)


def mark_of(path: str) -> int | None:
    """The number, in MARKS, of the mark that a path bears; None: it is not a sidecar's."""
    return next((i for i, mark in enumerate(MARKS) if mark in path), None)


def main_files(paths: Iterable[str], tag: str) -> list[str]:
    """All models that match a tag, the one `-hf` takes first; an empty tag matches all."""
    listing = [path for path in sorted(paths) if is_main_name(path) and _number(path) == 1]
    pattern = re.compile(re.escape(tag) + "[.-]" if tag else "", re.IGNORECASE)
    return [path for path in listing if pattern.search(path)]


def _number(path: str) -> int:
    parts = split_shard_name(PurePosixPath(path).name)
    return parts[1] if parts else 1


def own_tag(path: str) -> str:
    """The last part of a name, without shard numbers and `.gguf`, in upper case; '' if there is none."""
    name = PurePosixPath(path).name
    parts = split_shard_name(name)
    found = _TAG.search(parts[0] if parts else name.removesuffix(".gguf"))
    return found[1].upper() if found else ""


def bits(tag: str) -> int:
    """The first number in a tag: 4 for Q4_K_M, 16 for BF16, 0 without one."""
    found = re.search(r"\d+", tag)
    return int(found[0]) if found else 0


def sidecars(paths: Iterable[str], model: str, tag: str = "") -> list[str]:
    """The sidecars within reach of `model`, the one that `-hf` takes first.

    Among equals, `-hf` takes the first in the listing, which servers sort by path.
    """
    folder = PurePosixPath(model).parent.parts

    def in_reach(path: str) -> bool:
        own: Sequence[str] = PurePosixPath(path).parent.parts
        return path.endswith(".gguf") and mark_of(path) is not None and tuple(folder[: len(own)]) == tuple(own)

    def rank(path: str) -> tuple[int, int, tuple[bool, int], str]:
        return mark_of(path) or 0, -len(PurePosixPath(path).parent.parts), distance(path, model, tag), path

    return sorted(filter(in_reach, paths), key=rank)


def distance(sidecar: str, model: str, tag: str = "") -> tuple[bool, int]:
    """How far a sidecar's name is from the request, smaller is nearer: (no `-TAG.`, difference in bits)."""
    exact = bool(tag) and f"-{tag}.".upper() in sidecar.upper()
    return not exact, abs(bits(own_tag(sidecar)) - (bits(tag) if tag else bits(own_tag(model))))
