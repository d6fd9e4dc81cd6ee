"""The dimensions of a model that memory depends on, read from its header's key-value pairs.

Sources of the rules: llama.cpp b11549, `src/llama-hparams.cpp` (n_embd_k_gqa, n_embd_r, n_embd_s),
`src/models/*.cpp` (which layers are recurrent or have a sliding window) and `src/llama-arch.cpp`
(llm_arch_supports_rs_rollback).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..archs import memory_of
from ..archs.base import flags
from ..archs.hparams import MAX_LAYERS
from ..block.anatomy import Anatomy
from ..block.draft import Draft, tokens_of
from ..errors import FormatError
from ..gguf.files import Model


@dataclass(frozen=True)
class Layer:
    """What one layer keeps per token, and per sequence."""

    index: int
    n_embd_k: int  # elements of one cached key row: head size times heads (latent size for MLA)
    n_embd_v: int  # elements of one cached value row; 0 for MLA, whose values are a view of the keys
    window: bool  # sliding window attention
    recurrent: bool  # no cache but a state
    indexer: int  # elements of one cached indexer key; 0 without an indexer


@dataclass(frozen=True)
class Shape:
    """A model's dimensions."""

    arch: str
    n_layer: int  # trunk layers
    n_layer_nextn: int
    n_embd: int
    n_vocab: int
    n_ff: int  # widest feed-forward network that one token passes, all active experts together
    n_head: int
    n_ctx_train: int
    n_window: int  # tokens of the sliding window; 0 without one
    layers: tuple[Layer, ...]  # trunk first, then blocks
    n_embd_state: int  # elements of one recurrent state of one layer: convolution and recurrence
    rollback: bool  # the engine keeps one recurrent state for each drafted token
    # Elements that the graph of an EAGLE-3, DFlash or DSpark draft holds for each token of a batch; 0 for other models.
    n_draft_wide: int = 0
    unknown: str | None = None  # why figures from the header would be wrong, or None

    @property
    def rolls_back(self) -> bool:
        """Whether each drafted token costs one copy of the recurrent state."""
        return self.rollback and self.n_embd_state > 0



def _per_layer(value: Any, n: int, default: int = 0) -> list[int]:
    """A per-layer array or one number for all, as a list of `n`; a short array repeats its last value."""
    if isinstance(value, list):
        known = [int(v) for v in value[:n]]
        return known + [known[-1] if known else default] * (n - len(known))
    return [int(value) if isinstance(value, int) else default] * n


def _windows(model: Model, n_trunk: int, n_all: int) -> list[bool]:
    if not model.arch_int("attention.sliding_window"):
        return [False] * n_all
    pattern = model.arch_value("attention.sliding_window_pattern")
    listed = flags(pattern, n_all)
    if listed is not None:
        return listed
    period = pattern if isinstance(pattern, int) else memory_of(model.architecture).window_period
    if period is None:
        return [False] * n_all
    return [i < n_trunk and (period == 0 or i % period != 0) for i in range(n_all)]


def _state(model: Model, n_head: int) -> int:
    """Elements of one layer's recurrent state (n_embd_r + n_embd_s of llama-hparams.cpp)."""
    conv = model.arch_int("ssm.conv_kernel")
    head = model.arch_int("kda.head_dim")
    if head:
        return 3 * (conv - 1 if conv else 3) * n_head * head + head * head * n_head
    inner, state = model.arch_int("ssm.inner_size"), model.arch_int("ssm.state_size")
    groups = model.arch_int("ssm.group_count")
    return max(0, conv - 1) * (inner + 2 * groups * state) + state * inner


def _indexers(model: Model, n_trunk: int, n_all: int) -> list[int]:
    """Elements that each layer's indexer caches per token; blocks run without their indexer, except for pools."""
    size, memory = model.arch_int("attention.indexer.key_length"), memory_of(model.architecture)
    if memory.indexer is None or not size:
        return [0] * n_all
    has = [*memory.indexer(model.arch_value, n_trunk), *[bool(memory.pool_rows)] * (n_all - n_trunk)]
    return [size * max(1, memory.pool_rows) if each else 0 for each in has]


