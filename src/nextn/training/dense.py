"""A dense decoder in torch, read from a GGUF: many sequences at once, matrices in bfloat16, the residual in float32.

Of the families whose graph is llama.cpp's llama or qwen3 without experts, sliding windows or scaled positions other
than by `rope_freqs`: the dense ones that hand their layer inputs to a draft. Facts from src/models/{llama,qwen3}.cpp at
b11549. That the result is what the engine computes is not assumed: `train.probe` compares the two before any text is
written with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..gguf.files import Model

Tensor: TypeAlias = Any  # torch.Tensor; torch is imported only where it is used, and may be missing

_NEOX = {"llama": False, "qwen3": True}  # whether RoPE turns halves; else neighbouring pairs
_HEAD_ROWS = 256  # rows that pass through the head together
_ROWS_AT_ONCE = 16  # rows of logits that are worked on together: what stays in a CPU's cache
_GROUP = 64  # tokens of which only the best is looked at first
_SPARE = 8  # more candidates than are kept: bfloat16 may order close ones wrongly


class NotDense(Exception):
    """This model is not one that can be read here; `str(error)` says why."""


@dataclass(frozen=True)
class Sizes:
    """What the header says."""

    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head: int  # values per head
    n_rot: int  # of which positions turn these
    eps: float
    base: float
    neox: bool


def sizes_of(model: Model) -> Sizes:
    """The sizes of a model that can be read. Raises NotDense."""
    arch = model.architecture
    if arch not in _NEOX:
        raise NotDense(f"its architecture, {arch}, has no dense graph in torch here")
    for suffix in (
        "expert_count",
        "attention.sliding_window",
        "attention.scale",
        "logit_scale",
        "nextn_predict_layers",
    ):
        if model.arch_value(suffix, 0):
            raise NotDense(f"{arch}.{suffix} is set, which the dense graph does without")
    if str(model.arch_value("rope.scaling.type", "none")) not in ("none", ""):
        raise NotDense(f"its positions are scaled ({model.arch_value('rope.scaling.type')})")
    n_embd, n_head = model.arch_int("embedding_length"), model.arch_int("attention.head_count")
    if n_embd < 1 or n_head < 1:
        raise NotDense("its header names no width or no number of heads")
    head = model.arch_int("attention.key_length", n_embd // n_head)
    if model.arch_int("attention.value_length", head) != head:
        raise NotDense("keys and values differ in width")
    return Sizes(
        n_layer=model.arch_int("block_count"),
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=model.arch_int("attention.head_count_kv", n_head),
        head=head,
        n_rot=model.arch_int("rope.dimension_count", head),
        eps=float(model.arch_value("attention.layer_norm_rms_epsilon", 1e-5)),
        base=float(model.arch_value("rope.freq_base", 10000.0)),
        neox=_NEOX[arch],
    )


class DenseWeights:
    """Tensors of a GGUF as torch's, each dequantized once."""

    def __init__(self, model: Model, n_threads: int) -> None:
        self._model, self._n_threads = model, n_threads
        self._left = set(model.tensors)

    def get(self, name: str, *, f32: bool = False) -> Tensor | None:
        """A tensor, [rows, values per row] or [values]; None when there is none. Raises NotDense."""
        import torch

        from ..ggml.quantize import can_read, dequantize
        from ..sources.ranges import FileRange, Reader

        found = self._model.tensors.get(name)
        if found is None:
            return None
        file, info = found
        if info.type is None or not can_read(info.type):
            raise NotDense(f"'{name}' is stored as {info.type_name}, which cannot be decoded here")
        with Reader() as reader:
            data = reader.read(FileRange.of(file, *file.tensor_range(info)))
        rows = dequantize(data, info.type, info.ne[0], n_threads=self._n_threads)
        self._left.discard(name)
        made = torch.from_numpy(rows if len(info.ne) > 1 else rows[0])
        return made.clone() if f32 else made.to(torch.bfloat16)

    def need(self, name: str, *, f32: bool = False) -> Tensor:
        """A tensor that must be there. Raises NotDense."""
        found = self.get(name, f32=f32)
        if found is None:
            raise NotDense(f"'{name}' is missing")
        return found

    def joined(self, names: Sequence[str], *, f32: bool = False) -> Tensor | None:
        """Several tensors, one after the other; None when there is none of them. Raises NotDense."""
        import torch

        parts = [self.get(name, f32=f32) for name in names]
        if all(part is None for part in parts):
            return None
        if any(part is None for part in parts):
            raise NotDense(f"some of {', '.join(names)} are missing")
        return torch.cat([part for part in parts if part is not None])

    @property
    def unread(self) -> list[str]:
        """Tensors that nothing asked for."""
        return sorted(self._left)


