"""Which architectures of the installed engine have a graph for MTP, and which hand their layers' inputs to a draft.

    python benchmarks/graphs.py            # judges every architecture again; 1 when the committed facts differ
    python benchmarks/graphs.py --write    # commits nothing, writes src/nextn/compat/graphs.json
    python benchmarks/graphs.py llama qwen3

An EAGLE-3 or DFlash draft asks the target for the inputs of some of its layers ("taps"). Where a graph hands out none,
llama.cpp aborts. So each architecture is made as a tiny model from metadata alone, in a process of its own, asked for
the input of its first layer, and given a token: it lives, or it dies with llama.cpp's own words. An MTP graph is a
class inside the model's, named by the library's symbols; compat.py measures that the engine drafts with each of them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))
FACTS = ROOT / "src" / "nextn" / "compat" / "graphs.json"
ALIVE = "the model decodes a token"
TIMEOUT_S = 30.0
_MTP = re.compile(rb"_ZTVN\d+llama_model_(\w+?)9graph_mtpE")

# ---- the library -------------------------------------------------------------------------------------------------


class _Blob(ctypes.Structure):
    """A parameter structure of the engine, passed on as it came; longer than any of them."""

    _fields_ = [("bytes", ctypes.c_ubyte * 1024)]


def library() -> Path:
    """The shared library of the wheel xllamacpp."""
    spec = find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        sys.exit("xllamacpp is not installed")
    return next(Path(spec.origin).parent.glob("xllamacpp*.so"))


def mtp_classes(path: Path) -> list[str]:
    """The model classes that have an MTP graph, by the library's symbols."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return sorted({found.decode() for found in _MTP.findall(data)})


def architectures(lib: ctypes.CDLL) -> list[str]:
    """All that the library has a name for."""
    name = lib._Z13llm_arch_name8llm_arch
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.c_int]
    found: list[str] = []
    while (said := name(len(found)).decode()) != "(unknown)":
        found.append(said)
    return found


# ---- a tiny model of each architecture ---------------------------------------------------------------------------

