"""Models that lost more than a tensor: whole blocks of several, trunk layers, the end of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from families import trunk_of
from sick import block_norms, plus, rewrite
from sicknesses import checked, ids
from splitting import split_gguf

import nextn
from conftest import CHECKPOINT, Q4, stored
from nextn.diagnosis import examine
from nextn.donors.infer import infer_donors
from nextn.gguf.files import open_model
from nextn.layouts.metadata import PROVENANCE

Family = Callable[[str], Path]


def attached(kind: str, family: Family, folder: Path, layout: str) -> tuple[Path, Path]:
    """A healthy model of three blocks, in layers 2 to 4, and its donor."""
    donor = family(kind)
    made = nextn.attach(trunk_of(kind), donor, layout=layout, out=folder / layout)
    return made.sidecar or made.entry, donor


def layers_of(path: Path) -> set[str]:
    return {name.split(".")[1] for name in open_model(path).tensors if name.startswith("blk.")}


def lose(layers: Iterable[int]) -> Callable[[str], bool]:
    starts = tuple(f"blk.{n}." for n in layers)
    return lambda name: name.startswith(starts)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["bundle", "sidecar", "split"])
@pytest.mark.parametrize("gone", [(2,), (3,), (4,), (3, 4), (2, 4)])
@pytest.mark.parametrize("kind", ["mimo2", "step35"])
def test_whole_blocks_that_are_gone(
    kind: str, gone: tuple[int, ...], layout: str, family: Family, tmp_path: Path
) -> None:
    good, donor = attached(kind, family, tmp_path, layout.replace("split", "bundle"))
    path = rewrite(good, tmp_path / "sick" / good.name, lose=lose(gone))
    if layout == "split":
        path = split_gguf(path, tmp_path / "set", 3)[0]
    assert ids(examine(path)) == ["block-not-whole"]
    alone = checked(nextn.doctor(path, fix=True, out=tmp_path / "alone"))
    if gone in ((4,), (3, 4)):  # the first ones are there, and draft without the others
        assert alone.plan is not None and alone.remaining == ()
        mended = open_model(alone.plan.sidecar or alone.plan.entry)
        assert mended.arch_int("nextn_predict_layers") == 3 - len(gone)
        assert mended.arch_int("block_count") == 5 - len(gone)
        assert not any(mended.header.by_key.get(key) for key in PROVENANCE)  # it would tell of those that are gone
        assert all(stored(mended, name) == stored(open_model(path), name) for name in mended.tensors)
    else:  # a block under another's number would draft in vain
        assert alone.plan is None
    done = checked(nextn.doctor(path, fix=True, donor=donor, out=tmp_path / "whole"))
    assert done.plan is not None and done.remaining == (), [finding.what for finding in done.remaining]
    whole, healthy = open_model(done.plan.sidecar or done.plan.entry), open_model(good)
    assert set(whole.tensors) == set(healthy.tensors)
    assert all(stored(whole, name) == stored(healthy, name) for name in open_model(path).tensors)
    for suffix in ("block_count", "nextn_predict_layers", "attention.head_count_kv"):
        assert whole.header.get(f"{kind}.{suffix}") == healthy.header.get(f"{kind}.{suffix}")


def test_a_hole_between_blocks_is_never_closed(family: Family, tmp_path: Path) -> None:
    good, donor = attached("mimo2", family, tmp_path, "bundle")
    key = "mimo2.nextn_predict_layers"
    path = rewrite(good, tmp_path / "sick" / good.name, lose=lose([3]), drop=[key])
    assert ids(examine(path)) == ["block-without-key", "block-not-whole"]
    some = checked(nextn.doctor(path, fix=True, out=tmp_path / "some.gguf"))
    assert [finding.id for finding in some.remaining] == ["block-not-whole"]
    assert layers_of(tmp_path / "some.gguf") == {"0", "1", "2", "4"}
    done = checked(nextn.doctor(path, fix=True, donor=donor, out=tmp_path / "whole.gguf"))
    assert done.remaining == () and open_model(tmp_path / "whole.gguf").header.get(key) == 3


@pytest.mark.parametrize("lost", ["nextn.eh_proj.weight", "attn_norm.weight", "attn_sinks.weight"])
@pytest.mark.parametrize("gone", [3, 4])
def test_a_lost_block_beside_one_that_is_not_whole(lost: str, gone: int, family: Family, tmp_path: Path) -> None:
    good, donor = attached("mimo2", family, tmp_path, "bundle")
    path = rewrite(
        good, tmp_path / "sick" / good.name,
        lose=lambda name: name == f"blk.2.{lost}" or name.startswith(f"blk.{gone}."),
    )  # fmt: skip
    done = checked(nextn.doctor(path, fix=True, donor=donor))
    assert len(done.before.problems) == 2 and done.plan is not None and done.remaining == ()
    assert set(open_model(done.plan.entry).tensors) == set(open_model(good).tensors)


@pytest.mark.parametrize(
    ("kind", "lost", "n_blocks"),
    [
        ("mimo2", ["attn_sinks.weight"], 1),
        ("mimo2", ["attn_sinks.weight"], 3),
        ("step35", ["attn_gate.weight"], 1),
        ("step35", ["attn_q_norm.weight", "attn_k_norm.weight"], 3),
        ("glm4moe", ["attn_q.bias", "attn_k.bias", "attn_v.bias"], 1),
    ],
)
@pytest.mark.parametrize("layout", ["bundle", "sidecar"])
def test_optional_tensors_that_the_trunk_has(
    kind: str, lost: list[str], n_blocks: int, layout: str, family: Family, tmp_path: Path
) -> None:
    good, donor = attached(kind, family, tmp_path, layout)
    names = {f"blk.{2 + number}.{suffix}" for number in range(n_blocks) for suffix in lost}
    path = rewrite(good, tmp_path / "sick" / good.name, lose=lambda name: name in names)
    trunk = trunk_of(kind)
    found = nextn.doctor(path, trunk=trunk if layout == "sidecar" else None).before
    assert [each for each in ids(found) if each != "folder-hides-sidecar"] == ["optional-tensors-missing"] * n_blocks
    assert ids(nextn.doctor(path, donor=donor).before) == ["optional-tensors-missing"] * n_blocks
    done = checked(nextn.doctor(path, fix=True, donor=donor))
    assert done.plan is not None and done.remaining == ()
    mended, healthy = open_model(done.plan.sidecar or done.plan.entry), open_model(good)
    assert set(mended.tensors) == set(healthy.tensors)
    vectors = [name for name in names if name.endswith(("sinks.weight", "bias"))]
    assert all(stored(mended, name) == stored(healthy, name) for name in vectors)


def test_the_norm_of_mimo_has_another_name(family: Family, tmp_path: Path) -> None:
    good, donor = attached("mimo2", family, tmp_path, "bundle")
    name = "blk.3.layer_output_norm.weight"
    path = rewrite(good, tmp_path / "sick" / good.name, lose=lambda other: other == name)
    found = examine(path)
    assert ids(found) == ["head-norm-missing"] and found.problems[0].where == name
    done = checked(nextn.doctor(path, fix=True, donor=donor))
    assert done.remaining == () and done.plan is not None
    assert stored(open_model(done.plan.entry), name) == stored(open_model(good), name)


def test_roots_of_a_sidecars_own_keep_their_names(family: Family, tmp_path: Path) -> None:
    donor = family("deepseek4-plain")
    good = nextn.attach(trunk_of("deepseek4"), donor, out=tmp_path).sidecar
    assert good is not None
    path = rewrite(good, tmp_path / "sick" / good.name, lose=lambda name: name.startswith("output_hc_"))
    assert ids(examine(path)) == ["block-not-whole"]
    done = checked(nextn.doctor(path, fix=True, donor=donor))
    assert done.plan is not None and done.remaining == ()
    assert set(open_model(done.plan.sidecar or done.plan.entry).tensors) == set(open_model(good).tensors)


# -- what is not whole is not touched ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mimo2", "step35", "bailingmoe3", "glmdsa"])
def test_a_trunk_that_is_not_whole_is_left_alone(kind: str, family: Family, tmp_path: Path) -> None:
    """Its header may be put right for the layers that are left, and a model without a layer looks healthy."""
    good, donor = attached(kind, family, tmp_path, "bundle")
    path = rewrite(good, tmp_path / "sick" / good.name, lose=lose([1]))
    for source in (None, donor):
        done = checked(nextn.doctor(path, fix=True, donor=source))
        assert done.plan is None and [finding.id for finding in done.remaining] == ["trunk-layers-lost"]


@pytest.mark.parametrize("key", ["block_count", "nextn.marks"])
def test_a_lost_trunk_layer_is_told_from_another_sickness(key: str, family: Family, tmp_path: Path) -> None:
    """By the per-layer arrays without a count, by the key and the count without a block's marks."""
    good, donor = attached("mimo2", family, tmp_path, "bundle")
    drop = [f"mimo2.{key}"] if key == "block_count" else []
    marks = () if drop else ("blk.2.nextn.",)
    path = rewrite(
        good, tmp_path / "sick" / good.name, drop=drop, lose=lambda name: name.startswith(("blk.1.", *marks))
    )
    for source in (None, donor):
        done = checked(nextn.doctor(path, fix=True, donor=source))
        assert done.plan is None and "trunk-layers-lost" in [finding.id for finding in done.remaining]


