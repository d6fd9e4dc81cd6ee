"""Donors that nobody named, remote inspection and demanded hashes, by the command line and counted on the server."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from schema_check import validate

import nextn
from conftest import CHECKPOINT, Q4, ROOT, TinyModels

Run = Callable[..., subprocess.CompletedProcess[str]]
SCHEMAS = ROOT / "src" / "nextn" / "schemas"


@pytest.fixture
def run(run_nextn: Run) -> Run:
    return run_nextn


def data_of(done: subprocess.CompletedProcess[str], schema: str) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    validate(data, json.loads((SCHEMAS / f"{schema}.json").read_text()))
    return data


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    """A quant whose folder says what repository it came from."""
    path = tmp_path / "models--org--tiny-GGUF" / "tiny-Q4_K_M.gguf"
    path.parent.mkdir()
    path.symlink_to(Q4)
    return path


@pytest.mark.slow
def test_the_donor_is_found_confirmed_and_named(hub: HubServer, run: Run, trunk: Path, tmp_path: Path) -> None:
    commit = hub.add_folder("org/tiny", CHECKPOINT)
    done = run("attach", trunk, "--json", "-o", tmp_path / "out")
    data = data_of(done, "result")
    assert data["donor"]["revision"] == commit and data["donor"]["name"].startswith("hf:org/tiny@")
    assert "the donor is org/tiny" in data["donor"]["why"] and data["donor"]["why"] in done.stderr
    assert data["bytes_downloaded"] == hub.file_bytes() > 1_968_896
    there = run("attach", trunk, "--json", "--dry-run", "-o", tmp_path / "two")
    assert there.returncode == 14 and f"{tmp_path}/out/mtp-tiny-Q8_0.gguf was put there by" in there.stderr
    more = ("attach", trunk, "--json", "--dry-run", "-o", tmp_path / "two")
    again = data_of(run(*more, NEXTN_DATA=str(tmp_path / "none")), "result")
    assert again["bytes_to_download"] == 0


@pytest.mark.slow
def test_no_donor_or_no_network_is_one_sentence(hub: HubServer, run: Run, trunk: Path, tmp_path: Path) -> None:
    lost = run("attach", trunk, "-o", tmp_path / "out")
    assert lost.returncode == 15 and lost.stderr.count("\n") == 1 and "name one with --from" in lost.stderr
    offline = run("attach", trunk, "-o", tmp_path / "out", HF_HUB_OFFLINE="1")
    assert offline.returncode == 23 and offline.stderr.count("\n") == 1 and "HF_HUB_OFFLINE" in offline.stderr
    hub.add_folder("org/tiny", CHECKPOINT)
    hub.repo("org/tiny").gated_for = "hf_someone"
    gated = run("attach", trunk, "-o", tmp_path / "out")
    assert gated.returncode == 23 and "gated" in gated.stderr and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_lies_beside_the_trunk_needs_no_network(
    hub: HubServer, run: Run, tiny_models: TinyModels, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "tiny-qwen35-Q4_K_M.gguf").symlink_to(Q4)
    (folder / "mtp-tiny-qwen35-Q8_0.gguf").symlink_to(tiny_models.sidecar)
    there = run("attach", folder / "tiny-qwen35-Q4_K_M.gguf")
    assert there.returncode == 14 and "is beside it already" in there.stderr
    data = data_of(run("attach", folder / "tiny-qwen35-Q4_K_M.gguf", "--layout", "bundle", "--json"), "result")
    assert data["donor"]["name"] == tiny_models.sidecar.name and "is beside it" in data["donor"]["why"]
    assert hub.requests() == []


@pytest.mark.slow
def test_a_remote_checkpoint_costs_config_index_and_one_header(hub: HubServer, run: Run) -> None:
    commit = hub.add_folder("org/tiny", CHECKPOINT)
    data = data_of(run("inspect", "org/tiny", "--json"), "inspect")
    (length,) = struct.unpack_from("<Q", (CHECKPOINT / "model.safetensors").read_bytes())
    assert hub.file_bytes() == data["bytes_downloaded"] == (CHECKPOINT / "config.json").stat().st_size + 8 + length
    assert (data["shape"], data["n_layer_nextn"], data["revision"]) == ("checkpoint", 1, commit)
    assert data["path"] == f"hf:org/tiny@{commit}" and data["block_bytes"] == 1_968_896
    local = data_of(run("inspect", CHECKPOINT, "--json"), "inspect")
    assert {key: local[key] for key in ("types", "n_tensors", "size_bytes", "architecture")} == {
        key: data[key] for key in ("types", "n_tensors", "size_bytes", "architecture")
    }


@pytest.mark.slow
def test_a_remote_gguf_is_its_header(hub: HubServer, run: Run, tiny_models: TinyModels) -> None:
    url = hub.serve_plain("x/tiny-Q8_0.gguf", tiny_models.bundled.read_bytes())
    data = data_of(run("inspect", url, "--json"), "inspect")
    assert (data["shape"], data["path"], data["problems"]) == ("bundled", url, [])
    assert hub.file_bytes() < 200_000 < tiny_models.bundled.stat().st_size
    bad = run("inspect", hub.serve_plain("x/bad.gguf", b"not a model at all"))
    assert bad.returncode == 10 and f"{hub.address('cdn')}/plain/x/bad.gguf" in bad.stderr and "own" not in bad.stderr


@pytest.mark.slow
def test_a_demanded_hash_is_compared_before_anything_is_written(hub: HubServer, run: Run, tmp_path: Path) -> None:
    hub.add_folder("org/tiny", CHECKPOINT)
    for donor in (str(CHECKPOINT), "hf:org/tiny"):
        right = data_of(run("inspect", donor, "--block-hash", "--json"), "inspect")["block_sha256"]
        out = tmp_path / donor.replace("/", "_")
        wrong = run("attach", Q4, "--from", donor, "--expect", "0" * 64, "-o", out)
        assert wrong.returncode == 13 and right in wrong.stderr and wrong.stderr.count("\n") == 1
        assert not out.exists()
        data = data_of(run("attach", Q4, "--from", donor, "--expect", right.upper(), "-o", out, "--json"), "result")
        assert data["donor"]["sha256"] == right
    assert run("attach", Q4, "--from", CHECKPOINT, "--expect", "12").returncode == 2


@pytest.mark.slow
def test_a_remote_trunk_is_planned_and_not_touched(hub: HubServer, run: Run, tmp_path: Path) -> None:
    url = hub.serve_plain("x/tiny-Q4_K_M.gguf", Q4.read_bytes())
    data = data_of(run("attach", url, "--from", CHECKPOINT, "--dry-run", "--json"), "result")
    assert data["dry_run"] and hub.file_bytes() < Q4.stat().st_size / 2
    assert str(tmp_path / "own") not in data["files"][0]["path"]
    real = run("attach", url, "--from", CHECKPOINT)
    assert real.returncode == 2 and "nextn pull" in real.stderr


@pytest.mark.slow
def test_a_pack_takes_its_block_from_a_server(hub: HubServer, run: Run, tmp_path: Path) -> None:
    hub.add_folder("org/tiny", CHECKPOINT)
    dry = data_of(run("pack", Q4, "--from", "org/tiny", "-o", tmp_path / "out", "--json", "--dry-run"), "pack")
    assert dry["dry_run"] and not (tmp_path / "out").exists() and hub.file_bytes() < 500_000
    data_of(run("pack", Q4, "--from", "org/tiny", "-o", tmp_path / "out", "--json"), "pack")
    assert (tmp_path / "out" / "mtp-tiny-qwen35-Q8_0.gguf").exists()
    assert hub.file_bytes() < 1.02 * 1_968_896 + 500_000


@pytest.mark.slow
def test_a_lone_safetensors_file_on_a_server_is_a_donor(hub: HubServer, run: Run, tmp_path: Path) -> None:
    weights = (CHECKPOINT / "model.safetensors").read_bytes()
    hub.repo("org/lone").commit({"mtp.safetensors": weights, "README.md": b"a block"})
    local = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path / "local.gguf")
    assert local.outcome is not None
    plain = hub.serve_plain("block/mtp.safetensors", weights)
    for number, donor in enumerate(("hf:org/lone:mtp.safetensors", "hf:org/lone", plain)):
        done = run("attach", Q4, "--from", donor, "--layout", "bundle", "--json", "-o", tmp_path / f"{number}.gguf")
        data = data_of(done, "result")
        assert data["tensor_sha256"] == local.outcome.hashes
        assert any("sizes were taken from the trunk's header" in note for note in data["notes"])
        for verb in ("inspect", "extract") if number == 0 else ():
            lost = run(verb, donor)
            assert lost.returncode == 2 and "there is no config.json beside it" in lost.stderr
            assert "nextn attach TRUNK --from hf:org/lone@" in lost.stderr
