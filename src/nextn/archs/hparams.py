"""The `{arch}.*` header pairs of a model made from config.json alone, as one table for each family.

A row names the key behind `{arch}.`, its exact value type (engines refuse a count that is i32 instead of u32) and
where its value stands in config.json. Types, values and order are those of llama.cpp's converter with `--mtp`
(facts about conversion/base.py and conversion/qwen.py at b11434; the tests hold them against its output).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import FormatError, UnsupportedFormat
from ..gguf.kv import INTEGER_TYPES, KV, SCALAR_SIZE, KVType
from .base import Transform

U32, F32, STRING, ARRAY = KVType.UINT32, KVType.FLOAT32, KVType.STRING, KVType.ARRAY


@dataclass(frozen=True)
class Config:
    """config.json of a language model, with the errors that its reading can cause."""

    values: Mapping[str, Any]  # the text model's part laid over the top level
    path: Path  # named in errors
    n_layer_nextn: int  # blocks that the file will hold; from the tensors, config.json is not trusted with it

    def need(self, key: str) -> Any:
        """The value of `key`. Raises FormatError when it is missing or null."""
        value = self.values.get(key)
        if value is None:
            raise FormatError(f"'{key}' is missing, and an engine needs it", path=self.path)
        return value

    def integer(self, key: str) -> int:
        """A whole number. Raises FormatError."""
        value = self.need(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise FormatError(f"'{key}' is no whole number but {value!r}", path=self.path)
        return value

    @property
    def rope(self) -> dict[str, Any]:
        """`rope_parameters`, or the older `rope_scaling`, completed by the keys that older files have beside it."""
        found = self.values.get("rope_parameters") or self.values.get("rope_scaling") or {}
        if not isinstance(found, dict):
            raise FormatError("'rope_parameters' is no JSON object", path=self.path)
        beside = {key: self.values.get(key) for key in _BESIDE_ROPE}
        rope = {**{key: value for key, value in beside.items() if value is not None}, **found}
        if "rope_type" not in rope and rope.get("type") is not None:
            rope["rope_type"] = rope["type"]
        return rope


_BESIDE_ROPE = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
Where: TypeAlias = "str | Callable[[Config], Any]"


@dataclass(frozen=True)
class Row:
    """One header pair. A value of None (or a missing key, where it is optional) leaves the pair out."""

    suffix: str  # key behind `{arch}.`
    type: KVType
    where: Where  # a key of config.json, or a function
    item_type: KVType | None = None  # for arrays
    optional: bool = False

    def value(self, config: Config) -> Any:
        """The value to write, or None. Raises FormatError for a missing key."""
        if not isinstance(self.where, str):
            return self.where(config)
        return config.values.get(self.where) if self.optional else config.need(self.where)

    def kv(self, arch: str, config: Config) -> KV | None:
        """The pair. Raises FormatError when the value is missing or does not fit its type."""
        value = self.value(config)
        if value is None:
            return None
        items = value if self.type is ARRAY and isinstance(value, list) else [value]
        kind = self.item_type if self.type is ARRAY and self.item_type is not None else self.type
        for item in items:
            if not _fits(item, kind):
                what = f"'{self.where}'" if isinstance(self.where, str) else f"the value of '{arch}.{self.suffix}'"
                raise FormatError(f"{what} does not fit ({item!r} as {kind.name.lower()})", path=config.path)
        return KV.make(f"{arch}.{self.suffix}", self.type, value, self.item_type)


def _fits(value: Any, kind: KVType) -> bool:
    if kind is KVType.BOOL:
        return isinstance(value, bool)
    if kind is STRING:
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if kind not in INTEGER_TYPES:
        return abs(value) < 3.4e38  # also false for not-a-number
    bits = 8 * SCALAR_SIZE[kind]
    low = 0 if kind.name.startswith("U") else -(1 << (bits - 1))
    return isinstance(value, int) and low <= value < low + (1 << bits)


# -- values that take more than a key -------------------------------------------------------------------------

_DEFAULT_SECTIONS = [11, 11, 10]  # Qwen3.5's, for a config without the key; its loader wants the pair
_DEFAULT_INTERVAL = 4  # every fourth layer has full attention
_DEFAULT_PARTIAL_ROTARY = 0.25
_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_SCALED_ROPE = ("linear", "yarn")


def _block_count(config: Config) -> int:
    n_layer = config.integer("num_hidden_layers")
    if not 0 < n_layer <= _MAX_LAYERS - config.n_layer_nextn:
        raise FormatError(f"'num_hidden_layers' is {n_layer:,}, and engines take {_MAX_LAYERS}", path=config.path)
    return n_layer + config.n_layer_nextn


def _recurrent_layers(config: Config) -> list[bool]:
    """For each layer, the blocks included, whether its attention is linear; a block's never is."""
    n_layer = config.integer("num_hidden_layers")
    kinds = config.values.get("layer_types")
    if kinds is None:
        interval = _interval(config)
        recurrent = [(i + 1) % interval != 0 for i in range(n_layer)]
    elif not isinstance(kinds, list) or len(kinds) != n_layer:
        raise FormatError(
            "'layer_types' has the wrong length",
            path=config.path,
            expected=f"{n_layer} ('num_hidden_layers')",
            found=str(len(kinds)) if isinstance(kinds, list) else repr(kinds),
        )
    else:
        recurrent = [kind == "linear_attention" for kind in kinds]
    return recurrent + [False] * config.n_layer_nextn


def _interval(config: Config) -> int:
    if config.values.get("full_attention_interval") is None:
        return _DEFAULT_INTERVAL
    interval = config.integer("full_attention_interval")
    if interval < 1:
        raise FormatError(f"'full_attention_interval' is {interval}", path=config.path)
    return interval


