"""Hyper-connections of four streams, one block under `mtp.0.`, necessarily a sidecar.

The mixer before the head (`output_hc_*`) has one name for trunk and block, and their values differ: a file can
hold only one of them, so the block is never bundled.
"""

from __future__ import annotations

from collections.abc import Callable

from . import engines, headers, parts
from . import header_values as v
from .base import Family, Rule, Source, Transform
from .headers import BOOL, I32
from .hparams import ARRAY, F32, U32, Config, HParams, Row


def _t(target: str, ne: str, name: str, *, f32: bool = False, optional: bool = False, as_source: bool = False) -> Rule:
    return Rule(target, ne, (Source("{k}." + name),), f32=f32, optional=optional, as_source=as_source)


def _mixer(part: str) -> tuple[Rule, ...]:
    """How streams become one before attention or experts, and many again after them; always F32."""
    return (
        _t(f"hc_{part}_fn.weight", "Hc*E Hm", f"hc_{part}_fn", f32=True),
        _t(f"hc_{part}_base.weight", "Hm", f"hc_{part}_base", f32=True),
        _t(f"hc_{part}_scale.weight", "3", f"hc_{part}_scale", f32=True),
    )


def _head(part: str, ne: str) -> Rule:
    """A root tensor of the sidecar."""
    return Rule(f"output_hc_{part}.weight", ne, (Source(f"{{k}}.hc_head_{part}"),), f32=True, root=True)


def _experts(target: str, ne: str, part: str) -> Rule:
    return Rule(target, ne, (Source(f"{{k}}.ffn.experts.{{x}}.{part}.weight", Transform.STACK_EXPERTS),))


def _streams_width(config: Config) -> int:
    """Width of all streams of the residual."""
    return config.integer("hidden_size") * config.integer("hc_mult")


def _every_layer(key: str) -> Callable[[Config], list[float]]:
    """One value of config.json for each layer, blocks included."""
    return lambda config: [config.need(key)] * config.n_layer


_ROWS = headers.with_base(
    Row("attention.head_count_kv", U32, ("num_key_value_heads", "n_kv_heads")),
    Row("expert_gating_func", U32, v.needed_gating),
    Row("rope.dimension_count", U32, "qk_rope_head_dim"),
    Row("attention.q_lora_rank", U32, "q_lora_rank"),
    Row("attention.sliding_window", U32, "sliding_window"),
    headers.MOE_WIDTH,
    Row("expert_shared_count", U32, "n_shared_experts"),
    Row("expert_weights_scale", F32, "routed_scaling_factor"),
    Row("expert_weights_norm", BOOL, "norm_topk_prob"),
    Row("swiglu_clamp_exp", ARRAY, _every_layer("swiglu_limit"), F32),
    Row("swiglu_clamp_shexp", ARRAY, _every_layer("swiglu_limit"), F32),
    *headers.indexer(),
    Row("attention.output_group_count", U32, "o_groups"),
    Row("attention.output_lora_rank", U32, "o_lora_rank"),
    Row(
        "attention.compress_ratios",
        ARRAY,
        lambda config: config.numbers("compress_ratios", config.integer("num_hidden_layers")),
        I32,
    ),
    Row("attention.compress_rope_freq_base", F32, "compress_rope_theta"),
    Row("hyper_connection.count", U32, "hc_mult"),
    Row("hyper_connection.sinkhorn_iterations", U32, "hc_sinkhorn_iters"),
    Row("hyper_connection.epsilon", F32, "hc_eps"),
    Row("hash_layer_count", U32, "num_hash_layers"),
    Row("embedding_length_out", U32, _streams_width),
)

_DSPARK = (
    "'mtp.*' is a staged DSpark draft, not an MTP block: llama.cpp's converter makes a separate draft model of it "
    "(convert_hf_to_gguf.py --dspark), which is loaded beside the model with -md"
)

