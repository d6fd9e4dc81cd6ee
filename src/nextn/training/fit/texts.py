"""The texts and states of a states folder as batches of rows.

A row pairs a token with the state before it, as the engine does when it drafts; position, label and what comes next
are counted in rows, so that EAGLE-3 and native blocks differ only in where their first row is:

- EAGLE-3: row r has token r + 1, the layer inputs at token r, position r. Its label follows token r + 1.
- native: row r has token r, the trunk's last state at token r - 1 (zeros for the first), position r. Its label
  follows token r.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import UsageError
from ..states import Split, States
from .options import EAGLE3

_WINDOW = 64  # batches whose texts are sorted by length together
_FOLLOW_SHARE = 0.995  # of an answer's tokens that are the trunk's likeliest, for it to count as greedy


@dataclass(frozen=True)
class Text:
    """One sequence of a chunk."""

    chunk: int
    start: int  # its tokens in the chunk
    end: int
    n_prompt: int

    @property
    def n_tokens(self) -> int:
        """Number of tokens, the prompt's included."""
        return self.end - self.start


@dataclass(frozen=True)
class Rows:
    """A batch: B texts, padded to T rows; padding has no label."""

    tokens: Tensor  # int64 [B, T]
    features: Tensor  # float16 [B, T, taps, E]
    top_ids: Tensor  # int32 [B, T, k]
    top_logits: Tensor  # float16 [B, T, k]
    log_sum: Tensor  # float32 [B, T]
    counts: Tensor  # bool [B, T]: the label belongs to an answer
    follows: Tensor  # bool [B, T]: the text goes on with the trunk's likeliest token
    n_tokens: int  # of the texts, without padding

    def to(self, device: torch.device) -> Rows:
        """The same on a device."""
        values = (getattr(self, name) for name in self.__dataclass_fields__)
        return Rows(*(value.to(device) if isinstance(value, Tensor) else value for value in values))


