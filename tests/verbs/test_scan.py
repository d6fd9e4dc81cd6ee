"""scan: what it finds where, what it says of each model, and how little it reads for that."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from all_verbs import run as call
from ggufmaker import arch_kvs, f32, make, root_tensors, trunk_tensors
from hub_server import Fault, HubServer
from known_curve import CurveEngine
from schema_check import validate
from shelves import COMMIT, in_hub_cache, in_lm_studio, in_ollama, own_home
from sick import rewrite

import nextn
from conftest import CHECKPOINT, DATA, Q4, ROOT, TRUNKS, TinyModels
from nextn.discovery.once import Once
from nextn.errors import FormatError, StorageError, UsageError
from nextn.gguf import files as gguf_files
from nextn.gguf.files import open_model
from nextn.results.sections import read_section
from nextn.verbs import offers
from nextn.verbs.plan import plan

SCHEMA = json.loads((ROOT / "src/nextn/schemas/scan.json").read_text())
Q8 = TRUNKS / "tiny-qwen35-Q8_0.gguf"
BLOCK_BYTES = 1_968_896  # of the shipped checkpoint


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_home(tmp_path, monkeypatch)


def found(*folders: Path, **options: Any) -> dict[str, Any]:
    """The document of an offline scan, checked against its schema."""
    document: dict[str, Any] = json.loads(json.dumps(nextn.scan(folders, **{"offline": True, **options}).to_json()))
    validate(document, SCHEMA)
    return document


def only_model(*folders: Path, **options: Any) -> dict[str, Any]:
    (model,) = found(*folders, only=True, **options)["models"]
    assert isinstance(model, dict)
    return model


def copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(source, target))


def projector(path: Path) -> Path:
    kvs = [("general.architecture", "str", "clip"), ("general.type", "str", "mmproj")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make(kvs, [f32("v.patch_embd.weight", 8)]).whole)
    return path


# -- where ------------------------------------------------------------------------------------------------------------


def test_models_are_found_where_programs_keep_them(home: Path, tmp_path: Path, tiny_models: TinyModels) -> None:
    in_hub_cache(home, "org/tiny-GGUF", tiny_models.bundled)
    in_lm_studio(home, "publisher/tiny", Q8)
    in_ollama(home, "registry.ollama.ai/library/tiny/4b", Q4)
    copy(tiny_models.shards, home / ".cache" / "llama.cpp" / tiny_models.shards.name)
    for shard in tiny_models.shards.parent.glob("*.gguf"):
        copy(shard.resolve(), home / ".cache" / "llama.cpp" / shard.name)
    rewrite(Q4, tmp_path / "mine" / "deep" / "other.gguf", put=[("general.name", "str", "Other")])
    data = found(tmp_path / "mine")
    seen = {model["place"]: model for model in data["models"]}
    assert set(seen) == {"hub", "lmstudio", "ollama", "llama.cpp", "folder"} == {one["place"] for one in data["places"]}
    assert seen["hub"]["name"] == f"hf:org/tiny-GGUF:{tiny_models.bundled.name}"
    assert seen["hub"]["block"] == "in the model"
    assert seen["lmstudio"]["name"] == f"publisher/tiny/{Q8.name}" and seen["lmstudio"]["block"] == "none"
    assert seen["ollama"]["name"] == "tiny:4b" and Path(seen["ollama"]["path"]).parent.name == "blobs"
    assert seen["llama.cpp"]["n_files"] == len(list(tiny_models.shards.parent.glob("*.gguf"))) > 1
    assert seen["folder"]["title"] == "Other" and seen["folder"]["architecture"] == "qwen35"
    assert data["spoilt"] == [] and data["others"] == [] and data["offline"] is True
    alone = found(tmp_path / "mine", only=True)
    assert [model["place"] for model in alone["models"]] == ["folder"]


def test_places_follow_the_environment(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "cache"))
    copy(Q4, tmp_path / "cache" / "org_tiny.gguf")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    in_ollama(tmp_path / "elsewhere", "hf.co/org/tiny/Q8_0", Q8)
    shutil.copytree(tmp_path / "elsewhere" / ".ollama" / "models", tmp_path / "ollama")
    assert {(one["place"], one["name"]) for one in found()["models"]} == {
        ("llama.cpp", "org_tiny.gguf"), ("ollama", "hf.co/org/tiny:Q8_0"),
    }  # fmt: skip


def test_links_in_a_circle_and_hidden_folders(tmp_path: Path) -> None:
    copy(Q4, tmp_path / "m" / "a.gguf")
    copy(Q8, tmp_path / "m" / ".hidden" / "b.gguf")
    (tmp_path / "m" / "round").symlink_to(tmp_path / "m")
    assert [Path(one["path"]).name for one in found(tmp_path / "m", only=True)["models"]] == ["a.gguf"]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    copy(Q4, tmp_path / "file.gguf")
    with pytest.raises(UsageError, match="this is a file, not a folder"):
        nextn.scan([tmp_path / "file.gguf"])
    with pytest.raises(StorageError, match="there is no such file or folder; check the path"):
        nextn.scan([tmp_path / "gone"])


def test_nothing_at_all(home: Path) -> None:
    assert found()["models"] == []
    ran = call("scan", "--offline")
    assert ran.code == 0 and "no folder of models was found; name one: nextn scan FOLDER" in ran.out


# -- what each model is -----------------------------------------------------------------------------------------------


def test_programs_as_it_is(tmp_path: Path, tiny_models: TinyModels) -> None:
    copy(tiny_models.bundled, tmp_path / "a" / "bundled.gguf")
    copy(Q8, tmp_path / "b" / tiny_models.trunk.name)
    copy(tiny_models.sidecar, tmp_path / "b" / tiny_models.sidecar.name)
    copy(Q4, tmp_path / "c" / "plain.gguf")
    rewrite(Q4, tmp_path / "d" / "llama.gguf", put=[("general.architecture", "str", "llama")])
    rows = {Path(one["path"]).parent.name: one for one in found(tmp_path, only=True)["models"]}
    words = {name: {use: each["word"] for use, each in row["programs"].items()} for name, row in rows.items()}
    assert words["a"] == {"llama.cpp": "drafts", "ik_llama.cpp": "drafts", "LM Studio": "drafts", "ollama": "refuses"}
    assert words["b"] == {"llama.cpp": "drafts", "ik_llama.cpp": "runs", "LM Studio": "runs", "ollama": "runs"}
    assert set(words["c"].values()) == {"runs"}
    assert "measured on" in rows["c"]["programs"]["llama.cpp"]["says"]
    assert "not tried here" in rows["c"]["programs"]["ollama"]["says"]
    assert [rows[name]["block"] for name in "abc"] == ["in the model", "sidecar", "none"]
    for name in "ab":
        assert rows[name]["offer"] is None and rows[name]["command"] == f"nextn serve {rows[name]['path']}"


def test_what_is_no_model_is_shown_with_its_model(tmp_path: Path, tiny_models: TinyModels) -> None:
    model = copy(Q8, tmp_path / "m" / tiny_models.trunk.name)
    sidecar = copy(tiny_models.sidecar, tmp_path / "m" / tiny_models.sidecar.name)
    images = projector(tmp_path / "m" / "mmproj-F16.gguf")
    alone = copy(tiny_models.sidecar, tmp_path / "n" / tiny_models.sidecar.name)
    nextn.extract(CHECKPOINT, out=tmp_path / "n" / "x-MTP-donor.gguf", block_only=True)
    data = found(tmp_path, only=True)
    (row,) = data["models"]
    assert row["sidecars"] == [str(sidecar)] and row["projectors"] == [str(images)]
    others = {one["path"]: one for one in data["others"]}
    assert others[str(sidecar)]["models"] == others[str(images)]["models"] == [str(model)]
    assert others[str(alone)]["what"] == "a sidecar" and others[str(alone)]["models"] == []
    assert "mmproj" in others[str(images)]["what"]
    assert {Path(path).name: one["what"] for path, one in others.items()}["x-MTP-donor.gguf"].startswith("a donor file")


def test_ollama_says_which_projector_is_whose(home: Path, tmp_path: Path) -> None:
    in_ollama(home, "registry.ollama.ai/library/seeing/latest", Q4, projector(tmp_path / "mmproj.gguf"))
    (model,) = found()["models"]
    assert len(model["projectors"]) == 1 and Path(model["projectors"][0]).is_file()


def test_damaged_and_unfinished_files_are_named(home: Path, tmp_path: Path, tiny_models: TinyModels) -> None:
    folder = tmp_path / "m"
    whole = Q4.read_bytes()
    copy(Q4, folder / "good.gguf")
    (folder / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (folder / "header.gguf").write_bytes(whole[:5000])
    (folder / "page.gguf").write_bytes(b"<!DOCTYPE html><html>")
    (folder / "lost.gguf").symlink_to(folder / "nowhere")
    for name in ("a.gguf.part", "b.gguf.downloadInProgress", "c.gguf.aria2", "d.gguf.part1of3"):
        (folder / name).write_bytes(whole[:100])
    copy(Q4, folder / "c.gguf")
    copy(tiny_models.shards, folder / tiny_models.shards.name)
    blobs = in_hub_cache(home, "org/half", Q8).parents[1] / "blobs"
    (blobs / ("0" * 64 + ".incomplete")).write_bytes(b"x")
    store = in_ollama(home, "registry.ollama.ai/library/whole/1b", Q8).parent
    for name in ("sha256-" + "1" * 64 + "-partial", "sha256-" + "1" * 64 + "-partial-0"):
        (store / name).write_bytes(b"x")
    data = found(folder)
    spoilt = {Path(one["path"]).name: one for one in data["spoilt"]}
    assert {name for name, one in spoilt.items() if one["unfinished"]} == {
        "a.gguf.part", "b.gguf.downloadInProgress", "c.gguf", "c.gguf.aria2", "0" * 64 + ".incomplete",
        "sha256-" + "1" * 64 + "-partial",
    }  # fmt: skip
    assert "download is incomplete" in spoilt["header.gguf"]["what"]
    assert "saved web page" in spoilt["page.gguf"]["what"] and "leads nowhere" in spoilt["lost.gguf"]["what"]
    assert "1 of 2 shards is missing" in spoilt[tiny_models.shards.name]["what"]
    assert "join them" in spoilt["d.gguf.part1of3"]["what"]
    cut = next(one for one in data["models"] if one["path"].endswith("cut.gguf"))
    assert cut["command"] == f"nextn doctor {folder / 'cut.gguf'}" and cut["offer"] is None
    assert len(cut["problems"]) == 1 and "ends at byte" in cut["problems"][0]


def test_the_same_model_twice_is_one_row_that_says_how(home: Path, tmp_path: Path) -> None:
    first = copy(Q4, tmp_path / "m" / "a.gguf")
    os.link(first, tmp_path / "m" / "hard.gguf")
    (tmp_path / "m" / "soft.gguf").symlink_to(first)
    second = copy(Q4, tmp_path / "n" / "copied.gguf")
    rewrite(Q4, tmp_path / "n" / "other.gguf", put=[("general.name", "str", "Other")])
    for tag in ("1b", "latest"):
        in_ollama(home, f"registry.ollama.ai/library/tiny/{tag}", Q8)
    data = found(tmp_path / "m", tmp_path / "n")
    rows = {Path(one["path"]).name: one for one in data["models"]}
    same = {Path(one["path"]).name: one["how"] for one in rows["a.gguf"]["same"]}
    assert same == {"hard.gguf": "hard link", "soft.gguf": "symlink", "copied.gguf": "copy"}
    assert data["wasted_bytes"] == second.stat().st_size and rows["other.gguf"]["same"] == []
    (blob,) = [one for one in data["models"] if one["place"] == "ollama"]
    assert blob["name"] == "tiny:1b"
    assert [(one["name"], one["how"]) for one in blob["same"]] == [("tiny:latest", "same blob")]


def test_links_are_told_apart_in_a_folder_named_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = copy(Q4, tmp_path / "m" / "a.GGUF")
    os.link(first, tmp_path / "m" / "hard.gguf")
    (tmp_path / "m" / "soft.gguf").symlink_to(first)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    model = only_model(Path("../m"))
    assert {Path(one["path"]).name: one["how"] for one in model["same"]} == {
        "hard.gguf": "hard link", "soft.gguf": "symlink",
    }  # fmt: skip
    assert model["path"] == "../m/a.GGUF"


def test_of_copies_the_one_with_a_sidecar_is_shown(tmp_path: Path, tiny_models: TinyModels) -> None:
    plain, ready = (copy(Q4, tmp_path / name / Q4.name) for name in ("a", "b"))
    sidecar = copy(tiny_models.sidecar, ready.with_name(tiny_models.sidecar.name))
    model = only_model(tmp_path)
    assert (model["path"], model["block"], model["sidecars"]) == (str(ready), "sidecar", [str(sidecar)])
    assert [(one["path"], one["how"]) for one in model["same"]] == [(str(plain), "copy")]


def test_what_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(Q4, tmp_path / "good.gguf")
    closed = copy(Q8, tmp_path / "closed.gguf")
    for name in "abcdefg":
        (tmp_path / name).mkdir()
    scandir, open_file = os.scandir, gguf_files.oscalls.open_file

    def listed(path: Any) -> Any:
        if isinstance(path, Path) and len(path.name) == 1:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    def opened(path: Any, *flags: int, **more: Any) -> int:
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return open_file(path, *flags, **more)

    monkeypatch.setattr(os, "scandir", listed)
    monkeypatch.setattr(gguf_files.oscalls, "open_file", opened)
    data = found(tmp_path, only=True)
    assert [Path(one["path"]).name for one in data["spoilt"]] == ["closed.gguf"]
    assert data["notes"][0] == f"{tmp_path / 'a'}: cannot list the folder: Permission denied"
    assert len(data["notes"]) == 6 and data["notes"][-1] == "2 other folders cannot be listed either"
    ran = call("scan", tmp_path, "--only", "--offline")
    assert "not readable: " in ran.out and "damaged: " not in ran.out


def test_manifests_of_ollama_that_cannot_be_read(home: Path) -> None:
    blob = in_ollama(home, "registry.ollama.ai/library/gone/latest", Q4)
    blob.unlink()
    manifest = home / ".ollama/models/manifests/registry.ollama.ai/library/torn/1b"
    manifest.parent.mkdir()
    manifest.write_text("{")
    said = {one["path"]: one["what"] for one in found()["spoilt"]}
    assert said[str(blob)].endswith("lacks this file; get it again: ollama pull gone:latest")
    assert said[str(manifest)].endswith("cannot be read; get it again: ollama pull torn:1b")


def test_a_narrow_terminal_gets_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(Q4, tmp_path / "m" / Q4.name)
    shutil.copytree(CHECKPOINT, tmp_path / "m" / CHECKPOINT.name)
    wide = call("scan", tmp_path, "--only", "--offline").out
    terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("nextn.report.scan.sys", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    narrow = call("scan", tmp_path, "--only", "--offline").out
    assert "as it is" in wide and "as it is:" not in wide and "─" not in narrow
    rows = [line.strip() for line in narrow.splitlines() if line.startswith("  1")]
    assert f"1  {Q4.name}, 2.59 MB" in rows and "1  as it is: runs in llama.cpp, ik, LM Studio, ollama" in rows
    assert f"1  could get a block: {CHECKPOINT.name}; on this machine; 10.7 MB of memory" in rows


def test_a_donor_in_the_hubs_cache_is_named_by_its_repository(home: Path, tmp_path: Path) -> None:
    in_hub_cache(home, "Qwen/tiny-qwen35-mtp", CHECKPOINT)
    copy(Q4, tmp_path / "m" / Q4.name)
    out = call("scan", tmp_path / "m", "--only", "--offline").out
    table = out.partition("nextn up")[0]
    assert "hf:Qwen/tiny-" in table and COMMIT[:8] not in table


# -- what it reads ----------------------------------------------------------------------------------------------------


class Counted:
    """Opens and bytes of GGUF files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opens: list[str] = []
        self.n_bytes = 0
        open_regular, pread = gguf_files.open_regular, os.pread

        def counted_open(path: Path) -> tuple[int, int]:
            self.opens.append(path.name)
            return open_regular(path)

        def counted_read(fd: int, n: int, offset: int) -> bytes:
            data = pread(fd, n, offset)
            self.n_bytes += len(data)
            return data

        monkeypatch.setattr(gguf_files, "open_regular", counted_open)
        monkeypatch.setattr(gguf_files.os, "pread", counted_read)