FAMILY = Family(
    arch="deepseek4",
    title="DeepSeek-V4",
    classes=("DeepseekV4ForCausalLM",),
    count_keys=("num_nextn_predict_layers",),
    prefixes=("mtp.",),
    layer_mark="",
    publishers=("deepseek-ai",),
    behind_trunk=False,
    n_source_layers=1,
    **parts.ONE_BLOCK,
    splits=(parts.DEEPSEEK3_SPLIT,),
    unpublished=None,
    rules=(
        Rule(
            "nextn.eh_proj.weight",
            "2*E E",
            (Source("{k}.e_proj.weight", Transform.BESIDE, beside="{k}.h_proj.weight"),),
        ),
        _t("nextn.enorm.weight", "E", "enorm.weight", f32=True),
        _t("nextn.hnorm.weight", "E", "hnorm.weight", f32=True),
        _t("nextn.shared_head_norm.weight", "E", "norm.weight", f32=True, optional=True),
        _head("fn", "Hc*E Hc"),
        _head("base", "Hc"),
        _head("scale", "1"),
        _t("attn_norm.weight", "E", "attn_norm.weight", f32=True),
        _t("attn_q_a.weight", "E Lq", "attn.wq_a.weight"),
        _t("attn_q_a_norm.weight", "Lq", "attn.q_norm.weight", f32=True),
        _t("attn_q_b.weight", "Lq H*D", "attn.wq_b.weight"),
        _t("attn_kv.weight", "E D", "attn.wkv.weight"),
        _t("attn_kv_a_norm.weight", "D", "attn.kv_norm.weight", f32=True),
        _t("attn_output_a.weight", "Og Oa", "attn.wo_a.weight"),  # the loader turns the groups into a third axis
        _t("attn_output_b.weight", "Oa E", "attn.wo_b.weight"),
        _t("attn_sinks.weight", "H", "attn.attn_sink", f32=True),
        *_mixer("attn"),
        *_mixer("ffn"),
        _t("ffn_norm.weight", "E", "ffn_norm.weight", f32=True),
        _t("ffn_gate_inp.weight", "E X", "ffn.gate.weight", as_source=True),
        _t("exp_probs_b.bias", "X", "ffn.gate.bias", f32=True),
        _t("exp_probs_b_vl.bias", "X", "ffn.gate.bias_vl", f32=True, optional=True),
        _experts("ffn_gate_exps.weight", "E Fx X", "w1"),
        _experts("ffn_down_exps.weight", "Fx E X", "w2"),
        _experts("ffn_up_exps.weight", "E Fx X", "w3"),
        _t("ffn_gate_shexp.weight", "E Fs", "ffn.shared_experts.w1.weight"),
        _t("ffn_down_shexp.weight", "Fs E", "ffn.shared_experts.w2.weight"),
        _t("ffn_up_shexp.weight", "E Fs", "ffn.shared_experts.w3.weight"),
    ),
    symbols=None,
    not_blocks=tuple((mark, _DSPARK) for mark in ("markov_head", "confidence_head", "main_proj")),
    qkv=None,
    header=HParams(rows=_ROWS, output_norm_plus_one=False, keeps_tied_head=True, rope_factors=None),
    trunk_arrays=(),
    id_lists=(),
    sidecar_drops=(),
    draft_head=True,
    sidecar_extra=(),
    ignores_promise=True,
    memory=parts.PLAIN_CACHE,
    root={
        "token_embd.weight": ("embed.weight",),
        "output_norm.weight": ("norm.weight",),
        "output.weight": ("head.weight",),
    },
    # config.json lists the ratios of trunk and block, so most trunk files have them all.
    array_tail={"swiglu_clamp_exp": None, "swiglu_clamp_shexp": None, "attention.compress_ratios": 0},
    longer_arrays=("attention.compress_ratios",),
    head_needed=True,
    only_sidecar="the mixer before its head has the same name as the trunk's, and a file can hold only one of them",
    llama_cpp=engines.SIDECAR_ON_LLAMA_CPP,
    ik=engines.UNKNOWN_ON_IK,
)
