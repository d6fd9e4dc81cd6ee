"""Batches that take a known time: no engine, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nextn.engines.base import Launch
from nextn.engines.batches import PassTimes

TOKEN_S = 0.01


class KnownTimer:
    """Implements `BatchTimer`: the cost of a batch by its size, in tokens of `TOKEN_S` seconds."""

    session = None

    def __init__(self, cost: Callable[[int], float], *, state_s: float = 0.0, all_outputs: bool = True) -> None:
        self.cost, self.state_s, self.all_outputs = cost, state_s, all_outputs
        self.depths: list[int] = []
        self.asked: list[tuple[tuple[int, ...], int, int]] = []
        self.slower: dict[int, float] = {}  # number of the pass -> by how much it is slower

    def prefix(self, text: str, depth: int) -> None:
        self.depths.append(depth)

    def one_pass(self, sizes: Sequence[int], repeats: int, start: int) -> PassTimes:
        factor = TOKEN_S * self.slower.get(len(self.asked), 1.0)
        self.asked.append((tuple(sizes), repeats, start))
        state = [self.state_s * factor] * repeats if self.state_s else []
        return PassTimes({size: [factor * self.cost(size)] * repeats for size in sizes}, state)

    def __enter__(self) -> KnownTimer:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class CurveEngine:
    """Implements what worth needs of `Engine`, for a model without a block."""

    name, version = "known", "1"

    def __init__(self, cost: Callable[[int], float], **more: Any) -> None:
        self.timer = KnownTimer(cost, **more)
        self.launches: list[Launch] = []

    def batches(self, launch: Launch) -> KnownTimer:
        self.launches.append(launch)
        return self.timer
