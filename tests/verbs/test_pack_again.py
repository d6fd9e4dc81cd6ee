"""Folders of quants, and adding to a folder that was packed before."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults import Faults
from sick import rewrite
from splitting import split_gguf
from test_pack import names, sha, validate, verdict

import nextn
from conftest import CHECKPOINT, Q4, TRUNKS
from nextn.errors import DonorMismatch, IncompleteModel, NextnError, OutputExists, UsageError
from nextn.publish import manifest, sums
from nextn.publish.packed_folder import PackedFolder

Q8 = TRUNKS / "tiny-qwen35-Q8_0.gguf"
SIDECAR = "mtp-tiny-qwen35-Q8_0.gguf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one quant."""
    return nextn.pack([Q8], donor=CHECKPOINT, out=tmp_path / "out", repo="me/tiny", base_model="org/base").folder


def table(folder: Path) -> dict[str, str]:
    return sums.decode((folder / "SHA256SUMS").read_bytes())


def check(folder: Path) -> None:
    """The sums are those of the files, and the manifest agrees with them."""
    found = table(folder)
    assert found == {name: sha(folder / name) for name in found}
    data = json.loads((folder / "nextn.json").read_text())
    validate(data, "manifest")
    assert {file["path"]: file["sha256"] for file in data["files"]}.items() <= found.items()


def state(folder: Path) -> dict[str, str]:
    return {name: sha(folder / name) for name in names(folder)}


def test_a_folder_stands_for_the_quants_in_it(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "Q8_0").mkdir(parents=True)
    (models / Q4.name).symlink_to(Q4)
    split_gguf(Q8, models / "Q8_0", 2, tensors_first=False)
    nextn.extract(CHECKPOINT, out=models / "block.gguf")
    (models / "out").mkdir()
    result = nextn.pack([models], donor=CHECKPOINT, out=models / "out" / "ready", dry_run=True)
    assert [quant.label for quant in result.package.card.quants] == ["Q4_K_M", "Q8_0"]
    assert any("block.gguf is left out" in note for note in result.package.plan.notes)
    with pytest.raises(UsageError, match="no GGUF file in this folder"):
        nextn.pack([models / "out"], donor=CHECKPOINT, out=tmp_path / "x")


@pytest.mark.parametrize(("written", "shown"), [("apache-2.0", 'license: "apache-2.0"'), ("See the FAQ: ]", None)])
def test_the_card_has_the_license_of_the_header(written: str, shown: str | None, tmp_path: Path) -> None:
    model = rewrite(Q8, tmp_path / "m" / Q8.name, put=[("general.license", "str", written)])
    folder = nextn.pack([model], donor=CHECKPOINT, out=tmp_path / "out").folder
    nextn.pack([Q4], out=folder, skip_existing=True)  # whose header names none
    check(folder)
    found = [line for line in (folder / "README.md").read_text().splitlines() if line.startswith("license")]
    assert found == ([] if shown is None else [shown])


def test_a_quant_is_added(folder: Path) -> None:
    before = state(folder)
    result = nextn.pack([Q8, Q4], out=folder, skip_existing=True)
    validate(result.to_json(), "pack")
    after = state(folder)
    assert set(after) - set(before) == {Q4.name}
    assert {name for name in before if before[name] != after[name]} == {"README.md", "SHA256SUMS", "nextn.json"}
    check(folder)
    found = manifest.decode((folder / "nextn.json").read_bytes(), "")
    assert [quant.label for quant in found.quants] == ["Q8_0", "Q4_K_M"]
    assert {quant.variants["mtp"].sidecar for quant in found.quants} == {SIDECAR}
    assert (found.repo, found.base_model) == ("me/tiny", "org/base")
    card = (folder / "README.md").read_text()
    assert "me/tiny:Q4_K_M" in card and "me/tiny:Q8_0" in card and 'base_model: "org/base"' in card
    data = result.to_json()
    assert data["kept"] == ["Q8_0"] and data["upload"] == ["hf", "upload", "me/tiny", str(folder), "."]
    assert [quant["quant"] for quant in data["quants"]] == ["Q8_0", "Q4_K_M"]
    assert data["bytes_hashed"] == Q8.stat().st_size + Q4.stat().st_size
    assert nextn.inspect(folder / Q4.name).sidecars == (folder / SIDECAR,)