@pytest.mark.slow
def test_a_thousand_models_are_opened_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 8 << 20
    for number in range(1000):
        kvs = [*arch_kvs(2, arch="llama"), ("general.name", "str", f"Model {number // 4}")]
        path = tmp_path / f"{number % 10}" / f"Model-{number // 4}-Q{number % 4}_0.gguf"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make(kvs, root_tensors() + trunk_tensors(2)).whole)
        os.truncate(path, size)  # a hole, so a disk holds a thousand of them
    counted = Counted(monkeypatch)
    report = nextn.scan([tmp_path], only=True, offline=True)
    assert sum(1 + len(model.same) for model in report.models) == 1000 and report.spoilt == ()
    assert sorted(set(counted.opens)) == sorted(path.name for path in tmp_path.rglob("*.gguf"))
    assert len(counted.opens) == 1000
    assert counted.n_bytes <= 1000 * 65_536 < 1000 * size / 100


@pytest.mark.slow
def test_models_of_a_family_cost_no_more_with_sidecars_and_checkpoints_around(
    tmp_path: Path, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "unlike-mtp")
    n = 24
    for number in range(n):
        put = [("general.name", "str", f"Model {number}")]
        rewrite(Q4, tmp_path / f"Model-{number}-Q4_K_M.gguf", put=put, drop=["general.basename"])
        rewrite(tiny_models.sidecar, tmp_path / f"mtp-Model-{number}-Q8_0.gguf", put=put)
        rewrite(Q4, tmp_path / "bare" / f"Bare-{number}.gguf", put=[("general.name", "str", f"Bare {number}")])
    counted = Counted(monkeypatch)
    data = found(tmp_path, only=True)
    rows = [one for one in data["models"] if Path(one["path"]).name.startswith("Model")]
    assert [Path(one["sidecars"][0]).name for one in rows] == [
        f"mtp-{Path(one['path']).name.replace('Q4_K_M', 'Q8_0')}" for one in rows
    ]
    assert len(counted.opens) == 3 * n  # models, sidecars, bare models


