"""Values of a header that take more than a key of config.json, each a function of the whole of it.

Formulas are those of llama.cpp's converter at b11549 (conversion/base.py and the families' files).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import FormatError, UnsupportedFormat
from .hparams import F32, STRING, U32, Config, Row, fits

_DEFAULT_SECTIONS = [11, 11, 10]  # Qwen3.5's, for a config without the key; its loader wants the pair
_DEFAULT_INTERVAL = 4  # every fourth layer has full attention
_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_SCALED_ROPE = ("linear", "yarn")
LLAMA3 = "llama3"
SIGMOID = 2  # LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID


def block_count(config: Config) -> int:
    """Layers of the file. Raises FormatError for more than engines take."""
    n_layer = config.integer("num_hidden_layers")
    if not 0 < n_layer <= _MAX_LAYERS - config.n_layer_nextn:
        raise FormatError(f"'num_hidden_layers' is {n_layer:,}, and engines take {_MAX_LAYERS}", path=config.path)
    return n_layer + config.n_layer_nextn


def recurrent_layers(config: Config) -> list[bool]:
    """For each layer, the blocks included, whether its attention is linear; a block's never is."""
    n_layer = config.integer("num_hidden_layers")
    kinds = config.values.get("layer_types")
    if kinds is None:
        every = interval(config)
        recurrent = [(i + 1) % every != 0 for i in range(n_layer)]
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


def interval(config: Config) -> int:
    """Every how many layers attention is full."""
    if config.values.get("full_attention_interval") is None:
        return _DEFAULT_INTERVAL
    every = config.integer("full_attention_interval")
    if every < 1:
        raise FormatError(f"'full_attention_interval' is {every}", path=config.path)
    return every


def inner_size(config: Config) -> int:
    """Width of linear attention."""
    return config.integer("linear_value_head_dim") * config.integer("linear_num_value_heads")


def head_size(config: Config) -> int:
    """Width of a head: told, or the hidden size shared among the heads."""
    if config.values.get("head_dim") is not None:
        return config.integer("head_dim")
    return config.integer("hidden_size") // max(1, config.integer("num_attention_heads"))


def rotary(default: float, width: Callable[[Config], int] = head_size) -> Callable[[Config], int]:
    """How many dimensions of a head RoPE turns, with the family's share for a config without one.

    `width`: of how many dimensions that is a share.
    """

    def value(config: Config) -> int:
        part = config.rope.get("partial_rotary_factor", default)
        if not fits(part, F32):
            raise FormatError(f"'partial_rotary_factor' is no number but {part!r}", path=config.path)
        return int(width(config) * part)

    return value


def sections(config: Config) -> list[Any] | None:
    """The four parts of multimodal RoPE: time, height, width, nothing."""
    found = config.rope.get("mrope_section")
    if found is None:
        return None
    if not isinstance(found, list):
        raise FormatError(f"'mrope_section' is no list but {found!r}", path=config.path)
    return [*found, 0, 0, 0, 0][:4]


def sections_always(config: Config) -> list[Any]:
    """The same, with Qwen3.5's for a config without them."""
    return sections(config) or [*_DEFAULT_SECTIONS, 0]


def theta(config: Config) -> Any:
    """The RoPE base."""
    found = config.rope.get("rope_theta")
    return config.need("rope_theta") if found is None else found


def scaling(*keys: str, needed: bool = False, only: tuple[str, ...] = _SCALED_ROPE) -> Callable[[Config], Any]:
    """A value that is only written when positions are scaled. Raises UnsupportedFormat for other scalings."""

    def value(config: Config) -> Any:
        rope = config.rope
        kind = rope.get("rope_type") or "default"
        if kind not in ("default", *_SCALED_ROPE, LLAMA3):  # llama3's factors are a tensor
            raise UnsupportedFormat(
                f"positions are scaled with '{kind}', which is not handled here; use 'nextn attach TRUNK --from' this "
                "folder with --layout sidecar, which takes the trunk's header",
                path=config.path,
            )
        if kind not in only or rope.get("factor") is None:
            return None
        found = next((rope[key] for key in keys if key in rope), None)
        if found is None and needed:
            raise FormatError(f"'{keys[0]}' is missing beside the rope type '{kind}'", path=config.path)
        return found

    return value