def shape_of(model: Model) -> Shape:
    """The dimensions of a trunk, a bundled model or a sidecar. Raises FormatError without an architecture."""
    arch = model.architecture
    n_all = model.arch_int("block_count")
    if n_all > MAX_LAYERS:
        what = f"'{arch}.block_count' is {n_all:,}, and engines accept at most {MAX_LAYERS}; 'nextn doctor' says more"
        raise FormatError(what, path=model.entry)
    seen = Anatomy.of(model)
    n_nextn = n_all if seen.is_draft else model.arch_int("nextn_predict_layers") if seen.has_block else 0
    n_trunk = max(0, n_all - n_nextn)
    n_embd = model.arch_int("embedding_length")
    heads = _per_layer(model.arch_value("attention.head_count"), n_all)
    kv_heads = _per_layer(model.arch_value("attention.head_count_kv", model.arch_value("attention.head_count")), n_all)
    n_head = max(heads, default=0)
    head_k = model.arch_int("attention.key_length") or (n_embd // n_head if n_head else 0)
    head_v = model.arch_int("attention.value_length") or (n_embd // n_head if n_head else 0)
    window_k = model.arch_int("attention.key_length_swa", head_k)
    window_v = model.arch_int("attention.value_length_swa", head_v)
    mla = bool(model.arch_int("attention.key_length_mla") and model.arch_int("attention.value_length_mla"))
    memory = memory_of(arch)
    recurrent = memory.recurrent(model.arch_value, n_trunk, n_all) if memory.recurrent else [False] * n_all
    windows = _windows(model, n_trunk, n_all)
    indexers = _indexers(model, n_trunk, n_all)
    layers = tuple(
        Layer(
            i,
            (window_k if windows[i] else head_k) * kv_heads[i],
            0 if mla else (window_v if windows[i] else head_v) * kv_heads[i],
            windows[i],
            recurrent[i],
            indexers[i],
        )
        for i in range(n_all)
    )
    state = _state(model, n_head) if any(recurrent) else 0
    return Shape(
        arch, n_trunk, n_nextn, n_embd, _n_vocab(model), _widest(model, n_all), n_head,
        model.arch_int("context_length"), model.arch_int("attention.sliding_window"), layers, state,
        memory.rolls_back, _draft_wide(model), _unknown(model, any(recurrent)),
    )  # fmt: skip


def _draft_wide(model: Model) -> int:
    """Logits of all tokens twice, of the draft's vocabulary too where it has one, and the target's layers.

    Fitted to xllamacpp 2026.10.11549 (CPU), which reserves a draft's graph for outputs of all tokens of a batch.
    """
    draft = Draft.of(model)
    if draft is None:
        return 0
    logits = 2 * (_n_vocab(model) + (draft.n_draft_vocab or 0))
    return logits + len(draft.target_layers or ()) * draft.target_width


def _n_vocab(model: Model) -> int:
    found = model.tensors.get("token_embd.weight")
    if found and len(found[1].ne) > 1:
        return found[1].ne[1]
    return model.arch_int("vocab_size") or tokens_of(model)


def _widest(model: Model, n_all: int) -> int:
    """Elements that one token takes at once in a feed-forward network."""
    dense = max(_per_layer(model.arch_value("feed_forward_length"), n_all), default=0)
    used = max(_per_layer(model.arch_value("expert_used_count"), n_all), default=0)
    expert = max(_per_layer(model.arch_value("expert_feed_forward_length"), n_all), default=0)
    return max(dense, used * expert)


def _unknown(model: Model, recurrent: bool) -> str | None:
    """Why header figures would be wrong; they hold for the families that nextn knows and for plain attention."""
    arch = model.architecture
    if recurrent:
        return None
    kvs, known = model.kvs, model.header.by_key
    places = kvs.starting_with(f"{arch}.ssm.", f"{arch}.wkv", f"{arch}.kda.")
    if any(kvs[at].key in known for at in places):
        return f"nextn does not know which layers of '{arch}' are recurrent"
    return None