N_EMBD, N_HEAD, N_FF, N_LAYER, N_VOCAB = 256, 2, 384, 2, 128
Values: TypeAlias = "dict[str, Any]"
# Header values behind `{arch}.` that every model gets. Lists are per layer.
BASE: Values = {
    "vocab_size": N_VOCAB, "context_length": 256, "embedding_length": N_EMBD, "feed_forward_length": N_FF,
    "block_count": N_LAYER, "leading_dense_block_count": 1, "attention.head_count": N_HEAD,
    "attention.head_count_kv": N_HEAD, "attention.layer_norm_epsilon": 1e-5, "attention.layer_norm_rms_epsilon": 1e-5,
}  # fmt: skip
# Values that a model gets when its loader names the key as missing.
WANTED: Values = {
    "attention.clamp_kqv": 1.0, "attention.indexer.block_size": 4, "attention.indexer.head_count": 2,
    "attention.indexer.key_length": 64, "attention.indexer.kpool": 4, "attention.indexer.local_blocks": 1,
    "attention.indexer.top_k": 64, "attention.key_length_mla": 192, "attention.kv_lora_rank": 512,
    "attention.output_group_count": 2, "attention.output_lora_rank": 32, "attention.q_lora_rank": 64,
    "attention.relative_buckets_count": 8, "attention.sliding_window": 32, "attention.value_length_mla": 128,
    "attention.compress_ratios": [0, 4], "attention.compress_rope_freq_base": 10000.0,
    "attention.sliding_window_pattern": [0, 1], "embedding_length_per_layer_input": 64,
    "expert_feed_forward_length": 64, "expert_group_scale": 1.0, "expert_shared_count": 1,
    "expert_shared_feed_forward_length": 64, "expert_weights_scale": 1.0, "experts_per_group": 1,
    "full_attention_interval": 2, "hash_layer_count": 0, "hyper_connection.count": 4,
    "hyper_connection.epsilon": 1e-6, "hyper_connection.low_rank": 8, "hyper_connection.magnitude": 2.0,
    "hyper_connection.sinkhorn_iterations": 2, "interleave_moe_layer_step": 2, "kda.head_dim": 128,
    "logit_scale": 1.0, "residual_scale": 1.0, "rope.dimension_count": 64, "rope.dimension_sections": [16, 16, 16, 16],
    "rope.freq_base_swa": 10000.0, "shortconv.l_cache": 3, "ssm.conv_kernel": 4, "ssm.group_count": 2,
    "ssm.inner_size": 256, "ssm.state_size": 128, "ssm.time_step_rank": 2, "swiglu_clamp_exp": 7.0,
    "swiglu_clamp_shexp": 7.0, "use_parallel_residual": False, "xielu.alpha_n": 1.0, "xielu.alpha_p": 1.0,
    "xielu.beta": 1.0, "attn_res.block_size": 12, "activation.situ_beta": 4.0,
    "activation.situ_linear_beta": 25.0, "time_mix_extra_dim": 64, "time_decay_extra_dim": 64,
    "attention.decay_lora_rank": 32, "attention.iclr_lora_rank": 32, "attention.value_residual_mix_lora_rank": 32,
    "attention.gate_lora_rank": 32, "hrm.layers_per_stack": 1, "hrm.h_cycles": 2, "hrm.l_cycles": 2,
    "expert_gating_func": 2, "expert_weights_norm": True, "kda.gate_lower_bound": -5.0,
    "kda.safe_gate": True, "attention.key_length_swa": 128, "attention.value_length_swa": 128,
    "attention.shared_kv_layers": 0, "attention.kv_lora_rank_swa": 512, "attention.key_length_mla_swa": 192,
    "attention.value_length_mla_swa": 128, "xielu.eps": 1e-6, "wkv.head_size": 64, "expert_latent_length": 64,
}  # fmt: skip
EXPERTS: Values = {
    "expert_count": 2, "expert_used_count": 2, "expert_feed_forward_length": 64, "expert_gating_func": 2,
    "expert_shared_feed_forward_length": 64, "expert_shared_count": 1,
}  # fmt: skip
# What no message of the loader tells: per-layer arrays, sizes that depend on one another.
_MIXED = {"attention.head_count_kv": [N_HEAD, 0]}
_LATENT = {
    "attention.key_length": 576, "attention.value_length": 512, "attention.key_length_mla": 192,
    "attention.value_length_mla": 128, "rope.dimension_count": 64, "attention.head_count_kv": 1,
    "embedding_length": 128, "attention.head_count": 1, "feed_forward_length": 192,
}  # fmt: skip
_LATENT_MIXED = {"attention.head_count_kv": [1, 0]}
_HALF = {"full_attention_interval": 2}
_WIDE_STATE = {"ssm.inner_size": 2 * N_EMBD}
_NEMOTRON = {
    "block_count": 3, "attention.head_count_kv": [0, N_HEAD, 0], "feed_forward_length": [0, 0, N_FF],
}  # fmt: skip
OWN: dict[str, Values] = {
    "afmoe": EXPERTS | {"attention.head_count": 4, "attention.head_count_kv": 2},
    "bailingmoe3": _LATENT | _LATENT_MIXED | {"swiglu_clamp_exp": [0.0, 7.0], "swiglu_clamp_shexp": [0.0, 7.0]},
    "cohere2moe": EXPERTS,
    "deepseek2": _LATENT,
    "deepseek32": _LATENT,
    "deepseek4": {
        "block_count": 4,
        "attention.head_count_kv": 1,
        "attention.key_length": 128,
        "rope.dimension_count": 64,
        "attention.compress_ratios": [0, 0, 4, 128],
        "attention.value_length": 128,
        "expert_gating_func": 4,
    },
    "dots3note": _LATENT | EXPERTS | {"attention.indexer.types": [1, 0]},
    "gemma4": {"block_count": 5, "attention.sliding_window_pattern": [1, 1, 1, 1, 0], "rope.dimension_count": 128},
    "glm-dsa": _LATENT,
    "glm5-next": {**_LATENT, **_LATENT_MIXED, "attention.key_length": 512, "rope.dimension_count": 0},
    "granitehybrid": _MIXED | _WIDE_STATE,
    "hrm_text": {"block_count": 6},
    "hy_v4": _LATENT | {"attention.indexer.types": [1, 0]},
    "jamba": _MIXED | _WIDE_STATE,
    "kimi-k3": _LATENT | _LATENT_MIXED,
    "kimi-linear": _LATENT | _LATENT_MIXED,
    "lfm2": _MIXED,
    "lfm2moe": _MIXED | EXPERTS,
    "llama4": {"block_count": 4},
    "mamba": _WIDE_STATE,
    "maple": EXPERTS,
    "minimax-01": _HALF,
    "minimax-m3": {"rope.dimension_count": 64},
    "mistral4": _LATENT,
    "nemotron_h": _NEMOTRON,
    "nemotron_h_moe": _NEMOTRON,
    "paddleocr": {"rope.dimension_sections": [16, 16, 16, 16]},
    "plamo2": _MIXED,
    "qwen35": _HALF,
    "qwen35moe": _HALF | EXPERTS,
    "qwen3next": _HALF,
    "qwen4exp": _HALF | EXPERTS,
}
_MISSING = re.compile(r"key not found in model: (\S+)")
_NO_EXPERTS = re.compile(r"ne\[dim\] >= 1|n_expert > 0|zero experts")