def test_a_second_run_changes_nothing(folder: Path) -> None:
    before = {path.name: (sha(path), path.stat().st_ino) for path in folder.iterdir()}
    result = nextn.pack([Q8], out=folder, skip_existing=True)
    assert {path.name: (sha(path), path.stat().st_ino) for path in folder.iterdir()} == before
    data = result.to_json()
    validate(data, "pack")
    assert data["kept"] == ["Q8_0"] and data["files"] == [] and data["bytes_written"] == 0


def test_without_the_option_a_packed_folder_is_refused(folder: Path) -> None:
    before = state(folder)
    with pytest.raises(OutputExists, match="packed before; --skip-existing adds"):
        nextn.pack([Q4], donor=CHECKPOINT, out=folder)
    assert state(folder) == before


def test_another_file_under_the_same_label_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / Q8.name
    data = bytearray(Q8.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    before = state(folder)
    with pytest.raises(OutputExists, match="the Q8_0 here is another one"):
        nextn.pack([other, Q4], out=folder, skip_existing=True)
    assert state(folder) == before
    dry = nextn.pack([other, Q4], out=folder, skip_existing=True, dry_run=True)  # compares sizes only
    assert dry.to_json()["bytes_hashed"] == Q8.stat().st_size + Q4.stat().st_size and state(folder) == before


def test_a_dry_run_says_what_the_run_will_read(folder: Path) -> None:
    dry = nextn.pack([Q8, Q4], out=folder, skip_existing=True, dry_run=True).to_json()
    run = nextn.pack([Q8, Q4], out=folder, skip_existing=True).to_json()
    assert {name: dry[name] for name in ("bytes_read", "bytes_hashed", "bytes_written", "bytes_linked")} == {
        name: run[name] for name in ("bytes_read", "bytes_hashed", "bytes_written", "bytes_linked")
    }


def test_a_quant_whose_block_is_inside_is_compared(folder: Path, tmp_path: Path) -> None:
    bundled = nextn.attach(Q8, CHECKPOINT, layout="bundle", out=tmp_path / "tiny-qwen35-MTP-Q8_0.gguf").entry
    first = nextn.pack([bundled], out=tmp_path / "split").folder
    before = state(first)
    assert nextn.pack([bundled], out=first, skip_existing=True).to_json()["kept"] == ["Q8_0"]
    assert state(first) == before
    assert nextn.pack([bundled, Q4], out=first, skip_existing=True).to_json()["kept"] == ["Q8_0"]
    check(first)


def test_sets_get_the_block_of_the_folder(tmp_path: Path) -> None:
    some = split_gguf(Q4, tmp_path / "a", 2, tensors_first=False)
    more = split_gguf(Q8, tmp_path / "b", 2, tensors_first=False)
    folder = nextn.pack([some[0]], donor=CHECKPOINT, out=tmp_path / "out").folder
    nextn.pack([some[0], more[0]], out=folder, skip_existing=True)
    check(folder)
    added = nextn.inspect(folder / "tiny-qwen35-MTP-Q8_0-00001-of-00003.gguf")
    assert (added.shape, added.problems) == ("bundled", ())


def test_a_card_of_ones_own_stays(folder: Path) -> None:
    (folder / "README.md").write_text("my own card")
    result = nextn.pack([Q4], out=folder, skip_existing=True)
    assert (folder / "README.md").read_text() == "my own card"
    sections = (folder / "card-sections.md").read_text()
    assert "me/tiny:Q4_K_M" in sections and ": GGUF with and" not in sections and not sections.startswith("---")
    assert any("was changed by hand" in note for note in result.package.plan.notes)
    assert "README.md" not in table(folder)
    check(folder)
    nextn.pack([Q4], out=folder, skip_existing=True)
    assert (folder / "README.md").read_text() == "my own card"
    (folder / "card-sections.md").write_text("changed")
    with pytest.raises(OutputExists, match=r"card-sections\.md: this file is not as nextn wrote it"):
        nextn.pack([Q4], out=folder, skip_existing=True)


def test_a_fragment_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine")
    nextn.pack([Q8], donor=CHECKPOINT, out=out, fragment=True)
    assert (out / "README.md").read_text() == "mine" and "## llama.cpp" in (out / "card-sections.md").read_text()
    check(out)


def test_verdicts_are_kept(folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "verify.json"
    for model in (Q8.name, Q4.name):
        report.write_text(json.dumps(verdict(model, sidecar=SIDECAR)))
        nextn.pack([Q8, Q4], out=folder, skip_existing=True, verified=[report])
    card = (folder / "README.md").read_text()
    assert card.count("xllamacpp 1.2") == 2 and "Not verified" not in card
    check(folder)


def test_a_folder_that_lost_a_file_is_not_added_to(folder: Path) -> None:
    (folder / SIDECAR).unlink()
    with pytest.raises(IncompleteModel, match="is missing; restore it"):
        nextn.pack([Q4], out=folder, skip_existing=True)


def test_a_quant_of_another_model_is_refused(folder: Path) -> None:
    before = state(folder)
    with pytest.raises(DonorMismatch, match="architecture"):
        nextn.pack([TRUNKS / "qwen35moe-BF16.gguf"], out=folder, skip_existing=True)
    assert state(folder) == before


def killed(*models: Path, out: Path, **options: object) -> None:
    """A pack that is killed after the data files have their names, before the manifest is renewed."""
    code = (
        "import os, sys, nextn, nextn.publish.packing as packing\n"
        "packing.renew_files = lambda *args: os._exit(137)\n"
        f"nextn.pack({list(map(str, models))!r}, out={str(out)!r}, skip_existing=True, **{options!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 137, done.stderr


@pytest.fixture
def sets(tmp_path: Path) -> list[Path]:
    """Two quants in shards: each needs a block shard that is converted, and a first shard of its own."""
    found = [split_gguf(model, tmp_path / name, 2, tensors_first=False)[0] for model, name in ((Q8, "b"), (Q4, "a"))]
    found.append(nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path / "tiny-qwen35-MTP-Q4_K_M.gguf").entry)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("added", [1, 2], ids=["shards", "a bundle that is taken apart"])
def test_what_a_killed_run_wrote_is_kept(sets: list[Path], tmp_path: Path, added: int) -> None:
    models = [sets[0], sets[added]]
    folder, clean = tmp_path / "out", tmp_path / "clean"
    for out in (folder, clean):
        nextn.pack(models[:1], donor=CHECKPOINT, out=out)
    nextn.pack(models, out=clean, skip_existing=True)
    recorded = set(manifest.decode((folder / "nextn.json").read_bytes(), "").by_path())
    killed(*models, out=folder)
    left = {path.name: path.stat().st_ino for path in folder.iterdir()}
    written = set(left) - recorded - {"README.md", "SHA256SUMS", "nextn.json"}
    assert written and set(manifest.decode((folder / "nextn.json").read_bytes(), "").by_path()) == recorded
    said: list[str] = []
    planned = nextn.pack(models, out=folder, skip_existing=True, dry_run=True)
    assert planned.to_json()["bytes_written"] < sum((folder / name).stat().st_size for name in written)
    result = nextn.pack(models, out=folder, skip_existing=True, say=said.append)
    assert state(folder) == state(clean)
    assert {path.name: path.stat().st_ino for path in folder.iterdir() if path.name in written} == {
        name: left[name] for name in written
    }
    assert any(line.startswith("comparing ") and all(name in line for name in written) for line in said)
    data = result.to_json()
    validate(data, "pack")
    assert {Path(each["path"]).name for each in data["files"]} == {"README.md", "SHA256SUMS", "nextn.json"}
    check(folder)


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 0.5, -1], ids=["header", "middle", "end"])
def test_another_file_of_the_same_size_is_never_overwritten(sets: list[Path], tmp_path: Path, at: float) -> None:
    folder = nextn.pack(sets[:1], donor=CHECKPOINT, out=tmp_path / "out").folder
    killed(*sets[:2], out=folder)
    known = manifest.decode((folder / "nextn.json").read_bytes(), "").by_path()
    (own,) = (path for path in folder.glob("*-00003-of-00003.gguf") if path.name not in known)
    data = bytearray(own.read_bytes())
    data[int(len(data) * at) if at >= 0 else -1] ^= 1
    own.write_bytes(data)
    before = state(folder)
    with pytest.raises(OutputExists, match=f"{own.name}: this file already exists, and its bytes are not those"):
        nextn.pack(sets[:2], out=folder, skip_existing=True)
    assert state(folder) == before


