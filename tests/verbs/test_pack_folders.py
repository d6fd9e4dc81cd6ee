"""Folders as publishers have them: names, files beside the quants, cards of their own, runs that were stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from ggufmaker import f32, make
from splitting import split_gguf

import nextn
from conftest import CHECKPOINT, Q4, TRUNKS
from nextn.errors import OutputExists, UsageError
from nextn.gguf.files import open_model
from nextn.remote.address import check_hub_name

Q8 = TRUNKS / "tiny-qwen35-Q8_0.gguf"


def link(source: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(source)
    return path


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("noname", "ORG/noname"), ("me/Tiny GGUF", "me/Tiny-GGUF"), ("https://huggingface.co/me/x", "me/x"),
        ("hf:me/x", "me/x"), ("me/x/y", "ORG/y"), ("me/-x", "me/x"), ("me/a--b", "me/a-b"), ("me/x.git", "me/x"),
        ("", "ORG/NAME"), ("me/Größe", "me/Gr-e"), (f"me/{'x' * 97}", f"ORG/{'x' * 97}"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("option", ["--repo", "--base-model"])
def test_a_name_that_the_hub_does_not_take(name: str, written: str, option: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the name of a repository") as caught:
        nextn.pack([Q4], donor=CHECKPOINT, out=tmp_path / "out", **{option[2:].replace("-", "_"): name})
    assert str(caught.value).startswith(f"{option}: '{name}'") and str(caught.value).endswith(f"write it as {written}.")


@pytest.mark.parametrize("name", ["me/x", "a-b.c/D_e.f-1", "x/y", f"me/{'x' * 96}"])
def test_a_name_that_the_hub_takes(name: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(name)
    assert check_hub_name(name, "--repo") == name


def test_quant_names_after_a_dot(tmp_path: Path) -> None:
    models = [link(Q4, tmp_path / "Tiny.Q4_K_M.gguf"), link(Q8, tmp_path / "Tiny.i1-IQ2_XXS.gguf")]
    made = nextn.pack(models, donor=CHECKPOINT, out=tmp_path / "out", dry_run=True)
    assert [quant.label for quant in made.package.card.quants] == ["Q4_K_M", "IQ2_XXS"]


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    source = link(Q4, tmp_path / "models" / Q4.name).parent
    projector = make([("general.architecture", "str", "clip")], [f32("v.x", 8)]).whole
    (source / "mmproj-F16.gguf").write_bytes(projector)
    (source / "imatrix.dat").write_bytes(b"x")
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    donor = nextn.extract(CHECKPOINT, out=source / "mtp-tiny-qwen35-Q8_0.gguf").entry
    (source / "mtp-other-Q8_0.gguf").write_bytes(donor.read_bytes())
    made = nextn.pack([source], donor=donor, out=tmp_path / "out", dry_run=True).package.plan.notes
    left = {"mmproj-F16.gguf": "a multimodal projector", "imatrix.dat": "an importance matrix",
            "mtp-other-Q8_0.gguf": "a sidecar", "README.md": "a card of its own; --fragment"}  # fmt: skip
    for name, what in left.items():
        assert any(name in note and what in note for note in made), (name, made)
    assert not any("mtp-tiny" in note for note in made)  # that one is published
    fragment = nextn.pack([source], donor=donor, out=tmp_path / "out", fragment=True, dry_run=True)
    assert not any("README" in note for note in fragment.package.plan.notes)


def test_names_that_differ_only_in_case(tmp_path: Path) -> None:
    models = [link(Q4, tmp_path / "a" / "Tiny-A.gguf"), link(Q8, tmp_path / "b" / "TINY-a.gguf")]
    with pytest.raises(UsageError, match=r"Tiny-A\.gguf and TINY-a\.gguf: two of the files .* the name"):
        nextn.pack(models, donor=CHECKPOINT, out=tmp_path / "out")


def test_the_folder_of_the_models_itself(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    shutil.copy(Q4, folder)
    with pytest.raises(OutputExists, match="this model is in the folder that -o names; --skip-existing"):
        nextn.pack([folder], donor=CHECKPOINT, out=folder)
    (folder / "README.md").write_text("mine")
    with pytest.raises(OutputExists, match=r"nextn did not write this card, .* --fragment writes card-sections\.md"):
        nextn.pack([folder], donor=CHECKPOINT, out=folder, skip_existing=True)
    nextn.pack([folder], donor=CHECKPOINT, out=folder, skip_existing=True, fragment=True)
    assert (folder / "README.md").read_text() == "mine" and (folder / "card-sections.md").exists()


def hashes(path: Path) -> tuple[dict[str, str], dict[str, str], str]:
    """Of a block's tensors: as recorded, as they are; and the recorded one of the donor's bytes."""
    model = open_model(path)
    recorded = dict(zip(model.header.get("nextn.tensor_names"), model.header.get("nextn.tensor_sha256"), strict=True))
    found = {}
    for name in recorded:
        file, info = model.tensors[name]
        start, end = file.tensor_range(info)
        found[name] = hashlib.sha256(file.path.read_bytes()[start:end]).hexdigest()
    return recorded, found, model.header.get("nextn.donor_sha256")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A single file and two shard sets, whose output heads differ."""
    folder = tmp_path_factory.mktemp("sets")
    return [Q4, split_gguf(Q4, folder, 2, stem="x-Q4_0")[0], split_gguf(Q8, folder, 2, stem="x-Q8_0")[0]]


