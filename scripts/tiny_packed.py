"""Tiny random checkpoints whose block is stored quantized, each in one of the formats that are published.

    python scripts/tiny_packed.py int4 OUT_FOLDER

Trunk, embeddings and head stay in bf16, as ignore lists have it; so do eh_proj, norms and the router.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import tiny_families as tiny
from tiny_families import KINDS, Kind, values

Tensors = dict[str, Any]
Packing = Callable[[str, Any], Tensors]  # (name of the weight, its values) -> what is stored

WIDE = 64  # width of experts: NVFP4 wants rows of so many
SWA_HEADS, SWA_KV_HEADS, SWA_DIM = 12, 4, 64  # 1,280 rows of q, k and v; a rank of four has 320: 2.5 blocks


def bf16(x: Any) -> Any:
    return x.astype(ml_dtypes.bfloat16)


def by_groups(x: Any, size: int) -> Any:
    return x.reshape(x.shape[0], -1, size)


def words(codes: Any, bits: int) -> Any:
    """Codes along a row in words of 32 bits, the first in the lowest; the last word is filled with zeros."""
    per_word = 32 // bits
    padded = np.zeros((codes.shape[0], -(-codes.shape[1] // per_word) * per_word), np.uint32)
    padded[:, : codes.shape[1]] = codes
    shifted = padded.reshape(codes.shape[0], -1, per_word) << (np.arange(per_word, dtype=np.uint32) * np.uint32(bits))
    return np.bitwise_or.reduce(shifted, axis=2).astype(np.uint32).view(np.int32)


def packed(bits: int, group: int, *, zeros: bool = False) -> Packing:
    """compressed-tensors' pack-quantized."""

    def pack(name: str, x: Any) -> Tensors:
        groups = by_groups(x, group)
        low, high = groups.min(axis=2), groups.max(axis=2)
        top, middle = (1 << bits) - 1, 1 << (bits - 1)
        scale = (high - low) / np.float32(top) if zeros else np.abs(groups).max(axis=2) / np.float32(middle - 1)
        scale = bf16(np.maximum(scale, np.float32(2.0**-30)))
        wide = scale.astype(np.float32)[:, :, None]
        zero = np.clip(np.round(-low[:, :, None] / wide), 0, top) if zeros else np.float32(middle)
        codes = np.clip(np.round(groups / wide) + zero, 0, top).astype(np.uint32).reshape(x.shape)
        out = {
            f"{name}_packed": words(codes, bits),
            f"{name}_scale": scale,
            f"{name}_shape": np.array(x.shape, np.int64),
        }
        if zeros:
            out[f"{name}_zero_point"] = np.ascontiguousarray(words(zero[:, :, 0].astype(np.uint32).T, bits).T)
        return out

    return pack


def of_rows(dtype: Any, top: float, *, flat: bool = False) -> Packing:
    """A byte a value and a factor for each row."""

    def pack(name: str, x: Any) -> Tensors:
        scale = bf16(np.abs(x).max(axis=1, keepdims=True) / np.float32(top))
        codes = x / scale.astype(np.float32)
        codes = np.round(codes) if dtype is np.int8 else codes
        return {name: codes.astype(dtype), f"{name}_scale": scale[:, 0].astype(np.float32) if flat else scale}

    return pack


def of_blocks(rows: int, columns: int) -> Packing:
    """FP8 with a factor for each block, under the name that compressed-tensors gives it."""

    def pack(name: str, x: Any) -> Tensors:
        made = tiny.fp8(name, x, (rows, columns))
        return {name: made[name], f"{name}_scale": bf16(made[f"{name}_scale_inv"])}

    return pack


def whole(name: str, x: Any) -> Tensors:
    """FP8 with one factor, as ModelOpt stores it, and one for the input."""
    scale = np.float32(np.abs(x).max() / np.float32(448))
    made = {name: (x / scale).astype(ml_dtypes.float8_e4m3fn), f"{name}_scale": np.array(scale, np.float32)}
    return {**made, f"{name.removesuffix('weight')}input_scale": np.array(0.03125, np.float32)}


E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)


def nibbles(x: Any) -> Any:
    """Values as E2M1 codes, two a byte, the first in the lower half."""
    codes = np.abs(np.abs(x)[..., None] - E2M1).argmin(axis=-1).astype(np.uint8) | (x < 0).astype(np.uint8) << 3
    return codes[:, 0::2] | codes[:, 1::2] << 4


