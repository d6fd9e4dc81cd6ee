"""What tune chooses from: settings as points, and files with other types of the block. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .timed_run import TimedSetup

N_MAX = (1, 2, 3, 4, 6)
P_MIN = (0.0, 0.5, 0.75)
BLOCK_TYPES = ("q8_0", "q4_0")
HEAD_TYPES = ("q4_0", "q8_0")
EMBD_TYPES = ("q4_0", "q8_0")


@dataclass(frozen=True)
class Artifact:
    """The types of a file with the block. Without any: the user's own file, as it is."""

    block: str | None = None  # of the block's matrices; None: as they are
    head: str | None = None  # of the head that drafts
    embd: str | None = None  # of the embeddings beside it; None exactly when `head` is: the file's own, or the trunk's

    @property
    def as_is(self) -> bool:
        """Whether no file needs to be made."""
        return self == Artifact()

    @property
    def title(self) -> str:
        """The display name; empty for the user's own file."""
        parts = [] if self.head is None else [f"head {self.head}"]
        if self.embd != self.head:
            parts.append(f"embeddings {self.embd}")
        if self.block is not None:
            parts.append(f"block {self.block}")
        return ", ".join(parts)

    @property
    def label(self) -> str:
        """For file names."""
        return "-".join(part or "own" for part in (self.block, self.head, self.embd))


AS_IS = Artifact()


@dataclass(frozen=True)
class Point:
    """One way to run the model."""

    n_max: int  # 0: MTP off
    p_min: float = 0.0
    artifact: Artifact = AS_IS
    threads: int | None = None

    @property
    def id(self) -> str:
        """Short and unique among points of the same number of threads."""
        if not self.n_max:
            return "off"
        parts = [f"n_max {self.n_max}"]
        if self.p_min:
            parts.append(f"p_min {self.p_min:g}")
        return ", ".join([*parts, self.artifact.title]) if self.artifact.title else ", ".join(parts)

    @property
    def n_changes(self) -> int:
        """How far it is from what the user has: of equally fast points the nearest is chosen."""
        return sum(part is not None for part in (self.artifact.block, self.artifact.head)) + (self.p_min > 0)

    def named(self, base_threads: int | None) -> str:
        """Unique among all points: with the threads, where they are not those of the search."""
        return self.id if self.threads == base_threads else f"{self.id}, threads {self.threads}"

    def setup(self, title: str, model: Path, sidecar: Path | None) -> TimedSetup:
        """The setup to time."""
        return TimedSetup(title, model, sidecar if self.n_max else None, self.n_max, self.p_min, self.threads)


@dataclass(frozen=True)
class Space:
    """All values that may be tried."""

    n_max: tuple[int, ...] = N_MAX
    neighbours: bool = True  # whether lengths between and beyond those of `n_max` may be tried near the best
    p_min: tuple[float, ...] = P_MIN
    heads: tuple[str, ...] = HEAD_TYPES
    embds: tuple[str, ...] = EMBD_TYPES
    blocks: tuple[str, ...] = BLOCK_TYPES
    threads: tuple[int | None, ...] = (None,)  # the first is that of the search
    separate_head: bool = True  # whether the head may have another type than the embeddings
    own: Artifact = AS_IS  # the types of the user's own file: equal ones are not made again
    barred: tuple[int, ...] = ()  # lengths that cannot win, by the batch curve

    @property
    def off(self) -> Point:
        """MTP off."""
        return Point(0, threads=self.threads[0])

    def lengths(self, like: Point) -> list[Point]:
        """Every draft length."""
        return [replace(like, n_max=n) for n in self.n_max]

    def near(self, best: Point, tried: Sequence[int]) -> list[Point]:
        """Lengths next to the best one that have not been tried."""
        if not self.neighbours:
            return []
        known = {*tried, *self.barred}
        return [replace(best, n_max=n) for n in (best.n_max - 1, best.n_max + 1) if n > 0 and n not in known]

    def with_heads(self, best: Point) -> list[Point]:
        """Other types of the drafting head, with the embeddings in the same type."""
        return self._made(best, [replace(best.artifact, head=head, embd=head) for head in self.heads])

    def with_embds(self, best: Point) -> list[Point]:
        """Other types of the embeddings, if the head may differ from them."""
        if best.artifact.head is None or not self.separate_head:
            return []
        return self._made(best, [replace(best.artifact, embd=embd) for embd in self.embds])

    def with_blocks(self, best: Point) -> list[Point]:
        """Other types of the block's matrices."""
        made = []
        for block in self.blocks:
            if block == self.own.block:
                continue
            head = best.artifact.head or self.own.head
            made.append(Artifact(block, head, best.artifact.embd or self.own.embd))
        return self._made(best, made)

    def with_p_min(self, best: Point) -> list[Point]:
        """Other limits of confidence."""
        return [replace(best, p_min=p) for p in self.p_min if p != best.p_min]

    def with_threads(self, best: Point) -> list[Point]:
        """Other numbers of threads, with MTP and without."""
        return [replace(one, threads=n) for n in self.threads[1:] for one in (best, self.off)]

    def _made(self, best: Point, artifacts: Sequence[Artifact]) -> list[Point]:
        """Points with these files, except those that the user already has."""
        fresh = [one for one in artifacts if one != best.artifact and not self._is_own(one)]
        return [replace(best, artifact=one) for one in dict.fromkeys(fresh)]

    def _is_own(self, one: Artifact) -> bool:
        return one.block in (None, self.own.block) and (one.head, one.embd) == (self.own.head, self.own.embd)

    def grid(self) -> list[Point]:
        """Every combination at the search's thread count, MTP off first: what a search without racing would time."""
        artifacts = dict.fromkeys(
            point.artifact
            for first in (AS_IS, *(one.artifact for one in self.with_heads(Point(1))))
            for second in (first, *(one.artifact for one in self.with_embds(Point(1, artifact=first))))
            for point in (Point(1, artifact=second), *self.with_blocks(Point(1, artifact=second)))
        )
        return [self.off] + [
            Point(n, p, artifact, self.threads[0]) for artifact in artifacts for n in self.n_max for p in self.p_min
        ]
