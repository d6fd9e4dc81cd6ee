"""Native MTP blocks as llama.cpp drafts with them (b11549): qwen35 and deepseek2 (src/models/*.cpp, `graph_mtp`).

Tensors have their GGUF names and shapes, so that a block that is refined loads as it is stored, and one that is grown
goes the way of every other block. transformers has these layers too, but no way to hand them the keys of one drafted
step per row, without which three steps cost a mask of 3 T x 3 T.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .drafter import Drafted, Drafter
from .experts import Routing, route
from .parts import Past, attend, rotate
from .rope import Rope

EH_PROJ, ENORM, HNORM, HEAD_NORM = (
    "nextn.eh_proj.weight", "nextn.enorm.weight", "nextn.hnorm.weight", "nextn.shared_head_norm.weight",
)  # fmt: skip
OWN = (EH_PROJ, ENORM, HNORM, HEAD_NORM)
_GATED = (
    "attn_norm.weight", "post_attention_norm.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight",
    "attn_output.weight", "attn_q_norm.weight", "attn_k_norm.weight", "ffn_gate.weight", "ffn_up.weight",
    "ffn_down.weight",
)  # fmt: skip
_LATENT = (
    "attn_norm.weight", "attn_q_a.weight", "attn_q_a_norm.weight", "attn_q_b.weight", "attn_kv_a_mqa.weight",
    "attn_kv_a_norm.weight", "attn_k_b.weight", "attn_v_b.weight", "attn_output.weight", "ffn_norm.weight",
    "ffn_gate_inp.weight", "ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight",
    "ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight",
)  # fmt: skip
LAYERS = {"qwen35": _GATED, "deepseek2": _LATENT}
FIXED = ("exp_probs_b.bias",)  # chooses experts; no gradient reaches it


@dataclass(frozen=True)
class NativeShape:
    """What the tensors' shapes do not say."""

    arch: str
    n_embd: int
    n_head: int
    rope: Rope
    eps: float
    routing: Routing | None  # None: no experts


