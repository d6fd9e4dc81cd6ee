"""A model with its matrices in another type: `python benchmarks/requantized.py MODEL.gguf TYPE OUT.gguf`.

Values go through float32 and ggml's own quantizers; vectors stay as they are. From a low-bit model this makes no good
text, but every matrix costs what a matrix of that type costs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nextn.ggml.quantize import dequantize, fallback_type, quantize_rows
from nextn.gguf.files import open_model
from nextn.gguf.header import build_header, place
from nextn.gguf.kv import KV, KVType
from nextn.gguf.kv_table import edit
from nextn.gguf.tensors import TensorInfo
from nextn.gguf.types import file_type_for, parse_type_name


def requantize(model_path: Path, type_name: str, out: Path) -> Path:
    """Write a single file."""
    model, wanted, n_threads = open_model(model_path), parse_type_name(type_name), os.cpu_count() or 1
    kinds = {
        name: fallback_type(wanted, info.ne[0]) if len(info.ne) > 1 and "conv1d" not in name else info.type
        for name, (_, info) in model.tensors.items()
    }
    sized = []
    for name, (file, info) in model.tensors.items():
        kind = kinds[name]
        new = TensorInfo(name, info.ne, info.type_id if kind is None else kind.id, 0)
        sized.append((new, new.computed_size_bytes or file.stored_size(info)))
    infos, _ = place(sized, 32)
    number = file_type_for(wanted)
    put = [] if number is None else [KV.make("general.file_type", KVType.UINT32, number)]
    with out.open("xb") as target:
        target.write(build_header(edit(list(model.kvs), put=put), infos))
        for file, info in model.tensors.values():
            start, end = file.tensor_range(info)
            with file.path.open("rb") as source:
                source.seek(start)
                data = source.read(end - start)
            kind = kinds[info.name]
            if kind is not None and info.type is not None and kind != info.type:
                rows = dequantize(data, info.type, info.ne[0], n_threads=n_threads)
                data = quantize_rows(rows, kind, n_threads=n_threads).tobytes()
            target.write(data + bytes(-len(data) % 32))
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("type")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    print(requantize(args.model, args.type, args.out))