def _inner_size(config: Config) -> int:
    return config.integer("linear_value_head_dim") * config.integer("linear_num_value_heads")


def _rope_dimensions(config: Config) -> int:
    part = config.rope.get("partial_rotary_factor", _DEFAULT_PARTIAL_ROTARY)
    if not _fits(part, F32):
        raise FormatError(f"'partial_rotary_factor' is no number but {part!r}", path=config.path)
    return int(config.integer("head_dim") * part)


def _sections(config: Config) -> list[Any] | None:
    """The four parts of interleaved multimodal RoPE: time, height, width, nothing."""
    found = config.rope.get("mrope_section")
    if found is None:
        return None
    if not isinstance(found, list):
        raise FormatError(f"'mrope_section' is no list but {found!r}", path=config.path)
    return [*found, 0, 0, 0, 0][:4]


def _sections_always(config: Config) -> list[Any]:
    return _sections(config) or [*_DEFAULT_SECTIONS, 0]


def _theta(config: Config) -> Any:
    theta = config.rope.get("rope_theta")
    return config.need("rope_theta") if theta is None else theta


def _scaling(*keys: str, needed: bool = False, only: tuple[str, ...] = _SCALED_ROPE) -> Callable[[Config], Any]:
    """A value that is only written when positions are scaled. Raises UnsupportedFormat for other scalings."""

    def value(config: Config) -> Any:
        rope = config.rope
        kind = rope.get("rope_type") or "default"
        if kind not in ("default", *_SCALED_ROPE):
            raise UnsupportedFormat(f"positions are scaled with '{kind}', which is not handled here", path=config.path)
        if kind not in only or rope.get("factor") is None:
            return None
        found = next((rope[key] for key in keys if rope.get(key) is not None), None)
        if found is None and needed:
            raise FormatError(f"'{keys[0]}' is missing beside the rope type '{kind}'", path=config.path)
        return found

    return value


# -- the tables -------------------------------------------------------------------------------------------------

_YARN = ("yarn",)
_ROPE_SCALING = (
    Row("rope.scaling.type", STRING, _scaling("rope_type")),
    Row("rope.scaling.factor", F32, _scaling("factor")),
    Row(
        "rope.scaling.original_context_length",
        U32,
        _scaling("original_max_position_embeddings", needed=True, only=_YARN),
    ),
    Row("rope.scaling.yarn_ext_factor", F32, _scaling("extrapolation_factor", only=_YARN)),
    Row("rope.scaling.yarn_attn_factor", F32, _scaling("attention_factor", "attn_factor", only=_YARN)),
    Row("rope.scaling.yarn_beta_fast", F32, _scaling("beta_fast", only=_YARN)),
    Row("rope.scaling.yarn_beta_slow", F32, _scaling("beta_slow", only=_YARN)),
)


def _qwen(*, moe: bool, sections: Callable[[Config], Any]) -> tuple[Row, ...]:
    """Qwen3-Next and its descendants: gated linear attention with full attention in between."""
    expert_counts = (
        Row("expert_count", U32, "num_experts"),
        Row("expert_used_count", U32, "num_experts_per_tok"),
    )
    expert_sizes = (
        Row("expert_feed_forward_length", U32, "moe_intermediate_size"),
        Row("expert_shared_feed_forward_length", U32, "shared_expert_intermediate_size"),
    )
    return (
        Row("block_count", U32, _block_count),
        Row("context_length", U32, "max_position_embeddings"),
        Row("embedding_length", U32, "hidden_size"),
        Row("feed_forward_length", U32, "intermediate_size", optional=moe),
        Row("attention.head_count", U32, "num_attention_heads"),
        Row("attention.head_count_kv", U32, "num_key_value_heads"),
        *_ROPE_SCALING,
        Row("rope.dimension_sections", ARRAY, sections, KVType.INT32),
        Row("rope.freq_base", F32, _theta),
        Row("attention.layer_norm_rms_epsilon", F32, "rms_norm_eps"),
        *(expert_counts if moe else ()),
        Row("attention.key_length", U32, "head_dim"),
        Row("attention.value_length", U32, "head_dim"),
        *(expert_sizes if moe else ()),
        Row("nextn_predict_layers", U32, lambda config: config.n_layer_nextn),
        Row("ssm.conv_kernel", U32, "linear_conv_kernel_dim"),
        Row("ssm.state_size", U32, "linear_key_head_dim"),
        Row("ssm.group_count", U32, "linear_num_key_heads"),
        Row("ssm.time_step_rank", U32, "linear_num_value_heads"),
        Row("ssm.inner_size", U32, _inner_size),
        Row("attention.recurrent_layers", ARRAY, _recurrent_layers, KVType.BOOL),
        Row("full_attention_interval", U32, _interval),
        Row("rope.dimension_count", U32, _rope_dimensions),
    )


@dataclass(frozen=True)
class HParams:
    """What a family's own header and root tensors need beside what its `Family` says."""

    rows: tuple[Row, ...]
    output_norm: Transform = Transform.COPY

    def kvs(self, arch: str, config: Config) -> list[KV]:
        """All `{arch}.*` pairs. Raises FormatError naming the key and the file when one cannot be made."""
        found = (row.kv(arch, config) for row in self.rows)
        return [kv for kv in found if kv is not None]


HPARAMS: dict[str, HParams] = {
    "qwen3next": HParams(_qwen(moe=True, sections=_sections), Transform.PLUS_ONE),
    "qwen35": HParams(_qwen(moe=False, sections=_sections_always), Transform.PLUS_ONE),
    "qwen35moe": HParams(_qwen(moe=True, sections=_sections_always), Transform.PLUS_ONE),
}
