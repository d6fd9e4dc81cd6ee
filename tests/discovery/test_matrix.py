"""Arrangements of files x verbs: which sidecar belongs to the model has one answer, whoever asks.

Each arrangement says what every verb has to answer: the path of the sidecar that is used and named, OWN (the model has
a block of its own), NONE, or DOUBT (several fit equally well, so the verbs that would use one refuse, and inspect says
so).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faults import small_disk, state
from schema_check import validate
from sick import rewrite
from splitting import split_gguf

import nextn
from conftest import CHECKPOINT, Q4, ROOT, TRUNKS, TinyModels, mounted
from nextn.discovery.donors import Doubt
from nextn.discovery.kept import all_kept
from nextn.errors import BlockPresent, NoBlock, UsageError
from nextn.inspection.model import inspect
from nextn.layouts.places import sidecars_root
from nextn.measure.target import MeasuredModel, open_target
from nextn.verbs.attach import attach
from nextn.verbs.doctor import doctor
from nextn.verbs.plan import plan

NONE, OWN, DOUBT = "none", "own block", "doubt"
OFFLINE = "nothing was found, and the network is not asked here"


@dataclass(frozen=True)
class Parts:
    """Files to arrange."""

    trunk: Path
    q8: Path
    q4: Path
    headless: Path  # doctor: sidecar-without-roots
    cut: Path  # doctor: file-cut-short
    other_arch: Path
    other_width: Path
    shallower: Path  # made for a trunk of three layers
    donor: Path
    bundle: Path


@pytest.fixture(scope="module")
def parts(
    tiny_models: TinyModels, family: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Parts:
    folder = tmp_path_factory.mktemp("parts")
    q8 = tiny_models.sidecar
    q4 = nextn.attach(Q4, CHECKPOINT, layout="sidecar", type="q4_0", out=folder / "mtp-q4.gguf").sidecar
    donor = nextn.extract(CHECKPOINT, block_only=True, out=folder / "donor.gguf").entry
    assert q4 is not None
    cut = folder / "cut.gguf"
    cut.write_bytes(q8.read_bytes()[:-4096])
    shallower = rewrite(
        q8, folder / "shallower.gguf", rename={"blk.4.": "blk.3."},
        put=[("qwen35.block_count", "u32", 4),
             ("qwen35.attention.recurrent_layers", "[bool]", [True, True, True, False])],
    )  # fmt: skip
    return Parts(
        Q4, q8, q4, rewrite(q8, folder / "headless.gguf", lose=lambda name: name == "token_embd.weight"), cut,
        nextn.extract(family("glm4moe"), out=folder / "arch.gguf").entry,
        rewrite(q8, folder / "width.gguf", put=[("qwen35.embedding_length", "u32", 64)]),
        shallower, donor, tiny_models.bundled,
    )  # fmt: skip


class Shelf:
    """A folder to arrange files in."""

    def __init__(self, root: Path, parts: Parts) -> None:
        self.root, self.parts = root, parts

    def put(self, name: str, source: Path) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)
        return path

    def cached(self, commit: str, name: str, source: Path) -> Path:
        """A file as the Hub's cache has it: a blob, and a link in a snapshot."""
        repository = self.root / "hub" / "models--org--M-GGUF"
        blob = repository / "blobs" / hashlib.sha256(source.read_bytes()).hexdigest()
        if not blob.exists():
            blob.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, blob)
        link = repository / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
        return link

    def model(self, name: str = "M-Q4_K_M.gguf") -> Path:
        return self.put(name, self.parts.trunk)


def _elsewhere(at: Shelf) -> tuple[Path, Path]:
    """A model, and its sidecar that attach put into a folder that was named."""
    model = at.model()
    made = nextn.attach(model, CHECKPOINT, out=at.root / "else").sidecar
    assert made is not None
    return model, made


Answer = tuple[Path, "Path | str"]  # the model as it is named, what every verb answers
ARRANGEMENTS: dict[str, Callable[[Shelf, Parts], Answer]] = {}


def arrangement(make: Callable[[Shelf, Parts], Answer]) -> None:
    ARRANGEMENTS[make.__name__] = make


@arrangement
def no_sidecar_at_all(at: Shelf, of: Parts) -> Answer:
    return at.model(), NONE


