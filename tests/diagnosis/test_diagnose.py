"""Every sickness is made from a healthy model, found, found alone, and mended; healthy models have none."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import KINDS, trunk_of
from sick import block_norms, halves_swapped, plus, rewrite
from sicknesses import CASES, EH, KEY, checked, ids, nextn_rows
from splitting import split_gguf

import nextn
from conftest import CHECKPOINT, Q4, TRUNKS, TinyModels, need, stored
from nextn.diagnosis import examine
from nextn.gguf.files import open_model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path_factory.mktemp("bundle")).entry


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = nextn.attach(Q4, CHECKPOINT, layout="sidecar", out=tmp_path_factory.mktemp("sidecar"))
    assert made.sidecar is not None
    return made.sidecar


@pytest.mark.parametrize("path", sorted(TRUNKS.glob("*.gguf")), ids=lambda path: path.stem)
def test_trunks_are_healthy(path: Path) -> None:
    found = examine(path)
    assert ids(found) == [] and [note.id for note in found.findings] == ["no-block-attached"]


@pytest.mark.parametrize("kind", KINDS)
def test_families_are_healthy_in_every_layout(kind: str, family: Callable[[str], Path], tmp_path: Path) -> None:
    trunk = trunk_of(kind)
    assert ids(examine(trunk)) == []
    layouts = ("sidecar",) if kind == "deepseek4" else ("sidecar", "bundle")
    donor = family("deepseek4-plain" if kind == "deepseek4" else kind)
    assert ids(examine(donor)) == []
    for layout in layouts:
        made = nextn.attach(trunk, donor, layout=layout, out=tmp_path / layout)
        found = examine(made.sidecar or made.entry, trunk=None)
        assert ids(found) == [], [finding.what for finding in found.problems]


def test_the_demo_is_healthy_in_every_layout(tiny_models: TinyModels, bundle: Path) -> None:
    for path in (tiny_models.bundled, tiny_models.sidecar, tiny_models.shards, bundle, CHECKPOINT):
        assert ids(examine(path)) == []
    with_trunk = checked(nextn.doctor(tiny_models.sidecar, trunk=tiny_models.trunk, donor=CHECKPOINT))
    assert with_trunk.remaining == () or [f.id for f in with_trunk.remaining] == ["folder-hides-sidecar"]
    against = nextn.doctor(bundle, donor=CHECKPOINT)
    assert against.before.problems == () and against.before.skipped == ()


def _eh_rows() -> int:
    return nextn_rows(EH)


@pytest.mark.parametrize("name", CASES)
def test_a_sickness_is_found_alone_and_mended(name: str, bundle: Path, tmp_path: Path) -> None:
    case = CASES[name]
    path = rewrite(bundle, tmp_path / "sick-Q4_K_M.gguf", **case.how)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    found = examine(path)
    assert ids(found) == [case.found], [finding.what for finding in found.problems]
    if case.needs is not None:
        nothing = checked(nextn.doctor(path, fix=True))
        assert nothing.plan is None and nothing.remaining
    donor = CHECKPOINT if case.needs == "donor" else None
    dry = checked(nextn.doctor(path, fix=True, donor=donor, dry_run=True))
    assert dry.outcome is None and sorted(path.parent.iterdir()) == [path] and dry.remaining == ()
    done = checked(nextn.doctor(path, fix=True, donor=donor))
    assert done.plan is not None and done.after is not None
    assert done.remaining == (), [finding.what for finding in done.remaining]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before  # never touched
    healthy, mended = open_model(bundle), open_model(done.plan.entry)
    assert sorted(mended.tensors) == sorted(healthy.tensors)
    for tensor in healthy.tensors:
        if case.same or not tensor.startswith("blk.4."):
            assert stored(mended, tensor) == stored(healthy, tensor), tensor
    for key, value in case.wanted.items():
        assert mended.header.get(key) == value


@pytest.mark.engine
def test_engines_fail_as_it_says(bundle: Path, tmp_path: Path) -> None:
    """llama.cpp refuses each sick model, and takes and drafts with each mended one."""
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    from nextn.engines import find_engine
    from nextn.engines.base import Launch
    from nextn.errors import EngineRefused

    judge = find_engine(None)
    for name, case in CASES.items():
        if case.refused is None or case.needs:
            continue
        path = rewrite(bundle, tmp_path / name / "sick-Q4_K_M.gguf", **case.how)
        with pytest.raises(EngineRefused) as refused, judge.start(Launch(path, n_max=1, n_ctx=256, threads=1)):
            pass
        assert case.refused in str(refused.value), name
        mended = nextn.doctor(path, fix=True).plan
        assert mended is not None
        with judge.start(Launch(mended.entry, n_max=1, n_ctx=256, threads=1)) as running:
            answer = running.complete("def read(self):\n", 12)
        assert answer.draft_n > 0, name


@pytest.mark.parametrize(("amount", "found"), [(-1, "norm-plus-one-missing"), (1, "norm-plus-one-doubled")])
def test_norms_by_their_means(amount: int, found: str, bundle: Path, tmp_path: Path) -> None:
    norms = block_norms(open_model(bundle), 4)
    path = rewrite(bundle, tmp_path / "sick.gguf", change=dict.fromkeys(norms, plus(amount)))
    assert ids(examine(path)) == [found]
    done = checked(nextn.doctor(path, fix=True))
    assert done.remaining == () and done.plan is not None
    for name in norms:
        assert stored(open_model(done.plan.entry), name) == stored(open_model(bundle), name)
    some = dict.fromkeys(norms[:2], plus(amount))
    assert ids(examine(rewrite(bundle, tmp_path / "some.gguf", change=some))) == [found]


@pytest.mark.engine
def test_swapped_halves_by_a_donor_and_by_the_engine(bundle: Path, tmp_path: Path) -> None:
    rows = open_model(bundle).tensors[EH][1].ne[1]
    path = rewrite(bundle, tmp_path / "sick-Q4_K_M.gguf", change={EH: halves_swapped(rows)})
    alone = examine(path)
    assert ids(alone) == [] and "eh-proj-halves" in dict(alone.skipped)
    done = checked(nextn.doctor(path, fix=True, donor=CHECKPOINT))
    assert [finding.id for finding in done.before.problems] == ["eh-proj-swapped"] and done.plan is not None
    assert stored(open_model(done.plan.entry), EH) == stored(open_model(bundle), EH)
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    asked = checked(nextn.doctor(path, engine="xllamacpp", threads=1))
    assert [finding.id for finding in asked.before.problems] == ["eh-proj-swapped"] and asked.before.notes


def test_a_promise_without_a_block(bundle: Path, tmp_path: Path) -> None:
    path = rewrite(bundle, tmp_path / "tune-Q4_K_M.gguf", lose=lambda name: name.startswith("blk.4."))
    assert ids(examine(path)) == ["key-without-block"]
    plain = checked(nextn.doctor(path, fix=True, out=tmp_path / "plain.gguf"))
    assert plain.remaining == () and plain.plan is not None
    model = open_model(plain.plan.entry)
    assert model.header.get(KEY) is None and model.header.get("qwen35.block_count") == 4
    assert len(model.header.get("qwen35.attention.recurrent_layers")) == 4
    whole = checked(nextn.doctor(path, fix=True, donor=CHECKPOINT, out=tmp_path / "whole.gguf"))
    assert whole.remaining == () and whole.plan is not None
    assert sorted(open_model(whole.plan.entry).tensors) == sorted(open_model(bundle).tensors)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("how", "found"),
    [
        ({"lose": lambda name: name == "token_embd.weight"}, "sidecar-without-roots"),
        ({"lose": lambda name: not name.startswith("blk.")}, "sidecar-without-roots"),
        ({"put": [("qwen35.nextn_shared_target_tensors", "bool", True)],
          "lose": lambda name: not name.startswith("blk.")}, "sidecar-shares-target"),
    ],
)  # fmt: skip
def test_sidecars_without_their_roots(how: dict[str, Any], found: str, sidecar: Path, tmp_path: Path) -> None:
    trunk = tmp_path / Q4.name
    shutil.copy(Q4, trunk)
    path = rewrite(sidecar, tmp_path / "mtp-tiny-qwen35-Q8_0.gguf", **how)
    assert ids(examine(path)) == [found]
    assert checked(nextn.doctor(path, fix=True)).plan is None  # its trunk is not named
    done = checked(nextn.doctor(path, fix=True, trunk=trunk))
    assert done.remaining == () and done.plan is not None and done.plan.sidecar is not None
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)
    verdict = nextn.verify(trunk, sidecar=done.plan.sidecar, prompts=["def read(self):\n"], n_predict=16, threads=1)
    assert verdict.verdict != "failed" and verdict.to_json()["n_drafted"] > 0


def test_a_mark_of_forks_alone_is_taken_off(sidecar: Path, tmp_path: Path) -> None:
    mark = ("qwen35.nextn_shared_target_tensors", "bool", True)
    path = rewrite(sidecar, tmp_path / "mtp-tiny-qwen35-Q8_0.gguf", put=[mark])
    assert ids(examine(path)) == ["sidecar-shares-target"]
    done = checked(nextn.doctor(path, fix=True))
    assert done.remaining == ()


def test_names_that_hide_a_model(bundle: Path, sidecar: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "tiny-mtp-Q4_K_M.gguf"
    shutil.copy(bundle, hidden)
    assert ids(examine(hidden)) == ["name-hides-model"]
    done = checked(nextn.doctor(hidden, fix=True))
    assert done.remaining == () and done.plan is not None and "mtp-" not in done.plan.entry.name
    assert done.plan.entry.samefile(hidden)  # a link
    unmarked = tmp_path / "draft" / "tiny-Q8_0.gguf"
    unmarked.parent.mkdir()
    shutil.copy(sidecar, unmarked)
    assert ids(examine(unmarked)) == ["name-hides-sidecar"]
    named = checked(nextn.doctor(unmarked, fix=True))
    assert named.remaining == () and named.plan is not None and named.plan.entry.name.startswith("mtp-")
    trunk = tmp_path / "models" / Q4.name
    trunk.parent.mkdir()
    shutil.copy(Q4, trunk)
    deep = trunk.parent / "extra" / "mtp-tiny-Q8_0.gguf"
    deep.parent.mkdir()
    shutil.copy(sidecar, deep)
    assert ids(examine(trunk)) == ["folder-hides-sidecar"]
    assert [finding.id for finding in nextn.doctor(deep, trunk=trunk).before.problems] == ["folder-hides-sidecar"]
    moved = checked(nextn.doctor(deep, trunk=trunk, fix=True))
    assert moved.remaining == () and moved.plan is not None and moved.plan.folder == trunk.parent


@pytest.fixture
def shards(bundle: Path, tmp_path: Path) -> list[Path]:
    return split_gguf(bundle, tmp_path / "set", 3, tensors_first=False)


def test_a_set_with_a_hole(shards: list[Path]) -> None:
    shards[1].unlink()
    for path in (shards[0], shards[2], shards[0].parent):
        found = examine(path)
        assert ids(found) == ["shards-missing"] and "00002-of-00003" in found.problems[0].what
    assert checked(nextn.doctor(shards[0], fix=True)).plan is None


def test_shards_that_changed_places(shards: list[Path], bundle: Path) -> None:
    aside = shards[1].with_name("aside")
    shards[1].rename(aside)
    shards[2].rename(shards[1])
    aside.rename(shards[2])
    assert ids(examine(shards[0])) == ["shards-renumbered"]
    done = checked(nextn.doctor(shards[0], fix=True))
    assert done.remaining == () and done.plan is not None
    mended, healthy = open_model(done.plan.entry), open_model(bundle)
    assert all(stored(mended, name) == stored(healthy, name) for name in healthy.tensors)


def test_a_set_whose_first_shard_miscounts(shards: list[Path]) -> None:
    n = len(open_model(shards[0]).tensors)
    rewritten = rewrite(shards[0], shards[0].with_name("x"), put=[("split.tensors.count", "i32", n - 1)])
    rewritten.replace(shards[0])
    assert ids(examine(shards[0])) == ["shards-miscounted"]
    done = checked(nextn.doctor(shards[0], fix=True))
    assert done.remaining == () and done.plan is not None and len(open_model(done.plan.entry).tensors) == n
    links = [out for out in done.plan.outputs if hasattr(out, "source")]
    assert len(links) == 2  # the others are not written


def test_a_sick_set_gets_a_new_first_shard(shards: list[Path]) -> None:
    rewrite(shards[0], shards[0].with_name("x"), drop=[KEY]).replace(shards[0])
    assert ids(examine(shards[0])) == ["block-without-key"]
    done = checked(nextn.doctor(shards[0], fix=True))
    assert done.remaining == () and done.plan is not None and done.plan.bytes_written < 200_000
    assert done.plan.entry.with_name(done.plan.entry.name.replace("00001-of", "00002-of")).samefile(shards[1])


def test_a_mixed_set_and_a_cut_file(shards: list[Path], bundle: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(bundle.read_bytes()[:-5000])
    assert ids(examine(cut)) == ["file-cut-short"]
    shutil.copy(shards[1], shards[2])
    assert ids(examine(shards[0])) == ["shards-mixed"]
