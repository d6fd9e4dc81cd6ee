"""Publishing a draft that is a model of its own with the models that it belongs to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from drafts import NAME, as_architecture, made
from test_pack import names, sha, validate, verdict

import nextn
from conftest import CHECKPOINT
from nextn.discovery import llama_cpp_names
from nextn.errors import BlockPresent, UnsupportedModel, UsageError
from nextn.gguf.files import open_model
from nextn.publish import manifest

KINDS = {"eagle3-specforge": "eagle3", "dflash": "dflash", "dspark": "dspark"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_draft_beside_the_model_is_published_with_it(kind: str, tmp_path: Path) -> None:
    path = made(kind, tmp_path / "models")
    said: list[str] = []
    result = nextn.pack([tmp_path / "models" / NAME], out=tmp_path / "out", repo="me/tiny", say=said.append)
    folder = result.folder
    validate(result.to_json(), "pack")
    assert names(folder) == {NAME, path.name, "README.md", "SHA256SUMS", "nextn.json"}
    assert (folder / path.name).samefile(path) and said == [result.why] and path.name in (result.why or "")
    (quant,) = manifest.decode((folder / "nextn.json").read_bytes(), "").quants
    assert quant.variants["mtp"].sidecar == path.name and quant.variants["plain"].sidecar is None
    card = (folder / "README.md").read_text()
    draft = nextn.inspect(path).to_json()["draft"]
    row = next(line for line in card.splitlines() if line.startswith(f"| `{path.name}`"))
    assert f"| {draft['title']} | 256 | 1, 2, 3 |" in row
    assert ("256 tokens, mapped by d2t" in row) == (kind == "eagle3-specforge")
    assert f"-md {path.name} --spec-type draft-{KINDS[kind]}" in card and "draft-mtp" not in card
    assert f"- {KINDS[kind]}\n" in card and "- mtp\n" not in card and "prediction block" not in card
    (tag,) = set(re.findall(r"-hf me/tiny:(\S+)", card))
    assert llama_cpp_names.sidecars(sorted(names(folder)), NAME, tag)[0] == path.name
    assert nextn.inspect(folder / NAME).sidecars == (folder / path.name,)


def test_the_card_has_its_figures(tmp_path: Path) -> None:
    path = made("dflash", tmp_path / "models")
    report = tmp_path / "verify.json"
    report.write_text(json.dumps(verdict(NAME, sidecar=f"/x/{path.name}")))
    folder = nextn.pack([tmp_path / "models" / NAME], sidecar=path, out=tmp_path / "out", verified=[report]).folder
    card = (folder / "README.md").read_text()
    assert "shuffled draft" in card and f"`{NAME}` with `{path.name}`" in card and "n_max 2: 90 % 81 %" in card


def test_a_draft_is_not_a_donor(tmp_path: Path) -> None:
    path = made("dflash", tmp_path / "models")
    with pytest.raises(UsageError, match="a model of its own, without a block to take; name it with --sidecar"):
        nextn.pack([tmp_path / "models" / NAME], donor=path, out=tmp_path / "out")


def test_a_name_that_no_engine_finds_is_not_published(tmp_path: Path) -> None:
    path = made("dspark", tmp_path / "models").rename(tmp_path / "draft.gguf")
    folder = nextn.pack([tmp_path / "models" / NAME], sidecar=path, out=tmp_path / "out").folder
    (name,) = (name for name in names(folder) if name.startswith("dspark-"))
    assert (folder / name).samefile(path) and nextn.inspect(folder / NAME).sidecars == (folder / name,)


def test_drafts_that_do_not_belong(tmp_path: Path) -> None:
    path = made("eagle3-specforge", tmp_path / "models")
    bundled = nextn.attach(tmp_path / "models" / NAME, CHECKPOINT, layout="bundle", out=tmp_path / "b.gguf").entry
    other = as_architecture(tmp_path / "models" / NAME, tmp_path / "other-Q8_0.gguf", "gemma3")
    for error, model, options in (
        (BlockPresent, bundled, {}),
        (UnsupportedModel, other, {}),
        (UsageError, tmp_path / "models" / NAME, {"type": "q4_0"}),
        (UsageError, tmp_path / "models" / NAME, {"layout": "shards"}),
    ):
        with pytest.raises(error):
            nextn.pack([model], sidecar=path, out=tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()


def test_the_published_draft_is_pulled_by_the_manifest(tmp_path: Path) -> None:
    path = made("dspark", tmp_path / "models")
    folder = nextn.pack([tmp_path / "models" / NAME], out=tmp_path / "out").folder
    data = json.loads((folder / "nextn.json").read_text())
    validate(data, "manifest")
    parts = [file["part"] for file in data["quants"][0]["variants"]["mtp"]["files"]]
    assert parts == ["trunk", "sidecar"]
    assert {file["path"]: file["sha256"] for file in data["files"]}[path.name] == sha(open_model(path).entry)