@dataclass(frozen=True)
class _Layer:
    norm: Tensor  # [n_embd]
    qkv: Tensor  # [(n_head + 2 n_head_kv) head, n_embd]
    heads_norm: Tensor | None  # [n_head + n_head_kv, head], of queries and keys
    out: Tensor  # [n_embd, n_head head]
    ffn_norm: Tensor
    gate_up: Tensor  # [2 n_ff, n_embd]
    down: Tensor  # [n_embd, n_ff]


class Cache:
    """Keys and values of up to `rows` sequences of up to `length` tokens: [layer, row, token, n_head_kv head]."""

    def __init__(self, sizes: Sizes, rows: int, length: int) -> None:
        import torch

        shape = (sizes.n_layer, rows, length, sizes.n_head_kv * sizes.head)
        self._head = sizes.head
        self.keys, self.values = (torch.zeros(shape, dtype=torch.bfloat16) for _ in range(2))

    def move(self, source: int, target: int, n_tokens: int) -> None:
        """Put a row in another's place."""
        for one in (self.keys, self.values):
            one[:, target, :n_tokens] = one[:, source, :n_tokens]

    def heads(self, layer: int, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first rows, [rows, n_head_kv, length, head] without copying."""
        keys, values = (
            one[layer, :rows, :length].unflatten(2, (-1, self._head)).transpose(1, 2)
            for one in (self.keys, self.values)
        )
        return keys, values


@dataclass(frozen=True)
class DenseSeen:
    """What one pass saw, by row of tokens."""

    taps: Tensor  # f32 [rows, taps, n_embd]
    last: Tensor  # f32 [rows, n_embd]: after the last norm


class Dense:
    """The model."""

    def __init__(self, model: Model, taps: Sequence[int], n_threads: int = 1) -> None:
        """Read and dequantize all tensors. `taps`: layers whose inputs are kept (see `engine_reader.What`).

        Raises NotDense.
        """
        import torch

        self.sizes = s = sizes_of(model)
        self.taps = tuple(taps)
        weights = DenseWeights(model, n_threads)
        self.embed = weights.need("token_embd.weight")
        self.norm = weights.need("output_norm.weight", f32=True)
        head = weights.get("output.weight")
        self.head = self.embed if head is None else head
        self.n_vocab = int(self.head.shape[0])
        factors = weights.get("rope_freqs.weight", f32=True)
        turns = s.base ** -(torch.arange(0, s.n_rot, 2, dtype=torch.float32) / s.n_rot)
        self._turns = turns if factors is None else turns / factors.reshape(-1)
        self.layers = [self._layer(weights, f"blk.{number}.") for number in range(s.n_layer)]
        if weights.unread:
            raise NotDense(f"the dense graph has no place for '{weights.unread[0]}'")

    def _layer(self, weights: DenseWeights, at: str) -> _Layer:
        return _Layer(
            norm=weights.need(f"{at}attn_norm.weight", f32=True),
            qkv=self._qkv(weights, at),
            heads_norm=self._heads_norm(weights, at),
            out=weights.need(f"{at}attn_output.weight"),
            ffn_norm=weights.need(f"{at}ffn_norm.weight", f32=True),
            gate_up=_there(weights.joined([f"{at}ffn_{one}.weight" for one in ("gate", "up")]), f"{at}ffn_gate.weight"),
            down=weights.need(f"{at}ffn_down.weight"),
        )

    def _qkv(self, weights: DenseWeights, at: str) -> Tensor:
        """Matrices of queries, keys and values, one after the other.

        Where RoPE turns neighbours, rows of queries and keys are put in the order in which it turns halves: both in
        the same way, so that their products stay.
        """
        import torch

        s = self.sizes
        joined = _there(weights.joined([f"{at}attn_{one}.weight" for one in "qkv"]), f"{at}attn_q.weight")
        if s.neox:
            return joined
        order = torch.cat([torch.arange(0, s.n_rot, 2), torch.arange(1, s.n_rot, 2), torch.arange(s.n_rot, s.head)])
        heads = torch.arange(s.n_head + s.n_head_kv)[:, None] * s.head + order
        n = heads.numel()
        return torch.cat([joined[heads.reshape(-1)], joined[n:]])

    def _heads_norm(self, weights: DenseWeights, at: str) -> Tensor | None:
        """Norms of the heads of queries and of keys."""
        import torch

        q, k = (weights.get(f"{at}attn_{one}_norm.weight", f32=True) for one in "qk")
        if q is None or k is None:
            if q is not None or k is not None:
                raise NotDense(f"only one of '{at}attn_q_norm' and '{at}attn_k_norm' is there")
            return None
        if not self.sizes.neox:
            raise NotDense("its heads are normed, and neighbours are turned")
        return torch.cat([q.expand(self.sizes.n_head, -1), k.expand(self.sizes.n_head_kv, -1)])

    def first(self, ids: Tensor, cache: Cache, first_row: int) -> DenseSeen:
        """Read the beginnings of sequences into empty rows of the cache: ids [sequences, tokens], padded at the end."""
        import torch

        n, length = ids.shape
        where = torch.arange(length).repeat(n)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.keys[layer, first_row : first_row + n, :length] = k.reshape(n, length, -1)
            cache.values[layer, first_row : first_row + n, :length] = v.reshape(n, length, -1)
            q, k, v = (one.view(n, length, -1, self.sizes.head).transpose(1, 2) for one in (q, k, v))
            seen = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            return seen.transpose(1, 2).reshape(n * length, -1)

        return self._run(ids.reshape(-1), where, attend)

    def step(self, ids: Tensor, lengths: Tensor, cache: Cache) -> DenseSeen:
        """One more token for each of the first rows of the cache, which hold `lengths` tokens: ids [rows]."""
        import torch

        n, most = len(ids), int(lengths.max()) + 1
        rows = torch.arange(n)
        mask = torch.zeros(n, 1, 1, most, dtype=torch.bfloat16)
        mask.masked_fill_((torch.arange(most)[None] > lengths[:, None])[:, None, None], float("-inf"))

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.keys[layer, rows, lengths] = k.flatten(1)
            cache.values[layer, rows, lengths] = v.flatten(1)
            keys, values = cache.heads(layer, n, most)
            seen = torch.nn.functional.scaled_dot_product_attention(
                q[:, :, None], keys, values, attn_mask=mask, enable_gqa=True
            )
            return seen.reshape(n, -1)

        return self._run(ids, lengths, attend)

    def _run(self, ids: Tensor, where: Tensor, attend: Any) -> DenseSeen:
        import torch

        functional, s = torch.nn.functional, self.sizes
        angles = where.float()[:, None] * self._turns[None]
        turn = angles.cos()[:, None], angles.sin()[:, None]
        x = self.embed[ids].float()
        taps = []
        for number, layer in enumerate(self.layers):
            if number in self.taps:
                taps.append(x)
            y = functional.rms_norm(x, (s.n_embd,), layer.norm, s.eps).to(torch.bfloat16)
            y = functional.linear(y, layer.qkv).view(len(ids), -1, s.head)
            turned, v = y.split((s.n_head + s.n_head_kv, s.n_head_kv), 1)
            q, k = self._turned(turned, layer.heads_norm, turn).split((s.n_head, s.n_head_kv), 1)
            x = x + functional.linear(attend(number, q, k, v), layer.out)
            y = functional.rms_norm(x, (s.n_embd,), layer.ffn_norm, s.eps).to(torch.bfloat16)
            gate, up = functional.linear(y, layer.gate_up).chunk(2, -1)
            x = x + functional.linear(functional.silu(gate) * up, layer.down)
        if len(self.layers) in self.taps:
            taps.append(functional.rms_norm(x, (s.n_embd,), None, s.eps))
        last = functional.rms_norm(x, (s.n_embd,), self.norm, s.eps)
        return DenseSeen(torch.stack(taps, 1) if taps else x[:, None, :0], last)

    def _turned(self, heads: Tensor, norm: Tensor | None, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Normed and turned to their positions: [rows, heads, head]."""
        import torch

        s, (cos, sin) = self.sizes, turn
        y, half = heads.float(), s.n_rot // 2
        if norm is not None:
            y = torch.nn.functional.rms_norm(y, (s.head,), None, s.eps) * norm
        a, b = y[..., :half], y[..., half : s.n_rot]
        out = torch.empty_like(heads, memory_format=torch.contiguous_format)
        out[..., :half] = a * cos - b * sin
        out[..., half : s.n_rot] = a * sin + b * cos
        if s.n_rot < s.head:
            out[..., s.n_rot :] = y[..., s.n_rot :]
        return out

    def top(self, last: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best tokens after each row: ids [rows, k], logits f32 [rows, k] best first, and log-sums [rows].

        Candidates come from logits in bfloat16; theirs are computed again in float32.
        """
        import torch

        out = []
        for rows in last.split(_HEAD_ROWS):
            rough = torch.nn.functional.linear(rows.to(torch.bfloat16), self.head)
            parts = zip(rows.split(_ROWS_AT_ONCE), rough.split(_ROWS_AT_ONCE), strict=True)
            out += [self._top_of(*part, k) for part in parts]
        ids, logits, sums = (torch.cat(parts) for parts in zip(*out, strict=True))
        return ids, logits, sums

    def _top_of(self, last: Tensor, rough: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        import torch

        n = min(k + _SPARE, self.n_vocab)
        at = best_columns(rough, n)
        exact = torch.einsum("re,rke->rk", last, self.head[at].float())
        logits, order = exact.sort(1, descending=True)
        return at.gather(1, order)[:, :k], logits[:, :k], rough.float().logsumexp(1)


def best_columns(values: Tensor, k: int) -> Tensor:
    """Columns of the `k` largest values of each row, in any order: [rows, k].

    The k largest are in the k groups with the largest maxima, so that only those are searched. The columns of a group
    are far apart, which lets a CPU look at many groups at once.
    """
    import torch

    rows, n = values.shape
    n_groups = n // _GROUP
    if n_groups < 2 * k:
        return values.topk(k, 1, sorted=False).indices
    whole = values[:, : n_groups * _GROUP].view(rows, _GROUP, n_groups)
    groups = whole.amax(1).topk(k, 1, sorted=False).indices
    columns = (groups[..., None] + n_groups * torch.arange(_GROUP)).view(rows, -1)
    rest = torch.arange(n_groups * _GROUP, n).expand(rows, -1)
    columns = torch.cat([columns, rest], 1)
    return columns.gather(1, values.gather(1, columns).topk(k, 1, sorted=False).indices)


def _there(tensor: Tensor | None, name: str) -> Tensor:
    if tensor is None:
        raise NotDense(f"'{name}' is missing")
    return tensor
