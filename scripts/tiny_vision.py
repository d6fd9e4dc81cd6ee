"""A tiny vision tower for the tiny Qwen3.5: random, so it shows what an engine does with images, not what it sees.

    python scripts/tiny_vision.py mmproj-tiny.gguf

Names and keys are those that llama.cpp's loader wants of the projector `qwen3vl_merger` (b11549, tools/mtmd/clip.cpp).
"""

from __future__ import annotations

import argparse
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

import gguf

WIDTH, N_HEAD, N_LAYER, N_FF, PATCH, SIDE, MERGE = 64, 4, 2, 128, 16, 64, 2


def make_mmproj(path: Path, n_embd_text: int, seed: int = 0) -> Path:
    """Writes the GGUF; images become vectors of `n_embd_text`."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "qwen3vl_merger")
    writer.add_bool("clip.use_gelu", True)
    numbers = {
        "image_size": SIDE, "patch_size": PATCH, "embedding_length": WIDTH, "feed_forward_length": N_FF,
        "block_count": N_LAYER, "attention.head_count": N_HEAD, "projection_dim": n_embd_text,
        "spatial_merge_size": MERGE, "image_min_pixels": SIDE * SIDE, "image_max_pixels": SIDE * SIDE,
    }  # fmt: skip
    for name, number in numbers.items():
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.is_deepstack_layers", [False] * N_LAYER)
    draw = np.random.default_rng(seed)

    def put(name: str, *shape: int) -> None:
        x: Any = draw.standard_normal(shape).astype(np.float32)
        x = x / np.float32(np.prod(shape[1:]) ** 0.5) if len(shape) > 1 else x * np.float32(0.02)
        if "ln" in name and name.endswith("weight"):
            x = x + np.float32(1)
        writer.add_tensor(name, x)

    def both(name: str, *shape: int) -> None:
        put(f"{name}.weight", *shape)
        put(f"{name}.bias", shape[0])

    put("v.patch_embd.weight", WIDTH, 3, PATCH, PATCH)
    put("v.patch_embd.weight.1", WIDTH, 3, PATCH, PATCH)
    put("v.patch_embd.bias", WIDTH)
    put("v.position_embd.weight", (SIDE // PATCH) ** 2, WIDTH)
    for layer in range(N_LAYER):
        at = f"v.blk.{layer}"
        both(f"{at}.attn_qkv", 3 * WIDTH, WIDTH)
        both(f"{at}.attn_out", WIDTH, WIDTH)
        both(f"{at}.ffn_up", N_FF, WIDTH)
        both(f"{at}.ffn_down", WIDTH, N_FF)
        for norm in ("ln1", "ln2"):
            both(f"{at}.{norm}", WIDTH)
    both("v.post_ln", WIDTH)
    wide = WIDTH * MERGE * MERGE
    both("mm.0", wide, wide)
    both("mm.2", n_embd_text, wide)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def png(side: int = SIDE, seed: int = 0) -> bytes:
    """A coloured square as a PNG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--width", type=int, default=256, help="embedding length of the text model")
    args = parser.parse_args()
    make_mmproj(args.file, args.width)


if __name__ == "__main__":
    main()
