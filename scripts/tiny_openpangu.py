"""A tiny openPangu 2.0: a checkpoint with its block, and a trunk as GGUF.

No converter of llama.cpp's knows the model, so the trunk is written here, by the names and shapes that ik_llama.cpp's
loader wants (8337e4cd, src/llama-load-tensors.cpp, src/llama-hparams.cpp); the tokenizer is another tiny trunk's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from nextn.gguf.files import open_model
from nextn.gguf.header import build_header, pad_to, place
from nextn.gguf.kv import KV, KVType
from nextn.gguf.tensors import TensorInfo

ARCH = "openpangu"
E, F, H, LQ, LKV, NOPE, ROPE, DV, X, FX, N, STREAMS, SINKS, V = 64, 96, 4, 32, 64, 32, 16, 32, 4, 32, 2, 4, 16, 320
WINDOWS = {0: 64, 2: 128}  # layer -> window, of layer 1 none; the last one is the block's
CONFIG: dict[str, Any] = {
    "architectures": ["OpenPanguV2ForCausalLM"], "model_type": "openpangu_v2", "hidden_size": E, "vocab_size": V,
    "num_hidden_layers": N, "num_nextn_predict_layers": 1, "num_attention_heads": H, "q_lora_rank": LQ,
    "kv_lora_rank": LKV, "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE, "v_head_dim": DV, "n_routed_experts": X,
    "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": FX, "first_k_dense_replace": 1,
    "swa_layers": list(WINDOWS), "sliding_window_list": list(WINDOWS.values()), "param_sink_number": SINKS,
    "mhc_num_stream": STREAMS, "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip


def _random(seed: int, name: str, *shape: int) -> Any:
    rng = np.random.default_rng([seed, *name.encode()])
    if "norm" in name:
        return 1 + 0.05 * rng.standard_normal(shape)
    return rng.standard_normal(shape) / (shape[-1] if len(shape) > 1 else 8) ** 0.5


def make_checkpoint(folder: Path, seed: int = 0) -> Path:
    """The block's tensors in layer 2, bf16, in one safetensors file; embeddings beside them."""
    block = {
        "input_layernorm.weight": (E,), "post_attention_layernorm.weight": (E,), "pre_mlp_layernorm.weight": (E,),
        "post_mlp_layernorm.weight": (E,), "self_attn.q_a_proj.weight": (LQ, E),
        "self_attn.q_a_layernorm.weight": (LQ,), "self_attn.q_b_proj.weight": (H * (NOPE + ROPE), LQ),
        "self_attn.kv_a_proj_with_mqa.weight": (LKV + ROPE, E), "self_attn.kv_a_layernorm.weight": (LKV,),
        "self_attn.kv_b_proj.weight": (H * (NOPE + DV), LKV), "self_attn.o_proj.weight": (E, H * DV),
        "self_attn.qa_conv.weight": (LQ, 1, 3), "self_attn.compresskv_conv.weight": (LKV, 1, 3),
        "self_attn.o_conv.weight": (H * DV, 1, 3), "self_attn.param_sink_compressed_kv": (SINKS, LKV),
        "self_attn.param_sink_k_pe": (SINKS, ROPE), "mlp.gate.weight": (X, E), "mlp.e_score_correction_bias": (X,),
        **{f"mlp.experts.{x}.{part}_proj.weight": (E, FX) if part == "down" else (FX, E)
           for x in range(X) for part in ("gate", "up", "down")},
        **{f"mlp.shared_experts.{part}_proj.weight": (E, FX) if part == "down" else (FX, E)
           for part in ("gate", "up", "down")},
        "eh_proj.weight": (E, 2 * E), "enorm.weight": (E,), "hnorm.weight": (E,), "shared_head.norm.weight": (E,),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header, data = {}, b""
    named = {f"model.layers.{N}.{name}": shape for name, shape in block.items()}
    for name, shape in {"model.embed_tokens.weight": (V, E), **named}.items():
        blob = _random(seed, name, *shape).astype(ml_dtypes.bfloat16).tobytes()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def _layer(n: int) -> dict[str, tuple[int, ...]]:
    """ggml's order."""
    wide = STREAMS * E
    out: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (E,), "post_attention_norm.weight": (E,), "ffn_norm.weight": (E,),
        "post_ffw_norm.weight": (E,), "attn_q_a.weight": (E, LQ), "attn_q_a_norm.weight": (LQ,),
        "attn_q_b.weight": (LQ, H * (NOPE + ROPE)), "attn_kv_a_mqa.weight": (E, LKV + ROPE),
        "attn_kv_a_norm.weight": (LKV,), "attn_k_b.weight": (NOPE, H * LKV), "attn_v_b.weight": (LKV, H * DV),
        "attn_output.weight": (H * DV, E), "attn_qa_conv.weight": (3, LQ), "attn_compresskv_conv.weight": (3, LKV),
        "attn_o_conv.weight": (3, H * DV), "attn_param_sink_kv": (LKV, SINKS), "attn_param_sink_k_pe": (ROPE, SINKS),
    }  # fmt: skip
    for part in ("attn", "mlp"):
        out |= {f"{part}_mhc_phi.weight": (wide, (STREAMS + 2) * STREAMS), f"{part}_mhc_alpha": (3,),
                f"{part}_mhc_beta": ((STREAMS + 2) * STREAMS,), f"{part}_mhc_gamma": (wide,)}  # fmt: skip
    if n == 0:
        return out | {"ffn_gate.weight": (E, F), "ffn_down.weight": (F, E), "ffn_up.weight": (E, F)}
    return out | {
        "ffn_gate_inp.weight": (E, X), "exp_probs_b.bias": (X,), "ffn_gate_exps.weight": (E, FX, X),
        "ffn_down_exps.weight": (FX, E, X), "ffn_up_exps.weight": (E, FX, X), "ffn_gate_shexp.weight": (E, FX),
        "ffn_down_shexp.weight": (FX, E), "ffn_up_shexp.weight": (E, FX),
    }  # fmt: skip