def test_a_copy_is_as_good_as_a_link(folder: Path) -> None:
    shutil.copy(Q4, folder / Q4.name)
    inode = (folder / Q4.name).stat().st_ino
    data = nextn.pack([Q8, Q4], out=folder, skip_existing=True).to_json()
    assert (folder / Q4.name).stat().st_ino == inode and data["links"] == {}
    check(folder)


def test_part_of_what_a_run_wrote_is_completed(sets: list[Path], tmp_path: Path) -> None:
    folder, clean = tmp_path / "out", tmp_path / "clean"
    for out in (folder, clean):
        nextn.pack(sets[:1], donor=CHECKPOINT, out=out)
    nextn.pack(sets[:2], out=clean, skip_existing=True)
    killed(*sets[:2], out=folder)
    known = manifest.decode((folder / "nextn.json").read_bytes(), "").by_path()
    for path in [path for path in sorted(folder.glob("*Q4_K_M*")) if path.name not in known][::2]:
        path.unlink()
    nextn.pack(sets[:2], out=folder, skip_existing=True)
    assert state(folder) == state(clean)


@pytest.mark.parametrize("skip_existing", [False, True])
def test_a_new_folder_whose_manifest_is_missing(sets: list[Path], tmp_path: Path, skip_existing: bool) -> None:
    """What a killed run left without a note of its own is completed with --skip-existing, and refused without."""
    clean = nextn.pack(sets[:1], donor=CHECKPOINT, out=tmp_path / "clean").folder
    folder = Path(shutil.copytree(clean, tmp_path / "out"))
    for name in ("nextn.json", "SHA256SUMS", "README.md"):
        (folder / name).unlink()
    if not skip_existing:
        with pytest.raises(OutputExists, match="already exists"):
            nextn.pack(sets[:1], donor=CHECKPOINT, out=folder)
        return
    nextn.pack(sets[:1], donor=CHECKPOINT, out=folder, skip_existing=True)
    assert state(folder) == state(clean)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eio", "before", "after"])
