"""Nemotron 3: two published layers, attention and experts, become one block. No draft head: its loader refuses one."""

from __future__ import annotations

from . import parts
from .base import Family, Rule, Source, Transform



def _from(layer: int, target: str, ne: str, name: str, *, f32: bool = False, optional: bool = False) -> Rule:
    return Rule(target, ne, (Source(f"layers.{layer}.{name}"),), f32=f32, optional=optional)


def _experts(target: str, ne: str, part: str) -> Rule:
    return Rule(target, ne, (Source(f"layers.1.mixer.experts.{{x}}.{part}.weight", Transform.STACK_EXPERTS),))


FAMILY = Family(
    arch="nemotron_h_moe",
    title="Nemotron 3",
    classes=("NemotronHForCausalLM",),
    count_keys=("num_nextn_predict_layers",),
    prefixes=("mtp.",),
    rules=(
        _from(0, "nextn.eh_proj.weight", "2*E E", "eh_proj.weight"),
        _from(0, "nextn.enorm.weight", "E", "enorm.weight", f32=True),
        _from(0, "nextn.hnorm.weight", "E", "hnorm.weight", f32=True),
        _from(1, "nextn.shared_head_norm.weight", "E", "final_layernorm.weight", f32=True),
        _from(0, "attn_norm.weight", "E", "norm.weight", f32=True),
        _from(0, "attn_q.weight", "E H*D", "mixer.q_proj.weight"),
        _from(0, "attn_k.weight", "E K*D", "mixer.k_proj.weight"),
        _from(0, "attn_v.weight", "E K*Dv", "mixer.v_proj.weight"),
        _from(0, "attn_output.weight", "H*D E", "mixer.o_proj.weight"),
        _from(1, "post_attention_norm.weight", "E", "norm.weight", f32=True),
        _from(1, "ffn_gate_inp.weight", "E X", "mixer.gate.weight", f32=True),
        _from(1, "exp_probs_b.bias", "X", "mixer.gate.e_score_correction_bias", f32=True),
        _from(1, "ffn_latent_down.weight", "E M", "mixer.fc1_latent_proj.weight", optional=True),
        _from(1, "ffn_latent_up.weight", "M E", "mixer.fc2_latent_proj.weight", optional=True),
        _experts("ffn_up_exps.weight", "M Fx X", "up_proj"),
        _experts("ffn_down_exps.weight", "Fx M X", "down_proj"),
        _from(1, "ffn_up_shexp.weight", "E Fs", "mixer.shared_experts.up_proj.weight"),
        _from(1, "ffn_down_shexp.weight", "Fs E", "mixer.shared_experts.down_proj.weight"),
    ),
    root=parts.root("backbone.", "embeddings", "norm_f"),
    array_tail={},
    layers_per_block=2,
    draft_head=False,
    runs_on={"llama.cpp": parts.ENGINE_SINGLE, "ik_llama.cpp": parts.NO_IK},
)