def test_a_file_that_is_cut_short_is_left_alone(tmp_path: Path) -> None:
    bundle = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path / "well").entry
    whole = rewrite(bundle, tmp_path / "whole.gguf", drop=["qwen35.nextn_predict_layers"])
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole.read_bytes()[:-5000])
    done = checked(nextn.doctor(path, fix=True))
    assert done.plan is None and [each.id for each in done.remaining] == ["file-cut-short", "block-without-key"]
    assert "; then: nextn doctor" in done.remaining[1].mend


def test_a_sidecar_of_nothing_but_roots(tmp_path: Path) -> None:
    made = nextn.attach(Q4, CHECKPOINT, layout="sidecar", out=tmp_path / "well")
    assert made.sidecar is not None
    path = rewrite(made.sidecar, tmp_path / made.sidecar.name, lose=lambda name: name.startswith("blk."))
    found = examine(path)
    assert ids(found) == ["trunk-layers-lost"] and "--layout sidecar" in found.problems[0].mend
    assert checked(nextn.doctor(path, fix=True)).plan is None


def test_a_sidecar_whose_first_block_lost_its_marks_keeps_its_name(family: Family, tmp_path: Path) -> None:
    good, donor = attached("mimo2", family, tmp_path, "sidecar")
    path = rewrite(good, tmp_path / "sick" / good.name, lose=lambda name: name.startswith("blk.2.nextn."))
    assert ids(examine(path)) == ["block-not-whole"] and checked(nextn.doctor(path, fix=True)).plan is None
    done = checked(nextn.doctor(path, fix=True, donor=donor))
    assert done.plan is not None and done.remaining == () and done.plan.entry.name.startswith("mtp-")


