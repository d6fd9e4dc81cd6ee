"""The tiny DeepSeek-V4 trunk with a layer of compressed attention, which llama.cpp cannot do without.

llama.cpp (b11549) makes a cache for the layers with a compression ratio of 4, and one without any layer ends with a
division by zero (src/llama-kv-cache.cpp, the doubling of `n_rot_k`), whatever the model. The converter's trunk in
tests/data has no such layer, so one is added here: random tensors in F32, names and shapes of src/models/deepseek4.cpp.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nextn.gguf.files import open_model
from nextn.gguf.header import build_header, pad_to, place
from nextn.gguf.kv import KV, KVType
from nextn.gguf.kv_table import edit
from nextn.gguf.tensors import TensorInfo

LAYER = 1  # gets the compression
RATIO = 4
INDEX_SIZE = 128  # of an indexer's key; another one than the attention's, as in the published model


def with_compression(trunk: Path, out: Path) -> Path:
    """`trunk` with the tensors and metadata of one compressed layer."""
    model = open_model(trunk)
    file = model.files[0]
    width, head = model.arch_int("embedding_length"), model.arch_int("attention.key_length")
    n_index = model.arch_int("attention.indexer.head_count")
    rng = np.random.default_rng(0)
    shapes = {
        "attn_compressor_kv": (width, 2 * head), "attn_compressor_gate": (width, 2 * head),
        "attn_compressor_ape": (2 * head, RATIO), "attn_compressor_norm": (head,),
        "indexer.proj": (width, n_index),
        "indexer.attn_q_b": (model.arch_int("attention.q_lora_rank"), n_index * INDEX_SIZE),
        "indexer_compressor_kv": (width, 2 * INDEX_SIZE), "indexer_compressor_gate": (width, 2 * INDEX_SIZE),
        "indexer_compressor_ape": (2 * INDEX_SIZE, RATIO), "indexer_compressor_norm": (INDEX_SIZE,),
    }  # fmt: skip
    parts: list[tuple[TensorInfo, bytes]] = []
    data = trunk.read_bytes()
    for info in file.header.tensors:
        start, end = file.tensor_range(info)
        parts.append((info, data[start:end]))
    for name, ne in shapes.items():
        values = np.ones(ne) if len(ne) == 1 else rng.standard_normal(ne[::-1]) / ne[0] ** 0.5
        parts.append((TensorInfo(f"blk.{LAYER}.{name}.weight", ne, 0, 0), values.astype("<f4").tobytes()))
    ratios = [RATIO if n == LAYER else ratio for n, ratio in enumerate(model.arch_value("attention.compress_ratios"))]
    arch = model.architecture
    put = [
        KV.make(f"{arch}.attention.indexer.key_length", KVType.UINT32, INDEX_SIZE),
        KV.make(f"{arch}.attention.compress_ratios", KVType.ARRAY, ratios, KVType.UINT32),
    ]
    infos, _ = place([(info, len(blob)) for info, blob in parts], file.header.alignment)
    header = build_header(edit(file.header.kvs, put=put), infos, alignment=file.header.alignment)
    body = b"".join(blob + bytes(pad_to(len(blob), file.header.alignment) - len(blob)) for _, blob in parts)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(header + body)
    return out
