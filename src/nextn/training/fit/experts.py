"""Routed experts as llama.cpp computes them (b11549, `build_moe_ffn`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SOFTMAX, SIGMOID = 1, 2  # values of `expert_gating_func`
_LEAST_SUM = 6.103515625e-5  # weights are divided by no less than the smallest normal float16


@dataclass(frozen=True)
class Routing:
    """How tokens choose experts."""

    n_used: int
    gating: int  # SOFTMAX or SIGMOID
    normed: bool  # weights of the chosen ones are scaled to sum 1
    scale: float  # of the weights after that
    n_groups: int  # experts are chosen within some groups; up to 1: from all
    n_groups_used: int


def route(
    x: Tensor, gate: Tensor, bias: Tensor | None, gates: Tensor, ups: Tensor, downs: Tensor, routing: Routing
) -> Tensor:
    """x [N, E] -> [N, E]: each token's chosen experts, weighted.

    gate [X, E]; bias [X], of the choice only; gates and ups [X, F, E], downs [X, E, F].
    """
    logits = F.linear(x.float(), gate.float())
    shares = logits.softmax(-1) if routing.gating == SOFTMAX else logits.sigmoid()
    chosen = _choose(shares.detach() if bias is None else shares.detach() + bias, routing)
    weights = shares.gather(-1, chosen)
    if routing.normed:
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(_LEAST_SUM)
    weights = weights * (routing.scale or 1.0)
    out = torch.zeros_like(x, dtype=torch.float32)
    for each in range(gate.shape[0]):
        token, place = (chosen == each).nonzero(as_tuple=True)
        if not len(token):
            continue
        some = x[token]
        inner = F.silu(F.linear(some, gates[each].to(x.dtype))) * F.linear(some, ups[each].to(x.dtype))
        done = F.linear(inner, downs[each].to(x.dtype)).float() * weights[token, place, None]
        out = out.index_add(0, token, done)
    return out.to(x.dtype)


def _choose(scores: Tensor, routing: Routing) -> Tensor:
    """int64 [N, n_used]: the experts with the highest scores, within the groups whose best two score highest."""
    if routing.n_groups > 1:
        grouped = scores.view(len(scores), routing.n_groups, -1)
        best = grouped.topk(2, -1).values.sum(-1).topk(routing.n_groups_used, -1).indices
        there = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(1, best, True)
        scores = grouped.masked_fill(~there[..., None], float("-inf")).flatten(1)
    return scores.topk(routing.n_used, -1).indices
