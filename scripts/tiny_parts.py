"""What the tiny checkpoints are made of: a layer is a table, name -> shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

E, V, X, FX, FS, F = 64, 320, 4, 32, 32, 96
H, K, D = 2, 1, 32
LQ, LKV, NOPE, ROPE, DV = 32, 64, 32, 32, 32
NI, DI = 2, 64
N = 2  # trunk layers

Shapes = dict[str, tuple[int, ...]]


def ffn(p: str, n: int, *, gate: bool = True) -> Shapes:
    parts = {"gate_proj": (n, E), "up_proj": (n, E), "down_proj": (E, n)}
    return {f"{p}{name}.weight": shape for name, shape in parts.items() if gate or name != "gate_proj"}


def experts(p: str = "mlp.", *, gate: bool = True) -> Shapes:
    return {name: shape for x in range(X) for name, shape in ffn(f"{p}experts.{x}.", FX, gate=gate).items()}


def moe(bias: str | None = "mlp.gate.e_score_correction_bias", gate: str = "mlp.gate", shared: str = "mlp.shared_experts.") -> Shapes:  # noqa: E501
    routed: Shapes = {f"{gate}.weight": (X, E), **({bias: (X,)} if bias else {})}
    return {**routed, **experts(), **ffn(shared, FS)}


def qkv(p: str = "self_attn.", heads: int = H, kv: int = K, *, bias: bool = False, norms: bool = False) -> Shapes:
    rows = {"q": heads * D, "k": kv * D, "v": kv * D}
    out: Shapes = {f"{p}{x}_proj.weight": (n, E) for x, n in rows.items()}
    out |= {f"{p}{x}_proj.bias": (n,) for x, n in rows.items() if bias}
    out |= {f"{p}{x}_norm.weight": (D,) for x in "qk" if norms}
    return {**out, f"{p}o_proj.weight": (E, heads * D)}


@dataclass(frozen=True)
class Widths:
    """Of latent attention."""

    heads: int = H
    latent: int = LKV
    nope: int = NOPE
    rope: int = ROPE
    value: int = DV


# Those of every published model that ik_llama.cpp insists on: 512 and 64, heads in fours.
WIDE = Widths(heads=4, latent=512, nope=32, rope=64, value=32)


def mla(p: str = "self_attn.", output: str = "o_proj", w: Widths = Widths()) -> Shapes:
    return {
        f"{p}q_a_proj.weight": (LQ, E),
        f"{p}q_a_layernorm.weight": (LQ,),
        f"{p}q_b_proj.weight": (w.heads * (w.nope + w.rope), LQ),
        f"{p}kv_a_proj_with_mqa.weight": (w.latent + w.rope, E),
        f"{p}kv_a_layernorm.weight": (w.latent,),
        f"{p}kv_b_proj.weight": (w.heads * (w.nope + w.value), w.latent),
        f"{p}{output}.weight": (E, w.heads * w.value),
    }


def indexer(p: str = "self_attn.indexer.") -> Shapes:
    return {
        f"{p}wk.weight": (DI, E),
        f"{p}wq_b.weight": (NI * DI, LQ),
        f"{p}weights_proj.weight": (NI, E),
        f"{p}k_norm.weight": (DI,),
        f"{p}k_norm.bias": (DI,),
    }


NORMS: Shapes = {"input_layernorm.weight": (E,), "post_attention_layernorm.weight": (E,)}
NEXTN: Shapes = {"eh_proj.weight": (E, 2 * E), "enorm.weight": (E,), "hnorm.weight": (E,)}
SHARED_HEAD: Shapes = {"shared_head.norm.weight": (E,)}
OWN: Shapes = {"embed_tokens.weight": (V, E), "shared_head.head.weight": (V, E)}

BASE: dict[str, Any] = {
    "hidden_size": E, "vocab_size": V, "num_hidden_layers": N, "num_attention_heads": H, "num_key_value_heads": K,
    "head_dim": D, "intermediate_size": F, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False, "eos_token_id": V - 1,
    "num_nextn_predict_layers": 1, "dtype": "bfloat16", "torch_dtype": "bfloat16",
}  # fmt: skip
MOE: dict[str, Any] = {
    "n_routed_experts": X, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": FX,
    "first_k_dense_replace": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": True, "n_group": 1, "topk_group": 1,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc",
}  # fmt: skip
MLA: dict[str, Any] = {
    "q_lora_rank": LQ, "kv_lora_rank": LKV, "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE, "v_head_dim": DV,
    "num_key_value_heads": H, "rope_interleave": True,
}  # fmt: skip
MLA_WIDE = MLA | {
    "kv_lora_rank": WIDE.latent, "qk_nope_head_dim": WIDE.nope, "qk_rope_head_dim": WIDE.rope, "v_head_dim": WIDE.value,
    "num_attention_heads": WIDE.heads, "num_key_value_heads": WIDE.heads,
}  # fmt: skip
INDEXER: dict[str, Any] = {"index_n_heads": NI, "index_head_dim": DI, "index_topk": 64}


@dataclass(frozen=True)
class Kind:
    """One family's checkpoint."""

    classes: str
    model_type: str
    config: dict[str, Any]
    trunk: Callable[[int], Shapes]  # layer number -> its tensors
    block: tuple[Shapes, ...]  # of each block
    block_prefix: str | None = None  # `{k}` is the block's number; None: behind the trunk's layers
    layers: str = "model.layers."
    roots: tuple[str, str, str] = ("model.embed_tokens", "model.norm", "lm_head")
    more: Shapes = field(default_factory=dict)  # further root tensors
    constants: dict[str, Any] = field(default_factory=dict)  # stored as 64-bit integers
    zero_centred: bool = False
    fp8: tuple[int, int] | None = None
    tokenizer: dict[str, Any] = field(default_factory=dict)


def decoder(attention: Shapes, sparse: Shapes, dense: Shapes | None = None) -> Callable[[int], Shapes]:
    """Layer 0 with a dense network, the others with experts."""
    first = ffn("mlp.", F) if dense is None else dense
    return lambda i: {**NORMS, **attention, **(first if i == 0 else sparse)}
