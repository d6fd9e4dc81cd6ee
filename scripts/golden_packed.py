"""Runs llama.cpp's own converter over the checkpoints of tiny_packed.py. See docs/goldens.md.

    python scripts/golden_packed.py LLAMA_CPP_SOURCE [NAME...]

Needs torch, transformers and ml_dtypes. Formats that the converter does not read for a family, but has a function
for (MXFP4), are judged by that function, tensor by tensor.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from golden_families import patch
from make_goldens import CONVERTER, ROOT, convert, prepare, write_golden
from make_tiny_checkpoints import checkpoint_sha256
from tiny_packed import PACKED, make_packed

GOLDENS = ROOT / "tests" / "data" / "goldens" / "packed"
OUTTYPES = ("f32", "bf16", "q8_0")
REPACKED = ("mxfp4",)  # the converter refuses these; what it writes for others of the kind is recorded
NATIVE = ("nvfp4", "nvfp4-modelopt")  # the converter keeps the codes whatever type is asked for


def block_tensors(source: Path, folder: Path, outtype: str, scratch: Path) -> dict[str, Any]:
    """What `--mtp` writes of the block."""
    from golden_gguf import describe

    outfile = scratch / "mtp.gguf"
    convert(source, folder, outfile, "--outtype", outtype, "--mtp")
    tensors = describe(outfile)["tensors"]
    outfile.unlink()
    n = int(json.loads((folder / "config.json").read_text())["num_hidden_layers"])
    return {name: entry for name, entry in tensors.items() if name.startswith("blk.") and int(name.split(".")[1]) >= n}


def repacked_experts(folder: Path) -> dict[str, Any]:
    """Stacked experts as the converter's function for MXFP4 packs them."""
    import torch
    from conversion.base import ModelBase
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    groups: dict[str, list[Any]] = {}
    for name in tensors:
        match = re.match(r"model\.layers\.(\d+)\.mlp\.experts\.\d+\.(gate|up|down)_proj\.weight_packed$", name)
        if match:
            scale = tensors[name.replace("weight_packed", "weight_scale")]
            blocks = ModelBase.repack_mxfp4_blocks(tensors[name].view(torch.uint8), scale)
            groups.setdefault(f"blk.{match[1]}.ffn_{match[2]}_exps.weight", []).append(blocks)
    out = {}
    for name, experts in groups.items():
        data = np.stack(experts)
        ne = [data.shape[2] // 17 * 32, data.shape[1], data.shape[0]]
        out[name] = ["MXFP4", ne, hashlib.sha256(data.tobytes()).hexdigest()]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="the unpacked llama.cpp source")
    parser.add_argument("names", nargs="*", default=list(PACKED))
    args = parser.parse_args()
    prepare(args.source.resolve())
    patch()
    with tempfile.TemporaryDirectory() as temp:
        scratch = Path(temp)
        for name in args.names:
            folder = make_packed(name, scratch / name)
            if name in REPACKED:
                tensors = {"q8_0": repacked_experts(folder)}
            else:
                outtypes = ("q8_0",) if name in NATIVE else OUTTYPES
                tensors = {outtype: block_tensors(args.source, folder, outtype, scratch) for outtype in outtypes}
            golden = {"model": name, "converter": CONVERTER, "checkpoint": checkpoint_sha256(folder), **tensors}
            write_golden(GOLDENS / f"{name}.json", golden)
            print(name, "done", flush=True)


if __name__ == "__main__":
    main()