@arrangement
def one_beside(at: Shelf, of: Parts) -> Answer:
    return at.model(), at.put("mtp-M-Q8_0.gguf", of.q8)


@arrangement
def in_the_folder_above(at: Shelf, of: Parts) -> Answer:
    return at.model("Q4_K_M/M-Q4_K_M.gguf"), at.put("mtp-M-Q8_0.gguf", of.q8)


@arrangement
def beside_before_above(at: Shelf, of: Parts) -> Answer:
    at.put("mtp-M-Q4_K_M.gguf", of.q4)
    return at.model("Q4_K_M/M-Q4_K_M.gguf"), at.put("Q4_K_M/mtp-M-Q8_0.gguf", of.q8)


@arrangement
def two_folders_above_is_out_of_reach(at: Shelf, of: Parts) -> Answer:
    at.put("mtp-M-Q8_0.gguf", of.q8)
    return at.model("a/b/M-Q4_K_M.gguf"), NONE


@arrangement
def in_an_mtp_folder_below(at: Shelf, of: Parts) -> Answer:
    return at.model(), at.put("MTP/M-Q8_0-mtp.gguf", of.q8)


@arrangement
def in_an_mtp_folder_of_lower_case_above(at: Shelf, of: Parts) -> Answer:
    return at.model("Q4_K_M/M-Q4_K_M.gguf"), at.put("mtp/M-Q8_0.gguf", of.q8)


@arrangement
def two_quants_the_nearer_bits(at: Shelf, of: Parts) -> Answer:
    at.put("mtp-M-Q8_0.gguf", of.q8)
    return at.model(), at.put("mtp-M-Q4_0.gguf", of.q4)


@arrangement
def two_of_the_same_bits_the_exact_quant(at: Shelf, of: Parts) -> Answer:
    at.put("mtp-M-Q4_0.gguf", of.q4)
    return at.model(), at.put("mtp-M-Q4_K_M.gguf", of.q8)


@arrangement
def two_that_fit_equally(at: Shelf, of: Parts) -> Answer:
    at.put("mtp-M-Q4_0.gguf", of.q4)
    at.put("mtp-M-Q4_1.gguf", of.q8)
    return at.model(), DOUBT


@arrangement
def two_names_of_one_file(at: Shelf, of: Parts) -> Answer:
    path = at.put("mtp-M-Q8_0.gguf", of.q8)
    (at.root / "mtp-M-Q8_1.gguf").symlink_to(path)
    return at.model(), path


@arrangement
def another_models_sidecar_of_the_same_shape(at: Shelf, of: Parts) -> Answer:
    at.put("N-Q4_K_M.gguf", of.trunk)
    at.put("mtp-N-Q4_K_M.gguf", of.q4)
    return at.model(), at.put("mtp-M-Q8_0.gguf", of.q8)


@arrangement
def one_without_its_embeddings(at: Shelf, of: Parts) -> Answer:
    at.put("mtp-M-Q4_0.gguf", of.headless)
    return at.model(), NONE


@arrangement
def a_broken_one_before_a_good_one(at: Shelf, of: Parts) -> Answer:
    at.put("mtp-M-Q4_K_M.gguf", of.cut)
    return at.model(), at.put("mtp-M-Q8_0.gguf", of.q8)


@arrangement
def of_another_architecture(at: Shelf, of: Parts) -> Answer:
    at.put("mtp-M-Q8_0.gguf", of.other_arch)
    return at.model(), NONE


@arrangement
def of_another_width(at: Shelf, of: Parts) -> Answer:
    at.put("mtp-M-Q8_0.gguf", of.other_width)
    return at.model(), NONE


@arrangement
def of_a_shallower_trunk(at: Shelf, of: Parts) -> Answer:
    return at.model(), at.put("mtp-M-Q4_K_M.gguf", of.shallower)


@arrangement
def its_own_above_before_a_shallower_ones_beside(at: Shelf, of: Parts) -> Answer:
    at.put("Q4/mtp-M-Q4_K_M.gguf", of.shallower)
    return at.model("Q4/M-Q4_K_M.gguf"), at.put("mtp-M-Q8_0.gguf", of.q8)


@arrangement
def a_donor_file_that_is_named_like_one(at: Shelf, of: Parts) -> Answer:
    at.put("mtp-other-Q8_0.gguf", of.donor)
    return at.model(), NONE


