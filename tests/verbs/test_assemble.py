"""assemble --pick: tensors of other sets of the same model, as links, with a recipe that can be run again."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from ggufmaker import f32, make
from mutants import Parts
from schema_check import validate

import nextn
from conftest import Q4, ROOT, TRUNKS, TinyModels, stored
from nextn.cli import cli
from nextn.errors import DonorMismatch, FormatError, IncompleteModel, OutputExists, UsageError
from nextn.gguf.files import open_model

Q8 = TRUNKS / "tiny-qwen35-Q8_0.gguf"
SCHEMA = json.loads((ROOT / "src" / "nextn" / "schemas" / "assemble.json").read_text())
RECIPE = json.loads((ROOT / "src" / "nextn" / "schemas" / "recipe.json").read_text())
LAYER_0 = r"blk[.]0[.].*"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two quants of one model, one tensor per file, in the same order."""
    folder = tmp_path_factory.mktemp("sets")
    q4, other = (nextn.explode(path, out=folder / path.stem).entry.parent for path in (Q4, Q8))
    return q4, nextn.assemble(q4, picks=[f".*={other}"], out=folder / "q8").entry.parent


def test_picked_tensors_are_those_of_the_other_set(sets: tuple[Path, Path], tmp_path: Path) -> None:
    q4, q8 = sets
    done = nextn.assemble(q4, picks=[f"{LAYER_0}={q8}"], out=tmp_path / "mixed")
    made, low, high = open_model(done.entry), open_model(Q4), open_model(Q8)
    assert list(made.tensors) == list(low.tensors)
    for name in made.tensors:
        source = high if name.startswith("blk.0.") else low
        assert stored(made, name) == stored(source, name)
        assert made.tensors[name][1].type_id == source.tensors[name][1].type_id
    n_linked = sum(path.stat().st_nlink > 1 for path in done.entry.parent.glob("*.gguf"))
    assert n_linked == len(made.files) - 1  # all but the first, which counts the shards
    validate(done.to_json(), SCHEMA)


def test_a_recipe_names_tensors_whose_names_are_no_text(tmp_path: Path) -> None:
    odd = tmp_path / "odd.gguf"
    data = Q8.read_bytes()
    assert data.count(b"blk.0.attn_norm.weight") == 1
    odd.write_bytes(data.replace(b"blk.0.attn_norm.weight", b"blk.0.attn_norm.weigh\xff"))
    done = nextn.assemble(Q4, picks=[f"{LAYER_0}weigh.={odd}"], out=tmp_path / "one.gguf")
    recipe = tmp_path / "one.recipe.json"
    assert "blk.0.attn_norm.weigh\\udcff" in {one["name"] for one in json.loads(recipe.read_text())["tensors"]}
    again = nextn.assemble(recipe=recipe, out=tmp_path / "again" / "one.gguf")
    assert again.entry.read_bytes() == done.entry.read_bytes() and not again.plan.notes
    with pytest.raises(UsageError, match="no terminal shows"):
        nextn.assemble(Q4, picks=[f"blk.0.attn_norm.weigh\udcff={odd}"], out=tmp_path / "two.gguf")


def test_a_pick_without_a_source_is_refused(sets: tuple[Path, Path], tmp_path: Path) -> None:
    q4, q8 = sets
    nextn.assemble(q4, picks=[f"{LAYER_0}={q8}"], out=tmp_path / "one.gguf")
    recipe = tmp_path / "one.recipe.json"
    recipe.write_text(json.dumps({**json.loads(recipe.read_text()), "picks": [{"pattern": "x", "source": []}]}))
    with pytest.raises(FormatError, match="not a recipe that 'nextn assemble' wrote"):
        nextn.assemble(recipe=recipe, out=tmp_path / "two.gguf")


def test_the_recipe_makes_it_again(sets: tuple[Path, Path], tmp_path: Path) -> None:
    q4, q8 = sets
    done = nextn.assemble(q4, picks=[f"{LAYER_0}={q8}"], out=tmp_path / "one.gguf")
    recipe = tmp_path / "one.recipe.json"
    found = json.loads(recipe.read_text())
    validate(found, RECIPE)
    assert found["base"] == [str(q4)] and found["picks"] == [{"pattern": LAYER_0, "source": [str(q8)]}]
    assert {one["name"] for one in found["tensors"]} == {n for n in open_model(Q4).tensors if n.startswith("blk.0.")}
    again = nextn.assemble(recipe=recipe, out=tmp_path / "again" / "one.gguf")
    assert again.entry.read_bytes() == done.entry.read_bytes() and not again.plan.notes
    assert (again.entry.parent / "one.recipe.json").read_bytes() == recipe.read_bytes()
    found["tensors"][0]["type"] = "q2_K"
    recipe.write_text(json.dumps(found))
    noted = nextn.assemble(recipe=recipe, out=tmp_path / "other.gguf", dry_run=True).plan.notes
    assert len(noted) == 1 and "the recipe took q2_K of" in noted[0]


