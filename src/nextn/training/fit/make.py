"""A draft to train: its sizes and frozen matrices from the trunk, its start from statistics or an earlier draft."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DonorMismatch, UsageError
from ...gguf.files import Model, open_sound
from ...sources.ranges import FileRange, Reader
from . import trunk as of_trunk
from .drafter import Drafter
from .eagle3 import NAMES, Eagle3, Eagle3Shape
from .options import FitOptions
from .texts import Texts

_GRAIN = 64  # rows of a reduced head come in multiples of this
_HEAD_SIZES = (64, 128)
# GGUF names of an EAGLE-3 draft's tensors
_GGUF = {
    "input_norm.weight": "enc.output_norm.weight",
    "fc": "fc.weight",
    "token_norm.weight": "blk.0.attn_norm.weight",
    "state_norm.weight": "blk.0.attn_norm_2.weight",
    "q": "blk.0.attn_q.weight",
    "k": "blk.0.attn_k.weight",
    "v": "blk.0.attn_v.weight",
    "o": "blk.0.attn_output.weight",
    "ffn_norm.weight": "blk.0.ffn_norm.weight",
    "gate": "blk.0.ffn_gate.weight",
    "up": "blk.0.ffn_up.weight",
    "down": "blk.0.ffn_down.weight",
    "output_norm.weight": "output_norm.weight",
    "lm_head": "output.weight",
}


@dataclass(frozen=True)
class Made:
    """A draft that is ready to be trained."""

    drafter: Drafter
    coverage: float  # share of labels that its vocabulary has


def vocabulary(counts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The most frequent labels, ascending, int64 [n]: at most `most`, a multiple of 64 where there are so many."""
    seen = int((counts > 0).sum())
    n = min(most, max(_GRAIN, -(-seen // _GRAIN) * _GRAIN), len(counts))
    return np.sort(np.argsort(-counts, kind="stable")[:n]).astype(np.int64)


def eagle3(trunk: Model, texts: Texts, options: FitOptions, target: NDArray[np.int64] | None) -> Made:
    """An EAGLE-3 draft. `target`: the vocabulary of a fit that is being resumed. Raises UsageError, FormatError."""
    taps = texts.manifest.taps
    if taps is None or len(taps) != 3:
        raise UsageError(
            f"{texts.folder}: these states have no inputs of three layers, which an EAGLE-3 draft reads; write states "
            "for this kind."
        )
    compute = torch.float32 if options.exact else torch.bfloat16
    embeddings = of_trunk.embeddings(trunk)
    counts = texts.label_counts(embeddings.shape[0])
    start = None if options.start is None else open_sound(options.start)
    if target is None:
        target = vocabulary(counts, options.draft_vocab) if start is None else _targets_of(start)
    shape = shape_of(trunk) if start is None else _shape_of_draft(start, shape_of(trunk))
    drafter = Eagle3(shape, embeddings, of_trunk.head(trunk, target), torch.from_numpy(target), compute)
    if start is not None:
        _load(drafter, start)
    else:
        drafter.start_from_features(texts.feature_rms())
        with torch.no_grad():
            drafter.output_norm.weight.copy_(of_trunk.output_norm(trunk))
    return Made(drafter, float(counts[target].sum() / max(1, counts.sum())))


def shape_of(trunk: Model) -> Eagle3Shape:
    """Sizes like those of one of the trunk's layers."""
    n_embd = trunk.arch_int("embedding_length")
    n_head = of_trunk.largest(trunk.arch_value("attention.head_count"), max(1, n_embd // 64))
    size = trunk.arch_int("attention.key_length") or n_embd // n_head
    if size not in _HEAD_SIZES:
        size = 64 if n_embd % 64 == 0 else n_embd // n_head
    n_own = max(1, n_embd // size)
    n_kv = of_trunk.largest(trunk.arch_value("attention.head_count_kv"), n_own)
    n_ff = of_trunk.largest(trunk.arch_value("feed_forward_length"), 0)
    if trunk.arch_value("expert_count") or not n_ff:
        n_ff = 3 * n_embd
    return Eagle3Shape(
        n_embd=n_embd, n_taps=3, n_head=n_own, n_kv=n_kv if n_own % n_kv == 0 else n_own, head_size=size, n_ff=n_ff,
        rope_base=float(trunk.arch_value("rope.freq_base") or 10000.0),
        eps=float(trunk.arch_value("attention.layer_norm_rms_epsilon") or 1e-5),
    )  # fmt: skip


def _targets_of(draft: Model) -> NDArray[np.int64]:
    file, info = draft.tensors["d2t"]
    with Reader() as reader:
        return np.frombuffer(reader.read(FileRange.of(file, *file.tensor_range(info))), "<i8").astype(np.int64)


def _shape_of_draft(draft: Model, like: Eagle3Shape) -> Eagle3Shape:
    if draft.architecture != "eagle3" or "d2t" not in draft.tensors or "enc.output_norm.weight" not in draft.tensors:
        raise UsageError(
            f"{draft.entry}: only an EAGLE-3 draft with a norm before its 'fc' and a reduced vocabulary can be "
            "trained further; leave out --from."
        )
    if draft.arch_int("embedding_length") != like.n_embd:
        raise DonorMismatch(
            f"{draft.entry}: this draft has a hidden size of {draft.arch_int('embedding_length'):,}, but the trunk's "
            f"is {like.n_embd:,}; name a draft of this trunk."
        )
    n_head = draft.arch_int("attention.head_count")
    return Eagle3Shape(
        n_embd=like.n_embd, n_taps=3, n_head=n_head, n_kv=draft.arch_int("attention.head_count_kv", n_head),
        head_size=draft.arch_int("attention.key_length") or like.n_embd // n_head,
        n_ff=draft.arch_int("feed_forward_length"), rope_base=float(draft.arch_value("rope.freq_base") or 10000.0),
        eps=float(draft.arch_value("attention.layer_norm_rms_epsilon") or 1e-5),
    )  # fmt: skip


def _load(drafter: Eagle3, draft: Model) -> None:
    parameters = dict(drafter.named_parameters())
    assert parameters.keys() == NAMES.keys()
    with torch.no_grad():
        for own, name in _GGUF.items():
            values = of_trunk.matrix(of_trunk.rows_of(draft, name))
            if own in ("q", "k"):
                n = drafter.shape.n_head if own == "q" else drafter.shape.n_kv
                values = _halves(values, n)
            parameters[own].copy_(values.reshape(parameters[own].shape))


def _halves(rows: Tensor, n_head: int) -> Tensor:
    """Rows [H x D, n] whose neighbours rotate together, as rows that rotate by halves."""
    size = rows.shape[0] // n_head
    return rows.view(n_head, size // 2, 2, -1).transpose(1, 2).reshape(rows.shape)