@arrangement
def a_bundle_that_is_named_like_one(at: Shelf, of: Parts) -> Answer:
    at.put("mtp-other-Q8_0.gguf", of.bundle)
    return at.model(), NONE


@arrangement
def a_bundle_with_a_sidecar_beside(at: Shelf, of: Parts) -> Answer:
    at.put("mtp-M-Q8_0.gguf", of.q8)
    return at.put("M-MTP-Q8_0.gguf", of.bundle), OWN


@arrangement
def a_set_of_shards(at: Shelf, of: Parts) -> Answer:
    path = at.put("mtp-M-Q8_0.gguf", of.q8)
    return split_gguf(at.model(), at.root / "set", 3)[1], path


@arrangement
def a_model_with_the_mark_behind(at: Shelf, of: Parts) -> Answer:
    return at.model("M-Q4_K_M-mtp.gguf"), at.put("mtp-M-Q8_0.gguf", of.q8)


@arrangement
def a_sidecar_with_the_mark_behind(at: Shelf, of: Parts) -> Answer:
    return at.model(), at.put("M-Q8_0-MTP.gguf", of.q8)


@arrangement
def a_name_without_any_mark(at: Shelf, of: Parts) -> Answer:
    at.put("draft.gguf", of.q8)
    return at.model(), NONE


@arrangement
def lm_studio(at: Shelf, of: Parts) -> Answer:
    at.put("models/publisher/N-GGUF/mtp-N-Q8_0.gguf", of.q8)
    path = at.put("models/publisher/M-GGUF/mtp-M-Q8_0.gguf", of.q8)
    return at.model("models/publisher/M-GGUF/M-Q4_K_M.gguf"), path


@arrangement
def ollama_blobs_are_not_looked_through(at: Shelf, of: Parts) -> Answer:
    at.put("blobs/mtp-M-Q8_0.gguf", of.q8)
    return at.model("blobs/sha256-" + hashlib.sha256(of.trunk.read_bytes()).hexdigest()), NONE


@arrangement
def the_hubs_cache_the_same_snapshot(at: Shelf, of: Parts) -> Answer:
    at.cached("old", "mtp-M-Q4_K_M.gguf", of.q4)
    return at.cached("new", "M-Q4_K_M.gguf", of.trunk), at.cached("new", "mtp-M-Q8_0.gguf", of.q8)


@arrangement
def the_hubs_cache_the_snapshots_root(at: Shelf, of: Parts) -> Answer:
    path = at.cached("new", "mtp-M-Q8_0.gguf", of.q8)
    return at.cached("new", "a/b/c/M-Q4_K_M.gguf", of.trunk), path


@arrangement
def the_hubs_cache_another_snapshot(at: Shelf, of: Parts) -> Answer:
    at.put("hub/models--org--M-GGUF/refs/main", CHECKPOINT / "config.json")
    return at.cached("new", "M-Q4_K_M.gguf", of.trunk), at.cached("old", "MTP/mtp-M-Q8_0.gguf", of.q8)


@arrangement
def the_hubs_cache_not_another_repository(at: Shelf, of: Parts) -> Answer:
    at.put("hub/models--org--N-GGUF/snapshots/new/mtp-M-Q8_0.gguf", of.q8)
    return at.cached("new", "M-Q4_K_M.gguf", of.trunk), NONE


@arrangement
def the_hubs_cache_a_blobs_path(at: Shelf, of: Parts) -> Answer:
    path = at.cached("new", "mtp-M-Q8_0.gguf", of.q8)
    return at.cached("new", "M-Q4_K_M.gguf", of.trunk).resolve(), path


@arrangement
def a_link_into_the_hubs_cache(at: Shelf, of: Parts) -> Answer:
    path = at.cached("new", "mtp-M-Q8_0.gguf", of.q8)
    link = at.root / "mine" / "m.gguf"
    link.parent.mkdir()
    link.symlink_to(at.cached("new", "M-Q4_K_M.gguf", of.trunk))
    return link, path


@arrangement
def written_elsewhere_by_attach(at: Shelf, of: Parts) -> Answer:
    model = at.model()
    made = nextn.attach(model, CHECKPOINT, out=at.root / "else" / "where.gguf").sidecar
    assert made is not None
    return model, made


