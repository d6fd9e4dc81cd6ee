"""Drafts that an engine refuses, aborts at or gets nothing from: doctor names each, and the engine shows it is so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from changes import tensors_of, write_model
from drafts import NAME, TRUNK, as_architecture, changed_gguf, layers, made, number, target

import nextn
from nextn.engines import Launch, Xllamacpp
from nextn.errors import EngineRefused
from nextn.gguf.files import open_model
from nextn.gguf.kv import KV, KVType
from nextn.gguf.tensors import TensorInfo
from nextn.gguf.types import parse_type_name
from tiny_drafts import DRAFTS

OK = [i * 7 + 3 for i in range(256)]


def with_table(source: Path, path: Path, values: list[int], kind: str = "i64") -> Path:
    """A copy with another d2t."""
    model, data = open_model(source), np.array(values, {"i64": "<i8", "i32": "<i4"}[kind]).tobytes()
    info = TensorInfo("d2t", (len(values),), parse_type_name(kind).id, 0)
    tensors = [(info, data) if each.name == "d2t" else (each, old) for each, old in tensors_of(model)]
    return write_model(path, list(model.kvs), tensors)


def shuffled_tokens(source: Path, path: Path) -> Path:
    """A copy whose tokenizer has the same number of tokens in another order."""
    tokens = open_model(source).header.get("tokenizer.ggml.tokens")
    other = [*tokens[:300], *tokens[300:2000][::-1], *tokens[2000:]]
    return changed_gguf(source, path, [KV.make("tokenizer.ggml.tokens", KVType.ARRAY, other, KVType.STRING)])


def fewer_tokens(source: Path, path: Path) -> Path:
    header = open_model(source).header
    put = [
        KV.make(f"tokenizer.ggml.{key}", KVType.ARRAY, header.get(f"tokenizer.ggml.{key}")[:2000], kind)
        for key, kind in (("tokens", KVType.STRING), ("token_type", KVType.INT32))
    ]
    return changed_gguf(source, path, put)


@dataclass(frozen=True)
class Sick:
    kind: str  # of tiny_drafts.DRAFTS
    change: Callable[[Path, Path], Path]
    ident: str
    words: str
    engine: str  # part of what llama.cpp says; "": it drafts, to no avail
    by_itself: bool = True  # found without --trunk


def put(*pairs: KV) -> Callable[[Path, Path], Path]:
    return partial(changed_gguf, put=pairs)


def dropped(*keys: str) -> Callable[[Path, Path], Path]:
    return partial(changed_gguf, drop=keys)


CASES = {
    "layer 9 of 4, EAGLE-3": Sick(
        "eagle3-specforge", put(layers("eagle3.target_layers", [1, 2, 9])), "target-layers-out-of-range",
        "layers 1, 2, 9, but the model has layers 0 to 3", "SIGABRT", by_itself=False,
    ),
    "layer 9 of 4, DFlash": Sick(
        "dflash", put(layers("dflash.target_layers", [1, 2, 9])), "target-layers-out-of-range",
        "layers 1, 2, 9, but the model has layers 0 to 3", "lid <= model.hparams.n_layer()", by_itself=False,
    ),
    "one too high": Sick(
        "dspark", put(layers("dflash.target_layers", [2, 3, 4])), "target-layers-out-of-range",
        "counted one too high", "layer input tensor is null", by_itself=False,
    ),
    "two layers": Sick(
        "eagle3-specforge", put(layers("eagle3.target_layers", [1, 2])), "draft-target-layers",
        "has 2 target layers, but engines demand exactly 3", "EAGLE3 requires exactly 3 entries",
    ),
    "no layers": Sick(
        "dflash", dropped("dflash.target_layers"), "draft-target-layers",
        "has no list of target layers, but engines demand at least 1", "DFlash model requires 'target_layers'",
    ),
    "no table": Sick(
        "eagle3-specforge", partial(changed_gguf, without=["d2t"]), "draft-without-d2t",
        "head covers 256 of 2,048 tokens", "'output.weight' has wrong shape",
    ),
    "short table": Sick(
        "eagle3-specforge", partial(with_table, values=OK[:100]), "draft-without-d2t",
        "maps 100 tokens to the target's, but the draft's head covers 256", "'output.weight' has wrong shape",
    ),
    "no head": Sick(
        "eagle3-specforge", partial(changed_gguf, without=["output.weight"]), "draft-without-d2t",
        "but no head", "model.d2t->ne[0] == n_draft_vocab",
    ),
    "table of another type": Sick(
        "eagle3-specforge", partial(with_table, values=OK, kind="i32"), "draft-table-type",
        "stored as i32, not as i64", "model.d2t->type == GGML_TYPE_I64",
    ),
    "table out of range": Sick(
        "eagle3-specforge", partial(with_table, values=[*OK[:-1], 99999]), "draft-table-damaged",
        "maps 1 of its 256 tokens to none of the target's 2,048", "i1 >= 0 && i1 < ne1",
    ),
    "table of distances": Sick(
        "eagle3-specforge", partial(with_table, values=[3] * 256), "draft-table-damaged",
        "it holds distances, as checkpoints do, not tokens", "",
    ),
    "no mask": Sick(
        "dflash", dropped("tokenizer.ggml.mask_token_id"), "draft-without-mask", "which token stands for one",
        "failed to add embedding at index 1",
    ),
    "no block size": Sick(
        "dspark", dropped("dflash.block_size"), "draft-without-block-size", "how many tokens it drafts at once",
        "DSpark draft requires 'dflash.block_size'",
    ),
    "no tokenizer": Sick(
        "dflash", dropped("tokenizer.ggml.model"), "draft-without-tokenizer", "has no tokenizer",
        "key not found in model: tokenizer.ggml.model",
    ),
    "tokens in another order": Sick(
        "eagle3-specforge", shuffled_tokens, "draft-wrong-tokenizer", "the tokenizers differ in", "", by_itself=False,
    ),
    "fewer tokens": Sick(
        "eagle3-specforge", fewer_tokens, "draft-wrong-tokenizer",
        "made for a vocabulary of 2,000 tokens, but the model's has 2,048", "", by_itself=False,
    ),
    "a name that no engine knows": Sick(
        "dflash", partial(as_architecture, arch="dflash-draft"), "architecture-renamed",
        "'dflash-draft', which no engine knows; its keys and tensors are those of 'dflash'",
        "unknown model architecture: 'dflash-draft'",
    ),
}  # fmt: skip


@pytest.fixture
def sick(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Sick, Path]:
    case = CASES[request.param]
    good = made(case.kind, tmp_path)
    path = tmp_path / f"{good.name.partition('-')[0]}-sick.gguf"
    case.change(good, path)
    good.unlink()
    return case, path


@pytest.mark.parametrize("kind", DRAFTS)
def test_a_good_draft_has_no_problems(kind: str, tmp_path: Path) -> None:
    path = made(kind, tmp_path)
    for trunk in (None, tmp_path / NAME):
        found = nextn.doctor(path, trunk=trunk).before
        assert found.problems == () and found.shape == "sidecar"
        assert [each.id for each in found.findings] == ["draft-model"]
        assert f"draft-{path.name.partition('-')[0]}" in found.findings[0].what


@pytest.mark.parametrize("sick", CASES, indirect=True)
def test_doctor_names_it(sick: tuple[Sick, Path], tmp_path: Path) -> None:
    case, path = sick
    found = nextn.doctor(path, trunk=tmp_path / NAME).before
    assert [(each.id, each.severity) for each in found.problems if each.severity == "error"] == [(case.ident, "error")]
    error = found.problems[0]
    assert case.words in error.what
    alone = {each.id for each in nextn.doctor(path).before.problems}
    assert (case.ident in alone) == case.by_itself


@pytest.mark.parametrize("sick", CASES, indirect=True)
def test_no_verb_takes_it_by_itself(sick: tuple[Sick, Path], tmp_path: Path) -> None:
    case, path = sick
    seen = nextn.inspect(tmp_path / NAME)
    taken = case.ident == "draft-table-damaged"  # its tensors are not read to find a sidecar
    assert seen.sidecars == ((path,) if taken else ())
    assert taken or any(path.name in hint for hint in seen.hints)


@pytest.mark.engine
@pytest.mark.parametrize("sick", CASES, indirect=True)
def test_the_engine_shows_it(sick: tuple[Sick, Path], xllamacpp_engine: Xllamacpp, tmp_path: Path) -> None:
    case, path = sick
    launch = Launch(tmp_path / NAME, path, n_max=3, n_ctx=256, threads=1, log=tmp_path / "log")
    if not case.engine:
        with xllamacpp_engine.start(launch) as running:
            answer = running.complete("def read(self):\n", 24)
        assert answer.draft_n > 0 and answer.draft_n_accepted <= 0.05 * answer.draft_n
        return
    with pytest.raises(EngineRefused) as caught, xllamacpp_engine.start(launch) as running:
        running.complete("def read(self):\n", 24)
    assert case.engine in str(caught.value)


def test_a_target_without_taps(tmp_path: Path) -> None:
    path = made("eagle3-specforge", tmp_path)
    trunk = as_architecture(TRUNK, tmp_path / "g.gguf", "gemma3")
    error = nextn.doctor(path, trunk=trunk).before.problems[0]
    assert (error.id, error.severity) == ("target-without-taps", "error")
    assert "aborts when it drafts: 'layer input tensor is null" in error.engine or "aborts" in error.engine


def test_a_model_of_a_kind_without_blocks_that_has_a_draft(tmp_path: Path) -> None:
    trunk = as_architecture(TRUNK, tmp_path / NAME, "llama")
    assert [each.id for each in nextn.doctor(trunk).before.findings] == ["no-block-published"]
    made("eagle3-specforge", tmp_path)
    done = nextn.doctor(trunk).before
    assert done.findings == () and "is beside it" in " ".join(done.notes)


def test_a_target_of_another_width(tmp_path: Path) -> None:
    path = made("dflash", tmp_path)
    trunk = changed_gguf(TRUNK, tmp_path / "g.gguf", [number("qwen35.embedding_length", 128)])
    errors = [each for each in nextn.doctor(path, trunk=trunk).before.problems if each.severity == "error"]
    assert [each.id for each in errors] == ["draft-wrong-width"]
    assert "hidden size of 256, but the model's is 128" in errors[0].what


@pytest.mark.parametrize(("kind", "name", "better"), [
    ("eagle3-specforge", "x-Q8_0.gguf", "eagle3-x-Q8_0"), ("dflash", "eagle3-x.gguf", "dflash-x"),
    ("dspark", "dflash-x.gguf", "dspark-x"),
])  # fmt: skip
def test_a_name_that_llama_cpp_does_not_look_for(kind: str, name: str, better: str, tmp_path: Path) -> None:
    good = made(kind, tmp_path)
    path = good.rename(tmp_path / name)
    problem, = nextn.doctor(path, trunk=tmp_path / NAME).before.problems
    assert problem.id == "name-hides-sidecar" and f"rename it to {better}.gguf" in problem.mend
    done = nextn.doctor(path, trunk=tmp_path / NAME, fix=True)
    assert done.remaining == () and (tmp_path / f"{better}.gguf").exists()


def test_the_old_name_is_fixed(tmp_path: Path) -> None:
    good = made("dflash", tmp_path)
    path = as_architecture(good, tmp_path / "dflash-old.gguf", "dflash-draft")
    done = nextn.doctor(path, fix=True)
    assert done.remaining == () and done.plan is not None
    kept = [kv for kv in open_model(done.plan.entry).kvs if kv.key != "nextn.padding"]
    assert sorted(bytes(kv.raw) for kv in kept) == sorted(bytes(kv.raw) for kv in open_model(good).kvs)


def test_a_draft_in_a_folder_of_its_own(tmp_path: Path) -> None:
    path = made("dspark", tmp_path / "models")
    (tmp_path / "other").mkdir()
    moved = path.rename(tmp_path / "other" / path.name)
    problem, = nextn.doctor(moved, trunk=tmp_path / "models" / NAME).before.problems
    assert problem.id == "folder-hides-sidecar"
    target(tmp_path / "deep")
    (tmp_path / "deep" / "drafts").mkdir()
    moved.rename(tmp_path / "deep" / "drafts" / path.name)
    problem, = nextn.doctor(tmp_path / "deep" / NAME).before.problems
    assert problem.id == "folder-hides-sidecar" and "a folder below the model" in problem.what
