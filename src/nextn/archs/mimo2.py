"""MiMo-V2-Flash, V2.5: three dense blocks with sliding windows, q, k and v fused. config.json does not count them."""

from __future__ import annotations

from collections.abc import Mapping

from . import engines, headers, parts
from . import header_values as v
from .base import Donor, Family, Lookup, Qkv, Rule, Source, Transform, listed
from .headers import I32
from .hparams import ARRAY, F32, U32, Config, HParams, Row


def _kv_heads(donor: Donor, block: int) -> int | None:
    """A block's layer is like the trunk's layers with a sliding window."""
    found = donor.count("swa_num_key_value_heads")
    if found is not None:
        return found
    pattern, heads = (listed(donor.trunk(f"attention.{key}")) for key in ("sliding_window_pattern", "head_count_kv"))
    return next((n for n, slides in zip(heads, pattern, strict=False) if slides), None)


def _hybrid_pattern(config: Config) -> list[int]:
    """1 for each layer with a sliding window, as the blocks' are."""
    n_trunk = config.integer("num_hidden_layers")
    return [*config.numbers("hybrid_layer_pattern", n_trunk)[:n_trunk], *[1] * config.n_layer_nextn]


def _hybrid_heads(config: Config) -> list[int]:
    """Number of key heads for each layer."""
    full, sliding = config.integer("num_key_value_heads"), config.integer("swa_num_key_value_heads")
    return [sliding if slides == 1 else full for slides in _hybrid_pattern(config)]


_ROWS = headers.with_base(
    headers.DENSE_FEED_FORWARD_LENGTH,
    Row("attention.head_count_kv", ARRAY, _hybrid_heads, I32),
    Row("attention.sliding_window", U32, "sliding_window"),
    Row("attention.sliding_window_pattern", ARRAY, _hybrid_pattern, I32),
    Row("attention.value_length", U32, "v_head_dim"),
    headers.MOE_WIDTH,
    Row("rope.dimension_count", U32, v.rotary(None)),
    Row("attention.layer_norm_rms_epsilon", F32, lambda config: config.values.get("layernorm_epsilon", 1e-5)),
    headers.optional("attention.value_scale", F32, "attention_value_scale"),
)


_QKV_SIZES = ("num_attention_heads", "swa_num_key_value_heads", "head_dim", "v_head_dim")


def _symbols(find: Lookup, known: Mapping[str, int]) -> dict[str, int]:
    """Q: the rows of a block's q, k and v together, with the heads of layers with a sliding window."""
    heads, pattern = find("attention.head_count_kv"), find("attention.sliding_window_pattern")
    if not {"H", "D", "Dv"} <= known.keys() or not isinstance(heads, list) or not isinstance(pattern, list):
        return {}
    n_kv = next((n for n, slides in zip(heads, pattern, strict=False) if slides and n), 0)
    return {"Q": known["H"] * known["D"] + n_kv * (known["D"] + known["Dv"])}


FAMILY = Family(
    arch="mimo2",
    title="MiMo-V2-Flash / V2.5",
    classes=("MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM"),
    count_keys=(),
    prefixes=("model.mtp.",),
    publishers=("XiaomiMiMo",),
    behind_trunk=False,
    layer_mark="layers.",
    n_source_layers=1,
    n_blocks=3,
    splits=(parts.QWEN2_SPLIT,),
    unpublished=None,
    rules=(
        *parts.nextn(),
        parts.SHARED_HEAD_NORM,
        parts.norm("attn_norm.weight", "input_layernorm.weight"),
        parts.norm("ffn_norm.weight", "pre_mlp_layernorm.weight", "post_attention_layernorm.weight"),
        # The draft graph asserts fused q, k and v; head counts differ from those of the trunk's full-attention layers.
        Rule(
            "attn_qkv.weight",
            "E Q",
            (Source(parts.L + "self_attn.qkv_proj.weight", Transform.RANKED_QKV, _QKV_SIZES, ranks=(8, 4)),),
        ),
        parts.tensor("attn_output.weight", "H*Dv E", "self_attn.o_proj.weight"),
        parts.norm("attn_sinks.weight", "self_attn.attention_sink_bias", ne="H", optional=True),
        *parts.dense(),
        parts.norm("layer_output_norm.weight", "final_layernorm.weight", optional=True),
    ),
    symbols=_symbols,
    not_blocks=(),
    qkv=Qkv(fused=True, split=False, refusal="MIMO2 MTP requires fused attn_qkv"),
    header=HParams(rows=_ROWS, output_norm_plus_one=False, keeps_tied_head=True, rope_factors=None),
    **parts.USUAL_ARRAYS,
    **parts.USUAL_SIDECAR,
    draft_head=True,
    ignores_promise=False,
    memory=parts.PLAIN_CACHE,
    root=parts.root(),
    array_tail={"attention.head_count_kv": _kv_heads, "attention.sliding_window_pattern": 1},
    max_blocks=3,
    head_needed=True,
    llama_cpp=engines.ON_LLAMA_CPP,
    ik=engines.TRUNK_ON_IK,
)
