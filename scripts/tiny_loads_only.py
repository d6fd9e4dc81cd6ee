"""Tiny models of architectures whose block llama.cpp loads and never drafts with, bundled, in F32.

Written by the names and shapes that its loaders want (b11549, src/models/*.cpp); the tokenizer is another tiny trunk's.
"""

from __future__ import annotations

from pathlib import Path

from nextn.gguf.files import open_model
from nextn.gguf.kv import KV, KVType
from tiny_openpangu import write_gguf

E, F, H, K, D, X, FX, N, V = 64, 96, 2, 1, 32, 4, 32, 4, 320
Shapes = dict[str, tuple[int, ...]]

NEXTN: Shapes = {
    "nextn.eh_proj.weight": (2 * E, E), "nextn.enorm.weight": (E,), "nextn.hnorm.weight": (E,),
    "nextn.shared_head_norm.weight": (E,),
}  # fmt: skip
QKV: Shapes = {
    "attn_q.weight": (E, H * D), "attn_k.weight": (E, K * D), "attn_v.weight": (E, K * D),
    "attn_output.weight": (H * D, E),
}  # fmt: skip
FUSED: Shapes = {"attn_qkv.weight": (E, (H + 2 * K) * D), "attn_output.weight": (H * D, E)}
QK_NORMS: Shapes = {"attn_q_norm.weight": (D,), "attn_k_norm.weight": (D,)}
DENSE: Shapes = {"ffn_gate.weight": (E, F), "ffn_down.weight": (F, E), "ffn_up.weight": (E, F)}
MOE: Shapes = {
    "ffn_gate_inp.weight": (E, X), "exp_probs_b.bias": (X,), "ffn_gate_exps.weight": (E, FX, X),
    "ffn_down_exps.weight": (FX, E, X), "ffn_up_exps.weight": (E, FX, X), "ffn_gate_shexp.weight": (E, FX),
    "ffn_down_shexp.weight": (FX, E), "ffn_up_shexp.weight": (E, FX),
}  # fmt: skip
POST: Shapes = {"post_attention_norm.weight": (E,), "post_ffw_norm.weight": (E,)}
BEFORE: Shapes = {"attn_norm.weight": (E,), "ffn_norm.weight": (E,)}
MOE_COUNTS = {
    "expert_count": X, "expert_used_count": 2, "expert_shared_count": 1, "expert_feed_forward_length": FX,
    "expert_shared_feed_forward_length": FX, "expert_gating_func": 2, "leading_dense_block_count": 1,
}  # fmt: skip

# architecture -> (a layer of the trunk without experts, one with, the block's, further counts)
KINDS: dict[str, tuple[Shapes, Shapes, Shapes, dict[str, int]]] = {
    "glm4": (
        *({**BEFORE, **POST, **QKV, "ffn_down.weight": (F, E), "ffn_up.weight": (E, 2 * F)},) * 3,
        {"rope.dimension_count": D},
    ),
    "exaone4": (*({**POST, **QKV, **QK_NORMS, **DENSE},) * 3, {"rope.dimension_count": D}),
    "bailingmoe2": (
        {**BEFORE, **FUSED, **QK_NORMS, **DENSE}, *({**BEFORE, **FUSED, **QK_NORMS, **MOE},) * 2,
        {**MOE_COUNTS, "rope.dimension_count": D},
    ),
    "exaone-moe": (
        {**BEFORE, **QKV, **QK_NORMS, **DENSE}, {**BEFORE, **QKV, **QK_NORMS, **MOE},
        {**BEFORE, **QKV, **QK_NORMS, **DENSE},
        {**MOE_COUNTS, "rope.dimension_count": D, "attention.sliding_window": 64},
    ),
}  # fmt: skip


def make_bundled(arch: str, out: Path, tokenizer_of: Path, seed: int = 0) -> Path:
    """Four layers and a block."""
    dense, sparse, block, counts = KINDS[arch]
    shapes: Shapes = {"token_embd.weight": (E, V), "output_norm.weight": (E,), "output.weight": (E, V)}
    for n in range(N):
        shapes |= {f"blk.{n}.{name}": ne for name, ne in (dense if n == 0 else sparse).items()}
    last = {"layer_output_norm.weight": (E,)} if arch == "bailingmoe2" else {}
    shapes |= {f"blk.{N}.{name}": ne for name, ne in {**block, **NEXTN, **last}.items()}
    numbers = {
        "block_count": N + 1, "nextn_predict_layers": 1, "context_length": 2048, "embedding_length": E,
        "feed_forward_length": F, "attention.head_count": H, "attention.head_count_kv": K, "attention.key_length": D,
        "attention.value_length": D, "vocab_size": V, **counts,
    }  # fmt: skip
    kvs = [
        KV.make("general.architecture", KVType.STRING, arch),
        *(KV.make(f"{arch}.{key}", KVType.UINT32, value) for key, value in numbers.items()),
        KV.make(f"{arch}.rope.freq_base", KVType.FLOAT32, 10000.0),
        KV.make(f"{arch}.attention.layer_norm_rms_epsilon", KVType.FLOAT32, 1e-5),
        *(kv for kv in open_model(tokenizer_of).kvs if kv.key.startswith("tokenizer.")),
    ]
    return write_gguf(out, kvs, shapes, seed)
