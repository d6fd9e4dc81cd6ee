"""A key that promises a block beside a trunk's own count, or beside a count of both, in every family."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from families import KINDS, trunk_of
from sick import rewrite
from sicknesses import checked, ids

import nextn
from conftest import CHECKPOINT, Q4, TRUNKS, need, stored
from nextn.archs import FAMILIES, per_layer_arrays
from nextn.diagnosis import examine
from nextn.engines import find_engine
from nextn.engines.base import Launch
from nextn.errors import EngineFailed, EngineRefused, NextnError
from nextn.gguf.files import Model, open_model
from nextn.gguf.kv import KVType

PATHS = {kind: trunk_of(kind) for kind in KINDS} | {
    "qwen35": Q4, "qwen35moe": TRUNKS / "qwen35moe-BF16.gguf", "qwen3next": TRUNKS / "qwen3next-BF16.gguf"
}  # fmt: skip


def promising(path: Path, target: Path, *, counted: bool) -> Path:
    """A trunk whose key promises the family's blocks; with `counted` its `block_count` and its arrays do, too."""
    model = open_model(path)
    arch, n = model.architecture, FAMILIES[model.architecture].n_blocks
    put: list[tuple[str, str, object]] = [(f"{arch}.nextn_predict_layers", "u32", n)]
    if counted:
        put.append((f"{arch}.block_count", "u32", model.arch_int("block_count") + n))
        put += _longer(model, n)
    return rewrite(path, target, put=put)


def _longer(model: Model, n: int) -> list[tuple[str, str, object]]:
    names = {KVType.INT32: "[i32]", KVType.UINT32: "[u32]", KVType.BOOL: "[bool]", KVType.FLOAT32: "[f32]"}
    out: list[tuple[str, str, object]] = []
    for suffix in per_layer_arrays(model.architecture):
        kv = model.header.by_key.get(f"{model.architecture}.{suffix}")
        if kv is not None and kv.type is KVType.ARRAY and kv.n_items == model.arch_int("block_count"):
            assert kv.item_type is not None
            out.append((kv.key, names[kv.item_type], [*kv.value, *[kv.value[-1]] * n]))
    return out


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("kind", PATHS)
def test_the_key_is_found_and_dropped(kind: str, counted: bool, tmp_path: Path) -> None:
    healthy = open_model(PATHS[kind])
    path = promising(PATHS[kind], tmp_path / "stale-Q8_0.gguf", counted=counted)
    found = examine(path)
    assert (found.shape, ids(found)) == ("trunk-only", ["key-without-block"])
    seen = nextn.inspect(path)
    assert seen.n_layer_trunk == healthy.arch_int("block_count")  # type: ignore[union-attr]
    assert not any("-1" in text for text in (*seen.problems, *seen.hints, found.problems[0].engine))
    done = checked(nextn.doctor(path, fix=True))
    assert done.plan is not None and done.remaining == ()
    mended = open_model(done.plan.entry)
    arch = mended.architecture
    assert mended.header.get(f"{arch}.nextn_predict_layers") is None
    assert mended.header.get(f"{arch}.block_count") == healthy.arch_int("block_count")
    assert set(mended.tensors) == set(healthy.tensors)
    assert all(stored(mended, name) == stored(healthy, name) for name in healthy.tensors)


def test_a_block_is_attached_behind_the_whole_trunk(tmp_path: Path) -> None:
    """Never in the place of its last layer, which the key calls a block."""
    path = promising(Q4, tmp_path / "stale-Q4_K_M.gguf", counted=False)
    made = open_model(nextn.attach(path, CHECKPOINT, layout="bundle", out=tmp_path / "out").entry)
    assert made.arch_int("block_count") == 5 and "blk.4.nextn.eh_proj.weight" in made.tensors
    done = checked(nextn.doctor(path, fix=True, donor=CHECKPOINT, out=tmp_path / "mended.gguf"))
    assert done.plan is not None and done.remaining == ()
    assert set(open_model(done.plan.entry).tensors) == set(made.tensors)
    with pytest.raises(NextnError, match=r"promises a block .* take its last layers for one, beside a sidecar too"):
        nextn.attach(path, CHECKPOINT, layout="sidecar", out=tmp_path / "beside")


@pytest.mark.engine
@pytest.mark.parametrize("kind", [kind for kind in PATHS if kind not in ("deepseek4", "qwen35moe", "qwen3next")])
def test_a_sidecar_works_beside_a_trunk_that_counts_the_block(
    kind: str, family: Callable[[str], Path], tmp_path: Path
) -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    path = promising(PATHS[kind], tmp_path / "stale-Q8_0.gguf", counted=True)
    donor = CHECKPOINT if kind == "qwen35" else family(kind)
    made = nextn.attach(path, donor, layout="sidecar", out=tmp_path / "beside")
    with find_engine(None).start(Launch(path, made.sidecar, n_max=1, n_ctx=256, threads=1)) as running:
        answer = running.complete("def read(self):\n", 12)
    assert answer.draft_n > 0 and answer.text == _answer(PATHS[kind])


@pytest.mark.engine
@pytest.mark.parametrize("kind", [kind for kind in PATHS if kind != "deepseek4"])
def test_the_engine_does_what_doctor_says(kind: str, tmp_path: Path) -> None:
    """A trunk of DeepSeek-V4 as small as the tiny one does not load at all, with or without the key."""
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    healthy = _answer(PATHS[kind])
    for counted in (False, True):
        path = promising(PATHS[kind], tmp_path / "stale-Q8_0.gguf", counted=counted)
        said, answer = examine(path).problems[0].engine.partition(";")[0], _answer(path)
        if answer == healthy:  # with random weights, the text of a layer less may be the same
            assert "runs it correctly" in said if counted else "leaves out" in said
        elif isinstance(answer, str):
            assert "leaves out" in said
        else:
            assert said.split("'", 1)[1].split("'")[0].removesuffix(" failed") in str(answer)
            assert ("aborts" in said) == isinstance(answer, EngineFailed)
        with pytest.raises(EngineRefused):
            _drafted(path)


def _answer(path: Path) -> str | EngineRefused:
    try:
        with find_engine(None).start(Launch(path, n_ctx=256, threads=1)) as running:
            return running.complete("def read(self):\n", 12).text
    except EngineRefused as error:
        return error


def _drafted(path: Path) -> None:
    with find_engine(None).start(Launch(path, n_max=1, n_ctx=256, threads=1)) as running:
        running.complete("def read(self):\n", 4)


def test_a_donor_that_only_names_suggest_is_called_a_guess(tmp_path: Path) -> None:
    bare = promising(Q4, tmp_path / "Tiny-9B-Q4_K_M.gguf", counted=True)
    guessed = examine(bare).problems[0]
    assert "the metadata names no base model; a guess by its name is Qwen/" in guessed.what
    assert "to get the block, by that guess: nextn attach" in guessed.mend
    source = [("general.source.huggingface.repository", "str", "Qwen/Tiny-9B")]
    named = examine(rewrite(bare, tmp_path / "Named-Q4_K_M.gguf", put=source)).problems[0]
    assert "by its metadata, the base is Qwen/Tiny-9B (general.source.huggingface.repository names it)" in named.what
    assert "guess" not in named.what + named.mend and "--from Qwen/Tiny-9B" in named.mend
