"""Drafts that are models of their own: EAGLE-3, DFlash and DSpark, each trained for one target whose layers it reads.

Names, transforms and header pairs are those of llama.cpp's converter at b11549 (conversion/llama.py, LlamaModel;
conversion/qwen.py, DFlashModel and DSparkModel); shapes are those that its loaders demand (src/models/eagle3.cpp,
src/models/dflash.cpp). Symbols of shapes beside the usual: `Tw` the target's layer inputs side by side, `Vd` the
draft's vocabulary, `Mr` the Markov head's rank, `Ck` and `Cg` a convolution's kernel and groups, `Sr` the selector's
rank.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError, UnsupportedModel
from ..gguf.kv import KV, KVType
from . import header_values as v
from .base import Rule, Source, Transform
from .headers import BOOL, I32, drafts_own, optional
from .hparams import ARRAY, F32, U32, Config, HParams, Row, fits
from .parts import L, dense, norm, qk_norms, tensor

TARGET_LAYERS = "target_layers"  # after `{arch}.`: the layers of the target whose inputs the draft reads
TARGET_WIDTH = "target_hidden_size"
BLOCK_SIZE = "block_size"  # tokens that DFlash and DSpark draft at once, the last accepted one included
MASK = "tokenizer.ggml.mask_token_id"
D2T = "d2t"  # draft's token -> target's token: absolute in a GGUF, in a checkpoint the distance between the two
MARKOV = "markov_w1.weight"  # what makes a DFlash a DSpark
N_EAGLE_LAYERS = 3  # the loader demands exactly as many


@dataclass(frozen=True, kw_only=True)
class DraftKind:
    """One kind of draft: how it is published, and what engines call it."""

    arch: str  # general.architecture
    title: str
    mark: str  # how the names of its files begin, so that llama.cpp's -hf finds them
    spec_type: str  # for llama.cpp's --spec-type
    classes: tuple[str, ...]  # names in config.json's `architectures`
    rules: tuple[Rule, ...]
    header: HParams

    @property
    def article(self) -> str:
        """What stands before its title in a sentence."""
        return "an" if self.title.startswith("E") else "a"


# -- EAGLE-3 ----------------------------------------------------------------------------------------------------------


def _root(target: str, ne: str, *names: str, f32: bool = False, optional: bool = False) -> Rule:
    return Rule(target, ne, tuple(Source(name) for name in names), f32=f32, optional=optional, root=True)


def _pairs(target: str, ne: str, name: str, key: str) -> Rule:
    return Rule(target, ne, (Source(f"{L}self_attn.{name}.weight", Transform.ROPE_PAIRS, (key,)),))


_OUTPUT_NORM = _root("output_norm.weight", "E", "norm.weight", f32=True)
_OUTPUT = _root("output.weight", "E Vd", "lm_head.weight", optional=True)
_EMBEDDINGS = _root("token_embd.weight", "E V", "embed_tokens.weight", optional=True)


def llama3_factors(config: Config) -> list[float] | None:
    """By how much llama3's scaling slows each frequency of RoPE, [head width / 2]; None without such scaling.

    In float32, as torch computes it in conversion/llama.py: it divides a number by a tensor by multiplying with the
    reciprocal. Raises FormatError.
    """
    import numpy as np

    rope = config.rope
    if str(rope.get("rope_type") or "").lower() != v.LLAMA3:
        return None
    usual = {"rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 8192}  # fmt: skip
    given = [rope.get(key, value) for key, value in usual.items()]
    if not all(fits(x, F32) and x > 0 for x in given):
        raise FormatError("the position scaling ('rope_scaling') is damaged", path=config.path)
    one, turn = np.float32(1), np.float32(2 * math.pi)
    base, factor, low, high, length = (np.float32(x) for x in given)
    n_head = v.head_size(config)
    exponents = np.arange(0, n_head, 2, dtype=np.float32) / np.float32(n_head)
    frequencies = one / np.power(float(base), exponents.astype(np.float64)).astype(np.float32)
    wavelengths = one / frequencies * turn
    found = []
    for wavelength in wavelengths:
        if wavelength < length / high:
            found.append(1.0)
        elif wavelength > length / low:
            found.append(float(factor))
        else:
            smooth = (one / wavelength * length - low) / (high - low)
            found.append(float(one / ((one - smooth) / factor + smooth)))
    return found


def _switch(suffix: str) -> Row:
    """A switch that is off unless config.json sets it."""
    return Row(suffix, BOOL, lambda config: bool(config.values.get(suffix)))


EAGLE3 = DraftKind(
    arch="eagle3",
    title="EAGLE-3",
    mark="eagle3-",
    spec_type="draft-eagle3",
    classes=("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator", "Eagle3DraftModel"),
    rules=(
        _root("fc.weight", "Tw E", "fc.weight"),
        Rule(
            "enc.output_norm.weight", "Tw", (Source("input_norm.weight"),), f32=True, optional=True, root=True,
            needed_by="norm_before_fc",
        ),
        _OUTPUT_NORM, _OUTPUT, _EMBEDDINGS,
        norm("attn_norm.weight", "input_layernorm.weight"),
        norm("attn_norm_2.weight", "hidden_norm.weight"),
        _pairs("attn_q.weight", "2*E H*D", "q_proj", "num_attention_heads"),
        _pairs("attn_k.weight", "2*E K*D", "k_proj", "num_key_value_heads"),
        tensor("attn_v.weight", "2*E K*Dv", "self_attn.v_proj.weight"),
        tensor("attn_output.weight", "H*D E", "self_attn.o_proj.weight"),
        norm("ffn_norm.weight", "post_attention_layernorm.weight"),
        *dense(),
    ),
    header=HParams(
        rows=drafts_own(
            _switch("norm_before_residual"),
            _switch("norm_before_fc"),
            Row("vocab_size", U32, "vocab_size"),
            Row("rope.dimension_count", U32, v.head_size),
        ),
        output_norm_plus_one=False,
        keeps_tied_head=True,
        rope_factors=llama3_factors,
    ),
)  # fmt: skip

# -- DFlash and DSpark ------------------------------------------------------------------------------------------------


def _own(config: Config) -> Mapping[str, Any]:
    """The draft's own settings: `dflash_config`, or what speculators and DeepSpec have in its place.

    Raises FormatError.
    """
    found = config.values.get("dflash_config")
    if found is not None:
        if not isinstance(found, Mapping):
            raise FormatError("'dflash_config' is not a JSON object", path=config.path)
        return found
    inputs = config.values.get("aux_hidden_state_layer_ids")
    if inputs is not None:  # numbered by a layer's input, the others by its output
        layers = [n - 1 for n in _layer_numbers(inputs, "aux_hidden_state_layer_ids", config)]
        return {"mask_token_id": config.values.get("mask_token_id"), "target_layer_ids": layers}
    return {key: config.values[key] for key in ("target_layer_ids", "mask_token_id") if key in config.values}


def _setting(key: str) -> Any:
    """A row's value that `dflash_config` has, or else the top level."""

    def value(config: Config) -> Any:
        found = _own(config).get(key)
        return config.values.get(key) if found is None else found

    return value


