"""Makes tiny random checkpoints in the published layouts of the families that the tests cover.

Nothing here is trained: the point is names, shapes, dtypes and file layout. The bytes depend on the seed
and on nothing else (not on the platform, not on numpy's version), so that goldens can name them by hash.

    python scripts/make_tiny_checkpoints.py qwen35moe-fused OUT_FOLDER --dtype bf16
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]

TOKENIZER = Path(__file__).resolve().parent.parent / "src" / "nextn" / "demo_data" / "tiny-qwen35-mtp"
DTYPES: dict[str, Any] = {"bf16": ml_dtypes.bfloat16, "f16": np.float16, "f32": np.float32}
TORCH_NAMES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
SAFETENSORS_NAMES = {"bf16": "BF16", "f16": "F16", "f32": "F32"}

# Small enough that a whole trunk fits in some hundred kilobytes, large enough for every rule to show: rows of
# 64 are a multiple of q8_0's block, FF and EXPERT_FF are not (the converter falls back), head counts differ.
N_VOCAB = 320
N_LAYER = 4
EMBD = 64
FF = 48
N_EXPERT = 4
EXPERT_FF = 24
SHARED_FF = 32
N_HEAD, N_HEAD_KV, HEAD_DIM = 2, 1, 32
LIN_K_HEADS, LIN_V_HEADS, LIN_DIM, CONV = 2, 4, 16, 4


@dataclass(frozen=True)
class Kind:
    """One layout. Prefixes end in a dot; `mtp` is what stands before `fc`, `norm` and `layers`."""

    architecture: str
    model_type: str
    trunk: str
    head: str
    mtp: str
    moe: bool = True
    fused: bool = False
    qwen3next: bool = False
    nested: bool = False  # the text model's config stands in `text_config`, as multimodal models have it
    n_files: int = 1


KINDS: dict[str, Kind] = {
    # As Qwen3.5 MoE is published: multimodal class, fused experts, the block at the top level.
    "qwen35moe-fused": Kind(
        "Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe", "model.language_model.", "lm_head.", "mtp.",
        fused=True, nested=True,
    ),
    # Text-only class, one tensor per expert, several files with an index.
    "qwen35moe-experts": Kind(
        "Qwen3_5MoeForCausalLM", "qwen3_5_moe_text", "model.", "lm_head.", "model.mtp.", n_files=3,
    ),
    "qwen35moe-nested": Kind(
        "Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe", "language_model.model.",
        "language_model.lm_head.", "language_model.mtp.", fused=True, nested=True,
    ),
    # As Qwen3-Next is published: no count of MTP layers in its config.
    "qwen3next-experts": Kind(
        "Qwen3NextForCausalLM", "qwen3_next", "model.", "lm_head.", "mtp.", qwen3next=True, n_files=2,
    ),
    "qwen3next-fused": Kind(
        "Qwen3NextForCausalLM", "qwen3_next", "model.", "lm_head.", "mtp.", fused=True, qwen3next=True,
    ),
    "qwen35-dense": Kind("Qwen3_5ForCausalLM", "qwen3_5_text", "model.", "lm_head.", "mtp.", moe=False),
}  # fmt: skip


def bell(shape: tuple[int, ...], *key: int | str) -> Array:
    """Bell-shaped float32 values of unit variance, the same everywhere for the same key.

    Sums of four 24-bit integers instead of numpy's normal numbers: the stream of a bit generator is
    guaranteed to stay, that of a distribution is not, and no logarithm of the platform's libm takes part.
    """
    words = [k if isinstance(k, int) else zlib.crc32(k.encode()) for k in key]
    n = int(np.prod(shape))
    raw = np.random.PCG64(np.random.SeedSequence(words)).random_raw(4 * n)
    total = (raw >> np.uint64(40)).astype(np.int64).reshape(4, n).sum(axis=0) - 2 * (2**24 - 1)
    return (total * (1.7320508 / 2**24)).astype(np.float32).reshape(shape)


def awkward_rows(weight: Array) -> None:
    """Puts the values into the first rows on which roundings differ: zeros, tiny values, ties.

    All are small, so that the block goes on working.
    """
    steps = np.arange(weight.shape[1])
    weight[0] = 0.0
    weight[1] = np.ldexp(1.0, -4 - steps % 40) * np.where(steps % 2, -1.0, 1.0)
    # Ties of q8_0: with an absolute maximum of 127 scales, halves of a scale lie between two codes.
    weight[2] = np.ldexp((steps % 32 + 0.5) * np.where(steps % 3, 1.0, -1.0), -10)
    weight[2, ::32] = np.ldexp(127.0, -10)
    # Ties of bf16 (8 bits of significand) and of f16 (11 bits), to both sides.
    weight[3] = np.ldexp(1.0 + (2 * (steps % 8) + 1) * np.where(steps % 2, 2.0**-8, 2.0**-11), -6)
    weight[4] = -0.0


class _Maker:
    """Collects tensors of one checkpoint.

    Each depends only on the seed and its canonical name: prefixes and fused experts change no value, so that
    all layouts of one family become the same GGUF tensors.
    """

    def __init__(self, kind: Kind, dtype: str, seed: int) -> None:
        self.kind, self.dtype, self.seed = kind, DTYPES[dtype], seed
        self.tensors: Tensors = {}

    def matrix(self, name: str, *shape: int, dtype: Any = None) -> None:
        self.tensors[name] = self.matrix_values(name, shape).astype(dtype or self.dtype)

    def canonical(self, name: str) -> str:
        for prefix, plain in (
            (self.kind.mtp, "mtp."),
            (self.kind.trunk, "model."),
            (self.kind.head, "lm_head."),
        ):
            if name.startswith(prefix):
                return plain + name.removeprefix(prefix)
        return name

    def matrix_values(self, name: str, shape: tuple[int, ...]) -> Array:
        values = bell(shape, self.seed, self.canonical(name)) / np.float32(shape[-1] ** 0.5)
        # What a layer adds to its input is kept small beside the embedding, and the block passes on the
        # embedding it is given: trunk and block then guess alike, and drafts are accepted, unless something
        # went wrong on the way.
        if name.endswith("embed_tokens.weight"):
            values *= np.float32(shape[-1] ** 0.5)
        if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")):
            values *= np.float32(0.125)
        if name.endswith("mtp.fc.weight"):
            values *= np.float32(0.125)
            values[:, :EMBD] += np.eye(EMBD, dtype=np.float32)
            awkward_rows(values)
        return values

    def vector(self, name: str, n: int, scale: float = 0.1, dtype: Any = None) -> None:
        self.tensors[name] = (bell((n,), self.seed, self.canonical(name)) * np.float32(scale)).astype(
            dtype or self.dtype
        )

    def layer(self, p: str, full_attention: bool) -> None:
        self.vector(f"{p}input_layernorm.weight", EMBD)
        self.vector(f"{p}post_attention_layernorm.weight", EMBD)
        (self.full_attention if full_attention else self.linear_attention)(p)
        if self.kind.moe:
            self.experts(f"{p}mlp.")
        else:
            self.mlp(f"{p}mlp.", FF)

    def full_attention(self, p: str) -> None:
        q, kv = N_HEAD * HEAD_DIM, N_HEAD_KV * HEAD_DIM
        self.matrix(f"{p}self_attn.q_proj.weight", 2 * q, EMBD)
        self.matrix(f"{p}self_attn.k_proj.weight", kv, EMBD)
        self.matrix(f"{p}self_attn.v_proj.weight", kv, EMBD)
        self.matrix(f"{p}self_attn.o_proj.weight", EMBD, q)
        self.vector(f"{p}self_attn.q_norm.weight", HEAD_DIM)
        self.vector(f"{p}self_attn.k_norm.weight", HEAD_DIM)

    def linear_attention(self, p: str) -> None:
        p = f"{p}linear_attn."
        qk, v = 2 * LIN_K_HEADS * LIN_DIM, LIN_V_HEADS * LIN_DIM
        if self.kind.qwen3next:
            self.matrix(f"{p}in_proj_qkvz.weight", qk + 2 * v, EMBD)
            self.matrix(f"{p}in_proj_ba.weight", 2 * LIN_V_HEADS, EMBD)
        else:
            self.matrix(f"{p}in_proj_qkv.weight", qk + v, EMBD)
            self.matrix(f"{p}in_proj_z.weight", v, EMBD)
            self.matrix(f"{p}in_proj_a.weight", LIN_V_HEADS, EMBD)
            self.matrix(f"{p}in_proj_b.weight", LIN_V_HEADS, EMBD)
        self.matrix(f"{p}conv1d.weight", qk + v, 1, CONV)
        self.matrix(f"{p}out_proj.weight", EMBD, v)
        self.vector(f"{p}norm.weight", LIN_DIM)
        self.vector(f"{p}dt_bias", LIN_V_HEADS)
        # Published in f32 whatever the rest is.
        self.vector(f"{p}A_log", LIN_V_HEADS, 0.5, dtype=np.float32)

    def mlp(self, p: str, n_ff: int) -> None:
        self.matrix(f"{p}gate_proj.weight", n_ff, EMBD)
        self.matrix(f"{p}up_proj.weight", n_ff, EMBD)
        self.matrix(f"{p}down_proj.weight", EMBD, n_ff)

    def experts(self, p: str) -> None:
        self.matrix(f"{p}gate.weight", N_EXPERT, EMBD)
        self.matrix(f"{p}shared_expert_gate.weight", 1, EMBD)
        self.mlp(f"{p}shared_expert.", SHARED_FF)
        if not self.kind.fused:
            for i in range(N_EXPERT):
                self.mlp(f"{p}experts.{i}.", EXPERT_FF)
            return
        one = _Maker(self.kind, "f32", self.seed)
        for i in range(N_EXPERT):
            one.mlp(f"{p}experts.{i}.", EXPERT_FF)
        gate, up, down = (
            np.stack([one.tensors[f"{p}experts.{i}.{part}_proj.weight"] for i in range(N_EXPERT)])
            for part in ("gate", "up", "down")
        )
        self.tensors[f"{p}experts.gate_up_proj"] = np.concatenate([gate, up], axis=1).astype(self.dtype)
        self.tensors[f"{p}experts.down_proj"] = down.astype(self.dtype)

    def checkpoint(self) -> Tensors:
        kind = self.kind
        self.matrix(f"{kind.trunk}embed_tokens.weight", N_VOCAB, EMBD)
        for i in range(N_LAYER):
            self.layer(f"{kind.trunk}layers.{i}.", full_attention=i % 4 == 3)
        self.vector(f"{kind.trunk}norm.weight", EMBD)
        self.matrix(f"{kind.head}weight", N_VOCAB, EMBD)
        self.matrix(f"{kind.mtp}fc.weight", EMBD, 2 * EMBD)
        self.layer(f"{kind.mtp}layers.0.", full_attention=True)
        for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
            self.vector(f"{kind.mtp}{name}.weight", EMBD)
        if kind.nested and kind.trunk.startswith("model."):
            # Something of the vision tower, which a text conversion has to pass over.
            self.matrix("model.visual.patch_embed.proj.bias", 1, 16)
        return self.tensors


def make_config(kind: Kind, dtype: str) -> dict[str, Any]:
    text: dict[str, Any] = {
        "model_type": f"{kind.model_type}_text" if kind.nested else kind.model_type,
        "attention_bias": False,
        "dtype": TORCH_NAMES[dtype],
        "eos_token_id": N_VOCAB - 1,
        "full_attention_interval": 4,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": EMBD,
        "linear_conv_kernel_dim": CONV,
        "linear_key_head_dim": LIN_DIM,
        "linear_num_key_heads": LIN_K_HEADS,
        "linear_num_value_heads": LIN_V_HEADS,
        "linear_value_head_dim": LIN_DIM,
        "max_position_embeddings": 2048,
        "num_attention_heads": N_HEAD,
        "num_hidden_layers": N_LAYER,
        "num_key_value_heads": N_HEAD_KV,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "vocab_size": N_VOCAB,
    }
    if kind.moe:
        text |= {
            "moe_intermediate_size": EXPERT_FF,
            "norm_topk_prob": True,
            "num_experts": N_EXPERT,
            "num_experts_per_tok": 2,
            "shared_expert_intermediate_size": SHARED_FF,
        }
    else:
        text["intermediate_size"] = FF
    if kind.qwen3next:
        text |= {
            "decoder_sparse_step": 1, "intermediate_size": FF, "mlp_only_layers": [],
            "partial_rotary_factor": 0.25, "rope_scaling": None, "rope_theta": 10000,
        }  # fmt: skip
    else:
        text |= {
            "layer_types": ["linear_attention"] * 3 + ["full_attention"],
            "mtp_num_hidden_layers": 1,
            "mtp_use_dedicated_embeddings": False,
            "rope_parameters": {
                "mrope_interleaved": True, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25,
                "rope_theta": 10000, "rope_type": "default",
            },
        }  # fmt: skip
    if kind.nested:
        return {
            "architectures": [kind.architecture], "model_type": kind.model_type, "text_config": text,
            "tie_word_embeddings": False,
        }  # fmt: skip
    return {"architectures": [kind.architecture], **text}


def small_tokenizer(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The first tokens of the demo tokenizer (bytes, earliest merges), with the special tokens moved down."""
    added = tokenizer["added_tokens"]
    n_plain = N_VOCAB - len(added)
    for i, token in enumerate(added):
        token["id"] = n_plain + i
    model = tokenizer["model"]
    specials = {token["content"] for token in added}
    plain = sorted((i, t) for t, i in model["vocab"].items() if t not in specials)
    vocab = {t: i for i, t in plain[:n_plain]}
    model["merges"] = [m for m in model["merges"] if "".join(m if isinstance(m, list) else m.split(" ")) in vocab]
    model["vocab"] = vocab
    return tokenizer