@pytest.mark.parametrize("lost", ["attn_norm.weight", "nextn."])
def test_a_sidecar_gets_its_roots_once_its_block_is_whole(lost: str, tmp_path: Path) -> None:
    trunk = tmp_path / "models" / Q4.name
    trunk.parent.mkdir()
    trunk.symlink_to(Q4)
    good = nextn.attach(trunk, CHECKPOINT, layout="sidecar").sidecar
    assert good is not None
    path = rewrite(
        good, good.with_name("mtp-sick-Q8_0.gguf"),
        lose=lambda name: name.startswith((f"blk.4.{lost}", "token_embd", "output_norm")),
    )  # fmt: skip
    assert ids(examine(path)) == ["block-not-whole", "sidecar-without-roots"]
    assert checked(nextn.doctor(path, fix=True, trunk=trunk)).plan is None  # nothing supplies the block
    first = checked(nextn.doctor(path, fix=True, trunk=trunk, donor=CHECKPOINT))
    assert first.plan is not None and [finding.id for finding in first.remaining] == ["sidecar-without-roots"]
    then = checked(nextn.doctor(first.plan.entry, fix=True, trunk=trunk))
    assert then.plan is not None and then.remaining == ()
    made = then.plan.sidecar
    assert made is not None and set(open_model(good).tensors) <= {*open_model(made).tensors, "output.weight"}


def test_an_array_of_a_sidecar_without_marks(family: Family, tmp_path: Path) -> None:
    good, donor = attached("mimo2", family, tmp_path, "sidecar")
    key = "mimo2.attention.head_count_kv"
    long = [*open_model(good).header.get(key), 2]
    path = rewrite(
        good, tmp_path / "sick" / good.name, put=[(key, "[i32]", long)], lose=lambda name: "blk.2.nextn." in name
    )
    assert ids(examine(path)) == ["wrong-array-length", "block-not-whole"]
    done = checked(nextn.doctor(path, fix=True, donor=donor))
    assert done.plan is not None and done.remaining == ()


def test_a_key_that_is_a_bool(tmp_path: Path) -> None:
    bundle = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path / "well").entry
    key = "qwen35.nextn_predict_layers"
    path = rewrite(bundle, tmp_path / "sick.gguf", put=[(key, "bool", True)])
    assert ids(examine(path)) == ["wrong-key-type"]
    done = checked(nextn.doctor(path, fix=True))
    assert done.plan is not None and done.remaining == ()
    assert open_model(done.plan.entry).header.by_key[key].type.name == "UINT32"