def test_whatever_stops_it_what_was_there_stays_and_it_can_be_repeated(mode: str, folder: Path, tmp_path: Path) -> None:
    from opened import open_donor

    from nextn.gguf.files import open_model
    from nextn.layouts.options import PackOptions
    from nextn.layouts.pack import plan_pack
    from nextn.publish.packing import pack_up, plan_package
    from nextn.writing.again import written_before

    said: list[str] = []

    def run(out: Path, system: Faults) -> None:
        packed = plan_pack([open_model(Q4)], open_donor(folder / SIDECAR), PackOptions(out, ready_sidecar=True))
        before = written_before(packed.plan, said.append, compare=True)
        pack_up(plan_package(packed, None, PackedFolder.of(out), before), system=system)

    def copy(out: Path) -> Path:
        shutil.copytree(folder, out)
        (out / SIDECAR).unlink()
        (out / SIDECAR).hardlink_to(folder / SIDECAR)
        return out

    clean = Faults()
    run(copy(tmp_path / "clean"), clean)
    whole, before = state(tmp_path / "clean"), state(folder)
    for k in range(1, len(clean.trace) + 1, 2):
        out = copy(tmp_path / f"{mode}{k}")
        with contextlib.suppress(NextnError, KeyboardInterrupt, OSError):
            run(out, Faults(k, mode))
        now = {name: digest for name, digest in state(out).items() if not name.startswith(".")}
        for name in (Q8.name, SIDECAR):
            assert now[name] == before[name], (k, clean.trace[k - 1][0])
        for name in ("README.md", "SHA256SUMS", "nextn.json"):
            assert now[name] in (before[name], whole[name])
        nextn.pack([Q8, Q4], out=out, skip_existing=True)
        assert state(out) == whole
