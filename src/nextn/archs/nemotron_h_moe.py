"""Nemotron 3 (Nano, Super): the checkpoint's two layers `mtp.layers.0` (fusion, attention) and `mtp.layers.1` (experts,
last norm) are one block.

The converter orders the heads' rows of q and k as it does for LLaMA, though the model has no RoPE. The loader takes
neither embeddings nor a head in the block. Nemotron-Labs Puzzle models carry blocks of another kind, which no engine
reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..errors import FormatError
from . import engines, headers, parts
from .base import Donor, Family, Rule, Source, Transform, listed
from .headers import BOOL, I32
from .hparams import ARRAY, F32, U32, Config, HParams, Row


def _from(key: str, suffix: str) -> Any:
    """The block is an attention layer with experts: its counts are those of the trunk's layers of either kind."""

    def value(donor: Donor, block: int) -> int | None:
        found = donor.count(key)
        return found if found is not None else next((n for n in listed(donor.trunk(suffix)) if n), None)

    return value


def _experts(target: str, ne: str, part: str) -> Rule:
    return Rule(target, ne, (Source(f"layers.1.mixer.experts.{{x}}.{part}.weight", Transform.STACK_EXPERTS),))


def _at(target: str, ne: str, name: str, *, f32: bool = False, optional: bool = False) -> Rule:
    return Rule(target, ne, (Source(name),), f32=f32, optional=optional)


def _rope_pairs(target: str, ne: str, name: str, heads: str, *, optional: bool = False) -> Rule:
    source = Source(f"{A}mixer.{name}", Transform.ROPE_PAIRS, (heads,))
    return Rule(target, ne, (source,), f32=target.endswith("bias"), optional=optional)


A, M = "layers.0.", "layers.1."


def _layers(letter: str, *names: str) -> Callable[[Config], list[bool]]:
    """Which layers are of a kind; a block is attention and experts in one. Raises FormatError."""

    def value(config: Config) -> list[bool]:
        n_trunk = config.integer("num_hidden_layers")
        pattern = config.values.get("hybrid_override_pattern") or config.need("layers_block_type")
        if not isinstance(pattern, str | list) or len(pattern) != n_trunk:
            raise FormatError(
                "the layer types ('hybrid_override_pattern', else 'layers_block_type') do not match the layers",
                path=config.path,
                expected=f"{n_trunk} ('num_hidden_layers')",
                found=str(len(pattern)) if isinstance(pattern, str | list) else repr(pattern),
            )
        of_trunk = [kind == letter or kind in names for kind in pattern]
        return of_trunk + [True] * config.n_layer_nextn

    return value


def _of_layers(which: Callable[[Config], list[bool]], key: str) -> Callable[[Config], list[int]]:
    """A count of config.json for the layers of a kind, 0 for all others."""
    return lambda config: [config.integer(key) if there else 0 for there in which(config)]


def _granite_rotary(config: Config) -> int:
    """The hidden size divided by the number of heads, whatever their width (as in the converter's class)."""
    return config.integer("hidden_size") // max(1, config.integer("num_attention_heads"))


def _mamba_size(config: Config) -> int:
    """Width of a state-space layer."""
    return config.integer("mamba_num_heads") * config.integer("mamba_head_dim")


_ATTENTION = _layers("*", "attention", "full_attention")
_EXPERTS = _layers("E", "moe")
_ROWS = headers.with_base(
    Row("expert_group_count", U32, "n_group"),
    Row("attention.layer_norm_epsilon", F32, ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")),
    Row("context_length", U32, lambda config: 1 << 20),  # the model has no RoPE, and so no length
    Row("feed_forward_length", ARRAY, _of_layers(_EXPERTS, "moe_intermediate_size"), I32),
    Row("attention.head_count_kv", ARRAY, _of_layers(_ATTENTION, "num_key_value_heads"), I32),
    Row("attention.layer_norm_rms_epsilon", F32, ("rms_norm_eps", "norm_eps"), optional=True),
    Row("vocab_size", U32, "vocab_size"),
    Row("rope.freq_base", F32, lambda config: config.rope.get("rope_theta")),
    Row("rope.dimension_count", U32, _granite_rotary),
    Row("ssm.conv_kernel", U32, "conv_kernel"),
    Row("ssm.state_size", U32, "ssm_state_size"),
    Row("ssm.group_count", U32, "n_groups"),
    Row("ssm.inner_size", U32, _mamba_size),
    Row("ssm.time_step_rank", U32, "mamba_num_heads"),
    Row("rope.scaling.finetuned", BOOL, lambda config: False),
    Row("attention.key_length", U32, ("head_dim", "attention_head_dim")),
    Row("attention.value_length", U32, ("head_dim", "attention_head_dim")),
    headers.MOE_WIDTH,
    Row("expert_shared_feed_forward_length", U32, "moe_shared_expert_intermediate_size"),
    Row("expert_count", U32, "n_routed_experts"),
    Row("expert_shared_count", U32, "n_shared_experts"),
    Row("expert_weights_norm", BOOL, "norm_topk_prob"),
    Row("expert_weights_scale", F32, "routed_scaling_factor"),
    headers.optional("moe_latent_size", U32, "moe_latent_size"),
)


FAMILY = Family(
    arch="nemotron_h_moe",
    title="Nemotron 3",
    classes=("NemotronHForCausalLM",),
    count_keys=("num_nextn_predict_layers",),
    prefixes=("mtp.",),
    n_source_layers=2,
    publishers=("nvidia",),
    behind_trunk=False,
    layer_mark="layers.",
    **parts.ONE_BLOCK,
    splits=(),
    unpublished=None,
    rules=(
        _at("nextn.eh_proj.weight", "2*E E", f"{A}eh_proj.weight"),
        _at("nextn.enorm.weight", "E", f"{A}enorm.weight", f32=True),
        _at("nextn.hnorm.weight", "E", f"{A}hnorm.weight", f32=True),
        _at("nextn.shared_head_norm.weight", "E", f"{M}final_layernorm.weight", f32=True),
        _at("attn_norm.weight", "E", f"{A}norm.weight", f32=True),
        _rope_pairs("attn_q.weight", "E H*D", "q_proj.weight", "num_attention_heads"),
        _rope_pairs("attn_k.weight", "E K*D", "k_proj.weight", "num_key_value_heads"),
        _at("attn_v.weight", "E K*Dv", f"{A}mixer.v_proj.weight"),
        _at("attn_output.weight", "H*Dv E", f"{A}mixer.o_proj.weight"),
        _rope_pairs("attn_q.bias", "H*D", "q_proj.bias", "num_attention_heads", optional=True),
        _rope_pairs("attn_k.bias", "K*D", "k_proj.bias", "num_key_value_heads", optional=True),
        _at("attn_v.bias", "K*Dv", f"{A}mixer.v_proj.bias", f32=True, optional=True),
        _at("attn_output.bias", "E", f"{A}mixer.o_proj.bias", f32=True, optional=True),
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
    **parts.USUAL_NAMES,
    qkv=parts.QKV_EITHER,
    header=HParams(rows=_ROWS, output_norm_plus_one=False, keeps_tied_head=True, rope_factors=None),
    **parts.USUAL_ARRAYS,
    **parts.USUAL_SIDECAR,
    head_needed=False,
    ignores_promise=False,
    memory=replace(parts.PLAIN_CACHE, rolls_back=True),
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