def mxfp4(scale_name: str, dtype: Any, *, packed_name: bool = True) -> Packing:
    """MXFP4, its factors under that name."""

    def pack(name: str, x: Any) -> Tensors:
        top = np.abs(by_groups(x, 32)).max(axis=2)
        exponent = np.clip(np.floor(np.log2(np.maximum(top, np.float32(2.0**-100)))) - 2 + 127, 0, 254).astype(np.uint8)
        scale = np.ldexp(np.float32(1), exponent.astype(np.int32) - 127).astype(np.float32)[:, :, None]
        codes = nibbles((by_groups(x, 32) / scale).reshape(x.shape))
        base = name.removesuffix("weight")
        stored = f"{name}_packed" if packed_name else name
        return {
            stored: codes if packed_name else codes.view(np.int8),
            base + scale_name: exponent.view(dtype),
        }

    return pack


def nvfp4(*, modelopt: bool) -> Packing:
    """NVFP4 under the names of ModelOpt or of compressed-tensors."""

    def pack(name: str, x: Any) -> Tensors:
        whole = np.float32(np.abs(x).max() / np.float32(6 * 448))
        scale = (np.abs(by_groups(x, 16)).max(axis=2) / np.float32(6) / whole).astype(ml_dtypes.float8_e4m3fn)
        wide = np.maximum(scale.astype(np.float32)[:, :, None] * whole, np.float32(2.0**-60))
        codes = nibbles((by_groups(x, 16) / wide).reshape(x.shape))
        base, per_input = name.removesuffix("weight"), np.float32(0.0078125)
        if modelopt:
            return {
                name: codes, f"{name}_scale": scale, f"{name}_scale_2": np.array(whole, np.float32),
                f"{base}input_scale": np.array(per_input, np.float32),
            }  # fmt: skip
        return {
            f"{name}_packed": codes, f"{name}_scale": scale,
            f"{name}_global_scale": np.array([1 / whole], np.float32),
            f"{base}input_global_scale": np.array([1 / per_input], np.float32),
        }  # fmt: skip

    return pack


def ranked(n_ranks: int, size: int = 128) -> Packing:
    """FP8 q, k and v as so many ranks of a tensor-parallel run wrote them."""

    def pack(name: str, x: Any) -> Tensors:
        rows = x.shape[0] // n_ranks
        parts = [tiny.fp8(f"{name} {i}", x[i * rows : (i + 1) * rows], (size, size)) for i in range(n_ranks)]
        codes = np.concatenate([part[f"{name} {i}"] for i, part in enumerate(parts)])
        scales = [part[f"{name} {i}_scale_inv"] for i, part in enumerate(parts)]
        return {name: codes, f"{name}_scale_inv": np.concatenate(scales)}

    return pack


@dataclass(frozen=True)
class Packed:
    """A family's checkpoint with a quantized block."""

    kind: Kind
    quantization: dict[str, Any]
    pack: Packing
    only: tuple[str, ...] = ()  # parts of names; empty: all matrices but those that stay


def compressed(format: str, weights: dict[str, Any]) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group},
        "ignore": ["lm_head"], "quantization_status": "compressed",
    }  # fmt: skip


def ints(bits: int, group: int, *, symmetric: bool = True) -> dict[str, Any]:
    return compressed(
        "pack-quantized",
        {"num_bits": bits, "type": "int", "strategy": "group", "group_size": group, "symmetric": symmetric,
         "actorder": None, "block_structure": None},
    )  # fmt: skip


def channel(format: str, kind: str, bits: int = 8) -> dict[str, Any]:
    return compressed(format, {"num_bits": bits, "type": kind, "strategy": "channel", "group_size": None})


def wide_experts() -> Kind:
    """GLM-4.7-Flash's shape with experts of 64."""
    lite = KINDS["glm4moelite"]

    def widen(shapes: tiny.Shapes) -> tiny.Shapes:
        grown = {tiny.FX: WIDE}
        return {
            name: tuple(grown.get(n, n) for n in shape) if "experts." in name else shape
            for name, shape in shapes.items()
        }

    return replace(
        lite, config={**lite.config, "moe_intermediate_size": WIDE}, trunk=lambda i: widen(lite.trunk(i)),
        block=tuple(widen(block) for block in lite.block),
    )  # fmt: skip


def wide_mimo() -> Kind:
    """MiMo's block with heads enough that a rank's rows are no whole number of blocks."""
    mimo = KINDS["mimo2"]
    rows = SWA_DIM * (SWA_HEADS + 2 * SWA_KV_HEADS)
    block = {
        **mimo.block[0],
        "self_attn.qkv_proj.weight": (rows, tiny.E),
        "self_attn.o_proj.weight": (tiny.E, SWA_HEADS * SWA_DIM),
        "self_attn.attention_sink_bias": (SWA_HEADS,),
    }
    heads = {
        "num_attention_heads": SWA_HEADS, "head_dim": SWA_DIM, "v_head_dim": SWA_DIM, "swa_head_dim": SWA_DIM,
        "swa_v_head_dim": SWA_DIM, "swa_num_attention_heads": SWA_HEADS, "swa_num_key_value_heads": SWA_KV_HEADS,
        "num_key_value_heads": 2,
    }  # fmt: skip

    def trunk(i: int) -> tiny.Shapes:
        kv = SWA_KV_HEADS if i else 2
        attention = {"q": SWA_HEADS, "k": kv, "v": kv}
        shapes = {name: shape for name, shape in mimo.trunk(i).items() if "self_attn" not in name}
        shapes |= {f"self_attn.{x}_proj.weight": (n * SWA_DIM, tiny.E) for x, n in attention.items()}
        shapes["self_attn.o_proj.weight"] = (tiny.E, SWA_HEADS * SWA_DIM)
        return {**shapes, **({"self_attn.attention_sink_bias": (SWA_HEADS,)} if i else {})}

    return replace(mimo, config={**mimo.config, **heads}, trunk=trunk, block=(block,) * 3)