def _nested(key: str) -> Any:
    """A row's value that only `dflash_config` has."""
    return lambda config: _own(config).get(key)


def _scale(config: Config) -> Any:
    return _setting("input_embedding_scale")(config)


def _softcap(config: Config) -> Any:
    found = _setting("final_logit_softcapping")(config)
    return found if fits(found, F32) and found > 0 else None


def _window(config: Config) -> Any:
    """The sliding window, where any layer slides."""
    if not (config.values.get("use_sliding_window") or _own(config).get("use_swa")):
        return None
    return _own(config).get("swa_window_size") or config.values.get("sliding_window") or None


def _slides(config: Config) -> list[bool] | None:
    """[n_layer]: which layers have the window."""
    if _window(config) is None:
        return None
    if _own(config).get("use_swa"):
        return [True] * config.integer("num_hidden_layers")
    return [kind == "sliding_attention" for kind in config.of_trunk("layer_types")]


def _causal(config: Config) -> bool | None:
    found = config.values.get("is_causal")
    found = _own(config).get("causal") if found is None else found
    return None if found is None else bool(found)


def _rotated(config: Config) -> int | None:
    part = config.rope.get("partial_rotary_factor")
    return None if part is None else v.rotary(None)(config)


_DFLASH_ROWS = (
    Row("rope.dimension_count", U32, _rotated),
    Row("attention.value_scale", F32, _nested("attention_value_scale")),
    Row(BLOCK_SIZE, U32, lambda config: _setting(BLOCK_SIZE)(config) or 16),
    Row("conv_kernel_size", U32, _nested("conv_kernel_size")),
    Row("conv_group_size", U32, _nested("conv_group_size")),
    Row("selector_rank", U32, _nested("selector_rank")),
    Row("selector_top_k", U32, _nested("selector_top_k")),
    Row("logit_scale", F32, _setting("output_multiplier")),
    Row("final_logit_softcapping", F32, _softcap),
    Row("embedding_scale", F32, _scale),
    Row("attention.sliding_window", U32, _window),
    Row("attention.sliding_window_pattern", ARRAY, _slides, BOOL),
    Row("attention.causal", BOOL, _causal),
)


