"""Header values that need more than one key of config.json, each a function of all of it.

Formulas are those of llama.cpp's converter at b11549 (conversion/base.py and the families' files).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import FormatError, UnsupportedFormat
from .hparams import F32, MAX_LAYERS, STRING, U32, Config, Row, fits

_SCALED_ROPE = ("linear", "yarn")
LLAMA3 = "llama3"
SIGMOID = 2  # LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID


def block_count(config: Config) -> int:
    """Number of layers in the file. Raises FormatError for more than engines take."""
    n_layer = config.integer("num_hidden_layers")
    if not 0 < n_layer <= MAX_LAYERS - config.n_layer_nextn:
        raise FormatError(f"'num_hidden_layers' is {n_layer:,}, but engines accept 1 to {MAX_LAYERS}", path=config.path)
    return n_layer + config.n_layer_nextn


def head_size(config: Config) -> int:
    """Width of a head: as given, or the hidden size divided by the number of heads."""
    if config.values.get("head_dim") is not None:
        return config.integer("head_dim")
    return config.integer("hidden_size") // max(1, config.integer("num_attention_heads"))


def rotary(default: float | None, width: Callable[[Config], int] = head_size) -> Callable[[Config], int]:
    """How many dimensions of a head RoPE rotates, with the family's share for a config without one (None: an error).

    `width`: the number of dimensions of which that is a share.
    """

    def value(config: Config) -> int:
        part = config.rope.get("partial_rotary_factor", default)
        if part is None:
            raise FormatError("'partial_rotary_factor' is missing, and engines need it", path=config.path)
        if not fits(part, F32):
            raise FormatError(f"'partial_rotary_factor' is {part!r}, not a number", path=config.path)
        return int(width(config) * part)

    return value


def sections(config: Config) -> list[Any] | None:
    """The four parts of multimodal RoPE: time, height, width, nothing."""
    found = config.rope.get("mrope_section")
    if found is None:
        return None
    if not isinstance(found, list):
        raise FormatError(f"'mrope_section' is {found!r}, not a list", path=config.path)
    return [*found, 0, 0, 0, 0][:4]


def theta(config: Config) -> Any:
    """The RoPE base; None where config.json lacks it; engines then use their own."""
    return config.rope.get("rope_theta")


def scaling(*keys: str, needed: bool = False, only: tuple[str, ...] = _SCALED_ROPE) -> Callable[[Config], Any]:
    """A value that is only written when positions are scaled. Raises UnsupportedFormat for other scalings."""

    def value(config: Config) -> Any:
        rope = config.rope
        kind = rope.get("rope_type") or "default"
        if kind not in ("default", *_SCALED_ROPE, LLAMA3):  # llama3's factors are a tensor
            raise UnsupportedFormat(
                f"positions are scaled with '{kind}', which is not supported here; use 'nextn attach TRUNK --from' "
                "this folder with --layout sidecar, which copies the trunk's header",
                path=config.path,
            )
        if kind not in only or rope.get("factor") is None:
            return None
        found = next((rope[key] for key in keys if key in rope), None)
        if found is None and needed:
            raise FormatError(f"'{keys[0]}' is missing, and the RoPE type '{kind}' needs it", path=config.path)
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


_SCORES = (
    "score_function", "scoring_func", "score_func", "moe_router_activation", "moe_router_activation_func",
    "expert_selection_fn", "router_score_func",
)  # fmt: skip


def gating(config: Config) -> int | None:
    """How the router scores experts, by llama.cpp's number. Raises UnsupportedFormat for one that it lacks."""
    found = config.first(*_SCORES)
    if found is None:
        return None
    number = _GATING.get(str(found))
    if number is None:
        raise UnsupportedFormat(f"experts are scored with '{found}', which no engine supports", path=config.path)
    return number


def needed_gating(config: Config) -> int:
    """The same, where loaders want it. Raises FormatError when config.json does not say."""
    found = gating(config)
    if found is None:
        names = " or ".join(f"'{key}'" for key in _SCORES)
        raise FormatError(f"{names} is missing, and engines need it", path=config.path)
    return found


_GATING = {"softmax": 1, "sigmoid": SIGMOID, "sqrtsoftplus": 4}


def log_multiplier(config: Config) -> float | None:
    """YaRN's scale of attention; a tenth of the value in config.json, as in older files."""
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


def padded(key: str) -> Callable[[Config], list[float] | None]:
    """A list of limits, null as 0, padded with 0 for layers after its end; None without the key."""

    def value(config: Config) -> list[float] | None:
        if config.values.get(key) is None:
            return None
        found = [0.0 if limit is None else limit for limit in config.numbers(key)[: config.n_layer]]
        return found + [0.0] * (config.n_layer - len(found))

    return value
