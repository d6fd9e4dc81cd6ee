"""Ways in which a model or a sidecar lost something, or was given something that is not its own."""

from __future__ import annotations

from typing import Any

LOSSES: dict[str, dict[str, Any]] = {
    "layer 0": {"lose": lambda name: name.startswith("blk.0.")},
    "a layer in the middle": {"lose": lambda name: name.startswith("blk.2.")},
    "the trunk": {"lose": lambda name: name.startswith(("blk.0.", "blk.1.", "blk.2.", "blk.3."))},
    "the block": {"lose": lambda name: name.startswith("blk.4.")},
    "the block's marks": {"lose": lambda name: name.startswith("blk.4.nextn.")},
    "eh_proj": {"lose": lambda name: name.endswith("eh_proj.weight")},
    "all but eh_proj": {"lose": lambda name: name.startswith("blk.4.") and not name.endswith("eh_proj.weight")},
    "every layer": {"lose": lambda name: name.startswith("blk.")},
    "embeddings": {"lose": lambda name: name == "token_embd.weight"},
    "output norm": {"lose": lambda name: name == "output_norm.weight"},
    "every root": {"lose": lambda name: not name.startswith("blk.")},
    "block count": {"drop": ["qwen35.block_count"]},
    "block count and key": {"drop": ["qwen35.block_count", "qwen35.nextn_predict_layers"]},
    "tokenizer": {"drop": ["tokenizer.ggml.model"]},
    "architecture": {"drop": ["general.architecture"]},
    "numbered from 0": {"rename": {"blk.0.": "blk.5.", "blk.4.": "blk.0."}},
    "mark of forks": {"put": [("qwen35.nextn_shared_target_tensors", "bool", True)]},
    "mark of forks, false": {"put": [("qwen35.nextn_shared_target_tensors", "bool", False)]},
    "another architecture's mark": {"put": [("gemma4.nextn_shared_target_tensors", "bool", True)]},
    "another architecture": {"put": [("general.architecture", "str", "qwen36")]},
    "unknown tensor": {"add": [("blk.2.nextn.what.weight", (32,), 0, bytes(128))]},
    "negative key": {"put": [("qwen35.nextn_predict_layers", "i32", -1)]},
    "absurd count": {"put": [("qwen35.block_count", "u32", 2**32 - 1)]},
    "count of text": {"put": [("qwen35.block_count", "str", "five")]},
    "a trunk's count": {"put": [("qwen35.block_count", "u32", 4)], "lose": lambda name: name.startswith("blk.4.")},
}
