"""How fast each type is quantized and decoded: MB of float32 a second, repeated interleaved runs, as JSON.

python benchmarks/quantize.py --types q8_0 q4_K --threads 1 2
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time

import numpy as np

from nextn.ggml.quantize import dequantize, ggml_version, quantize_rows
from nextn.gguf.types import parse_type_name

TYPES = ["f16", "bf16", "q8_0", "q4_0", "q4_K", "q6_K", "iq4_xs", "iq3_s"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--mb", type=float, default=8, help="float32 input, in MB of 1e6 bytes")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    n_per_row = 4096
    n_rows = max(1, round(args.mb * 1e6 / 4 / n_per_row))
    rows = np.random.default_rng(0).standard_normal((n_rows, n_per_row)).astype(np.float32) * np.float32(0.02)
    cases = [(parse_type_name(name), n_threads) for name in args.types for n_threads in args.threads]
    write: dict[str, list[float]] = {}
    read: dict[str, list[float]] = {}
    for type, _ in cases:
        quantize_rows(rows[:1], type, n_threads=1)  # builds the tables of iq types
    for _ in range(args.repeat):
        for type, n_threads in cases:
            start = time.perf_counter()
            data = quantize_rows(rows, type, n_threads=n_threads)
            middle = time.perf_counter()
            dequantize(data, type, n_per_row, n_threads=n_threads)
            end = time.perf_counter()
            case = f"{type.name} x{n_threads}"
            write.setdefault(case, []).append(rows.nbytes / 1e6 / (middle - start))
            read.setdefault(case, []).append(rows.nbytes / 1e6 / (end - middle))
    result = {
        "command": sys.argv,
        "ggml": ggml_version(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "shape": rows.shape,
        "quantize_mb_per_s": {case: _summary(values) for case, values in write.items()},
        "dequantize_mb_per_s": {case: _summary(values) for case, values in read.items()},
    }
    json.dump(result, sys.stdout, indent=1)
    print()


def _summary(values: list[float]) -> dict[str, object]:
    return {"median": round(statistics.median(values), 1), "raw": [round(value, 1) for value in values]}


if __name__ == "__main__":
    main()