def test_a_folder_named_from_here(
    tmp_path: Path, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy(Q8, tmp_path / "m" / tiny_models.trunk.name)
    copy(tiny_models.sidecar, tmp_path / "m" / tiny_models.sidecar.name)
    (tmp_path / "m" / "page.gguf").write_bytes(b"<!DOCTYPE html>")
    counted = Counted(monkeypatch)
    data = found(Path("m"), only=True)
    (row,) = data["models"]
    assert row["command"] == f"nextn serve m/{tiny_models.trunk.name}" and row["block"] == "sidecar"
    assert data["spoilt"][0]["what"].startswith("this is a saved web page")
    assert sorted(counted.opens) == sorted(path.name for path in (tmp_path / "m").iterdir())


def test_answers_are_kept_within_a_number_of_bytes(tmp_path: Path) -> None:
    paths = [rewrite(Q4, tmp_path / f"{n}.gguf", put=[("general.name", "str", str(n))]) for n in range(4)]
    asked: list[str] = []

    def read(path: Path) -> Any:
        asked.append(path.stem)
        return open_model(path)

    ask = Once(most_bytes=3 * open_model(paths[0]).header_bytes)
    for number in (0, 1, 0, 1, 2, 3, 0):
        ask(read, paths[number])
    assert asked == ["0", "1", "2", "3", "0"]  # the first went when there was no room, and is read again

    def refused(path: Path) -> None:
        asked.append("refused")
        raise FormatError("no", path=path)

    for _ in range(2):
        with pytest.raises(FormatError):
            ask(refused, tmp_path)
    assert asked.count("refused") == 1


# -- where a block could come from ------------------------------------------------------------------------------------


def test_a_donor_on_this_machine(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "tiny-qwen35-mtp")
    model = copy(Q4, tmp_path / "my models" / "tiny-qwen35-Q4_K_M.gguf")
    row = only_model(tmp_path)
    offer = row["offer"]
    assert (offer["state"], offer["fetch_bytes"], offer["block_bytes"]) == ("found", 0, BLOCK_BYTES)
    assert offer["source"] == str(tmp_path / "tiny-qwen35-mtp") and "it has the model's name" in offer["why"]
    planned = plan(model, donor=offer["source"], header_only=True)
    assert offer["memory_bytes"] == planned.difference("sidecar", "no_mtp") > 0
    assert row["command"] == f"nextn up '{model}'"


def test_quants_of_one_model_share_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "m" / "tiny-qwen35-mtp")
    for number in range(6):
        put = [("general.file_type", "u32", number)]
        rewrite(Q4, tmp_path / "m" / f"tiny-qwen35-Q{number}_0.gguf", put=put)
    rewrite(Q4, tmp_path / "m" / "other.gguf", put=[("general.name", "str", "other")], drop=["general.basename"])
    asked: list[str] = []
    once = offers.find

    def counted(model: Any, **options: Any) -> Any:
        asked.append(model.entry.name)
        return once(model, **options)

    monkeypatch.setattr(offers, "find", counted)
    monkeypatch.setattr("nextn.verbs.scan._THREADS", 1)
    rows = found(tmp_path / "m", only=True)["models"]
    states = {Path(one["path"]).name: one["offer"]["state"] for one in rows}
    assert len(asked) == 2 and states.pop("other.gguf") == "guess" and set(states.values()) == {"found"}


