"""The loss against the trunk's own distribution, with logits that only exist a few rows at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_CACHED_VALUES = 512 << 10  # logits at a time: their passes stay in the cache
_KEPT_VALUES = 64 << 20  # gradients of logits at a time: for few, large products


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
    """Weighted sum of cross entropies. Gradients are made with the logits, which nothing keeps."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, index: Tensor, share: Tensor, weight: Tensor, best: Tensor | None
    ) -> Tensor:
        want_hidden, want_head = ctx.needs_input_grad[:2]
        cast = head.to(hidden.dtype)
        n_rows, n_vocab = hidden.shape[0], head.shape[0]
        g_hidden = torch.empty_like(hidden) if want_hidden else None
        g_head = torch.zeros_like(head, dtype=torch.float32) if want_head else None
        losses = hidden.new_empty(n_rows, dtype=torch.float32)
        few = max(1, _CACHED_VALUES // n_vocab)
        many = max(few, _KEPT_VALUES // n_vocab // few * few)
        kept = hidden.new_empty(min(many, n_rows), n_vocab) if want_hidden or want_head else None
        for start in range(0, n_rows, many):
            end = min(start + many, n_rows)
            for a in range(start, end, few):
                rows = slice(a, min(a + few, end))
                logits = (hidden[rows] @ cast.T).float()
                most = logits.amax(-1)
                if best is not None:
                    best[rows] = logits.argmax(-1)
                wanted = (logits.gather(1, index[rows]) * share[rows]).sum(-1)
                shares = logits.softmax(-1)
                losses[rows] = most - shares.amax(-1).log() - wanted
                if kept is not None:
                    shares.scatter_add_(1, index[rows], -share[rows])
                    torch.mul(shares, weight[rows, None], out=kept[a - start : rows.stop - start])
            if kept is None:
                continue
            some = kept[: end - start]
            if g_hidden is not None:
                torch.mm(some, cast, out=g_hidden[start:end])
            if g_head is not None:
                g_head += some.T @ hidden[start:end]
        ctx.save_for_backward(g_hidden, g_head)
        return (losses * weight).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        g_hidden, g_head = ctx.saved_tensors
        grad = grads[0]
        return (
            None if g_hidden is None else g_hidden * grad.to(g_hidden.dtype),
            None if g_head is None else g_head * grad,
            None, None, None, None,
        )  # fmt: skip


def head_loss(hidden: Tensor, head: Tensor, wanted: Targets, weight: Tensor, best: Tensor | None = None) -> Tensor:
    """The sum over rows of weight x cross entropy in nats.

    hidden [N, E] in the type to compute in, head [V, E], weight float32 [N]. `best` int64 [N] receives each row's
    likeliest index. The cross entropy differs from the divergence KL(trunk || draft) by the entropy of the trunk's
    distribution, which training cannot change.
    """
    loss: Tensor = _HeadLoss.apply(hidden, head, wanted.index, wanted.share, weight, best)
    return loss
