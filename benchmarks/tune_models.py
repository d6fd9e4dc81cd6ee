"""Two models that tune is tried on, written as GGUF directly.

deep: the shipped, trained model with 44 layers behind its own whose output projections are zero, so that they cost
time and change nothing: a trunk that is dear beside its block. vocab: random weights in the shape of Qwen3.5-0.8B (24
layers, hidden size 1,024, 248,320 tokens, tied), whose head is a third of what a token reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from nextn.gguf.files import Model, open_model
from nextn.gguf.header import TensorInfo, build_header, pad_to, place
from nextn.gguf.kv import KV, KVType, edit
from nextn.gguf.types import parse_type_name, tensor_size

N_NO_OP = 44
N_VOCAB = 248_320
PERIOD = 4  # three recurrent layers, one with attention
_OUTPUTS = ("attn_output.weight", "ssm_out.weight", "ffn_down.weight")
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
# Hidden size, feed-forward, heads, KV heads, head size, state size, groups, ranks of Qwen3.5-0.8B.
SHAPE = {"embedding_length": 1024, "feed_forward_length": 3584, "attention.head_count": 8,
         "attention.head_count_kv": 2, "attention.key_length": 256, "attention.value_length": 256,
         "ssm.state_size": 128, "ssm.group_count": 16, "ssm.time_step_rank": 16, "ssm.inner_size": 2048,
         "rope.dimension_count": 64}  # fmt: skip
N_LAYER = 24
Data = Callable[[], bytes]


def _write(path: Path, like: Model, kvs: list[KV], tensors: list[tuple[TensorInfo, Data]]) -> Path:
    sized = [(info, tensor_size(info.type_id, info.ne) or 0) for info, _ in tensors]
    infos, _ = place(sized, like.header.alignment)
    with path.open("wb") as out:
        out.write(build_header(kvs, infos, alignment=like.header.alignment))
        for (_, data), (_, size) in zip(tensors, sized, strict=True):
            blob = data()
            assert len(blob) == size
            out.write(blob + bytes(pad_to(size, like.header.alignment) - size))
    return path


def _stored(model: Model, name: str) -> bytes:
    file, info = model.tensors[name]
    start, end = file.tensor_range(info)
    with file.path.open("rb") as handle:
        handle.seek(start)
        return handle.read(end - start)


def _count(model: Model, suffix: str, value: int) -> KV:
    return KV.make(f"{model.architecture}.{suffix}", KVType.UINT32, value)


def _recurrent(model: Model, n_layer: int) -> KV:
    values = [n % PERIOD != PERIOD - 1 for n in range(n_layer)] + [False]
    return KV.make(f"{model.architecture}.attention.recurrent_layers", KVType.ARRAY, values, KVType.BOOL)


def deep(bundled: Path, out: Path) -> Path:
    """`bundled` with the no-op layers between its trunk and its block."""
    model = open_model(bundled)
    n_old = model.arch_int("block_count") - 1
    n_new = n_old + N_NO_OP
    kvs = edit(
        model.kvs, put=[_count(model, "block_count", n_new + 1), _recurrent(model, n_new)],
        drop=[kv.key for kv in model.kvs if kv.key.startswith("nextn.")],
    )  # fmt: skip
    tensors: list[tuple[TensorInfo, Data]] = []

    def add(info: TensorInfo, name: str, source: str, zero: bool = False) -> None:
        data = (lambda: bytes(len(_stored(model, source)))) if zero else (lambda: _stored(model, source))
        tensors.append((replace(info, name=name), data))

    for name, (_, info) in model.tensors.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            add(info, name, name)
            continue
        layer, suffix = int(match[1]), match[2]
        if layer == n_old:
            add(info, f"blk.{n_new}.{suffix}", name)
            continue
        add(info, name, name)
        for copy in range(n_old + layer, n_new, PERIOD):
            add(info, f"blk.{copy}.{suffix}", name, zero=suffix in _OUTPUTS)
    return _write(out, model, kvs, tensors)


def _dims(ne: tuple[int, ...], suffix: str) -> tuple[int, ...]:
    """The shape of a tensor of the small model's name in the large one."""
    e, f = SHAPE["embedding_length"], SHAPE["feed_forward_length"]
    q, kv = (SHAPE[f"attention.{key}"] * SHAPE["attention.key_length"] for key in ("head_count", "head_count_kv"))
    inner, groups, ranks = (SHAPE[f"ssm.{key}"] for key in ("inner_size", "group_count", "time_step_rank"))
    state = SHAPE["ssm.state_size"]
    mixed = inner + 2 * groups * state
    known = {
        "attn_gate.weight": (e, inner), "attn_qkv.weight": (e, mixed), "ssm_a": (ranks,), "ssm_dt.bias": (ranks,),
        "ssm_alpha.weight": (e, ranks), "ssm_beta.weight": (e, ranks), "ssm_conv1d.weight": (4, mixed),
        "ssm_norm.weight": (state,), "ssm_out.weight": (inner, e), "ffn_down.weight": (f, e),
        "ffn_gate.weight": (e, f), "ffn_up.weight": (e, f), "attn_k.weight": (e, kv), "attn_v.weight": (e, kv),
        "attn_q.weight": (e, 2 * q), "attn_output.weight": (q, e), "nextn.eh_proj.weight": (2 * e, e),
        "attn_q_norm.weight": (SHAPE["attention.key_length"],), "attn_k_norm.weight": (SHAPE["attention.key_length"],),
        "token_embd.weight": (e, N_VOCAB),
    }  # fmt: skip
    return known.get(suffix, (e,) if len(ne) == 1 else ne)