def test_the_first_pick_that_matches_supplies_a_tensor(sets: tuple[Path, Path], tmp_path: Path) -> None:
    q4, q8 = sets
    name = "blk.1.attn_norm.weight"
    done = nextn.assemble(q8, picks=[f"output.*={q4}", f".*={q8}"], out=tmp_path / "m.gguf", dry_run=True)
    assert done.outcome is None and not (tmp_path / "m.gguf").exists()
    made = nextn.assemble(q8, picks=[f"blk[.]1[.].*={q4}", f".*={q8}"], out=tmp_path / "n.gguf")
    assert stored(open_model(made.entry), name) == stored(open_model(Q4), name)


def test_a_missing_tensor_is_supplied(sets: tuple[Path, Path], tmp_path: Path) -> None:
    q4, q8 = sets
    holed = tmp_path / "holed"
    holed.mkdir()
    for path in q4.glob("*.gguf"):
        if "00007-of" not in path.name and "00009-of" not in path.name:
            (holed / path.name).symlink_to(path)
    lost = [list(open_model(Q4).tensors)[i] for i in (6, 8)]
    words = r"should hold 55 tensors, but 53 are present \(shard 7, 9 of 55 missing\)"
    with pytest.raises(IncompleteModel, match=words):
        nextn.assemble(holed, out=tmp_path / "never.gguf")
    with pytest.raises(IncompleteModel, match="54 are present"):
        nextn.assemble(holed, picks=[f"{lost[0]}={q8}"], out=tmp_path / "never.gguf")
    done = nextn.assemble(holed, picks=[f"{lost[0]}|{lost[1]}={q8}"], out=tmp_path / "whole")
    made = open_model(done.entry)
    assert list(made.tensors) == list(open_model(Q4).tensors)
    assert all(stored(made, name) == stored(open_model(Q8), name) for name in lost)


@pytest.mark.slow
def test_a_block_of_another_set(tiny_models: TinyModels, sets: tuple[Path, Path], tmp_path: Path) -> None:
    """A bundle whose block's tensors are lost gets them from a set that has them."""
    whole = nextn.explode(tiny_models.bundled, out=tmp_path / "whole").entry.parent
    part = tmp_path / "part"
    part.mkdir()
    names = list(open_model(whole).tensors)
    for i, path in enumerate(sorted(whole.glob("*.gguf"))):
        if not names[i].startswith("blk.4.") or i == 0:
            (part / path.name).symlink_to(path)
    done = nextn.assemble(part, picks=[f"blk[.]4[.].*={whole}"], out=tmp_path / "again")
    assert {n: stored(open_model(done.entry), n) for n in names} == {n: stored(open_model(whole), n) for n in names}
    assert nextn.inspect(done.entry).shape == "bundled" and not nextn.inspect(done.entry).problems


def test_other_models_and_shapes_are_refused(sets: tuple[Path, Path], tmp_path: Path) -> None:
    q4, _ = sets
    arch = ("general.architecture", "str", "llama")
    other = tmp_path / "other.gguf"
    other.write_bytes(make([arch], [f32("output_norm.weight", 128)]).whole)
    with pytest.raises(DonorMismatch, match=r"'general[.]architecture' is 'llama' there and 'qwen35'"):
        nextn.assemble(q4, picks=[f"output_norm[.]weight={other}"], out=tmp_path / "m.gguf")
    bare = tmp_path / "bare.gguf"
    bare.write_bytes(make([], [f32("output_norm.weight", 7)]).whole)
    with pytest.raises(DonorMismatch, match=r"the shape of 'output_norm.weight' is \[7\]"):
        nextn.assemble(q4, picks=[f"output_norm[.]weight={bare}"], out=tmp_path / "m.gguf")
    n = open_model(Q4).tensors["output_norm.weight"][1].ne[0]
    bare.write_bytes(make([], [f32("output_norm.weight", n, fill=0.5)]).whole)
    done = nextn.assemble(q4, picks=[f"output_norm[.]weight={bare}"], out=tmp_path / "m.gguf")
    assert any("no metadata" in note for note in done.plan.notes)
    assert stored(open_model(done.entry), "output_norm.weight") == struct.pack("<f", 0.5) * n


@pytest.mark.parametrize(
    ("picks", "why"),
    [
        (["nothing={q8}"], "no tensor of .* matches 'nothing'"),
        (["(={q8}"], "is not a regular expression"),
        (["blk"], "is not of the form REGEX=DIR"),
        (["={q8}"], "is not of the form REGEX=DIR"),
    ],
)
def test_picks_that_make_no_sense(picks: list[str], why: str, sets: tuple[Path, Path], tmp_path: Path) -> None:
    q4, q8 = sets
    with pytest.raises(UsageError, match=why):
        nextn.assemble(q4, picks=[pick.format(q8=q8) for pick in picks], out=tmp_path / "m.gguf")