class Texts:
    """The sequences of one split of a states folder; features are read when they are needed."""

    def __init__(self, states: States, split: Split) -> None:
        """Raises FormatError for a damaged chunk."""
        self.folder = states.folder
        self.manifest = states.manifest
        self.chunks = list(states.chunks(split))
        self.texts = [
            Text(number, int(a), int(b), int(n))
            for number, chunk in enumerate(self.chunks)
            for a, b, n in zip(chunk.starts[:-1], chunk.starts[1:], chunk.n_prompt, strict=True)
        ]
        self.n_tokens = sum(text.n_tokens for text in self.texts)
        self._greedy: dict[Text, bool] = {}

    def read(self, text: Text, name: str, start: int, end: int) -> Tensor:
        """A copy of tokens `start` to `end` of one text's array `name`."""
        found = self.chunks[text.chunk].arrays[name][text.start + start : text.start + end]
        return torch.from_numpy(np.array(found))

    def label_counts(self, n_vocab: int) -> NDArray[np.int64]:
        """How often each token is the trunk's likeliest in an answer, int64 [n_vocab]."""
        out = np.zeros(n_vocab, np.int64)
        for text in self.texts:
            best = self.chunks[text.chunk].top_ids[text.start + text.n_prompt : text.end, 0]
            out += np.bincount(best, minlength=n_vocab)
        return out

    def feature_rms(self, n_texts: int = 256) -> Tensor:
        """Root mean square of each value of the features over some texts' answers, float32 [taps, E]."""
        step = max(1, len(self.texts) // n_texts)
        total, n = None, 0
        for text in self.texts[::step]:
            start = min(text.n_prompt, text.n_tokens - 1)
            values = self.read(text, "features", start, text.n_tokens).float().square()
            total = values.sum(0) if total is None else total + values.sum(0)
            n += len(values)
        assert total is not None
        return (total / max(1, n)).sqrt()

    def rows(self, texts: Sequence[Text], kind: str, cuts: Sequence[tuple[int, int]]) -> Rows:
        """A batch of `texts`, of which tokens `cuts` are taken."""
        return _stack([self._row(text, kind, *cut) for text, cut in zip(texts, cuts, strict=True)])

    def _row(self, text: Text, kind: str, start: int, end: int) -> dict[str, Tensor]:
        ids = self.read(text, "ids", start, end).long()
        features = self.read(text, "features", start, end)
        top_ids = self.read(text, "top_ids", start, end)
        following = torch.full((end - start,), -1, dtype=torch.int64)
        after = self.read(text, "ids", start + 1, min(end + 1, text.n_tokens))
        following[: len(after)] = after.long()
        out = {
            "tokens": ids,
            "top_ids": top_ids,
            "top_logits": self.read(text, "top_logits", start, end),
            "log_sum": self.read(text, "log_sum", start, end),
            "counts": torch.arange(start, end) >= text.n_prompt,
            "follows": following == top_ids[:, 0],
        }
        if kind == EAGLE3:
            out = {name: tensor[1:] for name, tensor in out.items()}
            return {**out, "features": features[:-1]}
        before = self.read(text, "features", start - 1, start) if start else torch.zeros_like(features[:1])
        return {**out, "features": torch.cat((before, features[:-1]))}

    def greedy(self, text: Text) -> bool:
        """Whether its answer is what the trunk writes greedily."""
        if text not in self._greedy:
            self._greedy[text] = self._is_greedy(text)
        return self._greedy[text]

    def _is_greedy(self, text: Text) -> bool:
        if text.n_tokens - text.n_prompt < 2:
            return False
        ids = self.read(text, "ids", text.n_prompt + 1, text.n_tokens)
        best = self.read(text, "top_ids", text.n_prompt, text.n_tokens - 1)[:, 0]
        return float((best == ids).float().mean()) >= _FOLLOW_SHARE

    def batches(self, kind: str, seed: int, epoch: int, n_tokens: int, longest: int) -> list[list[tuple[Text, int]]]:
        """One epoch's batches of (text, first token): texts of like length, at most `n_tokens` with padding.

        The same for the same arguments, so that an interrupted fit continues with the same batches.
        """
        rng = np.random.default_rng([seed, epoch])
        usable = [text for text in self.texts if text.n_tokens > text.n_prompt + 1 and text.n_tokens > 2]
        order = [usable[i] for i in rng.permutation(len(usable))]
        window = _WINDOW * max(1, n_tokens // max(1, min(longest, self._mean_length(usable))))
        out: list[list[tuple[Text, int]]] = []
        for a in range(0, len(order), window):
            pieces = sorted(order[a : a + window], key=lambda text: min(text.n_tokens, longest))
            some: list[list[tuple[Text, int]]] = [[]]
            for text in reversed(pieces):
                length = min(text.n_tokens, longest)
                room = n_tokens // min(some[-1][0][0].n_tokens, longest) if some[-1] else 1
                if some[-1] and len(some[-1]) >= max(1, room):
                    some.append([])
                start = int(rng.integers(0, text.n_tokens - length + 1))
                some[-1].append((text, start))
            out += [some[i] for i in rng.permutation(len(some)) if some[i]]
        return out

    @staticmethod
    def _mean_length(texts: Sequence[Text]) -> int:
        return sum(text.n_tokens for text in texts) // max(1, len(texts))

    def training(self, kind: str, seed: int, n_tokens: int, longest: int, skip: int = 0) -> Iterator[Rows]:
        """Batches without end, after the first `skip` ones."""
        epoch = 0
        while True:
            found = self.batches(kind, seed, epoch, n_tokens, longest)
            if not found:
                raise UsageError(f"{self.folder}: no text in it has an answer to train on; write states again.")
            for batch in found[skip:]:
                cuts = [(start, min(start + longest, text.n_tokens)) for text, start in batch]
                yield self.rows([text for text, _ in batch], kind, cuts)
            skip = max(0, skip - len(found))
            epoch += 1


def _stack(rows: Sequence[dict[str, Tensor]]) -> Rows:
    longest = max(len(row["tokens"]) for row in rows)
    made = {}
    for name, like in rows[0].items():
        out = torch.zeros((len(rows), longest, *like.shape[1:]), dtype=like.dtype)
        for i, row in enumerate(rows):
            out[i, : len(row[name])] = row[name]
        made[name] = out
    return Rows(**made, n_tokens=sum(len(row["tokens"]) for row in rows))