@arrangement
def written_elsewhere_and_deleted(at: Shelf, of: Parts) -> Answer:
    model, made = _elsewhere(at)
    made.unlink()
    return model, NONE


@arrangement
def written_elsewhere_and_replaced_by_a_stranger(at: Shelf, of: Parts) -> Answer:
    model, made = _elsewhere(at)
    made.unlink()
    shutil.copy(of.q4, made)
    return model, NONE


@arrangement
def written_for_the_hubs_cache(at: Shelf, of: Parts) -> Answer:
    model = at.cached("new", "M-Q4_K_M.gguf", of.trunk)
    made = nextn.attach(model, CHECKPOINT).sidecar
    assert made is not None and made.is_relative_to(sidecars_root())
    return model.resolve(), made


@arrangement
def written_for_the_hubs_cache_and_then_published(at: Shelf, of: Parts) -> Answer:
    model = at.cached("new", "M-Q4_K_M.gguf", of.trunk)
    nextn.attach(model, CHECKPOINT)
    return model, at.cached("new", "mtp-M-Q8_0.gguf", of.q8)


@arrangement
def written_for_another_quant_of_the_cached_repository(at: Shelf, of: Parts) -> Answer:
    made = nextn.attach(at.cached("new", "M-Q4_K_M.gguf", of.trunk), CHECKPOINT).sidecar
    assert made is not None
    return at.cached("newer", "M-Q8_0.gguf", TRUNKS / "tiny-qwen35-Q8_0.gguf"), made


@arrangement
def written_for_another_blob_of_ollama(at: Shelf, of: Parts) -> Answer:
    other = TRUNKS / "tiny-qwen35-Q8_0.gguf"
    nextn.attach(at.put("blobs/sha256-" + hashlib.sha256(other.read_bytes()).hexdigest(), other), CHECKPOINT)
    return at.model("blobs/sha256-" + hashlib.sha256(of.trunk.read_bytes()).hexdigest()), NONE


# -- what each verb answers -------------------------------------------------------------------------------------------