_YARN = ("yarn",)
ROPE_SCALING = (
    Row("rope.scaling.type", STRING, scaling("rope_type")),
    Row("rope.scaling.factor", F32, scaling("factor")),
    Row(
        "rope.scaling.original_context_length",
        U32,
        scaling("original_max_position_embeddings", needed=True, only=_YARN),
    ),
    Row("rope.scaling.yarn_ext_factor", F32, scaling("extrapolation_factor", only=_YARN)),
    Row("rope.scaling.yarn_attn_factor", F32, scaling("attention_factor", "attn_factor", only=_YARN)),
    Row("rope.scaling.yarn_beta_fast", F32, scaling("beta_fast", only=_YARN)),
    Row("rope.scaling.yarn_beta_slow", F32, scaling("beta_slow", only=_YARN)),
)


def gating(config: Config) -> int | None:
    """How the router scores experts, by llama.cpp's number. Raises UnsupportedFormat for a way that it has not."""
    found = config.first(
        "score_function", "scoring_func", "score_func", "moe_router_activation", "moe_router_activation_func",
        "expert_selection_fn",
    )  # fmt: skip
    if found is None:
        return None
    number = _GATING.get(str(found))
    if number is None:
        raise UnsupportedFormat(f"experts are scored with '{found}', which no engine does", path=config.path)
    return number


_GATING = {"softmax": 1, "sigmoid": SIGMOID, "sqrtsoftplus": 4}


def log_multiplier(config: Config) -> float | None:
    """YaRN's scale of attention; a tenth of what config.json says, as older files have it."""
    found = config.rope.get("mscale_all_dim")
    if found is None or not fits(found, F32):
        return None
    return 0.1 * float(found)


def latent_width(config: Config) -> int:
    """Width of the keys of latent attention as one head has them: the latent's and RoPE's."""
    return config.integer("kv_lora_rank") + config.integer("qk_rope_head_dim")


def mla_width(config: Config) -> int:
    """Width of the keys of latent attention when they are unfolded."""
    return config.integer("qk_nope_head_dim") + config.integer("qk_rope_head_dim")


def every_layer(key: str, *, optional: bool = False) -> Callable[[Config], list[float] | None]:
    """One value of config.json for each layer, blocks included; None without the key, where it is optional."""

    def value(config: Config) -> list[float] | None:
        if optional and config.values.get(key) is None:
            return None
        return [config.need(key)] * config.n_layer

    return value


def padded(key: str) -> Callable[[Config], list[float] | None]:
    """A list of limits, null as 0, filled with 0 for layers that it does not reach; None without the key."""

    def value(config: Config) -> list[float] | None:
        if config.values.get(key) is None:
            return None
        found = [0.0 if limit is None else limit for limit in config.numbers(key)[: config.n_layer]]
        return found + [0.0] * (config.n_layer - len(found))

    return value


# -- MiMo, Step -------------------------------------------------------------------------------------------------------


def hybrid_pattern(config: Config) -> list[int]:
    """MiMo: 1 for each layer with a sliding window, as the blocks' are."""
    n_trunk = config.integer("num_hidden_layers")
    return [*config.numbers("hybrid_layer_pattern", n_trunk)[:n_trunk], *[1] * config.n_layer_nextn]


def hybrid_heads(config: Config) -> list[int]:
    """MiMo: heads of keys for each layer."""
    full, sliding = config.integer("num_key_value_heads"), config.integer("swa_num_key_value_heads")
    return [sliding if slides == 1 else full for slides in hybrid_pattern(config)]


def slides(config: Config) -> list[bool]:
    """Step: whether each layer has a sliding window; those that the list does not reach have full attention.

    Raises FormatError, and UnsupportedFormat when RoPE turns other shares of a head than in engines.
    """
    kinds, shares = (config.values.get(key) or [] for key in ("layer_types", "partial_rotary_factors"))
    for key, found in (("layer_types", kinds), ("partial_rotary_factors", shares)):
        if not isinstance(found, list):
            raise FormatError(f"'{key}' is no list but {found!r}", path=config.path)
    sliding = [i < len(kinds) and kinds[i] == "sliding_attention" for i in range(config.n_layer)]
    shares = [*shares, *[0.5] * config.n_layer][: config.n_layer]
    if shares != [1.0 if each else 0.5 for each in sliding]:
        raise UnsupportedFormat(
            "'partial_rotary_factors' is not 1 for layers with a sliding window and 0.5 for others, and no engine "
            "runs that",
            path=config.path,
        )
    return sliding


