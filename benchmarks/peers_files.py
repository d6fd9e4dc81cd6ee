"""The files that `peers.py` measures on: sparse giants, many shards, many tensors, a checkpoint of a chosen size."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "support"), str(ROOT / "benchmarks")]

from faults import Giant, giant  # noqa: E402

from nextn.gguf.tensors import TensorInfo  # noqa: E402

DEMO = ROOT / "src" / "nextn" / "demo_data"
TRUNK, CHECKPOINT = DEMO / "tiny-qwen35-Q4_K_M.gguf", DEMO / "tiny-qwen35-mtp"
_WIDTH = 768  # of the checkpoint's feed-forward layers: no other axis is as long


def sparse(gb: float) -> Giant:
    """A trunk of this many 1e9 bytes that the demo's block fits."""
    return giant(TRUNK, round(gb * 1e9))


def many_shards(folder: Path, n_shards: int) -> list[Path]:
    """A sparse trunk of 1 GB with a tensor or more in each shard but the first."""
    whole = sparse(1)
    more = tuple(TensorInfo(f"extra.{i}.weight", (8,), 0, 0) for i in range(n_shards))
    return replace(whole, roots=(*whole.roots, *more)).shards(folder, "trunk", n_shards)


def real(path: Path, gb: float) -> Path:
    """A trunk in one file, all of it on the disk."""
    sparse(gb).single(path)
    size, piece = path.stat().st_size, os.urandom(8 << 20)
    with path.open("r+b") as file:
        file.seek(1 << 20)
        while (left := size - file.tell()) > 0:
            file.write(piece[:left])
    return path


def wide_checkpoint(folder: Path, times: int) -> Path:
    """The demo's checkpoint with feed-forward layers `times` as wide, repeated along that axis."""
    folder.mkdir()
    for path in CHECKPOINT.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] *= times
    (folder / "config.json").write_text(json.dumps(config))
    raw = (CHECKPOINT / "model.safetensors").read_bytes()
    (n_head,) = struct.unpack_from("<Q", raw)
    table, out, pieces, at = json.loads(raw[8 : 8 + n_head]), {}, [], 0
    for name, each in table.items():
        if name == "__metadata__":
            continue
        start, end = each["data_offsets"]
        data, shape = raw[8 + n_head + start : 8 + n_head + end], each["shape"]
        if _WIDTH in shape:
            if shape[0] == _WIDTH:
                data *= times
            else:
                n = _WIDTH * 2
                data = b"".join(data[row : row + n] * times for row in range(0, len(data), n))
            shape = [axis * times if axis == _WIDTH else axis for axis in shape]
        pieces.append(data)
        out[name] = {"dtype": each["dtype"], "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(out).encode()
    head += b" " * (-len(head) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.writelines(pieces)
    return folder
