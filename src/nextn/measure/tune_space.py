"""What tune tries: draft lengths, least probabilities, threads, and blocks of other types made for the occasion."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..archs import FAMILIES
from ..block import DRAFT_HEAD, Block, block_from_model
from ..destinations.local import execute
from ..errors import UsageError
from ..gguf.files import Model
from ..gguf.types import parse_type_name
from ..layouts.attach import Options, plan_attach
from ..layouts.detach import without_block
from ..layouts.plan import Plan
from .control import check_room
from .trial import Setup
from .trial_watch import n_cpus

OFF = "off"
AS_IS, NONE = "as-is", "none"


@dataclass(frozen=True)
class Artifact:
    """A block in certain types, in a sidecar of its own. None everywhere: the one that the user has."""

    type: str | None = None
    """Of the block's matrices; None: as they are."""
    draft_head: str | None = None
    """Of an extra head for drafting; None: the block has what it has."""
    embd_type: str | None = None
    """Of the sidecar's embeddings and head; None: as the user has them, or where a new file is made, q4_0."""

    @property
    def is_users(self) -> bool:
        """Whether it is what the user has already."""
        return self == Artifact()

    @property
    def words(self) -> str:
        """For people; empty for what the user has."""
        parts = (("block", self.type), ("draft head", self.draft_head), ("embeddings", self.embd_type))
        return ", ".join(f"{what} {kind}" for what, kind in parts if kind is not None)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return {"type": self.type, "draft_head": self.draft_head, "embd_type": self.embd_type}


@dataclass(frozen=True)
class Space:
    """The settings to try, each list in the order of trying."""

    n_max: tuple[int, ...] = (1, 2, 3, 4, 6)
    p_min: tuple[float, ...] = (0.0, 0.5, 0.75)
    types: tuple[str | None, ...] = (None, "q4_0")
    draft_heads: tuple[str | None, ...] = (None, "q4_0")
    embd_types: tuple[str | None, ...] = (None,)
    threads: tuple[int, ...] = ()

    @property
    def n_grid(self) -> int:
        """Setups that the full grid would hold, MTP off at all threads included."""
        files = len(self.types) * len(self.draft_heads) * len(self.embd_types)
        return max(1, len(self.threads)) * (1 + files * len(self.n_max) * len(self.p_min))


@dataclass(frozen=True)
class Point:
    """One place in the space."""

    n_max: int
    p_min: float = 0.0
    threads: int | None = None
    artifact: Artifact = Artifact()

    @property
    def id(self) -> str:
        """Short and unique."""
        if not self.n_max:
            return OFF if self.threads is None else f"{OFF}, {_threads(self.threads)}"
        parts = [f"n_max {self.n_max}"]
        parts += [f"p_min {self.p_min:g}"] if self.p_min else []
        parts += [self.artifact.words] if self.artifact.words else []
        parts += [_threads(self.threads)] if self.threads is not None else []
        return ", ".join(parts)

    def setup(self, model: Path, sidecar: Path | None) -> Setup:
        """How to run it."""
        beside = sidecar if self.n_max else None
        return Setup(self.id, model, beside, self.n_max, self.p_min if self.n_max else 0.0, self.threads)

    def but(self, **changes: Any) -> Point:
        """The same with something else."""
        return replace(self, **changes)


def _threads(n: int) -> str:
    return f"{n} thread{'s' if n > 1 else ''}"


def physical_cores() -> int:
    """Cores that this process may use; hyperthreads of one count once. Where nothing tells, its CPUs."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    found = set()
    for cpu in allowed:
        place = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            found.add(((place / "physical_package_id").read_text(), (place / "core_id").read_text()))
        except OSError:
            return len(allowed)
    return max(1, len(found))


def default_threads() -> tuple[int, ...]:
    """All cores, and half of them: where memory is the limit, fewer may do as well."""
    cores = min(physical_cores(), n_cpus())
    return tuple(dict.fromkeys((cores, max(1, cores // 2))))


def checked_space(space: Space) -> Space:
    """The space with names of types as they are written, threads filled in. Raises UsageError, UnsupportedFormat."""
    if not space.n_max or min(space.n_max) < 1:
        raise UsageError("--n-max takes draft lengths of 1 and more; MTP off is always tried.")
    if not space.p_min or not all(0 <= p < 1 for p in space.p_min):
        raise UsageError("--p-min takes probabilities from 0 to below 1.")
    threads = space.threads or default_threads()
    if min(threads) < 1:
        raise UsageError(f"{min(threads)} threads are none: name 1 or more.")
    return replace(
        space,
        n_max=tuple(sorted(set(space.n_max))),
        p_min=tuple(dict.fromkeys(space.p_min)),
        types=_types(space.types),
        draft_heads=_types(space.draft_heads),
        embd_types=_types(space.embd_types),
        threads=tuple(dict.fromkeys(threads)),
    )


def _types(names: Sequence[str | None]) -> tuple[str | None, ...]:
    known = (
        None if name is None or name in (AS_IS, NONE) else parse_type_name(name).name.lower() for name in names
    )
    return tuple(dict.fromkeys(known)) or (None,)


@dataclass(frozen=True)
class Maker:
    """Makes artifacts from the user's block, or from a donor's."""

    model: Model
    block: Block

    @property
    def trunk(self) -> Model:
        """The model without its block."""
        return without_block(self.model)

    def allowed(self, space: Space) -> Space:
        """The space without what the family's loader refuses, or what is there already."""
        family = FAMILIES.get(self.model.architecture)
        heads = space.draft_heads
        if family is None or not family.draft_head:
            heads = (None,)
        has_head = self.block.find(DRAFT_HEAD) is not None
        return replace(space, draft_heads=heads if not has_head else tuple(dict.fromkeys((None, *heads))))

    def plan(self, artifact: Artifact, out: Path) -> Plan:
        """A sidecar at `out`, a file or a folder. Raises what attaching raises."""
        kinds = (artifact.type, artifact.draft_head, artifact.embd_type or "q4_0")
        block_type, head, embeddings = (None if kind is None else parse_type_name(kind) for kind in kinds)
        options = Options("sidecar", block_type, head, embeddings, out)
        return plan_attach(self.trunk, self.block, options)

    def make(self, artifact: Artifact, folder: Path) -> Path:
        """A temporary sidecar. Raises NoSpace, QuantizeError and what attaching raises."""
        name = "-".join(filter(None, ("mtp", artifact.type, artifact.draft_head, artifact.embd_type)))
        out = folder / f"{name}-{len(list(folder.iterdir()))}.gguf"
        plan = self.plan(artifact, out)
        check_room(plan.folder, plan.bytes_written, "a temporary sidecar")
        execute(plan)
        return out


def maker_of(model: Model, block_origin: Model | None, donor: Block | None) -> Maker:
    """From a donor's block, else from the one that the user has."""
    if donor is not None:
        return Maker(model, donor)
    assert block_origin is not None
    return Maker(model, block_from_model(block_origin))
