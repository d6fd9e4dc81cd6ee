"""Several drafted steps of all rows at once: for the loss, and for how far a draft agrees with its trunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .drafter import Drafter
from .loss import head_loss, targets
from .parts import Past
from .texts import Rows


@dataclass(frozen=True)
class Rollout:
    """What came out of a batch."""

    loss: Tensor  # weighted mean, nats per token
    hits: Tensor | None  # bool [steps, B, T]: step n of row r drafts the trunk's likeliest token; False: no label
    labels: Tensor | None  # bool [steps, B, T]: there is a label in an answer


def rollout(
    drafter: Drafter, rows: Rows, weights: Sequence[float], argmax_weight: float, known: Tensor, *, look: bool = False
) -> Rollout:
    """Draft len(weights) steps from every row, with the text's own tokens as the tokens drafted before.

    `weights`: of each step's mean loss; `known` int64 [V]: the head's row of each token; `look`: find the hits.
    """
    n_batch, n_rows = rows.tokens.shape
    drafter.begin()
    state, past = drafter.enter(rows.features.float()), Past()
    hidden, at, weight = [], [], []
    for n, share in enumerate(weights):
        tokens = _ahead(rows.tokens, n)
        drafted = drafter.draft(tokens, state, n, past)
        state = drafted.state
        chosen = _ahead(rows.counts, n).flatten().nonzero()[:, 0]
        hidden.append(drafted.hidden.flatten(0, 1)[chosen])
        at.append((chosen, chosen + n))
        weight.append(torch.full((len(chosen),), share / max(1, len(chosen)), device=chosen.device))
    label = torch.cat([there for _, there in at])
    wanted = targets(
        rows.top_ids.flatten(0, 1)[label], rows.top_logits.flatten(0, 1)[label], rows.log_sum.flatten()[label], known,
        argmax_weight,
    )  # fmt: skip
    whole = torch.cat(weight) * (wanted.best >= 0)  # a token that the draft does not have teaches nothing
    best = torch.full_like(wanted.best, -2) if look else None
    loss = head_loss(torch.cat(hidden), drafter.head(), wanted, whole, best) / sum(weights)
    if best is None:
        return Rollout(loss, None, None)
    right = best == wanted.best
    shape = (len(weights), n_batch * n_rows)
    hits, labels = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    first = 0
    for n, (chosen, _) in enumerate(at):
        hits[n, chosen.cpu()] = right[first : first + len(chosen)].cpu()
        labels[n, chosen.cpu()] = True
        first += len(chosen)
    return Rollout(loss, hits.view(-1, n_batch, n_rows), labels.view(-1, n_batch, n_rows))


def _ahead(values: Tensor, n: int) -> Tensor:
    """[B, T]: what is n rows later; zeros after the end."""
    if n == 0:
        return values
    out = torch.zeros_like(values)
    out[:, :-n] = values[:, n:]
    return out


@dataclass
class DraftAgreement:
    """How far drafts agree with the trunk, counted over batches."""

    n_drafted: int
    loss: float = 0.0
    n_loss: int = 0
    right: list[int] = field(default_factory=list)  # places where the first n + 1 drafted tokens are the trunk's
    places: list[int] = field(default_factory=list)  # of all places where the text shows it
    n_drafts: int = 0  # drafts of a walk through greedy answers
    n_offered: int = 0  # tokens drafted
    accepted: list[int] = field(default_factory=list)  # drafts whose token n + 1 was accepted

    def __post_init__(self) -> None:
        self.right, self.places, self.accepted = ([0] * self.n_drafted for _ in range(3))

    def add(self, found: Rollout, rows: Rows, greedy: Sequence[bool]) -> None:
        """Count a batch; `greedy`: which of its texts are the trunk's own greedy answers."""
        assert found.hits is not None and found.labels is not None
        n_label = int(found.labels.sum())
        self.loss += float(found.loss.detach()) * n_label
        self.n_loss += n_label
        follows = rows.follows.cpu()
        chain = torch.ones_like(follows)  # the first n drafted tokens are right
        shown = torch.ones_like(follows)  # the text goes on as the trunk would for n tokens
        length = torch.zeros(follows.shape, dtype=torch.int64)  # tokens accepted of a draft at this row
        for n in range(self.n_drafted):
            shown = shown & (_ahead(follows, n - 1) if n else True)
            place = shown & found.labels[n] & found.labels[0]
            chain = chain & found.hits[n]
            length += chain
            self.right[n] += int((chain & place).sum())
            self.places[n] += int(place.sum())
        for b, is_greedy in enumerate(greedy):
            if is_greedy:
                self._walk(length[b].tolist(), found.labels[0, b].tolist())

    def _walk(self, length: list[int], labels: list[bool]) -> None:
        """Draft, accept what agrees, go on after the trunk's next token: as engines do (b11549).

        The label of the last row follows the text. Before the end, one token less is drafted than is to be written.
        """
        last = max((r for r, label in enumerate(labels) if label), default=0)
        row = next((r for r, label in enumerate(labels) if label), last)
        while row < last:
            offered = min(self.n_drafted, last - row - 1)
            accepted = min(length[row], offered)
            self.n_drafts += offered > 0
            self.n_offered += offered
            for n in range(accepted):
                self.accepted[n] += 1
            row += accepted + 1

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of places where the first 1, 2, ... drafted tokens all are right."""
        return tuple(r / max(1, n) for r, n in zip(self.right, self.places, strict=True))

    @property
    def accepted_per_step(self) -> float:
        """Tokens accepted per draft; without greedy answers, the sum of `shares`."""
        return sum(self.accepted) / self.n_drafts if self.n_drafts else sum(self.shares)

    @property
    def mean_loss(self) -> float:
        """Nats per token."""
        return self.loss / max(1, self.n_loss)
