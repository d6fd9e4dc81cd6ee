"""A vocabulary of 248,320 tokens in the shape of Qwen3.5-0.8B: `python benchmarks/vocab_model.py OUT.gguf`.

Random weights in Q8_0, bundled with a block of random weights as upstream's converter writes it: the head is the
trunk's. What it says means nothing, so drafts are accepted by llama.cpp's synthetic acceptance; only the cost of each
step is that of a real model. `--vocab` and `--layers` make a smaller one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nextn.gguf.files import open_model
from nextn.gguf.header import build_header, place
from nextn.gguf.kv import KV, KVType
from nextn.gguf.kv_table import edit
from nextn.gguf.tensors import TensorInfo

TINY = Path(__file__).resolve().parent.parent / "src" / "nextn" / "demo_data" / "tiny-qwen35-Q4_K_M.gguf"
VOCAB, LAYERS = 248_320, 24
HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM = 1024, 3584, 8, 2, 256
SSM_HEADS, SSM_DIM, CONV, INTERVAL = 16, 128, 4, 4
INNER = SSM_HEADS * SSM_DIM
F32, Q8_0 = 0, 8
_BLOCK = np.dtype([("d", "<f2"), ("qs", "i1", 32)])


def shapes(vocab: int, layers: int) -> list[tuple[str, tuple[int, ...], int]]:
    """(name, ne, type) of every tensor."""
    out: list[tuple[str, tuple[int, ...], int]] = [
        ("output_norm.weight", (HIDDEN,), F32),
        ("token_embd.weight", (HIDDEN, vocab), Q8_0),
    ]
    for layer in range(layers + 1):
        full = layer == layers or (layer + 1) % INTERVAL == 0
        out += [(f"blk.{layer}.{name}", ne, kind) for name, ne, kind in _layer(full)]
    out += [
        (f"blk.{layers}.nextn.eh_proj.weight", (2 * HIDDEN, HIDDEN), Q8_0),
        *((f"blk.{layers}.nextn.{name}.weight", (HIDDEN,), F32) for name in ("enorm", "hnorm", "shared_head_norm")),
    ]
    return out


def _layer(full: bool) -> list[tuple[str, tuple[int, ...], int]]:
    norms = [("attn_norm.weight", (HIDDEN,), F32), ("post_attention_norm.weight", (HIDDEN,), F32)]
    ffn = [
        ("ffn_gate.weight", (HIDDEN, FFN), Q8_0),
        ("ffn_up.weight", (HIDDEN, FFN), Q8_0),
        ("ffn_down.weight", (FFN, HIDDEN), Q8_0),
    ]
    if full:
        mixer = [
            ("attn_q.weight", (HIDDEN, 2 * HEADS * HEAD_DIM), Q8_0),
            ("attn_k.weight", (HIDDEN, KV_HEADS * HEAD_DIM), Q8_0),
            ("attn_v.weight", (HIDDEN, KV_HEADS * HEAD_DIM), Q8_0),
            ("attn_output.weight", (HEADS * HEAD_DIM, HIDDEN), Q8_0),
            ("attn_q_norm.weight", (HEAD_DIM,), F32),
            ("attn_k_norm.weight", (HEAD_DIM,), F32),
        ]
    else:
        mixer = [
            ("attn_qkv.weight", (HIDDEN, 3 * INNER), Q8_0),
            ("attn_gate.weight", (HIDDEN, INNER), Q8_0),
            ("ssm_a", (SSM_HEADS,), F32),
            ("ssm_alpha.weight", (HIDDEN, SSM_HEADS), Q8_0),
            ("ssm_beta.weight", (HIDDEN, SSM_HEADS), Q8_0),
            ("ssm_conv1d.weight", (CONV, 3 * INNER), F32),
            ("ssm_dt.bias", (SSM_HEADS,), F32),
            ("ssm_norm.weight", (SSM_DIM,), F32),
            ("ssm_out.weight", (INNER, HIDDEN), Q8_0),
        ]
    return [*norms, *mixer, *ffn]


def make_vocab_model(out: Path, vocab: int = VOCAB, layers: int = LAYERS) -> Path:
    """Write the bundled model."""
    rng = np.random.default_rng(0)
    tiny = open_model(TINY)
    kvs = _kvs(tiny.kvs, vocab, layers)
    tensors = [(TensorInfo(name, ne, kind, 0), _size(ne, kind)) for name, ne, kind in shapes(vocab, layers)]
    infos, _ = place(tensors, 32)
    with out.open("xb") as file:
        file.write(build_header(kvs, infos))
        for info, size in tensors:
            for data in _data(info, rng):
                file.write(data)
            file.write(bytes(-size % 32))
    return out


def _kvs(tiny: tuple[KV, ...], vocab: int, layers: int) -> list[KV]:
    def u32(key: str, value: int) -> KV:
        return KV.make(f"qwen35.{key}", KVType.UINT32, value)

    lists = {kv.key: kv for kv in tiny}
    tokens = list(lists["tokenizer.ggml.tokens"].value)
    kinds = list(lists["tokenizer.ggml.token_type"].value)
    more = vocab - len(tokens)
    flags = [(layer + 1) % INTERVAL != 0 for layer in range(layers)] + [False]
    put = [
        u32("block_count", layers + 1),
        u32("nextn_predict_layers", 1),
        u32("embedding_length", HIDDEN),
        u32("feed_forward_length", FFN),
        u32("attention.head_count", HEADS),
        u32("attention.head_count_kv", KV_HEADS),
        u32("attention.key_length", HEAD_DIM),
        u32("attention.value_length", HEAD_DIM),
        u32("ssm.state_size", SSM_DIM),
        u32("ssm.group_count", SSM_HEADS),
        u32("ssm.time_step_rank", SSM_HEADS),
        u32("ssm.inner_size", INNER),
        u32("rope.dimension_count", HEAD_DIM // 4),
        lists["qwen35.rope.dimension_sections"].with_value([11, 11, 10, 0]),
        KV.make("general.file_type", KVType.UINT32, 7),
        KV.make("general.size_label", KVType.STRING, "0.8B"),
        lists["tokenizer.ggml.tokens"].with_value([*tokens, *(f"<fill {n}>" for n in range(more))]),
        lists["tokenizer.ggml.token_type"].with_value([*kinds, *[1] * more]),
        lists["qwen35.attention.recurrent_layers"].with_value(flags),
    ]
    return edit(list(tiny), put=put)


def _size(ne: tuple[int, ...], kind: int) -> int:
    n = int(np.prod(ne))
    return n * 4 if kind == F32 else n // 32 * _BLOCK.itemsize


def _data(info: TensorInfo, rng: np.random.Generator) -> list[bytes]:
    n = int(np.prod(info.ne))
    if info.type_id == F32:
        if info.name.endswith("ssm_a"):
            return [np.full(n, -1.0, np.float32).tobytes()]
        if info.name.endswith("conv1d.weight"):
            return [(rng.standard_normal(n) * 0.2).astype(np.float32).tobytes()]
        return [np.full(n, 0.0 if info.name.endswith("bias") else 1.0, np.float32).tobytes()]
    blocks = np.zeros(n // 32, _BLOCK)
    blocks["d"] = np.float16(0.02 / 73)  # weights spread as trained ones are: codes spread evenly deviate by 73
    blocks["qs"] = rng.integers(-127, 128, (n // 32, 32), np.int8)
    return [blocks.tobytes()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocab", type=int, default=VOCAB)
    parser.add_argument("--layers", type=int, default=LAYERS)
    args = parser.parse_args()
    print(make_vocab_model(args.out, args.vocab, args.layers))