def test_each_header_records_its_own_tensors(sets: list[Path], tmp_path: Path) -> None:
    out = nextn.pack(sets, donor=CHECKPOINT, out=tmp_path / "out", draft_head="q4_0").folder
    alone = nextn.extract(CHECKPOINT, out=tmp_path / "block.gguf").entry
    entries = [*sorted(out.glob("*MTP*-00001-of-*.gguf")), *out.glob("mtp-*.gguf")]
    assert len(entries) == 3
    for entry in entries:
        recorded, found, donor = hashes(entry)
        assert recorded == found and donor == hashes(alone)[2], entry


def test_a_stopped_run_is_completed_wherever_it_stopped(sets: list[Path], tmp_path: Path) -> None:
    models = sets[:2]
    made = nextn.pack(models, donor=CHECKPOINT, out=tmp_path / "all")
    order = [Path(file["path"]).name for file in made.to_json()["files"]]
    whole = {name: (made.folder / name).read_bytes() for name in order}
    for n in range(1, len(order)):
        folder = tmp_path / f"stopped-{n}"
        folder.mkdir()
        for name in order[:n]:
            shutil.copy(made.folder / name, folder)
        nextn.pack(models, donor=CHECKPOINT, out=folder, skip_existing=True)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole, n


def test_sums_of_other_files_are_not_replaced(tmp_path: Path) -> None:
    folder = nextn.pack([Q4], donor=CHECKPOINT, out=tmp_path / "out").folder
    (folder / "nextn.json").unlink()
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  mine.bin\n")
    with pytest.raises(OutputExists, match="SHA256SUMS: these are the sums of other files"):
        nextn.pack([Q4], donor=CHECKPOINT, out=folder, skip_existing=True)


def test_a_manifest_of_a_later_version_is_read(tmp_path: Path) -> None:
    folder = nextn.pack([Q4], donor=CHECKPOINT, out=tmp_path / "out").folder
    path = folder / "nextn.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": {"x": 1}}))
    assert nextn.pack([Q4], out=folder, skip_existing=True).to_json()["kept"] == ["Q4_K_M"]


def test_the_upload_command_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's own command line takes it as it is printed."""
    import shlex

    monkeypatch.setattr("huggingface_hub.utils._detect_agent._fetch_registry", lambda: None)  # it asks the network
    from huggingface_hub import HfApi
    from huggingface_hub.cli.hf import app

    from nextn.shell import shell

    asked: dict[str, dict[str, object]] = {}

    def create(self: HfApi, **given: object) -> object:
        asked["create"] = given
        return type("Repo", (), given)()

    def upload(self: HfApi, **given: object) -> str:
        asked["upload"] = given
        return "https://example.org"

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.chdir(tmp_path)
    made = nextn.pack([Q4], donor=CHECKPOINT, out=Path("-my quants'"), repo="me/Tiny-GGUF")
    program, *words = shlex.split(shell(*made.package.upload))
    assert program == "hf" and made.package.upload == ["hf", *words]
    app(words, standalone_mode=False)
    assert asked["create"]["repo_id"] == asked["upload"]["repo_id"] == "me/Tiny-GGUF"
    assert Path(str(asked["upload"]["folder_path"])).samefile("./-my quants'")
    assert asked["upload"]["path_in_repo"] == "."