LITE, WIDE_LITE, MIMO = KINDS["glm4moelite"], wide_experts(), wide_mimo()
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
FFN = ("mlp.experts", "shared_experts.gate_proj", "shared_experts.up_proj")  # rows of 64, as NVFP4 wants them
PACKED: dict[str, Packed] = {
    "int4": Packed(LITE, ints(4, 32), packed(4, 32)),  # as Kimi-K2 is published
    "int4-zeros": Packed(LITE, ints(4, 16, symmetric=False), packed(4, 16, zeros=True)),
    "int8-words": Packed(LITE, ints(8, 32), packed(8, 32)),
    "int3-words": Packed(LITE, ints(3, 16), packed(3, 16)),
    "int8": Packed(LITE, channel("int-quantized", "int"), of_rows(np.int8, 127)),
    "fp8-rows": Packed(LITE, channel("float-quantized", "float"), of_rows(ml_dtypes.float8_e4m3fn, 448)),
    "fp8-flat": Packed(LITE, channel("naive-quantized", "float"), of_rows(ml_dtypes.float8_e4m3fn, 448, flat=True)),
    "fp8-blocks": Packed(
        LITE,
        compressed(
            "float-quantized",
            {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [48, 32]},
        ),
        of_blocks(48, 32),
    ),
    "fp8-modelopt": Packed(LITE, {"quant_method": "modelopt", "quant_algo": "FP8"}, whole),
    "nvfp4-modelopt": Packed(
        WIDE_LITE, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, nvfp4(modelopt=True),
        (*FFN, "q_a_proj", "o_proj", "eh_proj"),
    ),
    "nvfp4": Packed(
        WIDE_LITE, channel("nvfp4-pack-quantized", "float", 4), nvfp4(modelopt=False), (*FFN, "o_proj"),
    ),
    "nvfp4-narrow": Packed(  # what of the narrow model NVFP4 can hold, for its trunk
        LITE, channel("nvfp4-pack-quantized", "float", 4), nvfp4(modelopt=False),
        ("o_proj", "q_a_proj", "gate_proj", "up_proj"),
    ),
    "mxfp4": Packed(
        LITE, channel("mxfp4-pack-quantized", "float", 4), mxfp4("weight_scale", np.uint8), ("mlp.experts",)
    ),
    "mimo2-ranks4": Packed(MIMO, FP8, ranked(4), ("qkv_proj",)),
    "mimo2-ranks8": Packed(MIMO, FP8, ranked(8), ("qkv_proj",)),
}  # fmt: skip
STAY = ("norm", "mlp.gate.", "eh_proj", "embed_tokens", "shared_head", "lm_head")


def packs(made: Packed, name: str, shape: tuple[int, ...], n_trunk: int) -> bool:
    """Whether a tensor is stored quantized: a matrix of the block that is not meant to stay."""
    kind = made.kind
    prefix = (kind.block_prefix or "").partition("{k}")[0] or f"{kind.layers}{n_trunk}."
    if not name.startswith(prefix) or len(shape) != 2:
        return False
    return any(part in name for part in made.only) if made.only else not any(part in name for part in STAY)


def make_packed(name: str, folder: Path, seed: int = 0) -> Path:
    """Writes the checkpoint into `folder`; returns the folder."""
    made = PACKED[name]
    folder.mkdir(parents=True, exist_ok=True)
    n_trunk = int({**tiny.BASE, **made.kind.config}["num_hidden_layers"])
    tensors: Tensors = {}
    for weight, shape in tiny.shapes(made.kind).items():
        x = values(made.kind, weight, shape, seed)
        if packs(made, weight, shape, n_trunk):
            tensors |= made.pack(weight, x)
        else:
            wide = weight.endswith("e_score_correction_bias")
            tensors[weight] = x.astype(np.float32) if wide else bf16(x)
    return tiny.write_checkpoint(folder, made.kind, tensors, quantization_config=made.quantization)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=sorted(PACKED))
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    make_packed(args.name, args.folder)


if __name__ == "__main__":
    main()