def step_thetas(config: Config) -> tuple[Any, Any]:
    """Step: the RoPE bases of full and of sliding attention; of a list the first two."""
    if isinstance(config.values.get("rope_theta"), list):
        full, sliding = config.numbers("rope_theta", 2)[:2]
        return full, sliding
    return theta(config), config.sliding_theta


def step_heads(key: str) -> Callable[[Config], list[int]]:
    """Step: heads of each layer, which differ between full and sliding attention."""

    def value(config: Config) -> list[int]:
        full = config.integer(key)
        other = config.values.get("attention_other_setting") or {}
        if not isinstance(other, dict):
            raise FormatError("'attention_other_setting' is no JSON object", path=config.path)
        return [other.get(key, full) if sliding else full for sliding in slides(config)]

    return value


def first_moe_layer(config: Config) -> int:
    """Step: the first layer with experts, of a list written as text."""
    text = config.values.get("moe_layers_enum")
    if not isinstance(text, str) or not text.strip():
        return 0
    try:
        return max(0, min(int(number) for number in text.split(",")))
    except ValueError:
        raise FormatError(f"'moe_layers_enum' is no list of numbers but {text!r}", path=config.path) from None


def hunyuan_shared(config: Config) -> int:
    """Hunyuan: width of all shared experts."""
    return config.integer("moe_intermediate_size") * config.count("num_shared_experts", 1)


# -- Nemotron, Ling, Cohere -------------------------------------------------------------------------------------------


def nemotron_layers(letter: str, *names: str) -> Callable[[Config], list[bool]]:
    """Nemotron: which layers are of a kind; a block is attention and experts in one. Raises FormatError."""

    def value(config: Config) -> list[bool]:
        n_trunk = config.integer("num_hidden_layers")
        pattern = config.values.get("hybrid_override_pattern") or config.need("layers_block_type")
        if not isinstance(pattern, str | list) or len(pattern) != n_trunk:
            raise FormatError(
                "the layers' kinds ('hybrid_override_pattern', else 'layers_block_type') do not fit",
                path=config.path,
                expected=f"{n_trunk} ('num_hidden_layers')",
                found=str(len(pattern)) if isinstance(pattern, str | list) else repr(pattern),
            )
        of_trunk = [kind == letter or kind in names for kind in pattern]
        return of_trunk + [True] * config.n_layer_nextn

    return value


def of_layers(which: Callable[[Config], list[bool]], key: str) -> Callable[[Config], list[int]]:
    """A count of config.json for the layers of a kind, 0 for all others."""
    return lambda config: [config.integer(key) if there else 0 for there in which(config)]


def granite_rotary(config: Config) -> int:
    """Nemotron: the heads' share of the hidden size, whatever their width (the class that it is converted by)."""
    return config.integer("hidden_size") // max(1, config.integer("num_attention_heads"))


def mamba_size(config: Config) -> int:
    """Nemotron: width of a state-space layer."""
    return config.integer("mamba_num_heads") * config.integer("mamba_head_dim")