# ---- judging -----------------------------------------------------------------------------------------------------


def _metadata(lib: ctypes.CDLL, arch: str, values: Values) -> ctypes.c_void_p:
    lib.gguf_init_empty.restype = ctypes.c_void_p
    made = ctypes.c_void_p(lib.gguf_init_empty())
    lib.gguf_set_val_str(made, b"general.architecture", arch.encode())
    lib.gguf_set_val_str(made, b"tokenizer.ggml.model", b"test")
    tokens = (ctypes.c_char_p * N_VOCAB)(*(f"tok_{n}".encode() for n in range(N_VOCAB)))
    lib.gguf_set_arr_str(made, b"tokenizer.ggml.tokens", tokens, ctypes.c_size_t(N_VOCAB))
    for name, value in values.items():
        key = (name if name.startswith("xielu.") else f"{arch}.{name}").encode()
        if isinstance(value, list):
            kind, c_type = (6, ctypes.c_float) if isinstance(value[0], float) else (4, ctypes.c_uint32)
            lib.gguf_set_arr_data(made, key, kind, (c_type * len(value))(*value), ctypes.c_size_t(len(value)))
        elif isinstance(value, bool):
            lib.gguf_set_val_bool(made, key, ctypes.c_bool(value))
        elif isinstance(value, str):
            lib.gguf_set_val_str(made, key, value.encode())
        elif isinstance(value, int):
            lib.gguf_set_val_u32(made, key, ctypes.c_uint32(value))
        else:
            lib.gguf_set_val_f32(made, key, ctypes.c_float(value))
    return made


def run(lib: ctypes.CDLL, arch: str, values: Values) -> int:
    """Makes the model, decodes a token, asks for a layer's input, decodes another one; the code to end with."""
    setter = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    nothing = setter(lambda tensor, data: None)  # weights are what memory holds: only the graph matters
    for name in ("llama_model_default_params", "llama_context_default_params", "llama_batch_get_one"):
        getattr(lib, name).restype = _Blob
    for name in ("llama_model_init_from_user", "llama_init_from_model"):
        getattr(lib, name).restype = ctypes.c_void_p
    lib.llama_backend_init()
    model = lib.llama_model_init_from_user(
        _metadata(lib, arch, values), nothing, None, lib.llama_model_default_params()
    )
    if not model:
        return 3
    params = lib.llama_context_default_params()
    (ctypes.c_uint32 * 4).from_buffer(params)[:] = (64, 64, 64, 1)  # n_ctx, n_batch, n_ubatch, n_seq_max
    context = ctypes.c_void_p(lib.llama_init_from_model(ctypes.c_void_p(model), params))
    if not context:
        return 4
    tokens = (ctypes.c_int32 * 1)(1)
    if lib.llama_decode(context, lib.llama_batch_get_one(tokens, 1)) != 0:
        return 5
    os.write(1, ALIVE.encode())
    lib._Z30llama_set_embeddings_layer_inpP13llama_contextjb(context, ctypes.c_uint32(0), ctypes.c_bool(True))
    return 0 if lib.llama_decode(context, lib.llama_batch_get_one(tokens, 1)) == 0 else 6


