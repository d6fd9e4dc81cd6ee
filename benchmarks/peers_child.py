"""What `peers.py` starts: one task in a process of its own, and the small process that measures another.

`python peers_child.py measure RESULT PROGRAM ARGS...` starts a program and writes what it cost, as JSON, to RESULT. It
imports nothing large, because Linux hands the peak memory of a parent on to its child.
`python peers_child.py NAME ARGS...` runs a task and prints the seconds without the start of the process and without
imports as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable


def measure(result: str, *words: str) -> None:
    """Wall and processor seconds, peak memory, and bytes read and written through calls (mapped pages are not)."""
    start = time.perf_counter()
    pid = os.posix_spawnp(words[0], words, os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    wall = time.perf_counter() - start
    with open(f"/proc/{pid}/io") as file:  # noqa: PTH123 - pathlib takes as long to import as a small task
        counted = {key: int(value) for key, value in (line.split(": ") for line in file)}
    _, status, usage = os.wait4(pid, 0)
    found = {
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "read_bytes": counted["rchar"],
        "written_bytes": counted["wchar"],
        "code": os.waitstatus_to_exitcode(status),
    }
    with open(result, "w") as out:  # noqa: PTH123
        json.dump(found, out)


def timed(call: Callable[[], object]) -> None:
    """Print the seconds of one call."""
    start = time.perf_counter()
    kept = call()
    print(json.dumps({"inner_s": time.perf_counter() - start}))
    del kept


def open_nextn(warm: str, first: str, *others: str) -> None:
    """Open a model, given any shard."""
    from nextn.gguf.files import open_model

    open_model(warm)
    timed(lambda: open_model(first))


def inspect_nextn(warm: str, path: str) -> None:
    """Inspect a model with garbage collected as rarely as on the command line."""
    import gc

    import nextn

    gc.set_threshold(200_000)
    nextn.inspect(warm)
    timed(lambda: nextn.inspect(path))


def open_ggml(warm: str, *paths: str) -> None:
    """ggml's reader, from the library that nextn quantizes with; it opens the shards of a set one by one."""
    import ctypes

    from nextn.ggml import mainline

    class Params(ctypes.Structure):
        """`struct gguf_init_params`."""

        _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))

    lib = ctypes.CDLL(str(mainline.find_library()))
    lib.gguf_init_from_file.argtypes = [ctypes.c_char_p, Params]
    lib.gguf_init_from_file.restype = ctypes.c_void_p
    lib.gguf_free.argtypes = [ctypes.c_void_p]
    lib.gguf_free.restype = None

    def read(*files: str) -> None:
        for path in files:
            context = lib.gguf_init_from_file(os.fsencode(path), Params(True, None))
            if not context:
                sys.exit(f"{path}: ggml does not open it")
            lib.gguf_free(context)

    read(warm)
    timed(lambda: read(*paths))


def open_gguf_py(warm: str, *paths: str) -> None:
    """gguf-py's reader."""
    import gguf

    gguf.GGUFReader(warm)
    timed(lambda: [gguf.GGUFReader(path) for path in paths])


def transplant(trunk: str, donor: str, out: str) -> None:
    """The bundle as one would write it with gguf-py: read both, write everything again."""
    import gguf

    def whole() -> None:
        model, block = gguf.GGUFReader(trunk), gguf.GGUFReader(donor)
        arch = str(model.fields["general.architecture"].contents())
        writer = gguf.GGUFWriter(out, arch)
        for field in model.fields.values():
            if field.name.startswith("GGUF.") or field.name == "general.architecture":
                continue
            value, kind = field.contents(), field.types[0]
            if field.name == f"{arch}.block_count":
                value += 1
            sub_type = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, value, kind, sub_type=sub_type)
        writer.add_uint32(f"{arch}.nextn_predict_layers", 1)
        tensors = [*model.tensors, *(tensor for tensor in block.tensors if tensor.name.startswith("blk."))]
        for tensor in tensors:
            data = tensor.data
            writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(tensor.data)
        writer.close()
        sync(out)

    timed(whole)


def sync(path: str) -> None:
    """Wait until a file is on the disk, as nextn does."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def split(source: str, folder: str, n_shards: str) -> None:
    """llama-gguf-split's result, made as it does: every tensor is read and written."""
    from pathlib import Path

    from splitting import split_gguf

    def whole() -> None:
        for path in split_gguf(Path(source), Path(folder), int(n_shards)):
            sync(str(path))

    timed(whole)


def convert(source: str, *arguments: str) -> None:
    """The upstream converter, which has to take the made-up tokenizer for Qwen3.5's, whose rules it has."""
    import runpy

    script = os.path.join(source, "convert_hf_to_gguf.py")  # noqa: PTH118
    sys.path[:0] = [source, os.path.join(source, "gguf-py")]  # noqa: PTH118
    start = time.perf_counter()
    import conversion.base
    import conversion.qwen

    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen35"
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    print(json.dumps({"inner_s": time.perf_counter() - start}))


def fetch_and_convert(source: str, repository: str, folder: str, *arguments: str) -> None:
    """Download a whole checkpoint, then convert: what takes the upstream converter to a block."""
    from huggingface_hub import snapshot_download

    snapshot_download(repository, local_dir=folder)
    convert(source, folder, *arguments)


def quantize(how: str, type_name: str, n_threads: str, n_mb: str) -> None:
    """Quantize random rows with nextn on some threads, or with one call of ggml's function on one: a median of five."""
    import statistics

    import numpy as np

    from nextn.ggml import mainline
    from nextn.ggml.quantize import quantize_rows
    from nextn.gguf.types import parse_type_name, row_size

    n_per_row, kind = 4096, parse_type_name(type_name)
    n_rows = int(float(n_mb) * 1e6 / 4 / n_per_row)
    rows = np.random.default_rng(0).standard_normal((n_rows, n_per_row)).astype(np.float32)
    out = np.zeros((n_rows, row_size(kind, n_per_row)), np.uint8)
    lib = mainline.load()

    def once() -> float:
        start = time.perf_counter()
        if how == "ggml":
            lib.quantize_chunk(kind, rows.ctypes.data, out.ctypes.data, n_rows, n_per_row)
        else:
            quantize_rows(rows, kind, n_threads=int(n_threads), out=out)
        return time.perf_counter() - start

    quantize_rows(rows[:64], kind, n_threads=1)
    print(json.dumps({"inner_s": statistics.median(once() for _ in range(5))}))


TASKS: dict[str, Callable[..., None]] = {
    "measure": measure,
    "open-nextn": open_nextn,
    "inspect-nextn": inspect_nextn,
    "open-ggml": open_ggml,
    "open-gguf-py": open_gguf_py,
    "transplant": transplant,
    "split": split,
    "convert": convert,
    "fetch-and-convert": fetch_and_convert,
    "quantize": quantize,
}

if __name__ == "__main__":
    arguments = [
        each
        for word in sys.argv[2:]
        for each in ([line.rstrip("\n") for line in open(word[1:])] if word.startswith("@") else [word])  # noqa: SIM115, PTH123
    ]
    TASKS[sys.argv[1]](*arguments)