def test_a_guess_and_a_doubt(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "a" / "download-1")
    copy(Q4, tmp_path / "a" / "tiny-qwen35-Q4_K_M.gguf")
    row = only_model(tmp_path / "a")
    assert row["offer"]["state"] == "guess" and row["command"].startswith("nextn up ")
    copy(Q4, tmp_path / "b" / "tiny-qwen35-Q4_K_M.gguf")
    for kind in ("q8_0", "q4_0"):
        out = tmp_path / "b" / f"tiny-qwen35-MTP-donor-{kind}.gguf"
        nextn.extract(CHECKPOINT, out=out, block_only=True, type=kind)
    (row,) = found(tmp_path / "b", only=True)["models"]
    assert row["offer"]["state"] == "doubt" and len(row["offer"]["candidates"]) == 2 and row["offer"]["source"] is None
    assert "2 donors fit: " in call("scan", tmp_path / "b", "--only", "--offline").out


def test_no_donor_and_no_question(tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_folder("Qwen/tiny-qwen35", CHECKPOINT)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    copy(Q4, tmp_path / "m" / "tiny-qwen35-Q4_K_M.gguf")
    row = only_model(tmp_path / "m")
    assert row["offer"]["state"] == "not_asked" and "the Hub was not asked" in row["offer"]["why"]
    assert hub.requests() == [] and row["faster"] is None
    rewrite(Q4, tmp_path / "n" / "llama.gguf", put=[("general.architecture", "str", "llama")])
    plain = only_model(tmp_path / "n")
    assert plain["offer"] is None or plain["offer"]["state"] == "none"


def test_the_hub_is_asked_once_for_all_quants_and_its_answer_is_kept(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add_folder("org/original", CHECKPOINT)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    put = [("general.source.huggingface.repository", "str", "org/original")]
    for name, ftype in (("tiny-qwen35-A", 15), ("tiny-qwen35-B", 7)):
        rewrite(Q4, tmp_path / "m" / f"{name}.gguf", put=[*put, ("general.file_type", "u32", ftype)])
    rewrite(Q4, tmp_path / "m" / "tiny-qwen35-C.gguf", put=[*put, ("general.name", "str", "other")])
    data = found(tmp_path / "m", only=True, offline=False)
    made = [one["offer"] for one in data["models"]]
    assert {(one["state"], one["source"]) for one in made} == {("found", f"hf:org/original@{commit}")}
    assert all(one["block_bytes"] == BLOCK_BYTES and 0 < one["fetch_bytes"] <= BLOCK_BYTES for one in made)
    listings = [one for one in hub.requests() if "/api/models/" in one.path]
    assert listings and hub.file_bytes() < BLOCK_BYTES  # headers, config and tokenizer
    hub.reset()
    again = found(tmp_path / "m", only=True, offline=False)
    assert [one["offer"] for one in again["models"]] == made and hub.requests() == []
    assert any("donors of scanned models" in entry.name for entry in nextn.cache().entries)
    nextn.cache(clear=True)
    found(tmp_path / "m", only=True, offline=False)
    assert hub.requests() != []


def test_a_hub_that_cannot_be_reached_is_asked_no_further(tmp_path: Path) -> None:
    for number in range(5):
        put = [("general.source.huggingface.repository", "str", f"org/original-{number}")]
        rewrite(Q4, tmp_path / "m" / f"model-{number}.gguf", put=[*put, ("general.name", "str", f"model {number}")])
    data = found(tmp_path / "m", only=True, offline=False)
    assert {one["offer"]["state"] for one in data["models"]} == {"not_asked"}
    assert len(data["notes"]) == 1 and "the Hub was not asked further" in data["notes"][0]
    assert all(one["command"].endswith("--dry-run") for one in data["models"])
    assert {one["offer"]["why"] for one in data["models"]} == {
        "no donor is on this machine, and the Hub cannot be asked"
    }


def test_a_slow_hub_gets_no_more_than_its_time(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_folder("org/original", CHECKPOINT)
    hub.faults.append(Fault("slow", after=8, path="/api/"))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    put = [("general.source.huggingface.repository", "str", "org/original")]
    rewrite(Q4, tmp_path / "m" / "model.gguf", put=put)
    row = only_model(tmp_path / "m", offline=False, lookup_s=0.3)
    assert row["offer"]["state"] == "not_asked" and "did not answer within 0.3 s" in row["offer"]["why"]


# -- whether it is faster ---------------------------------------------------------------------------------------------


def with_offer(tmp_path: Path) -> Path:
    shutil.copytree(CHECKPOINT, tmp_path / "m" / "tiny-qwen35-mtp")
    return copy(Q4, tmp_path / "m" / "tiny-qwen35-Q4_K_M.gguf")


@pytest.mark.parametrize(("cost", "word"), [(lambda k: 0.8 + 0.2 * k, "can_pay"), (lambda k: 1.3 * k, "cannot_pay")])
def test_what_was_measured_here(tmp_path: Path, cost: Callable[[int], float], word: str) -> None:
    model = with_offer(tmp_path)
    nextn.worth(model, engine=CurveEngine(cost))
    faster = only_model(tmp_path / "m")["faster"]
    assert faster["word"] == word and faster["why"] == plan(model, header_only=True).worth


def test_classes_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_offer(tmp_path)
    small = only_model(tmp_path / "m")["faster"]
    assert small["word"] == "unlikely" and "3.9 million parameters; below 2 billion" in small["why"]
    monkeypatch.setattr("nextn.measure.prospect.SMALL", 1000)
    row = only_model(tmp_path / "m")
    assert row["faster"]["word"] == "not_measured"
    gpu = only_model(tmp_path / "m", gpu_memory_bytes=10**6)["faster"]
    assert gpu["word"] == "unlikely" and "so a part runs on the CPU" in gpu["why"]


# -- what is printed --------------------------------------------------------------------------------------------------


def test_the_table_fits_and_commands_can_be_copied(tmp_path: Path, home: Path, tiny_models: TinyModels) -> None:
    with_offer(tmp_path)
    long = "a very long name of a model " * 5
    copy(tiny_models.bundled, tmp_path / "m" / "it's here" / f"{long}.gguf")
    (tmp_path / "m" / "page.gguf").write_bytes(b"<!DOCTYPE html>")
    copy(Q8, tmp_path / "m" / "\x1b[31mred.gguf")
    ran = call("scan", tmp_path / "m", "--only", "--offline")
    assert ran.code == 0 and ran.raw_control == set()
    lines = ran.out.splitlines()
    top = next(i for i, line in enumerate(lines) if "could get a block" in line)
    table = lines[top : next(i for i, line in enumerate(lines) if i > top and line.startswith("  1  nextn"))]
    assert len(table) > 5 and all(len(line) <= 100 for line in table)
    assert all(words in ran.out for words in ("tiny-qwen35-mtp", "on this machine", "unlikely: under", "drafts in"))
    assert any(line.startswith("damaged: ") and "page.gguf" in line for line in lines)
    quiet = call("scan", tmp_path / "m", "--only", "--offline", "-q")
    commands = quiet.out.splitlines()
    assert sorted(commands) == sorted(line[5:] for line in lines if line[5:].startswith("nextn ") and line[2].isdigit())
    assert any("'\"'\"'s here/" in line for line in commands) and any("\\033[31mred" in line for line in commands)


def test_json_of_the_command_line(tmp_path: Path) -> None:
    with_offer(tmp_path)
    ran = call("scan", tmp_path / "m", "--only", "--offline", "--json", "--gpu-memory", "24GiB")
    data = json.loads(ran.out)
    validate(data, SCHEMA)
    assert data["kind"] == "scan" and len(data["models"]) == 1


def test_a_report_shows_the_models(tmp_path: Path) -> None:
    model = with_offer(tmp_path)
    (tmp_path / "m" / "page.gguf").write_bytes(b"<!DOCTYPE html>")
    (path := tmp_path / "scan.json").write_text(json.dumps(found(tmp_path / "m", only=True)))
    section = read_section(path)
    assert section.summary[0] == "1 model, 0 with a block" and section.commands == (f"nextn up {model}",)
    (row,) = section.tables[0].rows
    assert row[0] == model.name and row[5].endswith("tiny-qwen35-mtp") and row[-1] == "unlikely"
    assert [table.caption for table in section.tables] == ["Models", "Damaged or unfinished"]


@pytest.mark.parametrize("corpus", ["gguf_corpus", "fuzz_corpus"])
def test_whatever_is_in_a_folder_is_accounted_for(corpus: str, tmp_path: Path) -> None:
    for number, path in enumerate(sorted((DATA / corpus).rglob("*"))):
        if path.is_file():
            copy(path, tmp_path / "m" / f"{number:04}.gguf")
    data = found(tmp_path / "m", only=True)
    seen = [one["path"] for kind in ("models", "others", "spoilt") for one in data[kind]]
    seen += [one["path"] for model in data["models"] for one in model["same"]]
    assert sorted(map(str, (tmp_path / "m").iterdir())) == sorted(set(seen))
    ran = call("scan", tmp_path / "m", "--only", "--offline")
    assert ran.code == 0 and not ran.bug and ran.raw_control == set()