def ling_heads(config: Config) -> list[int]:
    """Ling 3: 1 for each layer of full attention, 0 for those of linear attention; a block's is full."""
    n_trunk, every = config.integer("num_hidden_layers"), config.integer("layer_group_size")
    if every < 1:
        raise FormatError(f"'layer_group_size' is {every}", path=config.path)
    return [
        int(i >= n_trunk // every * every or (i + 1) % every == 0 or i >= n_trunk) for i in range(config.n_layer)
    ]


def ling_safe_gate(config: Config) -> bool:
    """Ling 3: True. Raises UnsupportedFormat for what the converter knows of and no engine runs."""
    for key, runs in _LING_RUNS.items():
        if config.values.get(key) != runs:
            found = config.values.get(key)
            raise UnsupportedFormat(f"'{key}' is {found!r}, and engines only run {runs!r}", path=config.path)
    return True


_LING_RUNS = {"no_kda_lora": True, "kda_safe_gate": True, "gated_attention_proj_granularity_type": "head_wise"}


def ling_sections(config: Config) -> list[Any] | None:
    """Ling 3 with vision: the parts of multimodal RoPE beside the text model's values; None without them."""
    if config.values.get("mrope_section") is None:
        return sections(config)
    return [*config.numbers("mrope_section", 3)[:3], 0]


def cohere_shared(config: Config) -> int | None:
    """Cohere: width of all shared experts, or None without any. Raises UnsupportedFormat."""
    width = config.integer("intermediate_size") * config.count("num_shared_experts", 0)
    how = config.values.get("shared_expert_combination_strategy", "average")
    if width and how != "average":
        raise UnsupportedFormat(f"shared experts are combined by '{how}', which no engine does", path=config.path)
    return width or None


def cohere_slides(config: Config) -> list[bool]:
    """Cohere: the trunk's layers alone; engines count a block's as full attention."""
    return [kind == "sliding_attention" for kind in config.numbers("layer_types")]


def cohere_dense(config: Config) -> int:
    """Cohere: how many layers from the first have no experts."""
    kinds = config.values.get("mlp_layer_types")
    if isinstance(kinds, list):
        return next((i for i, kind in enumerate(kinds) if kind != "dense"), len(kinds))
    return config.count("first_k_dense_replace", 0)


# -- DeepSeek-V4, Qwen3.8-Flash-Next ----------------------------------------------------------------------------------


def streams_width(config: Config) -> int:
    """DeepSeek-V4: width of all streams of the residual."""
    return config.integer("hidden_size") * config.integer("hc_mult")


def indexer_types(config: Config) -> list[bool] | None:
    """GLM-5: whether each layer of the trunk has an indexer of its own; None without the key."""
    found = config.values.get("indexer_types")
    return None if found is None else [kind == "full" for kind in config.numbers("indexer_types")]


def full_layers(config: Config) -> list[int]:
    """GLM-5.3-Flash: 0 for each layer of linear attention, 1 for those of latent attention; a block's is latent."""
    n_trunk = config.integer("num_hidden_layers")
    kinds = config.numbers("layer_types", n_trunk)
    if len(kinds) != n_trunk:
        raise FormatError(
            "'layer_types' has the wrong length", path=config.path, expected=f"{n_trunk} ('num_hidden_layers')",
            found=str(len(kinds)),
        )  # fmt: skip
    return [int(kind != "linear_attention") for kind in kinds] + [1] * config.n_layer_nextn


def linear_attention(key: str, *, optional: bool = False) -> Callable[[Config], Any]:
    """GLM-5.3-Flash: a value of `linear_attn_config`. Raises FormatError, UnsupportedFormat."""

    def value(config: Config) -> Any:
        found = config.need("linear_attn_config")
        if not isinstance(found, dict):
            raise FormatError("'linear_attn_config' is no JSON object", path=config.path)
        if found.get("num_heads") != config.integer("num_attention_heads"):
            raise UnsupportedFormat(
                f"linear attention has {found.get('num_heads')!r} heads and latent attention "
                f"{config.integer('num_attention_heads')}, and engines run only equal numbers",
                path=config.path,
            )
        if found.get(key) is None and not optional:
            raise FormatError(f"'{key}' is missing in 'linear_attn_config', and an engine needs it", path=config.path)
        return found.get(key)

    return value


def no_rope(config: Config) -> int:
    """GLM-5.3-Flash: 0, the dimensions that RoPE turns. Raises UnsupportedFormat for a model with any."""
    if not config.values.get("mla_use_nope") or config.integer("qk_rope_head_dim") != 0:
        raise UnsupportedFormat(
            "latent attention has RoPE ('mla_use_nope', 'qk_rope_head_dim'), and engines run it without",
            path=config.path,
        )
    return 0


def compress_ratios(config: Config) -> list[int]:
    """Qwen3.8-Flash-Next: the ratio for layers of full attention, 0 for others; a block's is full."""
    n_trunk, ratio = config.integer("num_hidden_layers"), config.integer("indexer_compress_ratio")
    kinds = config.numbers("layer_types", n_trunk)[:n_trunk]
    return [ratio if kind == "full_attention" else 0 for kind in kinds] + [ratio] * config.n_layer_nextn
