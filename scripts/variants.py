"""Variants of the tiny checkpoints: tensors left out or added, config.json as other publishers write it, wrappers.

A variant is plain data, kept with what the converter made of it in tests/data/goldens/variants/: `make` writes its
checkpoint from that, `all_of` lists a kind's, from its tensors, its config.json and its family's table.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from make_tiny_checkpoints import KINDS as QWEN
from make_tiny_checkpoints import bell, make_checkpoint, safetensors_bytes
from nextn.archs import FAMILIES, of_classes
from nextn.archs.base import Family, dimensions, resolve_shape
from nextn.gguf.files import open_model
from nextn.sources.checkpoint import plain_name
from tiny_families import KINDS as FAMILY_KINDS
from tiny_families import make_family

TRUNKS = Path(__file__).resolve().parent.parent / "tests" / "data" / "trunks"
# One kind of each family that the converter writes a block of, and its trunk.
BASES = {
    "qwen35-dense": "qwen35-dense-F32", "qwen35moe-experts": "qwen35moe-BF16", "qwen3next-experts": "qwen3next-BF16",
    **{kind: f"families/{kind}-Q8_0" for kind in (
        "glm4moe", "glm4moelite", "deepseek32", "glmdsa", "mimo2", "hyv3", "step35", "bailingmoe3", "cohere2moe",
        "nemotronh", "qwen4exp", "deepseek4", "glm5next",
    )},
}  # fmt: skip
DTYPES = {
    "F32": np.float32, "BF16": ml_dtypes.bfloat16, "I64": np.int64, "I8": np.int8, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}  # fmt: skip
# Names that the converter takes for the same thing (find_hparam in conversion/base.py).
SAME = (
    ("max_position_embeddings", "n_ctx", "model_max_length"),
    ("intermediate_size", "dense_intermediate_size", "prefix_dense_intermediate_size", "n_inner"),
    ("num_attention_heads", "n_head"),
    ("num_key_value_heads", "n_kv_heads"),
    ("rms_norm_eps", "norm_eps"),
    ("n_routed_experts", "num_experts", "num_local_experts"),
    ("num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
    ("scoring_func", "score_function", "moe_router_activation", "router_score_func"),
    ("rope_theta", "global_rope_theta", "rotary_emb_base"),
    ("partial_rotary_factor", "rope_pct"),
)
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "beta_fast": 32, "beta_slow": 1}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "yarn": {"rope_scaling": YARN},
    "yarn-scaled": {"rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "attention_factor": 0.9}},
    "yarn-without-length": {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    "unknown": {"rope_scaling": {"type": "longrope", "factor": 2.0}},
    "default": {"rope_parameters": {"rope_theta": 20000.0, "rope_type": "default"}, "rope_theta": None},
}
# Keys that transformers, which the converter loads the tokenizer with, cannot do without at tiny sizes.
UNFIT = (("qwen4exp", "head_dim"),)
PLACES = ("text_config", "llm_config", "lm_config", "thinker_config.text_config", "language_config")


@dataclass(frozen=True)
class Variant:
    """A checkpoint like that of `kind`, with differences."""

    kind: str
    config: dict[str, Any] = field(default_factory=dict)  # of the text model; None: without the key
    drop: tuple[str, ...] = ()  # patterns of tensors' names
    add: dict[str, list[int]] = field(default_factory=dict)  # name -> shape
    rename: tuple[tuple[str, str], ...] = ()  # starts of names -> what they become
    place: str = ""  # where a wrapper's config.json has the text model's; empty: at the top
    top: dict[str, Any] = field(default_factory=dict)  # config.json beside it

    def to_json(self) -> dict[str, Any]:
        """What differs from the kind's own checkpoint."""
        return {key: value for key, value in vars(self).items() if value not in ("", (), {})}

    @classmethod
    def of(cls, data: dict[str, Any]) -> Variant:
        """The reverse."""
        data = dict(data)
        for key in ("drop", "rename"):
            data[key] = tuple(tuple(x) if isinstance(x, list) else x for x in data.get(key, ()))
        return cls(**data)