def _conv(part: str, name: str) -> tuple[Rule, ...]:
    """A DFlash2 convolution: its kernel, and the projection that the kernel of each position comes from."""
    key = "conv_kernel_size"
    return (
        Rule(
            f"{part}_conv_base", "E Ck 2", (Source(f"{L}{name}_conv.base_kernel"),), f32=True, optional=True,
            needed_by=key,
        ),
        tensor(
            f"{part}_conv_proj.weight", "E 2*Ck*Cg", f"{name}_conv.kernel_projection.weight", optional=True,
            needed_by=key,
        ),
    )  # fmt: skip


def _selector(target: str, ne: str, name: str) -> Rule:
    sources = (Source(f"candidate_selector.{name}"), Source(f"candidate_selector.{name}.weight"))
    return Rule(target, ne, sources, optional=True, root=True, needed_by="selector_rank")


_DFLASH_RULES = (
    _root("fc.weight", "Tw E", "fc.weight"),
    _root("enc.output_norm.weight", "E", "hidden_norm.weight", f32=True),
    _OUTPUT_NORM, _OUTPUT, _EMBEDDINGS,
    norm("attn_norm.weight", "input_layernorm.weight"),
    tensor("attn_q.weight", "E H*D", "self_attn.q_proj.weight"),
    tensor("attn_k.weight", "E K*D", "self_attn.k_proj.weight"),
    tensor("attn_v.weight", "E K*Dv", "self_attn.v_proj.weight"),
    tensor("attn_output.weight", "H*D E", "self_attn.o_proj.weight"),
    *qk_norms(),
    norm("attn_sinks.weight", "self_attn.sinks", "self_attn.sinks.weight", ne="H", optional=True),
    norm("ffn_norm.weight", "post_attention_layernorm.weight"),
    *dense(),
)  # fmt: skip
_DFLASH2_RULES = (
    *_conv("attn", "attention"), *_conv("ffn", "mlp"),
    _selector("selector_predecessor.weight", "Sr V", "predecessor_codebook"),
    _selector("selector_successor.weight", "Sr V", "successor_codebook"),
    _selector("selector_hidden.weight", "E Sr", "hidden_projection"),
)  # fmt: skip
_DSPARK_RULES = (
    _root(MARKOV, "Mr V", "markov_head.markov_w1.weight"),
    _root("markov_w2.weight", "Mr Vd", "markov_head.markov_w2.weight"),
    _root("conf_proj.weight", "Mc 1", "confidence_head.proj.weight", optional=True),
    _root("conf_proj.bias", "1", "confidence_head.proj.bias", f32=True, optional=True),
)


