"""What training computes by itself, family by family: facts of llama.cpp's graphs at b11549 (src/models/*.cpp)."""

from __future__ import annotations

GATED = "gated"  # attention whose output is gated per value; rows of `attn_q` hold [query, gate] per head
LATENT = "latent"  # multi-head latent attention, and experts
# Families whose MTP block is fitted -> the attention of their `graph_mtp`.
BLOCKS = {"qwen35": GATED, "deepseek2": LATENT}
# Dense families that torch reads as the engine does -> whether RoPE turns halves; else neighbouring pairs.
DENSE_HALVES = {"llama": False, "qwen3": True}
PLAIN = "llama"  # transformers' type of models whose norms multiply by their weights as stored, as a GGUF's do