def _random(info: TensorInfo, rng: np.random.Generator) -> bytes:
    """Seeded weights: normals in F32, in Q8_0 random codes under one small factor."""
    n = int(np.prod(info.ne))
    if info.type_id == parse_type_name("f32").id:
        values = np.ones(n, "<f4") if "norm" in info.name else (0.02 * rng.standard_normal(n)).astype("<f4")
        return (-np.abs(values) - 0.5 if info.name.endswith("ssm_a") else values).astype("<f4").tobytes()
    blocks = np.empty((n // 32, 34), np.uint8)
    blocks[:, :2] = np.frombuffer(np.float16(0.0003).tobytes(), np.uint8)
    blocks[:, 2:] = rng.integers(0, 256, (n // 32, 32), np.uint8)
    return blocks.tobytes()


def vocab(bundled: Path, out: Path) -> Path:
    """The large vocabulary: names and metadata from `bundled`, shapes of Qwen3.5-0.8B, weights random in Q8_0."""
    model = open_model(bundled)
    n_old = model.arch_int("block_count") - 1
    q8, f32 = parse_type_name("q8_0").id, parse_type_name("f32").id
    tokens = list(model.header.get("tokenizer.ggml.tokens"))
    types = list(model.header.get("tokenizer.ggml.token_type"))
    tokens += [f"<unused{n}>" for n in range(N_VOCAB - len(tokens))]
    types += [5] * (N_VOCAB - len(types))
    put = [_count(model, key, value) for key, value in SHAPE.items()]
    put += [
        _count(model, "block_count", N_LAYER + 1), _recurrent(model, N_LAYER),
        KV.make(f"{model.architecture}.rope.dimension_sections", KVType.ARRAY, [11, 11, 10, 0], KVType.INT32),
        KV.make("tokenizer.ggml.tokens", KVType.ARRAY, tokens, KVType.STRING),
        KV.make("tokenizer.ggml.token_type", KVType.ARRAY, types, KVType.INT32),
    ]  # fmt: skip
    kvs = edit(model.kvs, put=put, drop=[kv.key for kv in model.kvs if kv.key.startswith("nextn.")])
    rng = np.random.default_rng(0)

    def named() -> Iterator[tuple[str, str, tuple[int, ...]]]:
        for name, (_, info) in model.tensors.items():
            match = _LAYER.fullmatch(name)
            if match is None:
                yield name, name, info.ne
            elif int(match[1]) == n_old:
                yield f"blk.{N_LAYER}.{match[2]}", match[2], info.ne
            else:
                for copy in range(int(match[1]), N_LAYER, PERIOD):
                    yield f"blk.{copy}.{match[2]}", match[2], info.ne

    tensors: list[tuple[TensorInfo, Data]] = []
    for name, suffix, ne in named():
        shape = _dims(ne, suffix)
        is_matrix = len(shape) > 1 and suffix != "ssm_conv1d.weight"
        info = TensorInfo(name, shape, q8 if is_matrix else f32, 0)
        tensors.append((info, lambda info=info: _random(info, rng)))  # type: ignore[misc]
    return _write(out, model, kvs, tensors)
