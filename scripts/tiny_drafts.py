"""Makes tiny random EAGLE-3, DFlash and DSpark checkpoints in the layouts in which they are published.

All of them are for the tiny Qwen3.5 of the demo: width 256, vocabulary 2,048, 4 layers. Nothing is trained. The bytes
depend only on names and shapes, so that goldens can name them by hash.

    python scripts/tiny_drafts.py dspark OUT_FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from make_tiny_checkpoints import DTYPES, TORCH_NAMES, Array, awkward_rows, bell, safetensors_bytes

E, V, F, H, K, D, N_TARGET = 256, 2048, 160, 4, 2, 32, 4
DRAFT_V = 256  # of a reduced vocabulary
RANK = 32
Shapes = dict[str, tuple[int, ...]]

SIZES: dict[str, Any] = {
    "hidden_size": E, "vocab_size": V, "num_hidden_layers": 1, "num_attention_heads": H, "num_key_value_heads": K,
    "head_dim": D, "intermediate_size": F, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip
ATTENTION = {"q_proj": (H * D, 2 * E), "k_proj": (K * D, 2 * E), "v_proj": (K * D, 2 * E), "o_proj": (E, H * D)}
FFN = {"gate_proj": (F, E), "up_proj": (F, E), "down_proj": (E, F)}


def eagle_layer(p: str) -> Shapes:
    norms = ("input_layernorm", "hidden_norm", "post_attention_layernorm")
    return {
        **{f"{p}self_attn.{name}.weight": shape for name, shape in ATTENTION.items()},
        **{f"{p}mlp.{name}.weight": shape for name, shape in FFN.items()},
        **{f"{p}{name}.weight": (E,) for name in norms},
    }


def dflash_layer(p: str) -> Shapes:
    norms = ("input_layernorm", "post_attention_layernorm")
    return {
        **{f"{p}self_attn.{name}.weight": (n, E if n != E else m) for name, (n, m) in ATTENTION.items()},
        **{f"{p}self_attn.{name}_norm.weight": (D,) for name in "qk"},
        **{f"{p}mlp.{name}.weight": shape for name, shape in FFN.items()},
        **{f"{p}{name}.weight": (E,) for name in norms},
    }


def dflash2_layer(p: str) -> Shapes:
    groups = E // 64
    more: Shapes = {}
    for part in ("attention_conv", "mlp_conv"):
        more |= {f"{p}{part}.base_kernel": (2, 3, E), f"{p}{part}.kernel_projection.weight": (2 * 3 * groups, E)}
    return {**dflash_layer(p), **more}


ROOTS: Shapes = {"fc.weight": (E, 3 * E), "norm.weight": (E,)}
DFLASH_ROOTS: Shapes = {**ROOTS, "hidden_norm.weight": (E,)}
MARKOV: Shapes = {"markov_head.markov_w1.weight": (V, RANK), "markov_head.markov_w2.weight": (V, RANK)}
CONFIDENCE: Shapes = {"confidence_head.proj.weight": (1, E + RANK), "confidence_head.proj.bias": (1,)}
SELECTOR: Shapes = {
    "candidate_selector.predecessor_codebook": (V, RANK), "candidate_selector.successor_codebook": (V, RANK),
    "candidate_selector.hidden_projection.weight": (RANK, E),
}  # fmt: skip


@dataclass(frozen=True)
class Draft:
    """One layout of a published draft."""

    architecture: str
    config: dict[str, Any]
    shapes: Shapes
    layer: Callable[[str], Shapes]
    prefix: str  # of a layer, `{k}` is its number
    n_layer: int = 1
    dtype: str = "bf16"
    nested: bool = False  # speculators keep the sizes in `transformer_layer_config`
    reduced: bool = False  # d2t and t2d
    more: dict[str, Any] = field(default_factory=dict)  # beside the sizes, where these are nested


EAGLE_LAYERS = {"eagle_aux_hidden_state_layer_ids": [1, 2, 3]}
DFLASH = {"target_layer_ids": [0, 1, 2], "mask_token_id": 5}
DRAFTS: dict[str, Draft] = {
    "eagle3-specforge": Draft(
        "LlamaForCausalLMEagle3", {**EAGLE_LAYERS, "draft_vocab_size": DRAFT_V},
        {**ROOTS, "lm_head.weight": (DRAFT_V, E)}, eagle_layer, "midlayer.", reduced=True,
    ),
    "eagle3-llama": Draft(
        "Eagle3LlamaForCausalLM",
        {
            **EAGLE_LAYERS, "draft_vocab_size": V, "head_dim": None,
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 1024,
            },
        },
        {**ROOTS, "embed_tokens.weight": (V, E), "lm_head.weight": (V, E)},
        lambda p: {
            **eagle_layer(p), f"{p}self_attn.q_proj.weight": (E, 2 * E), f"{p}self_attn.k_proj.weight": (E // 2, 2 * E),
            f"{p}self_attn.v_proj.weight": (E // 2, 2 * E), f"{p}self_attn.o_proj.weight": (E, E),
        },
        "midlayer.", dtype="f16",
    ),
    "eagle3-speculators": Draft(
        "Eagle3Speculator", {},
        {
            **ROOTS, "input_norm.weight": (3 * E,), "embed_tokens.weight": (V, E), "lm_head.weight": (DRAFT_V, E),
        },
        eagle_layer, "layers.0.", nested=True, reduced=True,
        more={
            **EAGLE_LAYERS, "draft_vocab_size": DRAFT_V, "norm_before_residual": True, "norm_before_fc": True,
            "target_hidden_size": E, "speculators_model_type": "eagle3",
        },
    ),
    "eagle3-head-of-target": Draft(  # no head, no embeddings: the target's serve
        "LlamaForCausalLMEagle3", {**EAGLE_LAYERS, "draft_vocab_size": V}, ROOTS, eagle_layer, "midlayer.", dtype="f32",
    ),
    "dflash": Draft(
        "DFlashDraftModel",
        {
            "dflash_config": DFLASH, "block_size": 8, "use_sliding_window": True, "sliding_window": 128,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        DFLASH_ROOTS, dflash_layer, "layers.{k}.", n_layer=2,
    ),
    "dflash2": Draft(
        "DFlash2DraftModel",
        {
            "dflash_config": {
                **DFLASH, "block_size": 8, "conv_kernel_size": 3, "conv_group_size": 64, "selector_rank": RANK,
                "selector_top_k": 4, "causal": False,
            },
        },
        {**DFLASH_ROOTS, **SELECTOR}, dflash2_layer, "layers.{k}.", n_layer=2,
    ),
    "dspark": Draft(
        "Qwen3DSparkModel", {"block_size": 7, **DFLASH}, {
            **DFLASH_ROOTS, **MARKOV, **CONFIDENCE, "embed_tokens.weight": (V, E), "lm_head.weight": (V, E),
        },
        dflash_layer, "layers.{k}.", n_layer=2,
    ),
    "dspark-speculators": Draft(
        "DSparkSpeculator", {},
        {
            **DFLASH_ROOTS, "embed_tokens.weight": (V, E), "lm_head.weight": (DRAFT_V, E),
            "markov_head.markov_w1.weight": (V, RANK), "markov_head.markov_w2.weight": (DRAFT_V, RANK),
        },
        dflash_layer, "layers.{k}.", n_layer=2, nested=True, reduced=True,
        more={
            "aux_hidden_state_layer_ids": [1, 2, 3], "mask_token_id": 5, "block_size": 8, "draft_vocab_size": DRAFT_V,
        },
    ),
}  # fmt: skip


def tables() -> dict[str, Array]:
    """d2t as published: the distance from a draft's token to the target's, [draft vocabulary]; t2d, [vocabulary]."""
    targets = np.arange(DRAFT_V, dtype=np.int64) * 7 + 3
    there = np.zeros(V, np.uint8)
    there[targets] = 1
    return {"d2t": targets - np.arange(DRAFT_V, dtype=np.int64), "t2d": there}


def config_of(kind: str) -> dict[str, Any]:
    draft = DRAFTS[kind]
    sizes = {**SIZES, "num_hidden_layers": draft.n_layer, **draft.config}
    sizes = {key: value for key, value in sizes.items() if value is not None}
    names = {"architectures": [draft.architecture], "torch_dtype": TORCH_NAMES[draft.dtype]}
    if draft.nested:
        return {**names, "transformer_layer_config": {"model_type": "llama", **sizes}, **draft.more}
    return {**names, "model_type": "qwen3" if kind.startswith("d") else "llama", **sizes}


def tensors_of(kind: str) -> dict[str, Array]:
    draft = DRAFTS[kind]
    shapes = dict(draft.shapes)
    for k in range(draft.n_layer):
        shapes |= draft.layer(draft.prefix.replace("{k}", str(k)))
    out: dict[str, Array] = {}
    for name, shape in shapes.items():
        values = bell(shape, kind, name)
        if len(shape) == 1:
            values = 1 + 0.1 * values
        else:
            values *= shape[-1] ** -0.5
            if name == "fc.weight":
                awkward_rows(values)
        out[name] = values.astype(DTYPES[draft.dtype])
    return {**out, **tables()} if draft.reduced else out


def make_draft(kind: str, folder: Path) -> Path:
    """Writes the checkpoint `kind` (see DRAFTS) into `folder`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors_of(kind)))
    (folder / "config.json").write_text(json.dumps(config_of(kind), indent=1) + "\n")
    return folder


if __name__ == "__main__":
    make_draft(sys.argv[1], Path(sys.argv[2]))