def base(kind: str, folder: Path) -> Path:
    """The kind's own checkpoint; DeepSeek-V4 with a layer of compressed attention, without which llama.cpp ends."""
    if kind in QWEN:
        return make_checkpoint(kind, folder)
    make_family(kind, folder)
    if kind == "deepseek4":
        path = folder / "config.json"
        compressed = {"compress_ratios": [0, 4, 0], "index_head_dim": 128}
        path.write_text(json.dumps({**json.loads(path.read_text()), **compressed}))
    return folder


@cache
def read_tensors(folder: Path) -> dict[str, Any]:
    """All tensors of a checkpoint."""
    out: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                start, end = (8 + length + x for x in entry["data_offsets"])
                out[name] = np.frombuffer(data[start:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return out


def make(variant: Variant, source: Path, folder: Path) -> Path:
    """Writes the variant's checkpoint into `folder`; `source` is the kind's own."""
    folder.mkdir(parents=True)
    tensors = {
        name: x for name, x in read_tensors(source).items() if not any(fnmatchcase(name, p) for p in variant.drop)
    }
    for name, shape in variant.add.items():
        x = bell(tuple(shape), 0, name) * np.float32(0.1 if len(shape) == 1 else shape[-1] ** -0.5)
        tensors[name] = (x + np.float32("norm" in name)).astype(ml_dtypes.bfloat16)
    for old, new in variant.rename:
        tensors = {new + name.removeprefix(old) if name.startswith(old) else name: x for name, x in tensors.items()}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    config = {**json.loads((source / "config.json").read_text()), **variant.config}
    config = {key: x for key, x in config.items() if key not in variant.config or x is not None}
    if variant.place:
        for key in reversed(variant.place.split(".")):
            config = {key: config}
    (folder / "config.json").write_text(json.dumps({**config, **variant.top}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


# -- all variants of a kind -------------------------------------------------------------------------------------------


@cache
def symbols(kind: str) -> dict[str, int]:
    """Sizes of shapes' symbols, from the kind's trunk."""
    model = open_model(TRUNKS / f"{BASES[kind]}.gguf")
    return dimensions(model.arch_value, model.tensors["token_embd.weight"][1].ne[1])


class Base:
    """A kind's own checkpoint, and where its block is."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.names = list(read_tensors(folder))
        found = of_classes(self.config["architectures"])
        assert found is not None
        self.family: Family = found
        self.n_trunk = len(self.config.get("layers_block_type") or range(self.config["num_hidden_layers"]))
        self.block = [name for name in self.names if self.in_block(name)]

    def in_block(self, name: str) -> bool:
        """Whether a tensor, or a pattern of names, is the block's."""
        plain = plain_name(name)
        if not self.family.behind_trunk:
            return any(plain.startswith(prefix) for prefix in self.family.prefixes)
        parts = plain.removeprefix("model.").split(".")
        return parts[0] == "layers" and (parts[1] == "*" or int(parts[1]) >= self.n_trunk)

    def full(self, local: str, k: int = 0) -> str:
        """The full name of one inside the block."""
        if self.family.behind_trunk:
            prefix = self.block[0].split("layers.")[0]
            return f"{prefix}layers.{self.n_trunk + k}." + local.removeprefix("layers.{k}.")
        prefix = next(p for p in self.family.prefixes if any(name.startswith(p) for name in self.block))
        return prefix + local.replace("{k}", str(k))


def all_of(kind: str, folder: Path) -> Iterator[tuple[str, Variant]]:
    """Every variant of a kind with its name."""
    at = Base(kind, folder)
    yield from _tensors(at)
    yield from _configs(at)
    yield from _wrappers(at)


def _tensors(at: Base) -> Iterator[tuple[str, Variant]]:
    experts = sorted({name.split(".experts.")[0] + ".experts.*" for name in at.block if ".experts." in name})
    for name in [*(name for name in at.block if ".experts." not in name), *experts]:
        if not name.endswith(("_scale_inv", ".scale")):
            scale = name.removesuffix("weight") + "scale"
            yield f"without {name}", Variant(at.kind, drop=(name, scale) if scale in at.names else (name,))
    shared = [name for name in at.block if "shared_expert" in name or "share_expert" in name or "shared_mlp" in name]
    if shared:
        drop = tuple(shared)
        yield "without shared experts", Variant(at.kind, drop=drop)
        keys = [k for k in ("n_shared_experts", "num_shared_experts") if at.config.get(k)]
        if keys:
            everywhere = tuple(name.replace(f".{at.n_trunk}.", ".*.") for name in shared)
            yield "without any shared expert", Variant(at.kind, dict.fromkeys(keys, 0), everywhere)
    known = symbols(at.kind)
    for rule in at.family.rules:
        if not rule.sources:
            continue  # only GGUFs have it
        source = rule.sources[0]
        shape = resolve_shape(rule.ne, known)
        name = at.full(source.name)
        there = any(at.full(one.name) in at.names for one in rule.sources)
        if not rule.optional or rule.form or shape is None or "{x}" in name or there:
            continue
        yield f"with {name}", Variant(at.kind, add={name: list(shape[::-1])})
    yield from _biases(at, known)
    yield from _forms(at, known)
    if "lm_head.weight" in at.names:
        yield "tied", Variant(at.kind, {"tie_word_embeddings": True}, ("lm_head.weight",))
        yield "tied, with a head", Variant(at.kind, {"tie_word_embeddings": True})
        yield "without a head", Variant(at.kind, drop=("lm_head.weight",))
    yield "with a tensor that nobody knows", Variant(at.kind, add={at.full("layers.{k}.unheard_of.weight"): [8, 8]})


def _biases(at: Base, known: dict[str, int]) -> Iterator[tuple[str, Variant]]:
    """q, k, v and o with biases."""
    places = {x: next((n for n in at.block if n.endswith(f".{x}_proj.weight")), "") for x in "qkvo"}
    if not all(places.values()) or any(f"{n.removesuffix('weight')}bias" in at.names for n in places.values()):
        return
    sizes = {name: x.shape[0] for name, x in read_shapes(at).items()}
    biases = {f"{n.removesuffix('weight')}bias": [sizes[n]] for n in places.values()}
    three = {name: shape for name, shape in biases.items() if ".o_proj" not in name}
    yield "with biases of q, k and v", Variant(at.kind, add=three)
    yield "with biases of attention", Variant(at.kind, {"attention_bias": True}, add=biases)


_SHAPES: dict[str, dict[str, Any]] = {}


def read_shapes(at: Base) -> dict[str, Any]:
    """Tensors of the kind's own checkpoint."""
    return _SHAPES[at.kind]


def _forms(at: Base, known: dict[str, int]) -> Iterator[tuple[str, Variant]]:
    """Queries in one matrix, a dense network for experts, and experts for a dense one."""
    hidden = known["E"]
    ends = ("q_a_proj.weight", "q_a_layernorm.weight", "q_b_proj.weight")
    ranked = [name for name in at.names if name.endswith(ends)]
    if ranked:
        add = {
            name.replace("q_a_proj", "q_proj"): [known["H"] * known["Dm"], hidden]
            for name in ranked if name.endswith("q_a_proj.weight")
        }  # fmt: skip
        yield "with plain queries", Variant(at.kind, {"q_lora_rank": None}, tuple(ranked), add)
    mlp = [name for name in at.block if ".mlp." in name or ".moe." in name or "share_expert." in name]
    first = mlp[0].split(".mlp.")[0].split(".moe.")[0] if mlp else ""
    if not first:
        return
    if any(".experts." in name for name in mlp) and "F" in known:
        dense = {f"{first}.mlp.{x}_proj.weight": s for x, s in _ffn(hidden, known["F"]).items()}
        changes = {"first_k_dense_replace": at.n_trunk + 1} if "first_k_dense_replace" in at.config else {}
        yield "with a dense block", Variant(at.kind, drop=(f"{first}.mlp.*",), add=dense)
        if changes:
            yield "with all layers dense by config", Variant(at.kind, changes, (f"{first}.mlp.*",), dense)
    elif "X" in known:
        n, width, shared = known["X"], known["Fx"], known.get("Fs", known["Fx"])
        if at.kind == "step35":
            moe = {f"{first}.moe.{x}_proj.weight": [n, *s] for x, s in _ffn(hidden, width).items()}
            moe |= {f"{first}.moe.gate.weight": [n, hidden], f"{first}.moe.router_bias": [n]}
            moe |= {f"{first}.share_expert.{x}_proj.weight": s for x, s in _ffn(hidden, shared).items()}
        else:
            one = _ffn(hidden, width)
            moe = {f"{first}.mlp.experts.{i}.{x}_proj.weight": s for i in range(n) for x, s in one.items()}
            moe |= {f"{first}.mlp.gate.weight": [n, hidden]}
        yield "with experts in the block", Variant(at.kind, drop=(f"{first}.mlp.*",), add=moe)
        if at.kind == "step35":
            bare = {name: s for name, s in moe.items() if "router_bias" not in name and "share_expert" not in name}
            yield "with bare experts in the block", Variant(at.kind, drop=(f"{first}.mlp.*",), add=bare)


def _ffn(hidden: int, width: int) -> dict[str, list[int]]:
    return {"gate": [width, hidden], "up": [width, hidden], "down": [hidden, width]}


def _configs(at: Base) -> Iterator[tuple[str, Variant]]:
    for key, value in at.config.items():
        if key in ("architectures", "hidden_size", "num_hidden_layers", "vocab_size") or (at.kind, key) in UNFIT:
            continue
        yield f"config without {key}", Variant(at.kind, {key: None})
        if isinstance(value, bool):
            yield f"config with {key} {str(not value).lower()}", Variant(at.kind, {key: not value})
        if isinstance(value, list) and value and all(isinstance(x, int | float) for x in value):
            limit = [*value, *[1.5] * (at.n_trunk + 4 - len(value))] if "limit" in key else [*value, value[-1]]
            yield f"config with a longer {key}", Variant(at.kind, {key: limit})
            yield f"config with nulls in {key}", Variant(at.kind, {key: [None, *value[1:]]})
            yield f"config with a shorter {key}", Variant(at.kind, {key: value[:1]})
        elif isinstance(value, list) and value:
            yield f"config with a longer {key}", Variant(at.kind, {key: [*value, value[-1]]})
            yield f"config with a shorter {key}", Variant(at.kind, {key: value[:-1]})
    for names in SAME:
        there = next((name for name in names if at.config.get(name) is not None), None)
        for other in names if there is not None else ():
            if other not in at.config:
                changes = {there: None, other: at.config[there]}
                yield f"config with {there} as {other}", Variant(at.kind, changes)
    for name, changes in ROPES.items():
        plain = {"rope_parameters": None} if "rope_parameters" in at.config and "rope_parameters" not in changes else {}
        if plain and "rope_theta" not in at.config:
            plain["rope_theta"] = 10000.0
        yield f"rope {name}", Variant(at.kind, {**plain, **changes})
    yield "head_dim told", Variant(at.kind, {"head_dim": at.config.get("head_dim") or 32})


def _wrappers(at: Base) -> Iterator[tuple[str, Variant]]:
    classes = at.config["architectures"]
    renames = {
        "language_model.": (("", "language_model."),),
        "model.language_model.": (("model.", "model.language_model."),),
    }  # fmt: skip
    if any("language_model." in name for name in at.names):
        renames = {"language_model.": (("model.language_model.", "language_model.model."),)}
    for place in PLACES:
        outer = {"architectures": ["AnyWrapperForConditionalGeneration"], "model_type": "any_wrapper"}
        inner = Variant(at.kind, rename=renames["language_model."], place=place, top=outer)
        yield f"wrapped in {place}", inner
        same = Variant(at.kind, {"architectures": None}, place=place, top={"architectures": classes})
        yield f"wrapped in {place}, class on top", same
    for name, rename in renames.items():
        yield f"names with {name}", Variant(at.kind, rename=rename)


def folded(kind: str, ignored: list[Variant]) -> Iterator[tuple[str, Variant]]:
    """One variant for all keys that the converter did not heed one by one: left out, and turned round."""
    for title, wanted in (("left out", True), ("turned round", False)):
        changes = {key: x for one in ignored for key, x in one.config.items() if (x is None) is wanted}
        if changes:
            yield f"config with what is not read {title}", Variant(kind, changes)


def variants_of(kind: str, folder: Path) -> dict[str, Variant]:
    """All variants of a kind; `folder` holds its own checkpoint."""
    _SHAPES[kind] = read_tensors(folder)
    return dict(all_of(kind, folder))


def arch_of(kind: str) -> str:
    """GGUF's name of a kind's architecture."""
    found = of_classes([FAMILY_KINDS[kind].classes if kind in FAMILY_KINDS else QWEN[kind].architecture])
    assert found is not None and found.arch in FAMILIES
    return found.arch
