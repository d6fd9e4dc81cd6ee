"""The trained tiny model with a deep trunk: `python benchmarks/deep_model.py OUT.gguf [--layers 44]`.

The demo's model with its block, bundled, and behind its four layers so many more that do nothing: copies of the four
whose output projections are zero. It says exactly what the tiny model says, and a trunk step costs twelve times as
much while a draft step costs the same, which is the proportion of a real model. Named a no-op trunk wherever figures
of it are shown.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

import nextn
from nextn.gguf.files import open_model
from nextn.gguf.header import build_header, place
from nextn.gguf.kv_table import edit
from nextn.gguf.tensors import TensorInfo

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "src" / "nextn" / "demo_data"
TRUNK = ROOT / "tests" / "data" / "trunks" / "tiny-qwen35-Q8_0.gguf"
ZERO = ("attn_output.weight", "ssm_out.weight", "ffn_down.weight")
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


def make_deep_model(out: Path, n_extra: int = 44, trunk: Path = TRUNK) -> Path:
    """Write the bundled model; `n_extra` is a multiple of 4, the trunk's pattern of layers."""
    with tempfile.TemporaryDirectory(prefix="nextn-deep-") as folder:
        bundle = nextn.attach(trunk, DATA / "tiny-qwen35-mtp", layout="bundle", out=Path(folder) / "b.gguf").entry
        model = open_model(bundle)
        whole = bundle.read_bytes()
        n_trunk = model.arch_int("block_count") - model.arch_int("nextn_predict_layers")
        if n_extra % n_trunk:
            sys.exit(f"{n_extra} layers are no multiple of the trunk's {n_trunk}")
        tensors: list[tuple[TensorInfo, bytes]] = []
        for name, (file, info) in model.tensors.items():
            start, end = file.tensor_range(info)
            data = whole[start:end]
            match = _LAYER.fullmatch(name)
            layer = int(match[1]) if match else -1
            if match is None or layer < n_trunk:
                tensors.append((info, data))
            else:  # the block
                tensors.append((_named(info, f"blk.{layer + n_extra}.{match[2]}"), data))
            if match is not None and layer < n_trunk:
                silent = bytes(len(data)) if match[2] in ZERO else data
                tensors += [
                    (_named(info, f"blk.{copy}.{match[2]}"), silent)
                    for copy in range(layer + n_trunk, n_trunk + n_extra, n_trunk)
                ]
        arch = model.architecture
        put = []
        for kv in model.kvs:
            if kv.key == f"{arch}.block_count":
                put.append(kv.with_value(kv.value + n_extra))
            elif kv.key == f"{arch}.attention.recurrent_layers":
                pattern = list(kv.value)
                put.append(kv.with_value(pattern[:n_trunk] * (1 + n_extra // n_trunk) + pattern[n_trunk:]))
        kvs = edit(list(model.kvs), put=put)
        _write(out, kvs, tensors)
    return out


def _named(info: TensorInfo, name: str) -> TensorInfo:
    return TensorInfo(name, info.ne, info.type_id, 0)


def _write(out: Path, kvs: list[nextn.gguf.kv.KV], tensors: list[tuple[TensorInfo, bytes]]) -> None:
    infos, _ = place([(info, len(data)) for info, data in tensors], 32)
    with out.open("xb") as file:
        file.write(build_header(kvs, infos))
        for _, data in tensors:
            file.write(data + bytes(-len(data) % 32))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=44)
    parser.add_argument("--trunk", type=Path, default=TRUNK, help="the tiny model in another type")
    args = parser.parse_args()
    print(make_deep_model(args.out, args.layers, args.trunk))
