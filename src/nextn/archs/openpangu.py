"""openPangu 2.0: latent attention with convolutions and learned sinks. Only ik_llama.cpp runs it.

Names and shapes: ik_llama.cpp 8337e4cd, src/llama-load-tensors.cpp (create_openpangu_tensors), convert_hf_to_gguf.py.
The block has no hyper-connections, and its attention has a window of its own, given by two lists of layers and windows.
"""

from __future__ import annotations

from dataclasses import replace

from . import engines, parts
from .base import Family, Rule, Source, Transform

_ATTN = f"{parts.L}self_attn."
_KV_B = f"{_ATTN}kv_b_proj.weight"


def _kept(target: str, ne: str, name: str) -> Rule:
    """A small tensor that keeps the checkpoint's floating-point type."""
    return Rule(target, ne, (Source(f"{_ATTN}{name}"),), as_source=True)


FAMILY = Family(
    arch="openpangu",
    title="openPangu 2.0",
    classes=("OpenPanguV2ForCausalLM",),
    **parts.AFTER_TRUNK,
    publishers=(),
    n_blocks=1,
    splits=(),
    unpublished=None,
    rules=(
        *parts.nextn(),
        parts.norm("nextn.shared_head_norm.weight", "shared_head.norm.weight"),
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("post_attention_norm.weight", "post_attention_layernorm.weight"),
        parts.norm("ffn_norm.weight", "pre_mlp_layernorm.weight"),
        parts.norm("post_ffw_norm.weight", "post_mlp_layernorm.weight"),
        parts.norm("block_post_norm.weight", "block_post_layernorm.weight", ne="Sm*E", optional=True),
        parts.tensor("attn_q_a.weight", "E Lq", "self_attn.q_a_proj.weight"),
        parts.norm("attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight", ne="Lq"),
        parts.tensor("attn_q_b.weight", "Lq H*D", "self_attn.q_b_proj.weight"),
        parts.tensor("attn_kv_a_mqa.weight", "E Lr", "self_attn.kv_a_proj_with_mqa.weight"),
        parts.norm("attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight", ne="Lkv"),
        # Two axes here, three elsewhere: the same bytes, the heads' rows concatenated.
        Rule("attn_k_b.weight", "Dp H*Lkv", (Source(_KV_B, Transform.KEY_HALF, parts.KV_B),)),
        Rule("attn_v_b.weight", "Lkv H*Dv", (Source(_KV_B, Transform.VALUE_HALF, parts.KV_B),)),
        parts.tensor("attn_output.weight", "H*Dv E", "self_attn.o_proj.weight"),
        _kept("attn_qa_conv.weight", "3 Lq", "qa_conv.weight"),
        _kept("attn_compresskv_conv.weight", "3 Lkv", "compresskv_conv.weight"),
        _kept("attn_o_conv.weight", "3 H*Dv", "o_conv.weight"),
        Rule("attn_param_sink_kv", "Lkv Ps", (Source(f"{_ATTN}param_sink_compressed_kv"),), f32=True),
        Rule("attn_param_sink_k_pe", "R Ps", (Source(f"{_ATTN}param_sink_k_pe"),), f32=True),
        *parts.router("mlp.e_score_correction_bias"),
        *parts.experts(),
        *parts.shared_experts(),
    ),
    **parts.USUAL_NAMES,
    qkv=None,
    header=None,
    trunk_arrays=(),
    longer_arrays=(),
    **parts.USUAL_SIDECAR,
    draft_head=True,
    head_needed=False,
    ignores_promise=False,
    memory=parts.PLAIN_CACHE,
    root=parts.root(),
    array_tail={},
    id_lists=(("swa_layers", "sliding_window_list"),),
    max_blocks=3,
    llama_cpp=engines.NOT_ON_LLAMA_CPP,
    ik=replace(engines.IN_THE_MODEL_ON_IK, sidecar=engines.Does.UNKNOWN),
)