class _Seen(Exception):
    def __init__(self, target: MeasuredModel) -> None:
        self.target = target


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Callable[[Path], Path | str]]:
    """Each verb as a question: which sidecar does it take, or name?"""

    def spy(*args: Any, **options: Any) -> MeasuredModel:
        raise _Seen(open_target(*args, **options))

    def no_network(*_: object) -> None:
        raise NoBlock(OFFLINE)

    for name in ("verify", "bench", "tune"):
        monkeypatch.setattr(f"nextn.verbs.{name}.open_target", spy)
    monkeypatch.setattr("nextn.discovery.donors._on_the_hub", no_network)
    server = tmp_path / "server" / "llama-server"
    server.parent.mkdir()
    server.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "version: 7" && exit\n'
                      'printf -- "-md FNAME\\n--spec-type none,draft-mtp\\n--spec-draft-n-max N\\n"\n')  # fmt: skip
    server.chmod(0o755)

    def targeted(name: str) -> Callable[[Path], Path | str]:
        def ask(model: Path) -> Path | str:
            try:
                getattr(nextn, name)(model)
            except _Seen as seen:
                return seen.target.sidecar_path or OWN
            except NoBlock:
                return NONE
            except UsageError as error:
                assert "fit it equally well" in str(error)
                return DOUBT
            raise AssertionError(f"{name} took no target")

        return ask

    def served(model: Path) -> Path | str:
        try:
            chosen = nextn.serve(model, engine=server)
        except UsageError as error:
            assert "fit it equally well" in str(error) and "--sidecar" in str(error)
            return DOUBT
        on = "-md" in chosen.command
        assert on == (chosen.sidecar is not None) and ("--spec-type" in chosen.command) == (chosen.layout != "none")
        return chosen.sidecar or (NONE if chosen.layout == "none" else OWN)

    def planned(model: Path) -> Path | str:
        try:
            made = plan(model, header_only=True)
        except UsageError as error:
            assert "fit it equally well" in str(error)
            return DOUBT
        assert made.block is not None
        return {"sidecar": made.block.origin, "bundled": OWN, "family": NONE}[made.block.kind]

    def inspected(model: Path) -> Path | str:
        seen = inspect(model)
        if any("fit it equally well" in hint for hint in seen.hints):
            assert len(seen.sidecars) > 1
            return DOUBT
        return seen.sidecars[0] if seen.sidecars else OWN if seen.shape == "bundled" else NONE

    def diagnosed(model: Path) -> Path | str:
        before = doctor(model).before
        if any("fit it equally well" in note for note in before.notes):
            return DOUBT
        named = [note for note in before.notes if note.startswith("the sidecar ")]
        offered = any(each.id == "no-block-attached" for each in before.findings)
        assert not (named and offered), "doctor names a sidecar and advises to attach one"
        return OWN if before.shape == "bundled" else named[0] if named else NONE

    def attached(model: Path) -> Path | str:
        try:
            attach(model, layout="sidecar", dry_run=True)
        except BlockPresent as error:
            said = str(error)
            return OWN if "already has an MTP block" in said else DOUBT if "equally well" in said else said
        except (NoBlock, Doubt):
            return NONE
        return NONE

    return {
        "inspect": inspected, "doctor": diagnosed, "serve": served, "plan": planned, "attach": attached,
        **{name: targeted(name) for name in ("verify", "bench", "tune")},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_all_verbs_agree(
    name: str, parts: Parts, verbs: dict[str, Callable[[Path], Path | str]], tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path / "files", parts)
    shelf.root.mkdir()
    model, expected = ARRANGEMENTS[name](shelf, parts)
    before = state(shelf.root)
    for verb, ask in verbs.items():
        answer = ask(model)
        if isinstance(expected, Path) and isinstance(answer, str) and answer not in (NONE, OWN, DOUBT):
            assert f"the sidecar {expected} " in answer or f"the sidecar {expected.name} " in answer, verb
        elif isinstance(answer, Path):
            assert isinstance(expected, Path) and answer == expected, (verb, answer, expected)
        else:
            assert answer == expected, (verb, answer)
    assert state(shelf.root) == before


# -- read-only folders, and what is ignored ------------------------------------------------------------------------


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A disk at tmp_path/files, and what makes it read-only."""
    import subprocess

    with small_disk(tmp_path / "files", "32m") as disk:
        mounted(disk)
        yield lambda: subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True) and None


def test_a_read_only_folder(
    parts: Parts, verbs: dict[str, Callable[[Path], Path | str]], read_only: Callable[[], None], tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path / "files", parts)
    model = shelf.model()
    read_only()
    assert {verb: ask(model) for verb, ask in verbs.items()} == dict.fromkeys(verbs, NONE)
    made = nextn.attach(model, CHECKPOINT).sidecar
    assert made is not None and made.is_relative_to(sidecars_root()) and made.name == "mtp-M-Q8_0.gguf"
    answers = {verb: ask(model) for verb, ask in verbs.items()}
    assert all(answer == made or f"the sidecar {made} " in str(answer) for answer in answers.values()), answers


def test_why_a_file_was_passed_over(parts: Parts, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, parts)
    model = shelf.model()
    for name in ("headless", "cut", "other_arch", "other_width", "donor", "bundle"):
        shelf.put(f"mtp-{name}-Q4_K_M.gguf", getattr(parts, name))
    shelf.put("mtp-noise-Q4_K_M.gguf", CHECKPOINT / "config.json")
    mark = " is not a sidecar for it: "
    hints = dict(hint.split(mark, 1) for hint in inspect(model).hints if mark in hint)
    said = {name.removeprefix("mtp-").removesuffix("-Q4_K_M.gguf"): why for name, why in hints.items()}
    for name, words in {
        "headless": "no tensor 'token_embd.weight'",
        "cut": "the download is incomplete, and tensor",
        "other_arch": "the donor's architecture is 'glm4moe', the trunk's 'qwen35'",
        "other_width": "the donor's hidden size is 64, the trunk's 256",
        "donor": "a donor file, which no engine runs",
        "bundle": "a model with its block, not a sidecar",
        "noise": "byte 0: this is not a GGUF file",
    }.items():
        assert words in said[name] and str(tmp_path) not in said[name], (name, said[name])
    assert inspect(model).sidecars == ()


def test_a_sidecar_of_another_depth_is_taken_with_a_word(parts: Parts, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, parts)
    shelf.put("mtp-M-Q4_K_M.gguf", parts.shallower)
    target = open_target(shelf.model())
    assert target.notes[-1].endswith("was chosen: it was made for 3 trunk layers, but the model has 4")


def test_attach_says_which_sidecar_comes_first(parts: Parts, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, parts)
    model = shelf.model()
    shelf.put("mtp-M-Q8_0.gguf", parts.q8)
    made = nextn.attach(model, CHECKPOINT, out=tmp_path / "else")
    assert made.plan.notes[0].startswith("the sidecar mtp-M-Q8_0.gguf is beside it and comes before this one")


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_nothing_is_written_into_stores(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path / "files", parts)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    models = [
        shelf.cached("new", "M-Q4_K_M.gguf", parts.trunk),
        shelf.model("blobs/sha256-" + hashlib.sha256(parts.trunk.read_bytes()).hexdigest()),
    ]
    before = state(shelf.root)
    for i, model in enumerate(models):
        monkeypatch.setenv("NEXTN_DATA", str(tmp_path / f"data{i}"))
        side = nextn.attach(model, CHECKPOINT).sidecar
        assert side is not None and side.is_relative_to(tmp_path / f"data{i}" / "sidecars")
        whole = nextn.attach(model, CHECKPOINT, layout="bundle", out=None if i == 0 else tmp_path / "b").entry
        assert whole.parent == (tmp_path / "here" if i == 0 else tmp_path / "b")
    assert state(shelf.root) == before


def test_what_is_kept_is_shown_and_removed(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nextn.cli import main

    shelf = Shelf(tmp_path, parts)
    cached = shelf.cached("new", "M-Q4_K_M.gguf", parts.trunk)
    plain = shelf.put("N-Q8_0.gguf", TRUNKS / "tiny-qwen35-Q8_0.gguf")
    own = nextn.attach(cached, CHECKPOINT).sidecar
    theirs = nextn.attach(plain, CHECKPOINT, out=tmp_path / "else").sidecar
    gone = nextn.attach(plain, CHECKPOINT, out=tmp_path / "gone").sidecar
    assert own is not None and theirs is not None and gone is not None
    gone.unlink()
    capsys.readouterr()
    assert main(["cache", "--sidecars", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    validate(document, json.loads((ROOT / "src" / "nextn" / "schemas" / "cache.json").read_text()))
    shown = {entry["name"]: entry for entry in document["entries"]}
    assert set(shown) == {str(own), str(theirs), str(gone)}
    assert [shown[str(path)]["stale"] for path in (own, theirs, gone)] == [False, False, True]
    assert shown[str(own)]["size_bytes"] > own.stat().st_size > shown[str(theirs)]["size_bytes"]
    assert shown[str(own)]["model"] == str(cached)
    assert main(["cache", "--sidecars"]) == 0
    text = capsys.readouterr().out
    assert f"{gone} (stale)" in text and f"{own}, for {cached}" in text
    assert main(["cache", "--sidecars", "N-Q8_0", "--clear"]) == 0
    assert theirs.is_file() and own.is_file() and [kept.sidecar for kept in all_kept()] == [own]
    assert main(["cache", "--sidecars", "--clear"]) == 0
    assert not own.exists() and not all_kept() and list(sidecars_root().iterdir()) == []
    assert theirs.is_file() and cached.is_file()


def test_a_note_that_nobody_can_read_is_left_out(parts: Parts, tmp_path: Path) -> None:
    model = Shelf(tmp_path, parts).model()
    nextn.attach(model, CHECKPOINT, out=tmp_path / "else")
    (note,) = sidecars_root().glob("*/*.json")
    for text in ("", "[]", "{}", '{"version": 2}', '{"version": 1, "kind": "kept-sidecar"}'):
        note.write_text(text)
        assert inspect(model).sidecars == ()


def test_the_folder_of_data() -> None:
    from nextn.layouts.places import data_root

    with pytest.MonkeyPatch.context() as env:
        env.delenv("NEXTN_DATA")
        env.setenv("XDG_DATA_HOME", "/x")
        assert data_root() == Path("/x/nextn")
        env.delenv("XDG_DATA_HOME")
        env.setenv("HOME", "/h")
        assert data_root() == Path("/h/.local/share/nextn")
