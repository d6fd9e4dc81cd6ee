"""Tiny random checkpoints of the families beside Qwen's, under the names that their publishers use.

    python scripts/tiny_families.py glm4moe OUT_FOLDER

A layer is written as a table: name -> shape. The bytes depend on the seed alone (see make_tiny_checkpoints.py).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from make_tiny_checkpoints import TOKENIZER, bell, safetensors_bytes, small_tokenizer
from tiny_hyper import DEEPSEEK4, QWEN4, deepseek4_tensors
from tiny_parts import (
    BASE,
    DI,
    FS,
    FX,
    INDEXER,
    MLA,
    MLA_WIDE,
    MOE,
    NEXTN,
    NORMS,
    OWN,
    SHARED_HEAD,
    WIDE,
    D,
    E,
    F,
    H,
    Kind,
    N,
    Shapes,
    V,
    Widths,
    X,
    decoder,
    experts,
    ffn,
    indexer,
    mla,
    moe,
    qkv,
)


def of_mla(classes: str, model_type: str, attention: Shapes, more: dict[str, Any], **options: Any) -> Kind:
    block = {**NORMS, **attention, **moe(), **NEXTN, **SHARED_HEAD, **(OWN if "Glm" not in classes else {})}
    config = {**MOE, **MLA, **more}
    return Kind(classes, model_type, config, decoder(attention, moe()), (block,), **options)


FULL_DSA = {**mla(), **indexer()}
MIMO_QKV: Shapes = {"self_attn.qkv_proj.weight": ((H + 4) * D, E), "self_attn.o_proj.weight": (E, H * D)}
MIMO_BLOCK = {
    "input_layernorm.weight": (E,), "pre_mlp_layernorm.weight": (E,), "self_attn.attention_sink_bias": (H,),
    **MIMO_QKV, **ffn("mlp.", F), "final_layernorm.weight": (E,), **NEXTN,
}  # fmt: skip
STEP_BLOCK = {
    **NORMS, **qkv(heads=4, kv=2, norms=True), "self_attn.g_proj.weight": (4, E), **ffn("mlp.", F), **NEXTN,
    "transformer.shared_head.norm.weight": (E,), "transformer.shared_head.output.weight": (V, E),
}  # fmt: skip
LING_MLA = {**mla("attention.", "dense"), "attention.g_proj.weight": (H, E)}
LING_KDA: Shapes = {
    **{f"attention.{x}_proj.weight": (H * D, E) for x in ("q", "k", "v", "f", "g")},
    **{f"attention.{x}_conv1d.weight": (H * D, 1, 4) for x in ("q", "k", "v")},
    "attention.b_proj.weight": (H, E), "attention.A_log": (H,), "attention.dt_bias": (H * D,),
    "attention.o_norm.weight": (D,), "attention.o_proj.weight": (E, H * D),
}  # fmt: skip
LING_MOE = moe("mlp.gate.expert_bias")
LATENT = 32
NEMOTRON_MOE: Shapes = {
    "mixer.gate.weight": (X, E), "mixer.gate.e_score_correction_bias": (X,),
    "mixer.fc1_latent_proj.weight": (LATENT, E), "mixer.fc2_latent_proj.weight": (E, LATENT),
    **{f"mixer.experts.{x}.up_proj.weight": (FX, LATENT) for x in range(X)},
    **{f"mixer.experts.{x}.down_proj.weight": (LATENT, FX) for x in range(X)},
    **ffn("mixer.shared_experts.", FS, gate=False),
}  # fmt: skip
NEMOTRON_QKV = qkv("mixer.")
NEMOTRON_SSM: Shapes = {
    "mixer.in_proj.weight": (2 * 64 + 2 * 32 + 2, E), "mixer.conv1d.weight": (64 + 2 * 32, 1, 4),
    "mixer.conv1d.bias": (64 + 2 * 32,), "mixer.dt_bias": (2,), "mixer.A_log": (2,), "mixer.D": (2,),
    "mixer.norm.weight": (64,), "mixer.out_proj.weight": (E, 64),
}  # fmt: skip


KINDS: dict[str, Kind] = {
    "glm4moe": Kind(
        "Glm4MoeForCausalLM", "glm4_moe", {**MOE, "partial_rotary_factor": 0.5, "attention_bias": True},
        decoder(qkv(bias=True), moe()),
        ({**NORMS, **qkv(bias=True), **moe(), **NEXTN, **SHARED_HEAD, **OWN},),
    ),
    "glm4moelite": of_mla("Glm4MoeLiteForCausalLM", "glm4_moe_lite", mla(), {}),
    "deepseek3": of_mla("DeepseekV3ForCausalLM", "deepseek_v3", mla(), {}),
    "deepseek32": of_mla(
        "DeepseekV32ForCausalLM", "deepseek_v32", FULL_DSA, INDEXER, tokenizer={"add_bos_token": True}
    ),
    "glm4moelite-fp8": of_mla(
        "Glm4MoeLiteForCausalLM", "glm4_moe_lite", mla(),
        {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [48, 32],
                                 "activation_scheme": "dynamic"}},
        fp8=(48, 32),
    ),
    "glmdsa": of_mla(
        "GlmMoeDsaForCausalLM", "glm_moe_dsa", FULL_DSA, {**INDEXER, "indexer_types": ["full"] * N}
    ),
    "glmdsa-wide": of_mla(
        "GlmMoeDsaForCausalLM", "glm_moe_dsa", {**mla(w=WIDE), **indexer()},
        {**MLA_WIDE, **INDEXER, "indexer_types": ["full"] * N},
    ),
    "glm4moelite-wide": of_mla("Glm4MoeLiteForCausalLM", "glm4_moe_lite", mla(w=WIDE), MLA_WIDE),
    "deepseek3-wide": of_mla("DeepseekV3ForCausalLM", "deepseek_v3", mla(w=WIDE), MLA_WIDE),
    "mimo2": Kind(
        "MiMoV2FlashForCausalLM", "mimo_v2_flash",
        {**MOE, "swa_head_dim": D, "swa_num_attention_heads": H, "swa_v_head_dim": D, "v_head_dim": D,
         "swa_num_key_value_heads": 2, "hybrid_layer_pattern": [0, 1], "sliding_window": 64,
         "layernorm_epsilon": 1e-5, "partial_rotary_factor": 0.5, "swa_rope_theta": 10000.0, "n_shared_experts": None,
         "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 0.5}},
        lambda i: {**NORMS, **qkv(kv=1 + i), **({"self_attn.attention_sink_bias": (H,)} if i else {}),
                   **(ffn("mlp.", F) if i == 0 else
                      {"mlp.gate.weight": (X, E), "mlp.gate.e_score_correction_bias": (X,), **experts()})},
        (MIMO_BLOCK,) * 3, block_prefix="model.mtp.layers.{k}.",
    ),
    "hyv3": Kind(
        "HYV3ForCausalLM", "hy_v3", {**MOE, "num_experts": X, "num_shared_experts": 1, "route_norm": True,
                                     "router_scaling_factor": 1.0},
        decoder(qkv(norms=True), moe("mlp.expert_bias", "mlp.router.gate", "mlp.shared_mlp.")),
        ({**NORMS, **qkv(norms=True), **moe("mlp.expert_bias", "mlp.router.gate", "mlp.shared_mlp."), **NEXTN,
          "final_layernorm.weight": (E,)},),
    ),
    "step35": Kind(
        "Step3p5ForCausalLM", "step3p5",
        {"num_attention_groups": 1, "attention_other_setting": {"num_attention_heads": 4, "num_attention_groups": 2},
         "layer_types": ["full_attention"] + ["sliding_attention"] * 4, "partial_rotary_factors": [0.5] + [1.0] * 4,
         "num_nextn_predict_layers": 3, "sliding_window": 64, "moe_num_experts": X, "moe_top_k": 2,
         "moe_intermediate_size": FX, "share_expert_dim": FS, "moe_layers_enum": "1", "norm_expert_weight": True,
         "moe_router_scaling_factor": 1.0, "swiglu_limits": [0.0, 7.0], "swiglu_limits_shared": [0.0, 16.0],
         "rope_theta": [10000.0, 10000.0]},
        lambda i: {**NORMS, **qkv(heads=2 + 2 * i, kv=1 + i, norms=True), "self_attn.g_proj.weight": (2 + 2 * i, E),
                   **(ffn("mlp.", F) if i == 0 else
                      {"moe.gate.weight": (X, E), "moe.router_bias": (X,), "moe.gate_proj.weight": (X, FX, E),
                       "moe.up_proj.weight": (X, FX, E), "moe.down_proj.weight": (X, E, FX),
                       **ffn("share_expert.", FS)})},
        (STEP_BLOCK,) * 3, zero_centred=True,
    ),
    "bailingmoe3": Kind(
        "BailingMoeV3ForCausalLM", "bailing_hybrid",
        {**MOE, **MLA, "num_experts": X, "num_shared_experts": 1, "moe_shared_expert_intermediate_size": FS,
         "layer_group_size": 2, "no_kda_lora": True, "kda_safe_gate": True, "kda_lower_bound": -5.0,
         "gated_attention_proj_granularity_type": "head_wise", "short_conv_kernel_size": 4, "score_function": "sigmoid",
         "expert_swiglu_limit_list": [0.0, 7.0], "share_expert_swiglu_limit_list": [0.0, 7.0]},
        lambda i: {**NORMS, **(LING_KDA if i == 0 else LING_MLA), **(ffn("mlp.", F) if i == 0 else LING_MOE)},
        ({**NORMS, **LING_MLA, **LING_MOE, **NEXTN, "final_layernorm.weight": (E,)},),
        roots=("model.word_embeddings", "model.norm", "lm_head"),
    ),
    "cohere2moe": Kind(
        "Cohere2MoeForCausalLM", "cohere2_moe",
        {"num_experts": X, "num_experts_per_tok": 2, "num_shared_experts": 0, "intermediate_size": FX,
         "first_k_dense_replace": 0, "norm_topk_prob": True, "logit_scale": 1.0, "sliding_window": 64,
         "layer_types": ["sliding_attention", "full_attention"], "layer_norm_eps": 1e-5,
         "expert_selection_fn": "sigmoid"},
        lambda i: {"input_layernorm.weight": (E,), **qkv(), "mlp.gate.weight": (X, E), **experts()},
        ({"input_layernorm.weight": (E,), **qkv(), "mlp.gate.weight": (X, E), **experts(), **NEXTN, **SHARED_HEAD},),
    ),
}  # fmt: skip
# GLM-5.3-Flash: latent attention without RoPE, an indexer over pools of tokens, four streams around trunk layers.
GLM5_STREAMS, GLM5_POOL = 4, 4
GLM5_MLA: Shapes = {
    **mla(w=Widths(rope=0)), **indexer(), "self_attn.indexer.index_kpool_compress_gate": (DI, E),
    "self_attn.indexer.index_kpool_compress_ape": (GLM5_POOL, DI),
}  # fmt: skip
GLM5_KDA: Shapes = {
    **{f"self_attn.{x}_proj.weight": (H * D, E) for x in "qkv"},
    **{f"self_attn.{x}_conv1d.weight": (H * D, 1, 4) for x in "qkv"},
    **{f"self_attn.{x}_a_proj.weight": (D, E) for x in "fg"},
    **{f"self_attn.{x}_b_proj.weight": (H * D, D) for x in "fg"},
    "self_attn.b_proj.weight": (H, E), "self_attn.A_log": (H,), "self_attn.dt_bias": (H * D,),
    "self_attn.o_norm.weight": (D,), "self_attn.o_proj.weight": (E, H * D),
}  # fmt: skip
GLM5_HYPER: Shapes = {
    f"hc_{part}_{name}": shape
    for part in ("attn", "ffn")
    for name, shape in (
        ("fn", ((2 + GLM5_STREAMS) * GLM5_STREAMS, GLM5_STREAMS * E)),
        ("base", ((2 + GLM5_STREAMS) * GLM5_STREAMS,)),
        ("scale", (3,)),
    )
}
KINDS["glm5next"] = Kind(
    "Glm5NextForConditionalGeneration", "glm5_next",
    {**MOE, **MLA, **INDEXER, "qk_rope_head_dim": 0, "mla_use_nope": True, "rope_interleave": None,
     "rope_theta": None, "layer_types": ["linear_attention", "full_attention"], "indexer_types": ["full"] * N,
     "linear_attn_config": {"head_dim": D, "num_heads": H, "short_conv_kernel_size": 4, "gate_lower_bound": -5.0},
     "index_kpool": GLM5_POOL, "index_kpool_always_select_tail": True, "hc_mult": GLM5_STREAMS,
     "hc_sinkhorn_iters": 4, "hc_eps": 1e-6, "mhc": True, "swiglu_limit": 10.0},
    lambda i: {**NORMS, **GLM5_HYPER, **(GLM5_MLA if i else GLM5_KDA), **(moe() if i else ffn("mlp.", F))},
    ({**NORMS, **GLM5_MLA, **moe(), **NEXTN, **SHARED_HEAD},),
    layers="model.language_model.layers.",
    roots=("model.language_model.embed_tokens", "model.language_model.norm", "lm_head"),
)  # fmt: skip
# Whose trunks are the same bytes but for their names, so that one file serves both.
TRUNK_OF = {"deepseek3-wide": "glm4moelite-wide"}
KINDS["nemotronh"] = Kind(
    "NemotronHForCausalLM", "nemotron_h",
    {**MOE, "num_hidden_layers": 3, "layers_block_type": ["mamba", "attention", "moe"], "moe_latent_size": 32,
     "moe_shared_expert_intermediate_size": FS, "mamba_num_heads": 2, "mamba_head_dim": 32, "ssm_state_size": 16,
     "n_groups": 2, "conv_kernel": 4, "layer_norm_epsilon": 1e-5, "norm_eps": 1e-5, "rms_norm_eps": None,
     "mlp_hidden_act": "relu2", "expand": 1},
    lambda i: {"norm.weight": (E,), **(NEMOTRON_SSM, NEMOTRON_QKV, NEMOTRON_MOE)[i]},
    ({**{f"0.{name}": shape for name, shape in {**NEXTN, "norm.weight": (E,), **NEMOTRON_QKV}.items()},
      **{f"1.{name}": shape for name, shape in
         {"norm.weight": (E,), "final_layernorm.weight": (E,), **NEMOTRON_MOE}.items()}},),
    block_prefix="mtp.layers.", layers="backbone.layers.",
    roots=("backbone.embeddings", "backbone.norm_f", "lm_head"),
)  # fmt: skip
KINDS |= {"qwen4exp": QWEN4, "deepseek4": DEEPSEEK4, "deepseek4-plain": DEEPSEEK4}
RESIDUAL = ("o_proj.weight", "down_proj.weight", "dense.weight", "out_proj.weight")


def values(kind: Kind, name: str, shape: tuple[int, ...], seed: int) -> Any:
    """Values that keep a residual stream calm; the block passes on the embedding that it is given."""
    x = bell(shape, seed, name)
    if len(shape) == 1:
        is_norm = name.endswith(("norm.weight", "norm_f.weight"))
        return np.float32(0.1) * x + np.float32(is_norm and not kind.zero_centred)
    x /= np.float32(shape[-1] ** 0.5)
    if name.startswith(kind.roots[0]) or name.endswith("embed_tokens.weight"):
        x *= np.float32(shape[-1] ** 0.5)
    if name.endswith(RESIDUAL):
        x *= np.float32(0.125)
    if name.endswith(("eh_proj.weight", "fc_embedding.weight", "fc_hidden.weight", ".e_proj.weight", ".h_proj.weight")):
        x *= np.float32(0.125)
        if "hidden" not in name and "h_proj" not in name.removesuffix("eh_proj.weight"):
            x[:, :E] += np.eye(E, dtype=np.float32)
    return x


def shapes(kind: Kind) -> Shapes:
    """All tensors of a checkpoint."""
    n_trunk = int({**BASE, **kind.config}["num_hidden_layers"])
    out: Shapes = {f"{kind.roots[0]}.weight": (V, E)}
    for i in range(n_trunk):
        out |= {f"{kind.layers}{i}.{name}": shape for name, shape in kind.trunk(i).items()}
    out |= {f"{kind.roots[1]}.weight": (E,)} if kind.roots[1] else {}
    out |= {f"{kind.roots[2]}.weight": (V, E), **kind.more}
    for k, block in enumerate(kind.block):
        p = kind.block_prefix.replace("{k}", str(k)) if kind.block_prefix else f"{kind.layers}{n_trunk + k}."
        out |= {f"{p}{name}": shape for name, shape in block.items()}
    return out


def fp8(name: str, x: Any, size: tuple[int, int]) -> dict[str, Any]:
    """A matrix in FP8 with one factor for each block."""
    rows, columns = (-(-n // b) for n, b in zip(x.shape, size, strict=True))
    scale = (np.float32(2.0**-9) * (1 + np.abs(bell((rows, columns), 0, name, "scale")))).astype(np.float32)
    whole = np.repeat(np.repeat(scale, size[0], axis=0), size[1], axis=1)[: x.shape[0], : x.shape[1]]
    return {name: (x / whole).astype(ml_dtypes.float8_e4m3fn), f"{name}_scale_inv": scale}


def make_family(kind_name: str, folder: Path, seed: int = 0) -> Path:
    """Writes the checkpoint into `folder`, in bf16 (biases of routers in f32); returns the folder."""
    kind = KINDS[kind_name]
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {}
    for name, shape in shapes(kind).items():
        x = values(kind, name, shape, seed)
        if kind is DEEPSEEK4:
            tensors |= deepseek4_tensors(name, x, packed=kind_name == "deepseek4")
            continue
        marks = (*(root for root in kind.roots if root), "norm", "gate.weight", "weights_proj", "eh_proj")
        kept = any(mark in name for mark in marks)
        if kind.fp8 and len(shape) == 2 and not kept:
            tensors |= fp8(name, x, kind.fp8)
            continue
        wide = name.endswith(("e_score_correction_bias", "expert_bias", "router_bias", "A_log"))
        tensors[name] = x.astype(np.float32 if wide else ml_dtypes.bfloat16)
    tensors |= {name: np.array(numbers, dtype=np.int64) for name, numbers in kind.constants.items()}
    return write_checkpoint(folder, kind, tensors)


def write_checkpoint(folder: Path, kind: Kind, tensors: dict[str, Any], **config: Any) -> Path:
    """The files of a checkpoint of `kind`; `config` is added to its config.json. Returns the folder."""
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    texts = {
        "config.json": {
            "architectures": [kind.classes], "model_type": kind.model_type, **BASE, **kind.config, **config
        },
        "tokenizer.json": small_tokenizer(json.loads((TOKENIZER / "tokenizer.json").read_text("utf-8"))),
        "tokenizer_config.json": json.loads((TOKENIZER / "tokenizer_config.json").read_text("utf-8")) | kind.tokenizer,
    }  # fmt: skip
    for name, value in texts.items():
        (folder / name).write_text(json.dumps(value, indent=1) + "\n")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    make_family(args.kind, args.folder)


if __name__ == "__main__":
    main()
