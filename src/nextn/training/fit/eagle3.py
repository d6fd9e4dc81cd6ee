"""EAGLE-3 as llama.cpp computes it (b11549, src/models/eagle3.cpp), with `norm_before_fc`.

Tensors have the names of a published checkpoint (SpecForge's `LlamaForCausalLMEagle3`), which `layouts.draft` turns
into a GGUF: queries and keys rotate by halves here and are rearranged into neighbouring pairs there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .drafter import Drafted, Drafter
from .parts import Past, RmsNorm, attend, frequencies, matrix, rotate


@dataclass(frozen=True)
class Eagle3Shape:
    """Sizes of an EAGLE-3 draft; its hidden size is the trunk's, whose embeddings it reads."""

    n_embd: int
    n_taps: int  # layers of the trunk whose inputs it reads; engines demand 3
    n_head: int
    n_kv: int
    head_size: int
    n_ff: int
    rope_base: float
    eps: float


class Eagle3(Drafter):
    """One decoder layer over [token embedding, state], and what makes the first state from the trunk's layers."""

    def __init__(
        self, shape: Eagle3Shape, embeddings: Tensor, head: Tensor, target: Tensor, compute: torch.dtype
    ) -> None:
        """embeddings [V, E], frozen; head [draft vocabulary, E], its start; target int64 [draft vocabulary]."""
        super().__init__()
        e, size = shape.n_embd, shape.head_size
        self.shape, self.compute = shape, compute
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.register_buffer("target", target, persistent=False)
        self.register_buffer("turns", frequencies(size, shape.rope_base), persistent=False)
        self.input_norm = RmsNorm(shape.n_taps * e, shape.eps)
        self.token_norm, self.state_norm = RmsNorm(e, shape.eps), RmsNorm(e, shape.eps)
        self.ffn_norm, self.output_norm = RmsNorm(e, shape.eps), RmsNorm(e, shape.eps)
        self.fc = matrix(shape.n_taps * e, e)
        self.q, self.k, self.v = (matrix(2 * e, n * size) for n in (shape.n_head, shape.n_kv, shape.n_kv))
        self.o = matrix(shape.n_head * size, e, std=0.02)
        self.gate, self.up = matrix(e, shape.n_ff), matrix(e, shape.n_ff)
        self.down = matrix(shape.n_ff, e, std=0.02)
        self.lm_head = nn.Parameter(head.float().clone())

    def head(self) -> Tensor:
        """See `Drafter.head`."""
        return self.lm_head

    def enter(self, features: Tensor) -> Tensor:
        """See `Drafter.enter`."""
        return self.times(self.input_norm(features.flatten(-2)).to(self.compute), ("fc", self.fc)).float()

    def draft(self, tokens: Tensor, state: Tensor, step: int, past: Past) -> Drafted:
        """See `Drafter.draft`."""
        shape, (n_batch, n_rows) = self.shape, tokens.shape
        both = torch.cat((self.token_norm(self.embed(tokens)), self.state_norm(state)), -1).to(self.compute)
        position = torch.arange(step, step + n_rows, device=tokens.device, dtype=torch.float32)
        angles = position[:, None] * self.turns
        heads = self.times(both, ("q", self.q), ("k", self.k), ("v", self.v)).view(n_batch, n_rows, -1, shape.head_size)
        turned = rotate(heads[:, :, : shape.n_head + shape.n_kv], angles, pairs=False)
        query, key = turned.split((shape.n_head, shape.n_kv), 2)
        past.add(key, heads[:, :, shape.n_head + shape.n_kv :])
        seen = attend(query, past, shape.head_size**-0.5)
        state = state + self.times(seen.flatten(-2), ("o", self.o)).float()
        inner = self.times(self.ffn_norm(state).to(self.compute), ("gate", self.gate), ("up", self.up))
        gate, up = inner.chunk(2, -1)
        state = state + self.times(F.silu(gate) * up, ("down", self.down)).float()
        return Drafted(state, self.output_norm(state).to(self.compute))

    def start_from_features(self, rms: Tensor) -> None:
        """Have every value that the trunk's layers give enter alike: rms [taps, E] is their root mean square.

        Single values of deep layers are in the thousands. The norm divides by the root mean square of all values; its
        weight undoes that and divides each by its own.
        """
        with torch.no_grad():
            flat = rms.flatten().clamp_min(1e-6)
            self.input_norm.weight.copy_((flat.square().mean().sqrt() / flat).clamp(max=1e3))

    def arrays(self) -> Mapping[str, Tensor]:
        """See `Drafter.arrays`: a published checkpoint's names."""
        own = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return {NAMES[name]: tensor for name, tensor in own.items()}


NAMES = {
    "input_norm.weight": "input_norm.weight",
    "fc": "fc.weight",
    "token_norm.weight": "midlayer.input_layernorm.weight",
    "state_norm.weight": "midlayer.hidden_norm.weight",
    "q": "midlayer.self_attn.q_proj.weight",
    "k": "midlayer.self_attn.k_proj.weight",
    "v": "midlayer.self_attn.v_proj.weight",
    "o": "midlayer.self_attn.o_proj.weight",
    "ffn_norm.weight": "midlayer.post_attention_layernorm.weight",
    "gate": "midlayer.mlp.gate_proj.weight",
    "up": "midlayer.mlp.up_proj.weight",
    "down": "midlayer.mlp.down_proj.weight",
    "output_norm.weight": "norm.weight",
    "lm_head": "lm_head.weight",
}
