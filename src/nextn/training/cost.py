"""What training a draft takes for a trunk of any size, computed from sizes; nothing here is measured.

Writing text in batches takes, per token, the longer of two times: reading the weights that a batch of sequences
touches, shared by the batch, or 2 operations per active weight. Fitting takes 6 operations per weight of the draft, for
each token seen and each drafted step (forward 2, backward 4), its output head over the reduced vocabulary included.
"""

from __future__ import annotations

from dataclasses import dataclass

TOP_K = 32  # logits that are kept of each token


@dataclass(frozen=True)
class TrunkSizes:
    """A trunk."""

    name: str
    n_embd: int
    n_ff: int  # of a draft's layer
    n_vocab: int
    n_weights: float
    n_active: float  # weights that a token passes through
    bits_per_weight: float = 4.5

    @property
    def size_bytes(self) -> float:
        """Of its file."""
        return self.n_weights * self.bits_per_weight / 8


@dataclass(frozen=True)
class MachineRates:
    """What a machine sustains: not its peak."""

    name: str
    flops: float  # operations per second in matrix products
    bandwidth: float  # bytes per second from where the weights are


@dataclass(frozen=True)
class TrainingCost:
    """What one training run takes."""

    states_bytes: float
    write_h: float  # hours in which the trunk writes the text
    fit_h: float  # hours of fitting
    draft_weights: float  # that are trained

    @property
    def hours(self) -> float:
        """All of it, judging left out."""
        return self.write_h + self.fit_h


def bytes_per_token(n_embd: int, n_taps: int, top_k: int = TOP_K) -> int:
    """Of states on disk: the token's id, f16 states, the top logits (f16) with their ids, the sum of all."""
    return 4 + 2 * n_embd * max(1, n_taps) + top_k * (4 + 2) + 4


def draft_weights(trunk: TrunkSizes, draft_vocab: int, *, eagle3: bool) -> float:
    """Trained weights of a draft of one layer as wide as the trunk, its output head included.

    EAGLE-3: fc [3E, E], attention over [embedding, state] (queries, keys and values from 2E, an output; heads not
    grouped: an upper bound), a gated feed-forward layer [E, F] x 3. A native block: eh_proj [2E, E] and attention
    from E.
    """
    e, f = trunk.n_embd, trunk.n_ff
    attention = 3 * (2 * e) * e + e * e if eagle3 else 4 * e * e
    entry = 3 * e * e if eagle3 else 2 * e * e
    return float(entry + attention + 3 * e * f + draft_vocab * e)


def training_cost(
    trunk: TrunkSizes, machine: MachineRates, *, n_tokens: float, n_taps: int = 3, epochs: float = 3.0,
    n_drafted: int = 3, draft_vocab: int = 32_768, n_parallel: int = 128,
) -> TrainingCost:
    """The cost of `n_tokens` of text, of which the draft sees `epochs` passes. A native block has no taps (0)."""
    touched = min(trunk.n_weights, trunk.n_active * n_parallel)  # a mixture of experts: each token chooses its own
    reading = touched * trunk.bits_per_weight / 8 / machine.bandwidth / n_parallel
    computing = 2 * trunk.n_active / machine.flops
    weights = draft_weights(trunk, draft_vocab, eagle3=n_taps > 0)
    fitting = 6 * weights * n_drafted * n_tokens * epochs / machine.flops
    return TrainingCost(
        bytes_per_token(trunk.n_embd, n_taps) * n_tokens, max(reading, computing) * n_tokens / 3600, fitting / 3600,
        weights,
    )  # fmt: skip
