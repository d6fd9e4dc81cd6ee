"""The loss against the trunk's own distribution, with logits that only exist a few rows at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_CHUNK_VALUES = 4 << 20  # logits at a time


class Targets(NamedTuple):
    """What each row's logits are compared with; `index` are rows of the draft's head."""

    index: Tensor  # int64 [N, top k]; 0 where `share` is 0
    share: Tensor  # float32 [N, top k], sums to 1
    best: Tensor  # int64 [N]: the trunk's likeliest token, -1 if the draft does not have it


def targets(
    top_ids: Tensor, top_logits: Tensor, log_sum: Tensor, index_of_token: Tensor, argmax_weight: float
) -> Targets:
    """The trunk's distribution over the draft's vocabulary.

    top_ids int [N, k], likeliest first; top_logits float [N, k]; log_sum float [N], over the whole vocabulary. Tokens
    that the draft does not have are left out and the rest is scaled to 1; `argmax_weight` of that is the likeliest's.
    """
    index = index_of_token[top_ids.long()]
    there = index >= 0
    share = (top_logits.float() - log_sum.float()[:, None]).exp() * there
    share = share / share.sum(-1, keepdim=True).clamp_min(1e-9) * (1 - argmax_weight)
    share[:, 0] += argmax_weight * there[:, 0]
    share = share / share.sum(-1, keepdim=True).clamp_min(1e-9)
    return Targets(index.clamp_min(0), share, index[:, 0])


class _HeadLoss(torch.autograd.Function):
    """Weighted sum of cross entropies; gradients are made with the logits, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, index: Tensor, share: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        want_hidden, want_head = ctx.needs_input_grad[:2]
        cast = head.to(hidden.dtype)
        g_hidden = torch.empty_like(hidden) if want_hidden else None
        g_head = torch.zeros_like(head, dtype=torch.float32) if want_head else None
        losses, best = [], []
        step = max(1, _CHUNK_VALUES // head.shape[0])
        for a in range(0, hidden.shape[0], step):
            rows = slice(a, a + step)
            logits = (hidden[rows] @ cast.T).float()
            best.append(logits.argmax(-1))
            wanted = (logits.gather(1, index[rows]) * share[rows]).sum(-1)
            log_sum = logits.logsumexp(-1)
            losses.append(log_sum - wanted)
            if want_hidden or want_head:
                grad = logits.sub_(log_sum[:, None]).exp_()
                grad.scatter_add_(1, index[rows], -share[rows])
                small = grad.mul_(weight[rows, None]).to(hidden.dtype)
                if g_hidden is not None:
                    torch.mm(small, cast, out=g_hidden[rows])
                if g_head is not None:
                    g_head += small.T @ hidden[rows]
        ctx.save_for_backward(g_hidden, g_head)
        loss = torch.cat(losses)
        found = torch.cat(best)
        ctx.mark_non_differentiable(found)
        return (loss * weight).sum(), found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        g_hidden, g_head = ctx.saved_tensors
        grad = grads[0]
        return (
            None if g_hidden is None else g_hidden * grad.to(g_hidden.dtype),
            None if g_head is None else g_head * grad,
            None, None, None,
        )  # fmt: skip


def head_loss(hidden: Tensor, head: Tensor, wanted: Targets, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(sum over rows of weight x cross entropy in nats, each row's likeliest index int64 [N]).

    hidden [N, E] in the type to compute in, head [V, E], weight float32 [N]. The cross entropy differs from the
    divergence KL(trunk || draft) by the entropy of the trunk's distribution, which training cannot change.
    """
    loss, best = _HeadLoss.apply(hidden, head, wanted.index, wanted.share, weight)
    return loss, best
