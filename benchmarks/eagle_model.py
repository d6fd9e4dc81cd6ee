"""An EAGLE-3 draft of random weights for a model of the Llama shape: `python benchmarks/eagle_model.py MODEL OUT`.

One layer, a fusion of three hidden states, a draft vocabulary of 8,192 tokens, Q8_0. What it drafts means nothing, so
drafts are accepted by llama.cpp's synthetic acceptance; only the cost of each step is that of a trained draft.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nextn.gguf.files import open_model
from nextn.gguf.header import build_header, place
from nextn.gguf.kv import KV, KVType
from nextn.gguf.tensors import TensorInfo

DRAFT_VOCAB = 8192
FIRST_TOKEN = 1000  # ordinary tokens follow: one that ends the text is never accepted
F32, Q8_0, I64 = 0, 8, 27
_BLOCK = np.dtype([("d", "<f2"), ("qs", "i1", 32)])


def make_eagle_draft(model_path: Path, out: Path) -> Path:
    """Write the draft."""
    trunk = open_model(model_path)
    rng = np.random.default_rng(0)
    hidden, ffn = trunk.arch_int("embedding_length"), trunk.arch_int("feed_forward_length")
    heads, kv_heads = trunk.arch_int("attention.head_count"), trunk.arch_int("attention.head_count_kv")
    head, layers = hidden // heads, trunk.arch_int("block_count")
    tensors = [
        ("d2t", (DRAFT_VOCAB,), I64),
        ("fc.weight", (3 * hidden, hidden), Q8_0),
        ("output_norm.weight", (hidden,), F32),
        ("output.weight", (hidden, DRAFT_VOCAB), Q8_0),
        *((f"blk.0.{name}.weight", (hidden,), F32) for name in ("attn_norm", "attn_norm_2", "ffn_norm")),
        ("blk.0.attn_q.weight", (2 * hidden, heads * head), Q8_0),
        ("blk.0.attn_k.weight", (2 * hidden, kv_heads * head), Q8_0),
        ("blk.0.attn_v.weight", (2 * hidden, kv_heads * head), Q8_0),
        ("blk.0.attn_output.weight", (heads * head, hidden), Q8_0),
        ("blk.0.ffn_gate.weight", (hidden, ffn), Q8_0),
        ("blk.0.ffn_up.weight", (hidden, ffn), Q8_0),
        ("blk.0.ffn_down.weight", (ffn, hidden), Q8_0),
    ]
    infos, _ = place([(TensorInfo(name, ne, kind, 0), _size(ne, kind)) for name, ne, kind in tensors], 32)
    numbers = {
        "block_count": 1, "context_length": 8192, "embedding_length": hidden, "feed_forward_length": ffn,
        "attention.head_count": heads, "attention.head_count_kv": kv_heads, "rope.dimension_count": head,
        "target_hidden_size": hidden,
    }  # fmt: skip
    kvs = [
        KV.make("general.architecture", KVType.STRING, "eagle3"),
        *(KV.make(f"eagle3.{name}", KVType.UINT32, value) for name, value in numbers.items()),
        KV.make("eagle3.attention.layer_norm_rms_epsilon", KVType.FLOAT32, 1e-5),
        KV.make("eagle3.rope.freq_base", KVType.FLOAT32, 10000.0),
        KV.make("eagle3.target_layers", KVType.ARRAY, [2, layers // 2, layers - 3], KVType.INT32),
        *(kv for kv in trunk.kvs if kv.key.startswith("tokenizer.") and kv.key != "tokenizer.chat_template"),
    ]
    with out.open("xb") as file:
        file.write(build_header(kvs, infos))
        for name, ne, kind in tensors:
            data = _data(name, ne, kind, rng)
            file.write(data + bytes(-len(data) % 32))
    return out


def _size(ne: tuple[int, ...], kind: int) -> int:
    n = int(np.prod(ne))
    return n // 32 * _BLOCK.itemsize if kind == Q8_0 else n * (8 if kind == I64 else 4)


def _data(name: str, ne: tuple[int, ...], kind: int, rng: np.random.Generator) -> bytes:
    n = int(np.prod(ne))
    if kind == I64:
        return np.arange(FIRST_TOKEN, FIRST_TOKEN + n, dtype=np.int64).tobytes()
    if kind == F32:
        return np.ones(n, np.float32).tobytes()
    blocks = np.zeros(n // 32, _BLOCK)
    blocks["d"] = np.float16(0.02 / 73)
    blocks["qs"] = rng.integers(-127, 128, (n // 32, 32), np.int8)
    return blocks.tobytes()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    print(make_eagle_draft(args.model, args.out))