class NativeBlock(Drafter):
    """One block: eh_proj over [token embedding, state], a decoder layer, the head's norm."""

    def __init__(
        self, shape: NativeShape, tensors: Mapping[str, Tensor], embeddings: Tensor, head: Tensor, target: Tensor,
        compute: torch.dtype,
    ) -> None:  # fmt: skip
        """tensors: by GGUF name after `blk.N.`; embeddings [V, E] and head [n, E], frozen; target int64 [n]."""
        super().__init__()
        self.shape, self.compute = shape, compute
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.register_buffer("frozen_head", head, persistent=False)
        self.register_buffer("target", target, persistent=False)
        self.register_buffer("turns", shape.rope.turns(), persistent=False)
        self.weights = nn.ParameterDict({_key(name): nn.Parameter(tensor) for name, tensor in tensors.items()})
        for name in FIXED:
            if name in tensors:
                self.weights[_key(name)].requires_grad_(False)

    def head(self) -> Tensor:
        """See `Drafter.head`."""
        found: Tensor = self.frozen_head
        return found

    def enter(self, features: Tensor) -> Tensor:
        """See `Drafter.enter`: the trunk's state as it is."""
        return features[..., 0, :]

    def draft(self, tokens: Tensor, state: Tensor, step: int, past: Past) -> Drafted:
        """See `Drafter.draft`."""
        both = torch.cat((self._norm(ENORM, self.embed(tokens)), self._norm(HNORM, state)), -1)
        here = self._times(EH_PROJ, both.to(self.compute)).float()
        inner = self._norm("attn_norm.weight", here).to(self.compute)
        position = torch.arange(step, step + tokens.shape[1], device=tokens.device, dtype=torch.float32)
        angles = position[:, None] * self.turns
        attention = self._latent if self.shape.arch == "deepseek2" else self._gated
        here = here + attention(inner, angles, past).float()
        after = "post_attention_norm.weight" if self._has("post_attention_norm.weight") else "ffn_norm.weight"
        inner = self._norm(after, here).to(self.compute)
        here = here + self._feed_forward(inner).float()
        out = self._norm(HEAD_NORM, here)
        return Drafted(out, out.to(self.compute))

    def _gated(self, x: Tensor, angles: Tensor, past: Past) -> Tensor:
        """Attention whose output is gated per value; rows of `attn_q` hold [query, gate] per head."""
        n_batch, n_rows, _ = x.shape
        n_head = self.shape.n_head
        size = self._weight("attn_q_norm.weight").shape[0]
        query, gate = self._times("attn_q.weight", x).view(n_batch, n_rows, n_head, 2 * size).split(size, -1)
        key = self._times("attn_k.weight", x).view(n_batch, n_rows, -1, size)
        value = self._times("attn_v.weight", x).view(n_batch, n_rows, key.shape[2], -1)
        query = rotate(
            self._norm("attn_q_norm.weight", query).to(self.compute), angles, pairs=False, scale=self.shape.rope.scale
        )
        key = rotate(
            self._norm("attn_k_norm.weight", key).to(self.compute), angles, pairs=False, scale=self.shape.rope.scale
        )
        past.add(key, value)
        seen = attend(query, past, size**-0.5).flatten(-2)
        return self._times("attn_output.weight", seen * gate.reshape(seen.shape).sigmoid())

    def _latent(self, x: Tensor, angles: Tensor, past: Past) -> Tensor:
        """Multi-head latent attention, its keys and values written out per head."""
        n_batch, n_rows, _ = x.shape
        k_b, v_b = (
            self._weight("attn_k_b.weight"),
            self._weight("attn_v_b.weight"),
        )  # [H, latent, nope], [H, Dv, latent]
        n_head, n_latent, n_plain = k_b.shape
        low = self._norm("attn_q_a_norm.weight", self._times("attn_q_a.weight", x)).to(self.compute)
        query = self._times("attn_q_b.weight", low).view(n_batch, n_rows, n_head, -1)
        plain, turned = (
            query[..., :n_plain],
            rotate(query[..., n_plain:], angles, pairs=True, scale=self.shape.rope.scale),
        )
        both = self._times("attn_kv_a_mqa.weight", x)
        latent = self._norm("attn_kv_a_norm.weight", both[..., :n_latent]).to(self.compute)
        shared = rotate(both[..., None, n_latent:], angles, pairs=True, scale=self.shape.rope.scale).expand(
            -1, -1, n_head, -1
        )
        own = torch.einsum("btl,hln->bthn", latent, k_b.to(latent.dtype))
        value = torch.einsum("btl,hvl->bthv", latent, v_b.to(latent.dtype))
        past.add(torch.cat((own, shared), -1), value)
        seen = attend(torch.cat((plain, turned), -1), past, query.shape[-1] ** -0.5 * self.shape.rope.score_factor)
        return self._times("attn_output.weight", seen.flatten(-2))

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.shape.routing is None:
            inner = F.silu(self._times("ffn_gate.weight", x)) * self._times("ffn_up.weight", x)
            return self._times("ffn_down.weight", inner)
        bias = self.weights[_key("exp_probs_b.bias")] if self._has("exp_probs_b.bias") else None
        routed = route(
            x.flatten(0, 1), self._weight("ffn_gate_inp.weight"), bias, self._weight("ffn_gate_exps.weight"),
            self._weight("ffn_up_exps.weight"), self._weight("ffn_down_exps.weight"), self.shape.routing,
        )  # fmt: skip
        inner = F.silu(self._times("ffn_gate_shexp.weight", x)) * self._times("ffn_up_shexp.weight", x)
        return routed.view(x.shape) + self._times("ffn_down_shexp.weight", inner)

    def _has(self, name: str) -> bool:
        return _key(name) in self.weights

    def _weight(self, name: str) -> Tensor:
        found: Tensor = self.weights[_key(name)]
        return found

    def _times(self, name: str, x: Tensor) -> Tensor:
        return self.times(x, (name, self._weight(name)))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self._weight(name).float(), self.shape.eps)

    def arrays(self) -> Mapping[str, Tensor]:
        """See `Drafter.arrays`: GGUF names after `blk.N.`."""
        return {_name(key): tensor.detach() for key, tensor in self.weights.items()}


def _key(name: str) -> str:
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
