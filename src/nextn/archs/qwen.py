"""What the Qwen3-Next, Qwen3.5, 3.6 and 3.8 families share: one block under `mtp.`, zero-centred norms.

Rows of `q_proj` hold [query, gate] per head and keep that order; nothing is permuted for RoPE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

from ..errors import FormatError
from ..gguf.kv import KVType
from . import header_values as v
from . import headers, parts
from .base import Family, Lookup, Memory, Rule, Source, Transform, flags
from .headers import NEXTN
from .hparams import ARRAY, F32, U32, Config, HParams, Row


class Shared(TypedDict):
    """A Family's facts that all Qwen models with a block share."""

    publishers: tuple[str, ...]
    prefixes: tuple[str, ...]
    behind_trunk: bool
    layer_mark: str
    n_source_layers: int
    unpublished: None


SHARED: Shared = {
    "publishers": ("Qwen",),
    "prefixes": ("mtp.", "model.mtp."),
    "behind_trunk": False,
    "layer_mark": "layers.",
    "n_source_layers": 1,
    "unpublished": None,
}
ROOT = parts.root()
ARRAY_TAIL = {"attention.recurrent_layers": False}


# Some tools that merge a fine-tune save the block as one more layer, under the names that DeepSeek's blocks have;
# llama.cpp's converter (b11549, conversion/qwen.py) gives the block these names itself.
_IN_LAYER = {
    "eh_proj.": "fc.",
    "enorm.": "pre_fc_norm_embedding.",
    "hnorm.": "pre_fc_norm_hidden.",
    "shared_head.norm.": "norm.",
}
LAYER_PREFIX = "model.layers."


def name_in_block(family: Family, layer_name: str, k: int) -> str | None:
    """The block's name for what a merged checkpoint calls `model.layers.N.{layer_name}`, the layer of block `k`.

    None for families whose blocks are not saved that way.
    """
    if not any(source.name == "pre_fc_norm_embedding.weight" for rule in family.rules for source in rule.sources):
        return None
    for start, own in _IN_LAYER.items():
        if layer_name.startswith(start):
            return own + layer_name[len(start) :]
    return f"layers.{k}.{layer_name}"


def _norm(target: str, source: str, ne: str = "E", optional: bool = False) -> Rule:
    return Rule(target, ne, (Source(source, Transform.PLUS_ONE),), f32=True, optional=optional)


def _matrix(target: str, ne: str, source: str, *, f32: bool = False, optional: bool = False) -> Rule:
    return Rule(target, ne, (Source(source),), f32=f32, optional=optional)


def _bias(target: str, ne: str, source: str) -> Rule:
    return Rule(target, ne, (Source(f"layers.{{k}}.self_attn.{source}"),), f32=True, optional=True)


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
    _bias("attn_q.bias", "2*H*D", "q_proj.bias"),
    _bias("attn_k.bias", "K*D", "k_proj.bias"),
    _bias("attn_v.bias", "K*Dv", "v_proj.bias"),
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
    parts.gate_up(),
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


_DEFAULT_SECTIONS = [11, 11, 10]  # Qwen3.5's, for a config without the key; its loader wants the pair
_DEFAULT_INTERVAL = 4  # every fourth layer has full attention


def recurrent_layers(config: Config) -> list[bool]:
    """For each layer, the blocks included, whether its attention is linear; that of a block never is."""
    n_layer = config.integer("num_hidden_layers")
    if config.values.get("layer_types") is None:
        every = interval(config)
        recurrent = [(i + 1) % every != 0 for i in range(n_layer)]
    else:
        recurrent = [kind == "linear_attention" for kind in config.of_trunk("layer_types")]
    return recurrent + [False] * config.n_layer_nextn


def interval(config: Config) -> int:
    """The period of full-attention layers."""
    if config.values.get("full_attention_interval") is None:
        return _DEFAULT_INTERVAL
    every = config.integer("full_attention_interval")
    if every < 1:
        raise FormatError(f"'full_attention_interval' is {every}", path=config.path)
    return every


def inner_size(config: Config) -> int:
    """Width of linear attention."""
    return config.integer("linear_value_head_dim") * config.integer("linear_num_value_heads")


def sections_always(config: Config) -> list[Any]:
    """The parts of multimodal RoPE, or Qwen3.5's for a config without them."""
    return v.sections(config) or [*_DEFAULT_SECTIONS, 0]


def rows(*, moe: bool, sections: Callable[[Config], Any]) -> tuple[Row, ...]:
    """Qwen3-Next and its descendants: gated linear attention interleaved with full attention."""
    expert_counts = (headers.EXPERT_COUNT, headers.EXPERTS_USED)
    expert_sizes = (
        Row("expert_feed_forward_length", U32, headers.width_of_experts),
        Row("expert_shared_feed_forward_length", U32, "shared_expert_intermediate_size"),
    )
    return (
        Row("block_count", U32, v.block_count),
        headers.CONTEXT_LENGTH,
        headers.EMBEDDING_LENGTH,
        headers.FEED_FORWARD_LENGTH if moe else headers.DENSE_FEED_FORWARD_LENGTH,
        headers.HEAD_COUNT,
        headers.HEAD_COUNT_KV,
        *v.ROPE_SCALING,
        Row("rope.dimension_sections", ARRAY, sections, KVType.INT32),
        Row("rope.freq_base", F32, v.theta),
        headers.RMS_EPSILON,
        *(expert_counts if moe else ()),
        *headers.KEY_LENGTHS,
        *(expert_sizes if moe else ()),
        NEXTN,
        Row("ssm.conv_kernel", U32, "linear_conv_kernel_dim"),
        Row("ssm.state_size", U32, "linear_key_head_dim"),
        Row("ssm.group_count", U32, "linear_num_key_heads"),
        Row("ssm.time_step_rank", U32, "linear_num_value_heads"),
        Row("ssm.inner_size", U32, inner_size),
        Row("attention.recurrent_layers", ARRAY, recurrent_layers, KVType.BOOL),
        Row("full_attention_interval", U32, interval),
        Row("rope.dimension_count", U32, v.rotary(0.25)),
    )


def header(*, moe: bool, sections: Callable[[Config], Any]) -> HParams:
    """The header of a sidecar."""
    made = rows(moe=moe, sections=sections)
    return HParams(rows=made, output_norm_plus_one=True, keeps_tied_head=True, rope_factors=None)


def _recurrent(find: Lookup, n_trunk: int, n_all: int) -> list[bool]:
    """As the header lists them, else all layers but every n-th."""
    interval = find("full_attention_interval")
    every = max(1, interval if isinstance(interval, int) else _DEFAULT_INTERVAL)
    listed = flags(find("attention.recurrent_layers"), n_all)
    return listed or [i < n_trunk and (i + 1) % every != 0 for i in range(n_all)]


def memory(*, rolls_back: bool) -> Memory:
    """Linear attention has a state; llama.cpp keeps one for each drafted token, or restores it from a copy."""
    return Memory(
        recurrent=_recurrent, rolls_back=rolls_back, window_period=None, indexer=None, block_in_target=False,
        loaded_anyway=(), pool_rows=0,
    )  # fmt: skip
