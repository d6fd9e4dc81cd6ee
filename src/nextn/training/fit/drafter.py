"""What every kind of draft is to the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .parts import Past


class Drafted(NamedTuple):
    """One drafted step of all rows."""

    state: Tensor  # [B, T, E], what the next step gets
    hidden: Tensor  # [B, T, E], what the head reads


class Drafter(nn.Module):
    """A draft, with the frozen matrices that it takes from its trunk."""

    embeddings: Tensor  # [trunk's vocabulary, E], frozen
    target: Tensor  # int64 [vocabulary of the head]: the trunk's token of each row of `head`
    compute: torch.dtype

    def begin(self) -> None:
        """Called before each batch: weights have changed."""
        self.cast: dict[tuple[str, ...], Tensor] = {}

    def times(self, x: Tensor, *weights: tuple[str, Tensor]) -> Tensor:
        """x [..., n_in] times the named matrices [n_out, n_in], one after the other: [..., sum of n_out].

        They are converted to the type of `x` once per batch: drafted steps share them.
        """
        key = tuple(name for name, _ in weights)
        if key not in self.cast:
            both = [weight.to(x.dtype) for _, weight in weights]
            self.cast[key] = both[0] if len(both) == 1 else torch.cat(both)
        return F.linear(x, self.cast[key])

    def head(self) -> Tensor:
        """[vocabulary of the head, E]; a parameter where it is trained."""
        raise NotImplementedError

    def enter(self, features: Tensor) -> Tensor:
        """The first step's states from the trunk's: [B, T, taps, E] -> [B, T, E]."""
        raise NotImplementedError

    def draft(self, tokens: Tensor, state: Tensor, step: int, past: Past) -> Drafted:
        """One drafted step: tokens int64 [B, T], state [B, T, E]; adds its keys and values to `past`."""
        raise NotImplementedError

    def arrays(self) -> Mapping[str, Tensor]:
        """The trained tensors under the names that writing knows."""
        raise NotImplementedError

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the embeddings, float32 [B, T, E]."""
        return self.embeddings[tokens].float()

    def index_of_token(self, n_vocab: int) -> Tensor:
        """int64 [n_vocab]: the head's row of each token of the trunk, -1 for those it does not have."""
        out = torch.full((n_vocab,), -1, dtype=torch.int64, device=self.target.device)
        out[self.target] = torch.arange(len(self.target), device=self.target.device)
        return out
