"""A family is one file: no other module names an architecture, and a fact that is forgotten is an error."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nextn
from conftest import ROOT, TRUNKS
from make_tiny_checkpoints import safetensors_bytes
from nextn.archs import FAMILIES, register
from nextn.archs.base import Family, Memory, Qkv
from nextn.archs.engines import NOT_ON_IK, NOT_ON_LLAMA_CPP, Support
from nextn.archs.hparams import HParams
from nextn.archs.others import every_name
from nextn.errors import UnsupportedModel
from nextn.gguf.files import open_model
from nextn.gguf.header import build_header, pad_to, place
from nextn.gguf.kv import KV, KVType
from nextn.gguf.tensors import TensorInfo

PACKAGE = ROOT / "src" / "nextn"
GUIDE = ROOT / "docs" / "adding-a-family.md"
# The demo's own model is named after what it is.
EXCEPT = {
    "verbs/demo.py": {"tiny-qwen35-Q4_K_M.gguf", "tiny-qwen35-mtp"},
    **{
        name: {"eagle3"}  # a kind of draft, which `nextn train` is asked for by this name
        for name in (
            "cli/train.py", "schemas/train.py", "verbs/train.py", "training/before.py", "training/export.py",
            "training/fit/make.py", "training/fit/options.py", "training/kind.py", "training/place.py",
        )
    },
}  # fmt: skip


def names() -> set[str]:
    """Every architecture and model class that a table in archs/ holds."""
    found = {*FAMILIES, *every_name()}
    for family in FAMILIES.values():
        found |= {*family.classes}
    return found


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """String constants of a module, docstrings apart."""
    tree = ast.parse(path.read_text())
    documents = set()
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                documents.add(id(first.value))
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.lineno, node.value


def words(text: str) -> set[str]:
    """`a-b`, `a-` and `a.b` are words of their own: 'llama.cpp' is not the architecture 'llama'."""
    return {word.strip(".") for word in re.findall(r"[\w.-]+", text)}


def test_no_architecture_is_named_outside_archs() -> None:
    known, found = names(), []
    assert {"qwen35", "llama", "gemma4-assistant", "minimax-m3", "Glm4MoeForCausalLM", "KimiLinearFor"} <= known
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith("archs/"):
            for line, text in strings(path):
                hits = words(text) & known
                if hits and text not in EXCEPT.get(name, set()):
                    found.append((name, line, text, hits))
    assert found == []


def test_the_search_finds_a_name_in_a_sentence() -> None:
    assert words("takes 'glm-dsa' only.") & names() == {"glm-dsa"}
    assert not words("llama.cpp and llama-server of tiny-qwen35-mtp") & names()


@pytest.mark.parametrize("kind", [Family, Memory, Support, Qkv, HParams])
def test_no_fact_of_a_family_has_a_default(kind: Any) -> None:
    for field in fields(kind):
        assert field.default is MISSING and field.default_factory is MISSING, field.name
        assert field.kw_only, field.name


@pytest.mark.parametrize("field", [field.name for field in fields(Family)])
def test_a_forgotten_fact_is_an_error_when_the_file_is_imported(field: str) -> None:
    facts = {each.name: getattr(FAMILIES["glm4moe"], each.name) for each in fields(Family)}
    assert Family(**facts) == FAMILIES["glm4moe"]
    del facts[field]
    with pytest.raises(TypeError, match=field):
        Family(**facts)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"qkv": None}, "'qkv'"),
        ({"header": None}, "'header'"),
        ({"n_blocks": 2}, "'n_blocks'"),
        ({"llama_cpp": NOT_ON_LLAMA_CPP, "ik": NOT_ON_IK}, "no engine"),
        ({"rules": (*FAMILIES["glm4moe"].rules, FAMILIES["glm4moe"].rules[0])}, "two rules"),
    ],
)
def test_facts_that_contradict_one_another_are_an_error(changes: dict[str, Any], what: str) -> None:
    facts = {each.name: getattr(FAMILIES["glm4moe"], each.name) for each in fields(Family)}
    with pytest.raises(ValueError, match=f"glm4moe: .*{what}"):
        Family(**{**facts, **changes})


def test_an_architecture_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'glm4moe'"):
        register(FAMILIES["glm4moe"])


# -- an invented family, from the guide alone -------------------------------------------------------------------------

E, F, H, K, D, N = 64, 96, 2, 1, 32, 2
CONFIG: dict[str, Any] = {
    "architectures": ["BoltForCausalLM"], "model_type": "bolt", "hidden_size": E, "intermediate_size": F,
    "num_hidden_layers": N, "num_attention_heads": H, "num_key_value_heads": K, "head_dim": D, "vocab_size": 320,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "num_nextn_predict_layers": 1,
    "tie_word_embeddings": False,
}  # fmt: skip
LAYER = {
    "input_layernorm.weight": ("attn_norm", (E,)), "post_attention_layernorm.weight": ("ffn_norm", (E,)),
    "self_attn.q_proj.weight": ("attn_q", (H * D, E)), "self_attn.k_proj.weight": ("attn_k", (K * D, E)),
    "self_attn.v_proj.weight": ("attn_v", (K * D, E)), "self_attn.o_proj.weight": ("attn_output", (E, H * D)),
    "mlp.gate_proj.weight": ("ffn_gate", (F, E)), "mlp.up_proj.weight": ("ffn_up", (F, E)),
    "mlp.down_proj.weight": ("ffn_down", (E, F)),
}  # fmt: skip
BLOCK = {
    **LAYER, "eh_proj.weight": ("nextn.eh_proj", (E, 2 * E)), "enorm.weight": ("nextn.enorm", (E,)),
    "hnorm.weight": ("nextn.hnorm", (E,)), "shared_head.norm.weight": ("nextn.shared_head_norm", (E,)),
}  # fmt: skip
ROOTS = {
    "model.embed_tokens.weight": ("token_embd", (320, E)), "model.norm.weight": ("output_norm", (E,)),
    "lm_head.weight": ("output", (320, E)),
}  # fmt: skip


def guide_file() -> str:
    """The guide's example, without the indent of its list."""
    found = re.search(r"^   ```python\n(.*?)^   ```\n", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return re.sub(r"^   ", "", found[1], flags=re.MULTILINE)


def with_bolt(folder: Path) -> Path:
    """A copy of the package with the guide's file in it, registered by two lines."""
    shutil.copytree(PACKAGE, folder / "nextn", ignore=shutil.ignore_patterns("__pycache__", "demo_data"))
    archs = folder / "nextn" / "archs"
    (archs / "bolt.py").write_text(guide_file())
    text = (archs / "__init__.py").read_text()
    for before in ("from . import (\n", "for _module in (\n"):
        assert text.count(before) == 1
        text = text.replace(before, before + "    bolt,\n")
    (archs / "__init__.py").write_text(text)
    return folder


def values(name: str, shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(list(name.encode()))
    return (rng.standard_normal(shape) * 0.1 + (1 if "norm" in name else 0)).astype(np.float32)


def make_models(folder: Path) -> tuple[Path, Path]:
    """A tiny trunk and a checkpoint with the block; both by names alone."""
    checkpoint = folder / "Bolt-1"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps(CONFIG))
    tensors = {f"model.layers.{N}.{name}": values(name, shape) for name, (_, shape) in BLOCK.items()}
    tensors |= {name: values(name, shape) for name, (_, shape) in ROOTS.items()}
    (checkpoint / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    like = open_model(TRUNKS / "families" / "glm4moe-Q8_0.gguf")
    tokens = [kv for kv in like.kvs if kv.key.startswith("tokenizer.")]
    from tiny_families import TOKENIZER, small_tokenizer

    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = json.loads((TOKENIZER / name).read_text("utf-8"))
        (checkpoint / name).write_text(json.dumps(small_tokenizer(text) if name == "tokenizer.json" else text))
    u32 = {
        "block_count": N, "context_length": 512, "embedding_length": E, "feed_forward_length": F,
        "attention.head_count": H, "attention.head_count_kv": K, "attention.key_length": D,
        "attention.value_length": D, "rope.dimension_count": D,
    }  # fmt: skip
    kvs = [KV.make("general.architecture", KVType.STRING, "bolt")]
    kvs += [KV.make(f"bolt.{key}", KVType.UINT32, value) for key, value in u32.items()]
    kvs += [KV.make("bolt.attention.layer_norm_rms_epsilon", KVType.FLOAT32, 1e-5), *tokens]
    data = {f"{gguf}.weight": values(name, shape) for name, (gguf, shape) in ROOTS.items()}
    data |= {f"blk.{i}.{gguf}.weight": values(name, shape) for i in range(N) for name, (gguf, shape) in LAYER.items()}
    infos, _ = place([(TensorInfo(name, x.shape[::-1], 0, 0), x.nbytes) for name, x in data.items()], 32)
    trunk = folder / "Bolt-1-F32.gguf"
    body = b"".join(x.tobytes() + bytes(pad_to(x.nbytes, 32) - x.nbytes) for x in data.values())
    trunk.write_bytes(build_header(kvs, infos) + body)
    return trunk, checkpoint


@pytest.mark.slow
def test_an_invented_family_needs_the_guides_steps_and_no_other(tmp_path: Path) -> None:
    """One file and its registration: attach, detach, extract, plan, inspect and doctor know the model."""
    package = with_bolt(tmp_path / "package")
    trunk, checkpoint = make_models(tmp_path)

    def run(*args: object, code: int = 0) -> Any:
        env = {**os.environ, "PYTHONPATH": str(package)}
        command = [sys.executable, "-m", "nextn", *map(str, args)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
        assert done.returncode == code, (args, done.stdout, done.stderr)
        return json.loads(done.stdout) if "--json" in args else done.stdout

    with pytest.raises(UnsupportedModel, match="BoltForCausalLM"):  # without the file
        nextn.extract(checkpoint, out=tmp_path / "none.gguf")

    seen = run("inspect", checkpoint, "--json")
    assert (seen["architecture"], seen["n_layer_trunk"], seen["n_layer_nextn"]) == ("bolt", N, 1)
    bundle = tmp_path / "bundled.gguf"
    run("attach", trunk, "--from", checkpoint, "--layout", "bundle", "-o", bundle, "--json")
    seen = run("inspect", bundle, "--json")
    assert (seen["shape"], seen["n_layer_nextn"], seen["problems"]) == ("bundled", 1, [])
    assert run("doctor", bundle, "--json")["findings"] == []
    model = open_model(bundle)
    expected = {f"blk.{N}.{gguf}.weight" for gguf, _ in BLOCK.values()}
    assert {name for name in model.tensors if name.startswith(f"blk.{N}.")} == expected
    assert model.header.get("bolt.nextn_predict_layers") == 1 and model.header.get("bolt.block_count") == N + 1
    plain = tmp_path / "plain.gguf"
    run("detach", bundle, "-o", plain, "--json")
    assert plain.read_bytes() == trunk.read_bytes()
    run("attach", trunk, "--from", checkpoint, "--layout", "sidecar", "-o", tmp_path / "beside", "--json")
    sidecar = tmp_path / "mtp-Bolt-1.gguf"
    run("extract", checkpoint, "-o", sidecar, "--type", "f32", "--json")
    seen = run("inspect", sidecar, "--json")
    assert (seen["shape"], seen["problems"]) == ("sidecar", [])
    made = open_model(sidecar)
    assert expected | {f"{gguf}.weight" for gguf, _ in ROOTS.values()} == set(made.tensors)
    assert made.header.get("bolt.rope.dimension_count") == D
    planned = run("plan", trunk, "--header-only", "--json")
    weights = {setup["id"]: setup["totals"]["weights_bytes"] for setup in planned["setups"]}
    block_bytes = sum(4 * int(np.prod(shape)) for _, shape in BLOCK.values())
    assert weights["bundled_on"] - weights["no_mtp"] >= block_bytes > 0
