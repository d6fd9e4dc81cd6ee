"""Tiny checkpoints of the families whose residual is several streams (hyper-connections)."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tiny_parts import FS, FX, MOE, D, E, H, Kind, Shapes, V, X, ffn, qkv

HC, HC_RANK = 2, 16  # streams of the residual, rank of what mixes them


def mixer(p: str, *, inject: bool = True) -> Shapes:
    """Hyper-connections: what becomes one stream, and how a result is dealt out again."""
    out: Shapes = {
        f"{p}hc_norm.weight": (HC * E,), f"{p}input_mix_weight_down.weight": (HC_RANK, HC * E),
        f"{p}input_mix_weight_up.weight": (HC * E, HC_RANK),
    }  # fmt: skip
    return {**out, f"{p}block_inject_weight.weight": (HC, HC * E)} if inject else out


HYPER = {**mixer("attn_hyper_connection."), **mixer("mlp_hyper_connection.")}
QWEN4_ATTENTION: Shapes = {
    **qkv(norms=True), "self_attn.q_proj.weight": (2 * H * D, E),
    "self_attn.indexer.index_qk_proj.weight": (3 * D, E),
    "self_attn.indexer.q_layernorm.weight": (D,), "self_attn.indexer.k_layernorm.weight": (D,),
}  # fmt: skip
QWEN4_LINEAR: Shapes = {
    "linear_attn.in_proj_qkv.weight": (128, E), "linear_attn.in_proj_z.weight": (64, E),
    "linear_attn.in_proj_a.weight": (4, E), "linear_attn.in_proj_b.weight": (4, E),
    "linear_attn.conv1d.weight": (128, 1, 4), "linear_attn.out_proj.weight": (E, 64),
    "linear_attn.norm.weight": (16,), "linear_attn.dt_bias": (4,), "linear_attn.A_log": (4,),
}  # fmt: skip
QWEN4_MOE: Shapes = {
    "mlp.gate.weight": (X, E), "mlp.experts.gate_up_proj": (X, 2 * FX, E), "mlp.experts.down_proj": (X, E, FX),
    **ffn("mlp.shared_expert.", FS), "mlp.shared_expert_gate.weight": (1, E),
}  # fmt: skip
NGRAM: Shapes = {
    "ple.key_proj.weight": (HC * E, E), "ple.value_proj.weight": (E, E), "ple.conv1d.weight": (HC * E, 1, 4),
    **{f"ple.norm_{x}.weight": (HC * E,) for x in ("key", "query", "conv")},
    **{f"ple.ple_embedding.ngram_embedding.shard_{i}.weight": (16, E // 2) for i in range(2)},
}  # fmt: skip
QWEN4 = Kind(
    "Qwen4ExpForCausalLM", "qwen4_exp_text",
    {"num_experts": X, "num_experts_per_tok": 2, "moe_intermediate_size": FX, "shared_expert_intermediate_size": FS,
     "norm_topk_prob": True, "mtp_num_hidden_layers": 1, "num_nextn_predict_layers": None,
     "layer_types": ["linear_attention", "full_attention"], "full_attention_interval": 2,
     "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
     "linear_value_head_dim": 16, "output_gate_type": "sigmoid", "hc_count": HC, "hc_lowrank": HC_RANK,
     "ple_layer_ids": [1], "ple_embed_dim": E, "ple_conv_kernel_size": 4, "ngram_size": 3, "heads_per_ngram": 1,
     "split_ngram_parts": 2, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": D,
     "indexer_budget": 64, "indexer_compress_ratio": 4, "intermediate_size": None,
     "rope_parameters": {"mrope_interleaved": True, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25,
                         "rope_theta": 10000, "rope_type": "default"}},
    lambda i: {**HYPER, **(QWEN4_ATTENTION if i else {**QWEN4_LINEAR, **NGRAM}), **QWEN4_MOE},
    ({"fc_embedding.weight": (E, E), "fc_hidden.weight": (E, E), "pre_fc_norm_embedding.weight": (E,),
      "pre_fc_norm_hidden.weight": (HC * E,), **mixer("hyper_connection_mixer.", inject=False),
      **{f"layers.0.{name}": shape for name, shape in {**HYPER, **QWEN4_ATTENTION, **QWEN4_MOE}.items()}},),
    block_prefix="mtp.", roots=("model.embed_tokens", "", "lm_head"), zero_centred=True,
    more=mixer("model.hyper_connection_mixer.", inject=False),
    constants={"model.layers.0.ple.ple_embedding.layer_multipliers": [31, 37, 41],
               "model.layers.0.ple.ple_embedding.ngram_heads_offsets": [0, 13],
               "model.layers.0.ple.ple_embedding.ngram_heads_vocab_sizes": [13, 17]},
)  # fmt: skip


# DeepSeek-V4. Its graph wants four streams; heads of 64 with 32 of RoPE.
S, V4_HEAD, V4_ROPE, RANK, GROUPS = 4, 64, 32, 32, 2
V4_LAYER: Shapes = {
    "attn_norm.weight": (E,), "ffn_norm.weight": (E,), "attn.attn_sink": (H,),
    "attn.wq_a.weight": (RANK, E), "attn.q_norm.weight": (RANK,), "attn.wq_b.weight": (H * V4_HEAD, RANK),
    "attn.wkv.weight": (V4_HEAD, E), "attn.kv_norm.weight": (V4_HEAD,),
    "attn.wo_a.weight": (GROUPS * RANK, H * V4_HEAD // GROUPS), "attn.wo_b.weight": (E, GROUPS * RANK),
    **{f"hc_{part}_fn": ((2 + S) * S, S * E) for part in ("attn", "ffn")},
    **{f"hc_{part}_base": ((2 + S) * S,) for part in ("attn", "ffn")},
    **{f"hc_{part}_scale": (3,) for part in ("attn", "ffn")},
    "ffn.gate.weight": (X, E), "ffn.gate.bias": (X,),
    **{f"ffn.experts.{x}.{w}.weight": (FX, E) for x in range(X) for w in ("w1", "w3")},
    **{f"ffn.experts.{x}.w2.weight": (E, FX) for x in range(X)},
    "ffn.shared_experts.w1.weight": (FX, E), "ffn.shared_experts.w3.weight": (FX, E),
    "ffn.shared_experts.w2.weight": (E, FX),
}  # fmt: skip
V4_ROOT: Shapes = {"hc_head_fn": (S, S * E), "hc_head_base": (S,), "hc_head_scale": (1,)}
DEEPSEEK4 = Kind(
    "DeepseekV4ForCausalLM", "deepseek_v4",
    {**MOE, "scoring_func": "sqrtsoftplus", "num_key_value_heads": 1, "head_dim": V4_HEAD, "q_lora_rank": RANK,
     "qk_rope_head_dim": V4_ROPE, "o_groups": GROUPS, "o_lora_rank": RANK, "sliding_window": 128,
     "swiglu_limit": 10.0, "index_n_heads": 2, "index_head_dim": 64, "index_topk": 64, "hc_mult": S,
     "hc_sinkhorn_iters": 4, "hc_eps": 1e-6, "num_hash_layers": 1, "compress_ratios": [0, 0, 0],
     "compress_rope_theta": 160000.0, "intermediate_size": None,
     "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
                             "weight_block_size": [128, 128], "activation_scheme": "dynamic"}},
    lambda i: V4_LAYER,
    ({**V4_LAYER, **V4_ROOT, "e_proj.weight": (E, E), "h_proj.weight": (E, E), "enorm.weight": (E,),
      "hnorm.weight": (E,), "norm.weight": (E,)},),
    block_prefix="mtp.{k}.", layers="layers.", roots=("embed", "norm", "head"), more=V4_ROOT,
    constants={"layers.0.ffn.gate.tid2eid": [[(t + j) % X for j in range(2)] for t in range(V)]},
)  # fmt: skip
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)


def power_scale(x: Any, largest: float) -> Any:
    """The smallest power of two that brings the largest magnitude of each row of `x` below `largest`."""
    exponent = np.frexp(np.abs(x).max(axis=-1) / np.float32(largest))[1]
    return np.ldexp(np.float32(1), exponent).astype(np.float32)


def deepseek4_tensors(name: str, x: Any, *, packed: bool) -> dict[str, Any]:
    """A tensor as DeepSeek-V4 stores it: FP8 or FP4 with factors that are powers of two, or what is left.

    Not packed: the same values in bfloat16, which holds all of them.
    """
    if x.ndim < 2 or name.startswith(("embed", "norm", "head", "hc_")) or "hc_" in name or "gate." in name:
        wide = "hc_" in name or name.endswith(("attn_sink", "gate.bias"))
        return {name: x.astype(np.float32 if wide else ml_dtypes.bfloat16)}
    scale_name = name.removesuffix("weight") + "scale"
    if ".experts." in name:
        groups = x.reshape(len(x), -1, 32)
        scale = power_scale(groups, 6)
        codes = np.abs(np.abs(groups / scale[..., None])[..., None] - FP4).argmin(axis=-1)
        signed = np.where(groups < 0, codes | 8, codes).reshape(x.shape).astype(np.uint8)
        values = np.where(groups < 0, -FP4[codes], FP4[codes]) * scale[..., None]
        stored = {name: (signed[:, ::2] | signed[:, 1::2] << 4).view(np.int8), scale_name: scale}
    else:
        scale = power_scale(x.reshape(1, -1), 448).reshape(1, 1)  # one block: no side is longer than 128
        eight = (x / scale).astype(ml_dtypes.float8_e4m3fn)
        values, stored = eight.astype(np.float32) * scale, {name: eight, scale_name: scale}
    if not packed:
        return {name: values.reshape(x.shape).astype(ml_dtypes.bfloat16)}
    return {**stored, scale_name: stored[scale_name].astype(ml_dtypes.float8_e8m0fnu)}