def _from_anchor(config: Config) -> bool:
    """Whether the block's first token is already a drafted one: not so in exports made like EAGLE-3's."""
    given = config.values.get("sample_from_anchor")
    if given is not None:
        return bool(given)
    return not {"transformer_layer_config", "aux_hidden_state_layer_ids"} & config.values.keys()


def _dflash_header(*more: Row) -> HParams:
    return HParams(
        rows=drafts_own(*_DFLASH_ROWS, *more), output_norm_plus_one=False, keeps_tied_head=True, rope_factors=None
    )


DFLASH = DraftKind(
    arch="dflash",
    title="DFlash",
    mark="dflash-",
    spec_type="draft-dflash",
    classes=("DFlashDraftModel", "DFlash2DraftModel"),
    rules=(*_DFLASH_RULES, *_DFLASH2_RULES),
    header=_dflash_header(),
)
DSPARK = DraftKind(
    arch="dflash",
    title="DSpark",
    mark="dspark-",
    spec_type="draft-dspark",
    classes=("Qwen3DSparkModel", "DSparkDraftModel", "DSparkSpeculator", "Lfm2DSparkDraftModel", "LingDSparkModel"),
    rules=(*_DFLASH_RULES, *_DSPARK_RULES),
    header=_dflash_header(
        Row("sample_from_anchor", BOOL, _from_anchor), optional("has_confidence_head", BOOL, "has_confidence_head")
    ),
)
KINDS = (EAGLE3, DFLASH, DSPARK)
ARCHS = frozenset(kind.arch for kind in KINDS)
OTHER_NAMES = {"dflash-draft": "dflash", "dspark": "dflash", "eagle3-draft": "eagle3"}  # that no engine knows
MARKS = tuple(kind.mark for kind in KINDS)
# Drafts that only llama.cpp's own converter makes.
_ELSEWHERE = ("Gemma4DSparkModel", "DeepseekV4DSparkModel", "MuseGlimmerAssistantModel")
_LLAMA = ("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel")

# -- what decides -----------------------------------------------------------------------------------------------------


def kind_of(arch: object, tensors: Container[str]) -> DraftKind | None:
    """The kind of a draft's GGUF, by its architecture and the names of its tensors; None: it is not one of these."""
    if arch == "dflash":
        return DSPARK if MARKOV in tensors else DFLASH
    return EAGLE3 if arch == "eagle3" else None


def kind_of_config(classes: Iterable[str], config: Mapping[str, Any]) -> DraftKind | None:
    """The kind of a published draft, by its class and config.json; None: it is not one.

    Raises UnsupportedModel for a draft that only llama.cpp's converter makes.
    """
    names = tuple(classes)
    if elsewhere := next((name for name in names if name in _ELSEWHERE), None):
        raise UnsupportedModel(
            f"'{elsewhere}' is a draft that nextn does not convert; make its GGUF with llama.cpp's "
            "convert_hf_to_gguf.py and --target-model-dir"
        )
    found = next((kind for kind in KINDS for name in names if name in kind.classes), None)
    plain = any(name in _LLAMA for name in names)  # some EAGLE-3 drafts have no class of their own
    if found is None and plain and "draft_vocab_size" in config and config.get("num_hidden_layers") == 1:
        return EAGLE3
    return found


def _layer_numbers(value: Any, key: str, config: Config) -> list[int]:
    if not isinstance(value, list) or not all(fits(n, KVType.INT32) for n in value):
        raise FormatError(f"'{key}' is {value!r:.60}, not a list of layer numbers", path=config.path)
    return value


