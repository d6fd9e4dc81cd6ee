"""Ways to remake a model's file: other layers, other tensors, the rest byte for byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from ggufmaker import F32, KV, Tensor
from sick import rewrite
from stmaker import encode

from nextn.archs import per_layer_arrays, trunk_arrays
from nextn.block.model import split_name
from nextn.ggml.quantize import dequantize, quantize
from nextn.gguf.files import Model, open_model
from nextn.gguf.kv import KVType
from nextn.gguf.types import parse_type_name, tensor_type
from nextn.layouts.factors import SLOTS
from nextn.layouts.metadata import OWN_KEYS


def tensors_of(path: Path) -> list[Tensor]:
    """All tensors of one file with their bytes."""
    file, data = open_model(path).files[0], path.read_bytes()
    out: list[Tensor] = []
    for info in file.header.tensors:
        start, end = file.tensor_range(info)
        out.append((info.name, info.ne, info.type_id, data[start:end]))
    return out


def remade(source: Path, target: Path, tensors: Iterable[Tensor], put: Iterable[KV] = ()) -> Path:
    """`source` with other tensors and some pairs put; what nextn noted in it is dropped."""
    return rewrite(
        source, target, lose=lambda name: True, add=list(tensors), put=list(put), drop=sorted(OWN_KEYS)
    )


def copied(source: Path, folder: Path) -> Path:
    """The same file in the row's own folder."""
    return Path(shutil.copy(source, folder))


def deepened(source: Path, target: Path, order: Sequence[int]) -> Path:
    """A trunk with the layers of `source` in this order, some of them repeated, as passthrough merges make it."""
    model = open_model(source)
    arch = model.architecture
    layers: dict[int, list[Tensor]] = {}
    out: list[Tensor] = []
    for tensor in tensors_of(source):
        layer, suffix = split_name(str(tensor[0]))
        if layer is None:
            out.append(tensor)
        else:
            layers.setdefault(layer, []).append((suffix, *tensor[1:]))
    for at, layer in enumerate(order):
        out += [(f"blk.{at}.{suffix!s}", *rest) for suffix, *rest in layers[layer]]
    return remade(source, target, out, [(f"{arch}.block_count", "u32", len(order)), *reordered(model, order)])


def reordered(model: Model, order: Sequence[int]) -> list[KV]:
    kinds = {KVType.INT32: "[i32]", KVType.UINT32: "[u32]", KVType.BOOL: "[bool]", KVType.FLOAT32: "[f32]"}
    names = {*per_layer_arrays(model.architecture), *trunk_arrays(model.architecture)}
    found = (model.header.by_key.get(f"{model.architecture}.{name}") for name in names)
    return [
        (kv.key, kinds[kv.item_type], [kv.value[layer] for layer in order])
        for kv in found
        if kv is not None and kv.item_type is not None
    ]


def pruned(source: Path, target: Path, keep: int) -> Path:
    """A model with only the first `keep` experts of every layer, as expert pruning makes it."""
    model = open_model(source)
    n = model.arch_int("expert_count")
    out: list[Tensor] = []
    for name, ne, type_id, data in tensors_of(source):
        if "_exps." in str(name) or "ffn_gate_inp.weight" in str(name) or "exp_probs_b" in str(name):
            ne, data = (*ne[:-1], keep), data[: len(data) // n * keep]
        out.append((name, ne, type_id, data))
    return remade(source, target, out, [(f"{model.architecture}.expert_count", "u32", keep)])


def fused(source: Path, target: Path, layers: Iterable[int]) -> Path:
    """The experts' gate and up of some layers as one tensor, as newer converters write them."""
    wanted = {f"blk.{n}." for n in layers}
    all_tensors = tensors_of(source)
    ups = {str(name): data for name, _, _, data in all_tensors if "ffn_up_exps" in str(name)}
    out: list[Tensor] = []
    for name, ne, type_id, data in all_tensors:
        text = str(name)
        if not text.startswith(tuple(wanted)) or not text.endswith(("ffn_gate_exps.weight", "ffn_up_exps.weight")):
            out.append((name, ne, type_id, data))
        elif "ffn_gate_exps" in text:
            up, size = ups[text.replace("ffn_gate_exps", "ffn_up_exps")], len(data) // ne[2]
            both = b"".join(data[i : i + size] + up[i : i + size] for i in range(0, len(data), size))
            out.append((text.replace("ffn_gate_exps", "ffn_gate_up_exps"), (ne[0], 2 * ne[1], ne[2]), type_id, both))
    return remade(source, target, out)


def in_nvfp4(source: Path, target: Path, layer: int) -> Path:
    """A layer's matrices in NVFP4 with both factors beside each, as a converter writes what ModelOpt quantized."""
    nvfp4, out = parse_type_name("nvfp4"), []
    for name, ne, type_id, data in tensors_of(source):
        stem = str(name).removesuffix("weight")
        at, suffix = split_name(str(name))
        if at != layer or not SLOTS.fullmatch(suffix) or ne[0] % 64:
            out.append((name, ne, type_id, data))
            continue
        kind = tensor_type(type_id)
        assert kind is not None
        rows = dequantize(data, kind, ne[0])
        n = ne[2] if len(ne) > 2 else 1
        factors = np.linspace(0.5, 1.5, n + 1, dtype=np.float32)[1:]
        rows = rows / np.repeat(factors, len(rows) // n)[:, np.newaxis]
        out.append((name, ne, nvfp4.id, quantize(np.ascontiguousarray(rows), nvfp4).tobytes()))
        out.append((f"{stem}scale", (n,), F32, factors.tobytes()))
        out.append((f"{stem}input_scale", (n,), F32, np.ones(n, np.float32).tobytes()))
    return remade(source, target, out)


def safetensors_part(source: Path, target: Path, wanted: Callable[[str], bool]) -> Path:
    """Some tensors of a safetensors file, as a file of their own."""
    data = source.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    table, body = {}, b""
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__" and wanted(name):
            first, end = entry["data_offsets"]
            table[name] = entry | {"data_offsets": [len(body), len(body) + end - first]}
            body += data[start + first : start + end]
    target.write_bytes(encode(table, body))
    return target