def test_what_is_no_set(sets: tuple[Path, Path], tmp_path: Path) -> None:
    q4, _ = sets
    with pytest.raises(UsageError, match="name a folder of shards"):
        nextn.assemble(out=tmp_path / "m.gguf")
    with pytest.raises(UsageError, match="no GGUF file in this folder"):
        nextn.assemble(tmp_path, out=tmp_path / "m.gguf")
    files = sorted(q4.glob("*.gguf"))
    with pytest.raises(UsageError, match="name the first shard too"):
        nextn.assemble(files[1:], out=tmp_path / "m.gguf")
    with pytest.raises(IncompleteModel, match="is also in"):
        nextn.assemble([*files, Q4], out=tmp_path / "m.gguf")
    (tmp_path / "bad.recipe.json").write_text("[1]")
    with pytest.raises(FormatError, match="not a recipe"):
        nextn.assemble(recipe=tmp_path / "bad.recipe.json", out=tmp_path / "m.gguf")
    (tmp_path / "there.gguf").write_bytes(b"x")
    with pytest.raises(OutputExists):
        nextn.assemble(q4, out=tmp_path / "there.gguf")


def test_the_command_line(sets: tuple[Path, Path], tmp_path: Path) -> None:
    q4, q8 = sets
    args = ["assemble", str(q4), "--pick", f"{LAYER_0}={q8}", "-o", str(tmp_path / "cli"), "--link", "symlink"]
    dry = CliRunner().invoke(cli, [*args, "--dry-run", "--json"])
    assert dry.exit_code == 0 and json.loads(dry.stdout)["dry_run"] is True and not (tmp_path / "cli").exists()
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 0 and Path(done.stdout.strip()).is_file()
    assert sum(path.is_symlink() for path in (tmp_path / "cli").glob("*.gguf")) == 54


@pytest.mark.engine
def test_the_engine_drafts_with_a_mixed_set(tiny_models: TinyModels, tmp_path: Path) -> None:
    low = nextn.attach(Q4, tiny_models.sidecar, layout="bundle", out=tmp_path / "low.gguf").entry
    high = nextn.attach(Q8, tiny_models.sidecar, layout="bundle", out=tmp_path / "high.gguf").entry
    one, other = (nextn.explode(path, out=tmp_path / path.stem).entry.parent for path in (low, high))
    mixed = nextn.assemble(one, picks=[f"blk[.][01][.].*={other}"], out=tmp_path / "mixed").entry
    verdict = nextn.verify(mixed, n_predict=24)
    assert verdict.verdict == "passed", verdict.reasons


@pytest.mark.parametrize("count", [65_536, (1 << 32) - 1])
def test_a_count_that_no_set_has_is_refused_before_anything_is_made_of_it(count: int, tmp_path: Path) -> None:
    """Found by fuzzing: a list as long as the count took all memory."""
    nextn.explode(Q4, out=tmp_path / "set", max_tensors=20)
    first = sorted((tmp_path / "set").iterdir())[0]
    first.write_bytes(Parts.of(first).put("split.count", "u32", count).encode())
    with pytest.raises(FormatError, match=f"of a set of {count:,} shards .* sets have 1 to 65,535"):
        nextn.assemble(tmp_path / "set", out=tmp_path / "whole.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_a_shard_whose_number_the_set_does_not_have_is_named(tmp_path: Path) -> None:
    nextn.explode(Q4, out=tmp_path / "set", max_tensors=20)
    last = sorted((tmp_path / "set").iterdir())[-1]
    parts = Parts.of(last).put("split.no", "u16", 7)
    last.write_bytes(parts.without("split.tensors.count").encode())
    with pytest.raises(FormatError, match="this is shard 8, and the set has 3"):
        nextn.assemble(tmp_path / "set", out=tmp_path / "whole.gguf")


def test_most_shards_missing_cost_no_more_than_their_names(tmp_path: Path) -> None:
    """Found by fuzzing: a set that counts 65,535 shards, of which three are there."""
    nextn.explode(Q4, out=tmp_path / "set", max_tensors=20)
    first = sorted((tmp_path / "set").iterdir())[0]
    parts = Parts.of(first).put("split.count", "u16", 65_535)
    first.write_bytes(parts.without("split.tensors.count").encode())
    before = time.process_time()
    with pytest.raises(IncompleteModel, match=r"but 55 are present \(shard 4, 5.* and others of 65535 missing\)"):
        nextn.assemble(tmp_path / "set", out=tmp_path / "whole.gguf")
    assert time.process_time() - before < 3.0  # it took 20 s, and wrote what was there
