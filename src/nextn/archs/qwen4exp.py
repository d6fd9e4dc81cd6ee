"""Hyper-connections in place of norms, sparse attention with an indexer, n-gram embeddings.

The block's fusion is published as two matrices; engines want one. The architecture has no last norm: a mixer takes its
place, in the block too. The n-gram embeddings belong only to the trunk, and a sidecar must not declare them.
"""

from __future__ import annotations

from dataclasses import replace

from . import engines, headers, parts, qwen
from .base import Donor, Family, Rule, Source, Transform, listed
from .hparams import ARRAY, U32, Config, HParams, Row


def _ratio(donor: Donor, block: int) -> int | None:
    """The block's attention is compressed as the trunk's full attention is."""
    found = donor.count("indexer_compress_ratio")
    ratios = listed(donor.trunk("attention.compress_ratios"))
    return found if found is not None else next((n for n in ratios if n), None)


def _mixer(place: str, names: str, *, inject: bool) -> tuple[Rule, ...]:
    """Hyper-connections: a low-rank gate merges the streams, and further weights distribute the result again."""
    norm = Rule(f"{place}_norm.weight", "Hc*E", (Source(f"{names}.hc_norm.weight", Transform.PLUS_ONE),), f32=True)
    rules = (
        norm,
        Rule(f"{place}_down.weight", "Hc*E Lhc", (Source(f"{names}.input_mix_weight_down.weight"),)),
        Rule(f"{place}_up.weight", "Lhc Hc*E", (Source(f"{names}.input_mix_weight_up.weight"),)),
    )
    more = Rule(f"{place}_inject.weight", "Hc*E Hc", (Source(f"{names}.block_inject_weight.weight"),))
    return (*rules, more) if inject else rules


def _indexer(target: str, ne: str, transform: Transform) -> Rule:
    """One projection holds the indexer's queries, then its keys."""
    name = "layers.{k}.self_attn.indexer.index_qk_proj.weight"
    return Rule(target, ne, (Source(name, transform, ("indexer_n_heads", "indexer_head_dim")),))


# What is shared with Qwen3.5's block; the hidden state's norm, for one, spans all streams.
_SHARED = tuple(
    rule
    for rule in (*qwen.COMMON, *qwen.MOE)
    if rule.target == "nextn.enorm.weight"
    or (not rule.target.startswith("nextn.")
    and rule.target not in ("attn_norm.weight", "post_attention_norm.weight"))
)


def _compress_ratios(config: Config) -> list[int]:
    """The ratio for layers with full attention, 0 for others; a block's attention is full."""
    n_trunk, ratio = config.integer("num_hidden_layers"), config.integer("indexer_compress_ratio")
    kinds = config.numbers("layer_types", n_trunk)[:n_trunk]
    return [ratio if kind == "full_attention" else 0 for kind in kinds] + [ratio] * config.n_layer_nextn


_ROWS = (
    *qwen.rows(moe=True, sections=qwen.sections_always),
    Row("hyper_connection.count", U32, "hc_count"),
    Row("hyper_connection.low_rank", U32, "hc_lowrank"),
    *headers.indexer("indexer_n_heads", "indexer_head_dim", "indexer_budget"),
    Row("attention.compress_ratios", ARRAY, _compress_ratios, headers.I32),
)

FAMILY = Family(
    arch="qwen4exp",
    title="Qwen3.8-Flash-Next",
    classes=("Qwen4ExpForConditionalGeneration", "Qwen4ExpForCausalLM"),
    count_keys=("mtp_num_hidden_layers",),
    **qwen.SHARED,
    **parts.ONE_BLOCK,
    splits=(parts.QWEN35_SPLIT,),
    rules=(
        Rule(
            "nextn.eh_proj.weight",
            "2*E E",
            (Source("fc_embedding.weight", Transform.BESIDE, beside="fc_hidden.weight"),),
        ),
        Rule(
            "nextn.hnorm.weight", "Hc*E", (Source("pre_fc_norm_hidden.weight", Transform.PLUS_ONE),), f32=True
        ),
        *_mixer("nextn.hc_head", "hyper_connection_mixer", inject=False),
        *_mixer("hc_attn", "layers.{k}.attn_hyper_connection", inject=True),
        *_mixer("hc_ffn", "layers.{k}.mlp_hyper_connection", inject=True),
        *_SHARED,
        _indexer("indexer.q_proj.weight", "E I*Di", Transform.FIRST_ROWS),
        _indexer("indexer.k_proj.weight", "E Di", Transform.OTHER_ROWS),
        parts.norm_plus_one("indexer.q_norm.weight", "self_attn.indexer.q_layernorm.weight", ne="Di"),
        parts.norm_plus_one("indexer.k_norm.weight", "self_attn.indexer.k_layernorm.weight", ne="Di"),
    ),
    **parts.USUAL_NAMES,
    qkv=parts.QKV_SPLIT,
    header=HParams(rows=_ROWS, output_norm_plus_one=True, keeps_tied_head=True, rope_factors=None),
    **parts.USUAL_ARRAYS,
    head_needed=False,
    only_sidecar="",
    sidecar_extra=(),
    ignores_promise=False,
    memory=replace(parts.PLAIN_CACHE, rolls_back=True),
    root={name: places for name, places in qwen.ROOT.items() if name != "output_norm.weight"},
    array_tail={**qwen.ARRAY_TAIL, "attention.compress_ratios": _ratio},
    draft_head=False,
    sidecar_drops=("ple.", "embedding_length_per_layer_input"),
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.NOT_ON_IK,
)
