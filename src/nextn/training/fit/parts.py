"""What the drafts' layers are made of, shapes and order of operations as in llama.cpp's graphs (b11549).

Axes: B sequences, T rows (see `texts.Rows`), H heads, K heads of keys and values, D values per head, E hidden size.

Drafted step n of row r has the token of row r + n, position r + n, and attends to the rows 0..r of step 0, which have
the trunk's own states, and to its own earlier steps at r + 1..r + n, whose states are the draft's (EAGLE-3's
training-time test, arXiv 2503.01840). So step n of all rows is one pass: a causal mask over step 0's keys, and one
more key per earlier step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Past:
    """Keys and values of the drafted steps so far: [B, T, K, D] each, step 0's first."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def add(self, key: Tensor, value: Tensor) -> None:
        """One more step."""
        self.keys.append(key)
        self.values.append(value)


class RmsNorm(nn.Module):
    """x / rms(x) * weight, in float32."""

    def __init__(self, n: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> the same, float32."""
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps)


def matrix(n_in: int, n_out: int, std: float | None = None) -> nn.Parameter:
    """A random matrix [n_out, n_in]; by default its products have the size of what goes in."""
    return nn.Parameter(torch.empty(n_out, n_in).normal_(std=n_in**-0.5 if std is None else std))


def frequencies(n_rot: int, base: float) -> Tensor:
    """Radians per position of each pair, [n_rot / 2]."""
    exponents = torch.arange(0, n_rot, 2, dtype=torch.float64) / n_rot
    return torch.pow(torch.tensor(base, dtype=torch.float64), -exponents).float()


def rotate(x: Tensor, angles: Tensor, *, pairs: bool, scale: float = 1.0) -> Tensor:
    """RoPE of the first 2 x n values of each head: x [B, T, H, D], angles [T, n].

    `pairs`: neighbouring values form a pair (ggml's NORM), else values n apart do (NEOX). `scale`: of sine and cosine.
    """
    n = angles.shape[-1]
    cos, sin = (angles.cos() * scale)[:, None], (angles.sin() * scale)[:, None]
    turned, rest = x[..., : 2 * n].float(), x[..., 2 * n :]
    if pairs:
        a, b = turned[..., 0::2], turned[..., 1::2]
        out = torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    else:
        a, b = turned[..., :n], turned[..., n:]
        out = torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
    out = out.to(x.dtype)
    return torch.cat((out, rest), -1) if rest.shape[-1] else out


def attend(query: Tensor, past: Past, scale: float) -> Tensor:
    """Attention of the newest drafted step, whose key and value `past` already has.

    query [B, T, H, D] -> [B, T, H, Dv]. Heads of keys serve H / K neighbouring heads of queries.
    """
    n_batch, n_rows, n_head, n_values = query.shape
    n_kv = past.keys[0].shape[2]
    shared = n_head // n_kv
    if len(past.keys) == 1:
        done = F.scaled_dot_product_attention(
            query.transpose(1, 2), past.keys[0].transpose(1, 2), past.values[0].transpose(1, 2), is_causal=True,
            scale=scale, enable_gqa=shared > 1,
        )  # fmt: skip
        return done.transpose(1, 2)
    # [B, K, shared * T, D]: one matrix product per head of keys
    grouped = query.view(n_batch, n_rows, n_kv, shared, n_values).permute(0, 2, 3, 1, 4)
    flat = grouped.reshape(n_batch, n_kv, shared * n_rows, n_values)
    first = (flat @ past.keys[0].permute(0, 2, 3, 1)).view(n_batch, n_kv, shared, n_rows, n_rows).float() * scale
    ahead = torch.ones(n_rows, n_rows, dtype=torch.bool, device=query.device).triu(1)
    first = first.masked_fill(ahead, float("-inf"))
    own = [
        (grouped * key.transpose(1, 2)[:, :, None]).sum(-1, dtype=torch.float32)[..., None] * scale
        for key in past.keys[1:]
    ]
    share = torch.cat([first, *own], -1).softmax(-1).to(query.dtype)
    whole = share[..., :n_rows].reshape(n_batch, n_kv, shared * n_rows, n_rows)
    out = (whole @ past.values[0].transpose(1, 2)).view(n_batch, n_kv, shared, n_rows, -1)
    for j, value in enumerate(past.values[1:]):
        out = out + share[..., n_rows + j, None] * value.transpose(1, 2)[:, :, None]
    return out.permute(0, 3, 1, 2, 4).reshape(n_batch, n_rows, n_head, -1)