def judge(lib: ctypes.CDLL, arch: str) -> tuple[bool | None, str]:
    """(whether its graph has taps, else with what words it dies), or (None, why that cannot be told)."""
    values = BASE | OWN.get(arch, {})
    while True:
        status, text = _child(lib, arch, values)
        if status == 0:
            return True, ""
        if ALIVE in text:
            return False, _reason(text)
        more: Values = {}
        if found := _MISSING.search(text):
            suffix = found[1].removeprefix(f"{arch}.")
            more = {suffix: WANTED[suffix]} if suffix in WANTED else {}
        elif _NO_EXPERTS.search(text):
            more = EXPERTS
        if more.keys() <= values.keys():
            return None, _reason(text) or f"it ended with {status}"
        values = {**more, **values}


def _child(lib: ctypes.CDLL, arch: str, values: Values) -> tuple[int, str]:
    """(exit code, negative for a signal; what it said) of one try in a process of its own."""
    with tempfile.TemporaryFile("w+b") as log:
        pid = os.fork()
        if pid == 0:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            os._exit(run(lib, arch, values))
        status = _wait(pid)
        log.seek(0)
        return status, log.read().decode("utf-8", "replace")


def _reason(text: str) -> str:
    """The line of a log that says why a model was not made."""
    lines = [line for line in text.splitlines() if re.search("error loading|GGML_ASSERT|must|invalid|Error", line)]
    line = lines[-1].replace("error loading model hyperparameters:", "error loading model:") if lines else ""
    return re.sub(r"^.*(error loading model: |/llama\.cpp/\S+: )", "", line)[:120]


def _wait(pid: int) -> int:
    """The exit code of a child, negative for a signal; it is killed when it takes too long."""
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def probe(names: Iterable[str] = ()) -> dict[str, Any]:
    """The facts of the installed engine, as they are committed."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    path = library()
    lib = ctypes.CDLL(os.fspath(path))
    known = architectures(lib)
    found = {arch: judge(lib, arch) for arch in (names or known)}
    return {
        "build": f"xllamacpp {version('xllamacpp')}",
        "architectures": known,
        "mtp_graphs": mtp_classes(path),
        "taps": sorted(arch for arch, (has, _) in found.items() if has),
        "no_taps": {arch: why for arch, (has, why) in sorted(found.items()) if has is False},
        "not_judged": {arch: why for arch, (has, why) in sorted(found.items()) if has is None},
    }


# ---- against what nextn states -----------------------------------------------------------------------------------


def differences(found: dict[str, Any], stated: dict[str, Any]) -> list[str]:
    """What the installed engine does otherwise than the committed facts say, in either direction."""
    out = []
    for key, what in (
        ("mtp_graphs", "an MTP graph"),
        ("taps", "taps"),
        ("no_taps", "a graph without taps"),
        ("architectures", "a name"),
    ):
        new, old = set(found[key]) - set(stated[key]), set(stated[key]) - set(found[key])
        out += [
            f"{found['build']} has {what} for {arch}, which the facts of {stated['build']} lack" for arch in sorted(new)
        ]
        out += [f"{stated['build']} had {what} for {arch}, and {found['build']} has not" for arch in sorted(old)]
    return out


def unstated(found: dict[str, Any]) -> list[str]:
    """Where the families' facts, and the architectures that are said to load only, differ from the MTP graphs."""
    from nextn.archs import FAMILIES
    from nextn.archs.others import LOADS_ONLY

    def spelled(name: str) -> str:
        return re.sub("[-_]", "", name)

    graphs = {spelled(name) for name in found["mtp_graphs"]}
    drafts = {spelled(arch): arch for arch, family in FAMILIES.items() if family.llama_cpp.drafts}
    out = [
        f"{found['build']} has an MTP graph for {name}, and nextn has no family of it"
        for name in sorted(graphs - drafts.keys())
    ]
    out += [
        f"{arch} is a family, and {found['build']} has no MTP graph for it"
        for name, arch in drafts.items()
        if name not in graphs
    ]
    out += [
        f"{arch} is said to load only, and {found['build']} does not know it"
        for arch in LOADS_ONLY
        if arch not in found["architectures"]
    ]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these architectures, and print what is found")
    parser.add_argument("--write", action="store_true", help="write the facts")
    args = parser.parse_args()
    found = probe(args.names)
    if args.names:
        print(json.dumps({key: found[key] for key in ("build", "taps", "no_taps", "not_judged")}, indent=1))
        return
    if args.write:
        FACTS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    wrong = [*differences(found, json.loads(FACTS.read_text("utf-8"))), *unstated(found)]
    print("\n".join(wrong) or f"{found['build']} does what nextn states")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