def safetensors_bytes(tensors: Tensors) -> bytes:
    """One safetensors file. Its header is padded to eight bytes, as the reference implementation does it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    names = {np.dtype(t): SAFETENSORS_NAMES[k] for k, t in DTYPES.items()}
    names[np.dtype(ml_dtypes.float8_e4m3fn)] = "F8_E4M3"
    names |= {np.dtype(np.int64): "I64", np.dtype(np.int8): "I8", np.dtype(ml_dtypes.float8_e8m0fnu): "F8_E8M0"}
    position = 0
    for name, values in tensors.items():
        end = position + values.nbytes
        header[name] = {
            "dtype": names[values.dtype], "shape": list(values.shape), "data_offsets": [position, end],
        }  # fmt: skip
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(v.tobytes() for v in tensors.values())


def _write_files(tensors: Tensors, folder: Path, n_files: int) -> None:
    if n_files == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
        return
    # Dealt out by turns: the block, and even one layer's experts, then lie in several files.
    names = [f"model-{i + 1:05d}-of-{n_files:05d}.safetensors" for i in range(n_files)]
    where = {name: names[i % n_files] for i, name in enumerate(tensors)}
    for file in names:
        part = {name: values for name, values in tensors.items() if where[name] == file}
        (folder / file).write_bytes(safetensors_bytes(part))
    index = {"metadata": {"total_size": sum(v.nbytes for v in tensors.values())}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def make_checkpoint(kind: str, folder: Path, dtype: str = "bf16", seed: int = 0) -> Path:
    """Writes the checkpoint `kind` (see KINDS) with config and tokenizer into `folder`; returns the folder.

    The converter takes a model's name from its folder: call it `{kind}-{dtype}` where goldens are compared.
    """
    layout = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    _write_files(_Maker(layout, dtype, seed).checkpoint(), folder, layout.n_files)
    texts = {
        "config.json": make_config(layout, dtype),
        "tokenizer.json": small_tokenizer(json.loads((TOKENIZER / "tokenizer.json").read_text("utf-8"))),
        "tokenizer_config.json": json.loads((TOKENIZER / "tokenizer_config.json").read_text("utf-8")),
    }
    for name, value in texts.items():
        (folder / name).write_text(json.dumps(value, indent=1) + "\n")
    return folder


def checkpoint_sha256(folder: Path) -> dict[str, str]:
    """The sha256 of every safetensors and JSON file in a checkpoint folder, by name."""
    files = sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".json"})
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make_checkpoint(args.kind, args.folder, args.dtype, args.seed)
    for name, digest in checkpoint_sha256(args.folder).items():
        print(f"{digest}  {name}")


if __name__ == "__main__":
    main()