def test_a_sidecars_mark_is_no_part_of_its_models_name(tmp_path: Path) -> None:
    sidecar = nextn.attach(Q4, CHECKPOINT, layout="sidecar", out=tmp_path).sidecar
    assert sidecar is not None
    assert not any("mtp-" in guess.repo for guess in infer_donors(open_model(sidecar)))


# -- attaching beside other changes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["single", "set"])
def test_a_promise_beside_a_tensor_that_has_to_go(layout: str, tmp_path: Path) -> None:
    """Attaching to a set links its shards, so a tensor in one of them stays until the next --fix."""
    bundle = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path / "well").entry
    path = rewrite(
        bundle, tmp_path / "sick" / "sick-Q4_K_M.gguf", lose=lose([4]),
        add=[("output_extra.weight", (32, 2), 0, bytes(256))],
    )  # fmt: skip
    if layout == "set":
        path = split_gguf(path, tmp_path / "set", 3)[0]
    assert ids(examine(path)) == ["key-without-block", "head-for-ik-only"]
    dry = checked(nextn.doctor(path, fix=True, donor=CHECKPOINT, out=tmp_path / "first", dry_run=True))
    first = checked(nextn.doctor(path, fix=True, donor=CHECKPOINT, out=tmp_path / "first"))
    left = [] if layout == "single" else ["head-for-ik-only"]
    assert [each.id for each in first.remaining] == [each.id for each in dry.remaining] == left
    assert first.plan is not None
    made = first.plan.entry
    if left:
        then = checked(nextn.doctor(made, fix=True, out=tmp_path / "then"))
        assert then.remaining == () and then.plan is not None
        made = then.plan.entry
    assert set(open_model(made).tensors) == set(open_model(bundle).tensors)


def test_roots_beside_norms_and_a_name(tmp_path: Path) -> None:
    trunk = tmp_path / "models" / Q4.name
    trunk.parent.mkdir()
    trunk.symlink_to(Q4)
    good = nextn.attach(trunk, CHECKPOINT, layout="sidecar", out=tmp_path).sidecar
    assert good is not None
    norms = block_norms(open_model(good), 4)
    path = rewrite(
        good, trunk.parent / "draft-Q8_0.gguf", lose=lambda name: not name.startswith("blk."),
        change=dict.fromkeys(norms, plus(-1)),
    )  # fmt: skip
    dry = checked(nextn.doctor(path, fix=True, trunk=trunk, dry_run=True))
    first = checked(nextn.doctor(path, fix=True, trunk=trunk))
    assert [each.id for each in dry.remaining] == [each.id for each in first.remaining] == ["norm-plus-one-missing"]
    assert first.plan is not None and first.plan.entry is not None and first.plan.sidecar is not None
    assert first.plan.sidecar.name == "mtp-draft-Q8_0.gguf"
    then = checked(nextn.doctor(first.plan.sidecar, fix=True, trunk=trunk))
    assert then.remaining == () and then.plan is not None
    mended = open_model(then.plan.sidecar or then.plan.entry)
    assert all(stored(mended, name) == stored(open_model(good), name) for name in norms)


@pytest.mark.parametrize("kind", ["glm4moe", "glmdsa"])
@pytest.mark.parametrize("at", [0, 9])
def test_a_sidecars_model_tells_where_its_block_belongs(kind: str, at: int, family: Family, tmp_path: Path) -> None:
    trunk = tmp_path / trunk_of(kind).name
    trunk.symlink_to(trunk_of(kind))
    good = nextn.attach(trunk, family(kind), layout="sidecar", out=tmp_path / "well").sidecar
    assert good is not None
    path = rewrite(
        good, tmp_path / "mtp-sick-Q8_0.gguf", put=[(f"{open_model(good).architecture}.block_count", "u32", at + 1)],
        rename={"blk.2.": f"blk.{at}."}, lose=lambda name: name == "token_embd.weight",
    )  # fmt: skip
    done = checked(nextn.doctor(path, fix=True, trunk=trunk))
    assert done.plan is not None and done.remaining == (), [finding.what for finding in done.remaining]
    mended, healthy = open_model(done.plan.sidecar or done.plan.entry), open_model(good)
    assert layers_of(mended.entry) == {"2"} and mended.arch_int("block_count") == 3
    assert all(stored(mended, name) == stored(healthy, name) for name in healthy.tensors if name.startswith("blk."))
