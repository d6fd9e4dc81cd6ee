"""Nemotron 3 (Nano, Super): the checkpoint's two layers `mtp.layers.0` (fusion, attention) and `mtp.layers.1` (experts,
last norm) are one block.

The converter orders the heads' rows of q and k as LLaMA's, though the model has no RoPE. The loader takes neither
embeddings nor a head in the block. Nemotron-Labs Puzzle models carry blocks of another kind, which no engine reads.
"""

from __future__ import annotations

from typing import Any

from . import engines
from .base import Donor, Family, Rule, Source, Transform


def _from(key: str, suffix: str) -> Any:
    """The block is an attention layer with experts: its counts are what the trunk's layers of either kind have."""

    def value(donor: Donor, block: int) -> int | None:
        found = donor.config.get(key)
        if found is None:
            found = next((n for n in donor.trunk(suffix) or () if n), None)
        return None if found is None else int(found)

    return value


def _experts(target: str, ne: str, part: str) -> Rule:
    return Rule(target, ne, (Source(f"layers.1.mixer.experts.{{x}}.{part}.weight", Transform.STACK_EXPERTS),))


def _at(target: str, ne: str, name: str, *, f32: bool = False, optional: bool = False) -> Rule:
    return Rule(target, ne, (Source(name),), f32=f32, optional=optional)


A, M = "layers.0.", "layers.1."

FAMILY = Family(
    arch="nemotron_h_moe",
    title="Nemotron 3",
    classes=("NemotronHForCausalLM",),
    count_keys=("num_nextn_predict_layers",),
    prefixes=("mtp.", "language_model.mtp."),
    n_source_layers=2,
    rules=(
        _at("nextn.eh_proj.weight", "2*E E", f"{A}eh_proj.weight"),
        _at("nextn.enorm.weight", "E", f"{A}enorm.weight", f32=True),
        _at("nextn.hnorm.weight", "E", f"{A}hnorm.weight", f32=True),
        _at("nextn.shared_head_norm.weight", "E", f"{M}final_layernorm.weight", f32=True),
        _at("attn_norm.weight", "E", f"{A}norm.weight", f32=True),
        Rule(
            "attn_q.weight",
            "E H*D",
            (Source(f"{A}mixer.q_proj.weight", Transform.ROPE_PAIRS, ("num_attention_heads",)),),
        ),
        Rule(
            "attn_k.weight",
            "E K*D",
            (Source(f"{A}mixer.k_proj.weight", Transform.ROPE_PAIRS, ("num_key_value_heads",)),),
        ),
        _at("attn_v.weight", "E K*Dv", f"{A}mixer.v_proj.weight"),
        _at("attn_output.weight", "H*Dv E", f"{A}mixer.o_proj.weight"),
        _at("post_attention_norm.weight", "E", f"{M}norm.weight", f32=True),
        _at("ffn_gate_inp.weight", "E X", f"{M}mixer.gate.weight"),  # not kept in F32 by the converter here
        _at("exp_probs_b.bias", "X", f"{M}mixer.gate.e_score_correction_bias", f32=True),
        _at("ffn_latent_down.weight", "E M", f"{M}mixer.fc1_latent_proj.weight", optional=True),
        _at("ffn_latent_up.weight", "M E", f"{M}mixer.fc2_latent_proj.weight", optional=True),
        _experts("ffn_up_exps.weight", "M Fx X", "up_proj"),
        _experts("ffn_down_exps.weight", "Fx M X", "down_proj"),
        _at("ffn_up_shexp.weight", "E Fs", f"{M}mixer.shared_experts.up_proj.weight"),
        _at("ffn_down_shexp.weight", "Fs E", f"{M}mixer.shared_experts.down_proj.weight"),
    ),
    root={
        "token_embd.weight": ("backbone.embeddings.weight", "model.embeddings.weight"),
        "output_norm.weight": ("backbone.norm_f.weight", "model.norm_f.weight"),
        "output.weight": ("lm_head.weight",),
    },
    array_tail={
        "attention.head_count_kv": _from("num_key_value_heads", "attention.head_count_kv"),
        "feed_forward_length": _from("moe_intermediate_size", "feed_forward_length"),
    },
    draft_head=False,
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.NOT_ON_IK,
)
