"""DeepSeek-V3 in its published sizes, as sparse files: names, shapes, FP8 factors and totals, without its 700 GB."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from opened import open_donor

import nextn
from nextn.block.duplicates import without_duplicates
from nextn.gguf.files import open_model
from nextn.gguf.header import build_header, place
from nextn.gguf.kv import KV, KVType
from nextn.gguf.tensors import TensorInfo
from nextn.gguf.types import parse_type_name, tensor_size
from nextn.layouts.attach import plan_attach
from nextn.layouts.options import AttachOptions
from nextn.writing.plan import Plan

E, H, LQ, LKV, NOPE, ROPE, DV, X, FX, F, N, V = 7168, 128, 1536, 512, 128, 64, 128, 256, 2048, 18432, 61, 129280
CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": E, "vocab_size": V,
    "num_hidden_layers": N, "num_nextn_predict_layers": 1, "num_attention_heads": H, "num_key_value_heads": H,
    "q_lora_rank": LQ, "kv_lora_rank": LKV, "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE, "v_head_dim": DV,
    "n_routed_experts": X, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": FX,
    "intermediate_size": F, "first_k_dense_replace": 3, "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}  # fmt: skip
PROJECTIONS = {
    "self_attn.q_a_proj": (LQ, E), "self_attn.q_b_proj": (H * (NOPE + ROPE), LQ),
    "self_attn.kv_a_proj_with_mqa": (LKV + ROPE, E), "self_attn.kv_b_proj": (H * (NOPE + DV), LKV),
    "self_attn.o_proj": (E, H * DV),
    **{f"mlp.{who}.{part}_proj": (E, FX) if part == "down" else (FX, E)
       for who in (*(f"experts.{x}" for x in range(X)), "shared_experts") for part in ("gate", "up", "down")},
}  # fmt: skip
PLAIN = {
    "input_layernorm.weight": (E,), "post_attention_layernorm.weight": (E,), "self_attn.q_a_layernorm.weight": (LQ,),
    "self_attn.kv_a_layernorm.weight": (LKV,), "mlp.gate.weight": (X, E), "enorm.weight": (E,), "hnorm.weight": (E,),
    "eh_proj.weight": (E, 2 * E), "shared_head.norm.weight": (E,), "shared_head.head.weight": (V, E),
    "embed_tokens.weight": (V, E),
}  # fmt: skip
N_OWN = 2 * V * E  # elements of the block's own embeddings and head
N_PLAIN_1D = 5 * E + LQ + LKV + X


def sparse(path: Path, head: bytes, size: int) -> Path:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layer 61, embeddings and head; all values are zeros."""
    folder = tmp_path_factory.mktemp("v3") / "DeepSeek-V3"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tensors: dict[str, tuple[str, tuple[int, ...], int]] = {}
    p = f"model.layers.{N}."
    for name, (rows, columns) in PROJECTIONS.items():
        tensors[f"{p}{name}.weight"] = ("F8_E4M3", (rows, columns), rows * columns)
        blocks = (-(-rows // 128), -(-columns // 128))
        tensors[f"{p}{name}.weight_scale_inv"] = ("F32", blocks, 4 * blocks[0] * blocks[1])
    for name, shape in PLAIN.items():
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        tensors[p + name] = ("BF16", shape, 2 * n)
    tensors[f"{p}mlp.gate.e_score_correction_bias"] = ("F32", (X,), 4 * X)
    tensors |= dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), ("BF16", (V, E), 2 * V * E))
    tensors["model.norm.weight"] = ("BF16", (E,), 2 * E)
    header, at = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    sparse(folder / "model.safetensors", len(text).to_bytes(8, "little") + text, at)
    return folder


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Q4_K trunk of 61 layers, of which the tensors that matter are there."""
    arch = "deepseek2"
    counts = {
        "block_count": N, "context_length": 163840, "embedding_length": E, "feed_forward_length": F, "vocab_size": V,
        "attention.head_count": H, "attention.head_count_kv": 1, "attention.q_lora_rank": LQ,
        "attention.kv_lora_rank": LKV, "attention.key_length": LKV + ROPE, "attention.value_length": LKV,
        "attention.key_length_mla": NOPE + ROPE, "attention.value_length_mla": DV, "rope.dimension_count": ROPE,
        "leading_dense_block_count": 3, "expert_count": X, "expert_used_count": 8, "expert_shared_count": 1,
        "expert_feed_forward_length": FX, "expert_gating_func": 2,
    }  # fmt: skip
    kvs = [
        KV.make("general.architecture", KVType.STRING, arch),
        *(KV.make(f"{arch}.{key}", KVType.UINT32, value) for key, value in counts.items()),
        KV.make("tokenizer.ggml.model", KVType.STRING, "gpt2"),
        KV.make("tokenizer.ggml.tokens", KVType.ARRAY, [f"t{i}" for i in range(V)], KVType.STRING),
    ]
    q4_k = parse_type_name("q4_k").id
    shapes: dict[str, tuple[tuple[int, ...], int]] = {
        "token_embd.weight": ((E, V), q4_k), "output_norm.weight": ((E,), 0), "output.weight": ((E, V), q4_k),
        **{f"blk.{n}.attn_norm.weight": ((E,), 0) for n in range(N)},
        **{f"blk.{n}.ffn_down_exps.weight": ((FX, E, X), q4_k) for n in range(3, N)},
    }  # fmt: skip
    infos, end = place(
        [(TensorInfo(name, ne, kind, 0), tensor_size(kind, ne) or 0) for name, (ne, kind) in shapes.items()], 32
    )
    return sparse(tmp_path_factory.mktemp("trunk") / "DeepSeek-V3-Q4_K_M.gguf", build_header(kvs, infos), end)


def planned(trunk: Path, checkpoint: Path, layout: str, *, drop: bool = False) -> Plan:
    """Made without the check for free room: test machines have less than 20 GB."""
    block, notes = open_donor(checkpoint), []
    if drop:
        block, notes = without_duplicates(block)
    plan = plan_attach(
        open_model(trunk), block, AttachOptions(layout, embd_type=parse_type_name("q4_0"), out="/nowhere")
    )
    return plan.noted(notes)


def q8_0(n: int) -> int:
    return n // 32 * 34


def block_bytes(*, own: bool) -> int:
    """The block in Q8_0, norms, router and its bias in F32; from the shapes alone."""
    matrices = sum(rows * columns for rows, columns in PROJECTIONS.values()) + 2 * E * E + N_OWN * own
    return q8_0(matrices) + 4 * (N_PLAIN_1D + E + X * E)


def test_layer_61_is_read_whole_and_planned_in_q8_0(checkpoint: Path, trunk: Path) -> None:
    seen = nextn.inspect(checkpoint)
    assert seen.problems == () and seen.n_layer_nextn == 1
    made = planned(trunk, checkpoint, "sidecar")
    roots = 2 * (V * E // 32 * 18) + 4 * E  # embeddings and head in q4_0, the last norm
    header = made.bytes_written - block_bytes(own=True) - roots
    assert 0 < header < 4_000_000, header
    assert made.peak_memory_bytes < 1_500_000_000


def test_its_copies_of_embeddings_and_head_are_two_gigabytes(checkpoint: Path, trunk: Path) -> None:
    kept, dropped = (planned(trunk, checkpoint, "bundle", drop=drop) for drop in (False, True))
    saved = kept.bytes_written - dropped.bytes_written
    assert 0 <= saved - q8_0(N_OWN) < 8192 and q8_0(N_OWN) == 1_969_192_960
    assert sum("is left out" in note for note in dropped.notes) == 2