def target_layers(kind: DraftKind, config: Config, n_layer_target: int) -> tuple[list[int], str]:
    """The layers of the target whose inputs the draft reads, and a note on how they were found.

    EAGLE-3 checkpoints number inputs; SpecForge's `eagle_config`, and all of DFlash, number outputs, so that input
    n + 1 is meant. Without numbers, an EAGLE-3 draft reads those that its authors chose. Raises FormatError.
    """
    if kind is not EAGLE3:
        found = _own(config).get("target_layer_ids") or config.values.get("target_layer_ids")
        if not found:
            raise FormatError("'target_layer_ids' is missing, and engines need it", path=config.path)
        return [n + 1 for n in _layer_numbers(found, "target_layer_ids", config)], ""
    key = "eagle_aux_hidden_state_layer_ids"
    given = config.values.get(key)
    if given:
        return _layer_numbers(given, key, config), ""
    usual = [2, n_layer_target // 2, n_layer_target - 3]
    nested = config.values.get("eagle_config")
    inner = nested.get(key) if isinstance(nested, Mapping) else None
    if not inner:
        return usual, f"{config.path.name} does not name the target's layers: the usual ones are used ({usual})"
    layers = [n + 1 for n in _layer_numbers(inner, f"eagle_config.{key}", config)]
    note = "" if layers == usual else f"the target's layers are those of 'eagle_config', counted as inputs ({layers})"
    return layers, note


def of_target(
    kind: DraftKind, config: Config, target: Mapping[str, Any], layers: list[int]
) -> tuple[list[KV], list[KV]]:
    """Pairs that need the target's header: of the draft's architecture, and of its tokenizer.

    `target`: the target's `arch`, `embedding_length`, and whether it has `sections`. Raises FormatError.
    """
    arch = kind.arch
    pairs = [KV.make(f"{arch}.{TARGET_LAYERS}", ARRAY, layers, I32)]
    if kind is EAGLE3:
        width = config.count(TARGET_WIDTH, int(target["embedding_length"]))
        return [*pairs, KV.make(f"{arch}.{TARGET_WIDTH}", U32, width)], []
    if _scale(config) is None and str(target["arch"]).startswith("gemma"):  # which scales embeddings while it runs
        pairs.append(KV.make(f"{arch}.embedding_scale", F32, float(target["embedding_length"]) ** 0.5))
    if target["sections"]:  # the draft rotates by time only
        pairs.append(
            KV.make(f"{arch}.rope.dimension_sections", ARRAY, [v.head_size(config) // 2, 0, 0, 0], I32)
        )
    mask = _own(config).get("mask_token_id")
    if not fits(mask, U32):
        raise FormatError("'mask_token_id' is missing, and a draft of this kind cannot run without it",
                          path=config.path)  # fmt: skip
    return pairs, [KV.make(MASK, U32, mask)]


def refuse_variants(kind: DraftKind, config: Config) -> None:
    """Raise UnsupportedModel for forms of a draft that are not converted here."""
    why = ""
    if config.values.get("rope_is_neox_style") is False:
        why = "its positions are rotated in neighbouring pairs ('rope_is_neox_style' is false)"
    markov = config.values.get("markov_head_type", "vanilla")
    if kind is DSPARK and markov != "vanilla":
        why = f"its Markov head is {markov!r:.40}, and engines only know 'vanilla'"
    if why:
        raise UnsupportedModel(f"{config.path}: this {kind.title} draft is not converted here: {why}.")


def symbols(kind: DraftKind, find: Any, n_target_layers: int, n_draft_vocab: int | None) -> dict[str, int]:
    """Symbols of shapes beside `base.dimensions`; `find` gives `{arch}.*` of the header."""
    width = find(TARGET_WIDTH) if kind is EAGLE3 else find("embedding_length")
    out = {"Tw": n_target_layers * width} if isinstance(width, int) else {}
    if n_draft_vocab is not None:
        out["Vd"] = n_draft_vocab
    kernel, group, rank = (find(key) for key in ("conv_kernel_size", "conv_group_size", "selector_rank"))
    if kernel and group and isinstance(find("embedding_length"), int):
        out |= {"Ck": kernel, "Cg": find("embedding_length") // group}
    return {**out, "Sr": rank} if rank else out
