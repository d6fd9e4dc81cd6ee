"""Sidecars as people publish them: each is named, and completed from its trunk."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
from sick import rewrite
from sicknesses import checked, ids

import nextn
from conftest import CHECKPOINT, Q4, need
from nextn.diagnosis import examine
from nextn.engines import find_engine
from nextn.engines.base import Launch
from nextn.errors import EngineRefused
from nextn.gguf.files import open_model

MARK = "nextn_shared_target_tensors"
ROOTS: dict[str, Any] = {"lose": lambda name: not name.startswith("blk.")}
TABLE = ("d2t", (512,), 27, bytes(512 * 8))


def compact(model: Path, *, table: bool) -> dict[str, Any]:
    """The head cut down to 512 tokens."""
    ne, type_id = (lambda info: (info.ne, info.type_id))(open_model(model).tensors["token_embd.weight"][1])
    file, info = open_model(model).tensors["token_embd.weight"]
    n_bytes = file.stored_size(info) // ne[1] * 512
    head = ("output.weight", (ne[0], 512), type_id, bytes(n_bytes))
    return {"lose": lambda name: name == "output.weight", "add": [head, *([TABLE] if table else [])]}


# name -> (what is found, a word of its sentence, how it is made)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "without embeddings": ("sidecar-without-roots", "no tensor 'token_embd.weight' and no tensor 'output_norm", ROOTS),
    "without output norm": (
        "sidecar-without-roots", "no tensor 'output_norm.weight',", {"lose": lambda name: name == "output_norm.weight"},
    ),
    "shares": (
        "sidecar-shares-target", f"marked 'qwen35.{MARK}':", ROOTS | {"put": [(f"qwen35.{MARK}", "bool", True)]},
    ),
    "shares, as a number": (
        "sidecar-shares-target", f"marked 'qwen35.{MARK}':", ROOTS | {"put": [(f"qwen35.{MARK}", "u32", 1)]},
    ),
    "shares nothing": (
        "sidecar-without-roots", "also says that it shares nothing",
        ROOTS | {"put": [(f"qwen35.{MARK}", "bool", False)]},
    ),
    "shares, of another architecture": (
        "sidecar-shares-target", "a key of 'gemma4'", ROOTS | {"put": [(f"gemma4.{MARK}", "bool", True)]},
    ),
    "shares, of none": (
        "sidecar-shares-target", "without an architecture's name", ROOTS | {"put": [(MARK, "bool", True)]},
    ),
    "a compact head": ("sidecar-compact-head", "512 of 2,048 tokens, mapped by 'd2t'", {"table": True}),
    "a compact head without its table": ("sidecar-compact-head", "covers 512 of 2,048 tokens", {"table": False}),
}  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Path]:
    """A trunk and a healthy sidecar, in folders of their own."""
    trunk = tmp_path / "models" / Q4.name
    trunk.parent.mkdir()
    shutil.copy(Q4, trunk)
    made = nextn.attach(trunk, CHECKPOINT, layout="sidecar", out=tmp_path / "healthy").sidecar
    assert made is not None
    return trunk, made


@pytest.mark.engine
@pytest.mark.parametrize("name", CASES)
def test_each_is_named_refused_and_completed(name: str, world: tuple[Path, Path]) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    trunk, healthy = world
    found, words, how = CASES[name]
    path = trunk.parent / "mtp-tiny-qwen35-Q8_0.gguf"
    rewrite(healthy, path, **(compact(healthy, **how) if "table" in how else how))
    seen = examine(path)
    assert ids(seen) == [found] and words in seen.problems[0].what
    assert nextn.inspect(path).problems == (seen.problems[0].what,)
    assert nextn.inspect(path).shape == "sidecar"
    with pytest.raises(EngineRefused):
        _drafts(trunk, path)
    done = checked(nextn.doctor(path, fix=True, trunk=trunk))
    assert done.remaining == () and done.plan is not None and done.plan.sidecar is not None
    _drafts(trunk, done.plan.sidecar)
    again = nextn.attach(trunk, path, layout="sidecar", out=trunk.parent.parent / "again").sidecar
    assert again is not None and ids(examine(again)) == []
    _drafts(trunk, again)


def _drafts(trunk: Path, sidecar: Path) -> None:
    with find_engine(None).start(Launch(trunk, sidecar, n_max=1, n_ctx=256, threads=1)) as running:
        assert running.complete("def read(self):\n", 12).draft_n_accepted > 0


def test_a_whole_one_that_says_it_shares_nothing_is_healthy(world: tuple[Path, Path], tmp_path: Path) -> None:
    path = rewrite(world[1], tmp_path / world[1].name, put=[(f"qwen35.{MARK}", "bool", False)])
    assert ids(examine(path)) == []


# Donor files of nothing but a block, with more or less of a header.
KEPT: dict[str, dict[str, Any]] = {
    "all keys": {},
    "no tokenizer": {"drop": ["tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"]},
    "no key": {"drop": ["qwen35.nextn_predict_layers"]},
    "numbered from 0": {"rename": {"blk.4.": "blk.0."}, "put": [("qwen35.block_count", "u32", 1)]},
}


@pytest.mark.parametrize("name", KEPT)
def test_donors_of_nothing_but_a_block(name: str, world: tuple[Path, Path], tmp_path: Path) -> None:
    trunk, healthy = world
    path = rewrite(healthy, tmp_path / "block-Q8_0.gguf", **(ROOTS | KEPT[name]))
    assert examine(path).shape == nextn.inspect(path).shape == ("donor" if name == "no tokenizer" else "sidecar")
    made = nextn.attach(trunk, path, layout="bundle", out=tmp_path / "made")
    assert ids(examine(made.entry)) == [] and "blk.4.nextn.eh_proj.weight" in open_model(made.entry).tensors


def test_a_block_without_any_key(world: tuple[Path, Path], tmp_path: Path) -> None:
    keys = [kv.key for kv in open_model(world[1]).kvs]
    path = rewrite(world[1], tmp_path / "block.gguf", drop=keys, **ROOTS)
    with pytest.raises(nextn.errors.FormatError, match="it holds an MTP block but no key that says for which model"):
        nextn.inspect(path)
