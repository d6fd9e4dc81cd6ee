"""Headers that llama.cpp's own converter writes for configs as they are published: what the tiny ones leave out.

    python scripts/golden_configs.py LLAMA_CPP_SOURCE

Each is a checkpoint of tiny_families.py with other values in config.json (None: without the key), some of whose sizes
then do not fit its tensors, which the converter does not look at. See docs/goldens.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from golden_families import GOLDENS, patch
from make_goldens import CONVERTER, convert, prepare
from tiny_families import make_family

OUT = GOLDENS.parent / "configs" / "families.json"
YARN = {
    "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096, "type": "yarn",
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 131072, "low_freq_factor": 1.0,
    "high_freq_factor": 32.0,
}  # fmt: skip

# name -> (kind, changes, the converter's flags)
VARIANTS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "glm4moe-newer": (
        "glm4moe",
        {"rope_theta": None, "partial_rotary_factor": None, "scoring_func": None, "routed_scaling_factor": 2.5,
         "rope_parameters": {"rope_theta": 1000000, "rope_type": "default", "partial_rotary_factor": 0.25,
                             "mrope_section": [2, 1, 1]}},
        ("--mtp",),
    ),
    "glm4moelite-plain": (
        "glm4moelite",
        {"scoring_func": None, "n_group": None, "topk_group": None, "norm_topk_prob": False, "rms_norm_eps": None},
        ("--mtp",),
    ),
    "glm5next-nested": (
        "glm5next",
        {"text_config": {"num_hidden_layers": 2, "max_position_embeddings": 1048576, "routed_scaling_factor": 2.5,
                         "index_kpool_always_select_tail": False, "rope_theta": 10000.0},
         "swiglu_limit": None, "indexer_types": None, "index_kpool_always_select_tail": None,
         "linear_attn_config": {"head_dim": 32, "num_heads": 2, "short_conv_kernel_size": 4}},
        ("--mtp",),
    ),
    # The converter drops this block: block_count and nextn_predict_layers are the trunk's.
    "deepseek3-yarn": (
        "deepseek3",
        {"rope_scaling": YARN, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5,
         "max_position_embeddings": 163840, "moe_layer_freq": 1, "ep_size": 1},
        (),
    ),
    "deepseek3-kimi": (
        "deepseek3",
        {"architectures": ["KimiK25ForConditionalGeneration"], "model_type": "kimi_k25",
         "text_config": {"rope_scaling": {**YARN, "factor": 64.0, "beta_fast": 32.0, "beta_slow": 1.0},
                         "rope_theta": 50000.0, "routed_scaling_factor": 2.827, "max_position_embeddings": 262144}},
        (),
    ),
    "deepseek32-yarn": (
        "deepseek32",
        {"rope_scaling": YARN, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5,
         "max_position_embeddings": 163840},
        ("--mtp",),
    ),
    "glmdsa-mixed": (
        "glmdsa",
        {"rope_theta": None, "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
         "indexer_types": ["full", "shared"], "partial_rotary_factor": 0.5},
        ("--mtp",),
    ),
    "mimo2-scaled": (
        "mimo2",
        {"rope_parameters": None, "rope_theta": 5000000, "swa_rope_theta": 10000, "partial_rotary_factor": 0.334,
         "attention_value_scale": 0.707, "layernorm_epsilon": None, "rms_norm_eps": None, "n_group": 8},
        ("--mtp",),
    ),
    "hyv3-plain": (
        "hyv3",
        {"rope_theta": None, "rope_parameters": {"rope_theta": 11158840.0, "rope_type": "default"}, "route_norm": None,
         "router_scaling_factor": 2.826, "num_shared_experts": 2, "scoring_func": None},
        ("--mtp",),
    ),
    "step35-llama3": (
        "step35",
        {"rope_scaling": LLAMA3, "rope_theta": [5000000.0, 10000.0], "moe_layers_enum": "3,4,5",
         "swiglu_limits": [None, 7], "swiglu_limits_shared": None, "moe_every_n_layer": 2},
        ("--mtp",),
    ),
    "step35-both-bases": (
        "step35",
        {"rope_theta": [5000000.0, 10000.0, 10000.0, 10000.0, 10000.0], "rope_scaling": None,
         "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}},
        ("--mtp",),
    ),
    "nemotronh-list": (
        "nemotronh",
        {"num_hidden_layers": None, "hybrid_override_pattern": "", "rope_theta": None},
        ("--mtp",),
    ),
    "nemotronh-pattern": (
        "nemotronh",
        {"layers_block_type": None, "hybrid_override_pattern": "M*E", "head_dim": 16, "moe_latent_size": None},
        ("--mtp",),
    ),
    "bailingmoe3-short-lists": (
        "bailingmoe3",
        {"expert_swiglu_limit_list": [None], "share_expert_swiglu_limit_list": None, "num_shared_experts": None,
         "rope_theta": 6000000, "layer_group_size": 5},
        ("--mtp",),
    ),
    "cohere2moe-dense-first": (
        "cohere2moe",
        {"mlp_layer_types": ["dense", "sparse"], "norm_topk_prob": None, "rms_norm_eps": None,
         "rope_parameters": {"rope_theta": 50000, "rope_type": "default"}, "rope_theta": None,
         "prefix_dense_intermediate_size": 96},
        (),
    ),
    "deepseek4-yarn": (
        "deepseek4",
        {"rope_scaling": {**YARN, "factor": 16, "original_max_position_embeddings": 65536, "mscale_all_dim": None},
         "compress_ratios": [0, 4, 0], "swiglu_limit": 7.0},
        ("--mtp",),
    ),
}  # fmt: skip


def changed(folder: Path, changes: dict[str, Any]) -> None:
    """Other values in config.json."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: x for key, x in config.items() if key not in changes or x is not None}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="the unpacked llama.cpp source")
    source = parser.parse_args().source.resolve()
    prepare(source)
    patch()
    from golden_gguf import describe

    out: dict[str, Any] = {"converter": CONVERTER}
    with tempfile.TemporaryDirectory() as name:
        for variant, (kind, changes, flags) in VARIANTS.items():
            folder = make_family(kind, Path(name) / variant)
            changed(folder, changes)
            outfile = Path(name) / f"{variant}.gguf"
            try:
                convert(source, folder, outfile, "--outtype", "q8_0", *flags)
            except SystemExit as stop:
                print(f"{variant}: {str(stop)[-500:]}", flush=True)
                continue
            found = describe(outfile)
            out[variant] = {
                "kind": kind,
                "changes": changes,
                "kv": {key: x for key, x in found["kv"].items() if not key.startswith(("general.", "tokenizer."))},
                "rope_freqs": found["tensors"].get("rope_freqs.weight"),
            }
            print(variant, "done", flush=True)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in out.items())
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
