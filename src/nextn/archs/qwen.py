"""What the Qwen3-Next, Qwen3.5, 3.6 and 3.8 families share: one block under `mtp.`, zero-centred norms.

Rows of `q_proj` hold [query, gate] per head and keep that order; nothing is permuted for RoPE.
"""

from __future__ import annotations

from .base import Rule, Source, Transform

PREFIXES = ("mtp.", "model.mtp.", "language_model.mtp.", "model.language_model.mtp.")
# Wrappers nest the language model; the block's own root tensors are found behind any of these.
_ROOTS = ("model.", "model.language_model.", "language_model.model.", "language_model.", "")

ROOT = {
    "token_embd.weight": tuple(f"{root}embed_tokens.weight" for root in _ROOTS),
    "output_norm.weight": tuple(f"{root}norm.weight" for root in _ROOTS),
    "output.weight": ("lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight"),
}
ARRAY_TAIL = {"attention.recurrent_layers": False}


def _norm(target: str, source: str, ne: str = "E", optional: bool = False) -> Rule:
    return Rule(target, ne, (Source(source, Transform.PLUS_ONE),), f32=True, optional=optional)


def _matrix(target: str, ne: str, source: str, **options: bool) -> Rule:
    return Rule(target, ne, (Source(source),), **options)


def _experts(target: str, ne: str, half: Transform, part: str) -> Rule:
    return Rule(
        target,
        ne,
        (
            Source("layers.{k}.mlp.experts.gate_up_proj", half),
            Source("layers.{k}.mlp.experts.gate_up_proj.weight", half),
            Source(f"layers.{{k}}.mlp.experts.{{x}}.{part}.weight", Transform.STACK_EXPERTS),
        ),
    )


COMMON = (
    _matrix("nextn.eh_proj.weight", "2*E E", "fc.weight"),
    _norm("nextn.enorm.weight", "pre_fc_norm_embedding.weight"),
    _norm("nextn.hnorm.weight", "pre_fc_norm_hidden.weight"),
    _norm("nextn.shared_head_norm.weight", "norm.weight", optional=True),
    _matrix("nextn.embed_tokens.weight", "E V", "embed_tokens.weight", optional=True),
    _matrix("nextn.shared_head_head.weight", "E V", "lm_head.weight", optional=True),
    _norm("attn_norm.weight", "layers.{k}.input_layernorm.weight"),
    _norm("post_attention_norm.weight", "layers.{k}.post_attention_layernorm.weight"),
    _matrix("attn_q.weight", "E 2*H*D", "layers.{k}.self_attn.q_proj.weight"),
    _matrix("attn_k.weight", "E K*D", "layers.{k}.self_attn.k_proj.weight"),
    _matrix("attn_v.weight", "E K*Dv", "layers.{k}.self_attn.v_proj.weight"),
    _matrix("attn_output.weight", "H*Dv E", "layers.{k}.self_attn.o_proj.weight"),
    _norm("attn_q_norm.weight", "layers.{k}.self_attn.q_norm.weight", "D"),
    _norm("attn_k_norm.weight", "layers.{k}.self_attn.k_norm.weight", "D"),
)

DENSE = (
    _matrix("ffn_gate.weight", "E F", "layers.{k}.mlp.gate_proj.weight"),
    _matrix("ffn_up.weight", "E F", "layers.{k}.mlp.up_proj.weight"),
    _matrix("ffn_down.weight", "F E", "layers.{k}.mlp.down_proj.weight"),
)

MOE = (
    _matrix("ffn_gate_inp.weight", "E X", "layers.{k}.mlp.gate.weight", f32=True),
    _experts("ffn_gate_exps.weight", "E Fx X", Transform.GATE_HALF, "gate_proj"),
    _experts("ffn_up_exps.weight", "E Fx X", Transform.UP_HALF, "up_proj"),
    Rule(
        "ffn_down_exps.weight",
        "Fx E X",
        (
            Source("layers.{k}.mlp.experts.down_proj"),
            Source("layers.{k}.mlp.experts.down_proj.weight"),
            Source("layers.{k}.mlp.experts.{x}.down_proj.weight", Transform.STACK_EXPERTS),
        ),
    ),
    # The converter writes the one-row matrix as it is, not squeezed.
    _matrix("ffn_gate_inp_shexp.weight", "E 1", "layers.{k}.mlp.shared_expert_gate.weight", f32=True),
    _matrix("ffn_gate_shexp.weight", "E Fs", "layers.{k}.mlp.shared_expert.gate_proj.weight"),
    _matrix("ffn_up_shexp.weight", "E Fs", "layers.{k}.mlp.shared_expert.up_proj.weight"),
    _matrix("ffn_down_shexp.weight", "Fs E", "layers.{k}.mlp.shared_expert.down_proj.weight"),
)
