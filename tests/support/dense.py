"""Small dense trunks with random weights, in the shapes of llama and qwen3, with the tiny model's tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from changes import write_model

from conftest import TRUNKS
from nextn.gguf.files import open_model
from nextn.gguf.header import TensorInfo
from nextn.gguf.kv import KV, KVType
from nextn.gguf.types import F32

TOKENIZER = TRUNKS / "tiny-qwen35-Q8_0.gguf"
N_LAYER, N_EMBD, N_HEAD, N_HEAD_KV, HEAD, N_FF = 5, 64, 4, 2, 16, 96


def dense_trunk(path: Path, arch: str, *, tied: bool = True, seed: int = 1, **more: KV) -> Path:
    """A trunk of `arch`: qwen3 has norms of q and k, llama factors of its frequencies."""
    rng = np.random.default_rng(seed)
    source = open_model(TOKENIZER)
    n_vocab = len(source.header.get("tokenizer.ggml.tokens"))
    tensors: list[tuple[TensorInfo, bytes]] = []

    def add(name: str, *shape: int, scale: float = 0.0) -> None:
        around = 1.0 if name.endswith("norm.weight") else 0.0
        values = (around + rng.standard_normal(shape) * (scale or 0.1)).astype(np.float32)
        if name == "rope_freqs.weight":
            values = np.linspace(1, 4, shape[0], dtype=np.float32)
        tensors.append((TensorInfo(name, tuple(reversed(shape)), F32.id, 0), values.tobytes()))

    add("token_embd.weight", n_vocab, N_EMBD, scale=0.4)
    add("output_norm.weight", N_EMBD)
    if not tied:
        add("output.weight", n_vocab, N_EMBD, scale=0.4)
    if arch == "llama":
        add("rope_freqs.weight", HEAD // 2)
    for layer in range(N_LAYER):
        at = f"blk.{layer}."
        add(f"{at}attn_norm.weight", N_EMBD)
        add(f"{at}ffn_norm.weight", N_EMBD)
        for name, rows in (("q", N_HEAD * HEAD), ("k", N_HEAD_KV * HEAD), ("v", N_HEAD_KV * HEAD)):
            add(f"{at}attn_{name}.weight", rows, N_EMBD, scale=0.15)
        add(f"{at}attn_output.weight", N_EMBD, N_HEAD * HEAD, scale=0.15)
        if arch == "qwen3":
            add(f"{at}attn_q_norm.weight", HEAD)
            add(f"{at}attn_k_norm.weight", HEAD)
        add(f"{at}ffn_gate.weight", N_FF, N_EMBD, scale=0.15)
        add(f"{at}ffn_up.weight", N_FF, N_EMBD, scale=0.15)
        add(f"{at}ffn_down.weight", N_EMBD, N_FF, scale=0.15)

    def u32(key: str, value: int) -> KV:
        return KV.make(f"{arch}.{key}", KVType.UINT32, value)

    def f32(key: str, value: float) -> KV:
        return KV.make(f"{arch}.{key}", KVType.FLOAT32, value)

    kvs = {
        kv.key: kv
        for kv in (
            KV.make("general.architecture", KVType.STRING, arch), u32("block_count", N_LAYER),
            u32("context_length", 1024), u32("embedding_length", N_EMBD), u32("feed_forward_length", N_FF),
            u32("attention.head_count", N_HEAD), u32("attention.head_count_kv", N_HEAD_KV),
            u32("attention.key_length", HEAD), u32("attention.value_length", HEAD),
            u32("rope.dimension_count", HEAD), f32("rope.freq_base", 5000.0),
            f32("attention.layer_norm_rms_epsilon", 1e-6),
            *(kv for kv in source.kvs if kv.key.startswith("tokenizer.")),
        )
    }  # fmt: skip
    kvs.update({kv.key: kv for kv in more.values()})
    return write_model(path, list(kvs.values()), tensors)