def make_trunk(out: Path, tokenizer_of: Path, seed: int = 0) -> Path:
    """A trunk in F32, without a block."""
    wide = STREAMS * E
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (E, V), "output_norm.weight": (E,), "output.weight": (E, V),
        "merge_mhc_phi.weight": (wide, STREAMS), "merge_mhc_alpha": (1,), "merge_mhc_beta": (STREAMS,),
        "merge_mhc_gamma": (wide,),
    }  # fmt: skip
    for n in range(N):
        shapes |= {f"blk.{n}.{name}": ne for name, ne in _layer(n).items()}
    numbers = {
        "block_count": N, "context_length": 2048, "embedding_length": E, "feed_forward_length": F, "vocab_size": V,
        "attention.head_count": H, "attention.head_count_kv": H, "attention.q_lora_rank": LQ,
        "attention.kv_lora_rank": LKV, "attention.key_length": NOPE + ROPE, "attention.value_length": DV,
        "rope.dimension_count": ROPE, "leading_dense_block_count": 1, "expert_count": X, "expert_used_count": 2,
        "expert_shared_count": 1, "expert_feed_forward_length": FX, "expert_gating_func": 2,
        "attention.sliding_window": 64, "mhc_num_stream": STREAMS, "mhc_recur_norm": 2, "param_sink_number": SINKS,
    }  # fmt: skip
    trunk_windows = {n: window for n, window in WINDOWS.items() if n < N}
    kvs = [
        KV.make("general.architecture", KVType.STRING, ARCH),
        *(KV.make(f"{ARCH}.{key}", KVType.UINT32, value) for key, value in numbers.items()),
        KV.make(f"{ARCH}.rope.freq_base", KVType.FLOAT32, 10000.0),
        KV.make(f"{ARCH}.attention.layer_norm_rms_epsilon", KVType.FLOAT32, 1e-5),
        KV.make(f"{ARCH}.expert_weights_scale", KVType.FLOAT32, 1.0),
        KV.make(f"{ARCH}.expert_weights_norm", KVType.BOOL, True),
        KV.make(f"{ARCH}.swa_layers", KVType.ARRAY, list(trunk_windows), KVType.INT32),
        KV.make(f"{ARCH}.sliding_window_list", KVType.ARRAY, list(trunk_windows.values()), KVType.INT32),
        *(kv for kv in open_model(tokenizer_of).kvs if kv.key.startswith("tokenizer.")),
    ]
    return write_gguf(out, kvs, shapes, seed)


def write_gguf(out: Path, kvs: list[KV], shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Path:
    """Random F32 tensors of these shapes (ggml's order) behind a header."""
    blobs = {name: _random(seed, name, *ne[::-1]).astype("<f4").tobytes() for name, ne in shapes.items()}
    infos, _ = place([(TensorInfo(name, ne, 0, 0), len(blobs[name])) for name, ne in shapes.items()], 32)
    out.parent.mkdir(parents=True, exist_ok=True)
    body = b"".join(blob + bytes(pad_to(len(blob), 32) - len(blob)) for blob in blobs.values())
    out.write_bytes(build_header(kvs, infos) + body)
    return out
