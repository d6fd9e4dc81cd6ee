"""The test server, judged by the real client: what it says is what huggingface_hub expects of the Hub."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub as hf  # which loads what is asked for
import pytest
from hub_server import Fault, HubServer
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from conftest import CHECKPOINT

REPO = "org/tiny"
WEIGHTS = (CHECKPOINT / "model.safetensors").read_bytes()


def test_model_info_and_tree(hub: HubServer) -> None:
    commit = hub.add_folder(REPO, CHECKPOINT)
    api = hf.HfApi(endpoint=hub.endpoint)
    info = api.model_info(REPO, files_metadata=True)
    assert info.sha == commit and info.siblings is not None
    sizes = {each.rfilename: each.size for each in info.siblings}
    assert sizes == {path.name: path.stat().st_size for path in CHECKPOINT.iterdir()}
    weights = next(each for each in info.siblings if each.rfilename == "model.safetensors")
    assert weights.lfs is not None and weights.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    tree = {each.path: each for each in api.list_repo_tree(REPO, revision=commit, recursive=True)}
    assert set(tree) == set(sizes)
    assert tree["model.safetensors"].lfs.sha256 == weights.lfs.sha256  # type: ignore[union-attr]
    assert sorted(api.list_repo_files(REPO)) == sorted(sizes)


def test_file_metadata(hub: HubServer) -> None:
    commit = hub.add_folder(REPO, CHECKPOINT)
    found = hf.get_hf_file_metadata(hf.hf_hub_url(REPO, "model.safetensors", endpoint=hub.endpoint))
    assert (found.commit_hash, found.size) == (commit, len(WEIGHTS))
    assert found.etag == hashlib.sha256(WEIGHTS).hexdigest()
    assert found.location.startswith(hub.address("cdn"))
    small = hf.get_hf_file_metadata(hf.hf_hub_url(REPO, "config.json", endpoint=hub.endpoint))
    data = (CHECKPOINT / "config.json").read_bytes()
    assert small.etag == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def test_download(hub: HubServer, tmp_path: Path) -> None:
    hub.add_folder(REPO, CHECKPOINT)
    for name in ("config.json", "model.safetensors"):
        got = hf.hf_hub_download(REPO, name, endpoint=hub.endpoint, cache_dir=tmp_path)
        assert Path(got).read_bytes() == (CHECKPOINT / name).read_bytes()


def test_refusals(hub: HubServer) -> None:
    hub.add_folder(REPO, CHECKPOINT)
    api = hf.HfApi(endpoint=hub.endpoint, token=False)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/other")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="v9")
    with pytest.raises(RemoteEntryNotFoundError):
        hf.get_hf_file_metadata(hf.hf_hub_url(REPO, "nothing.bin", endpoint=hub.endpoint))
    hub.repo(REPO).gated_for = "hf_x"
    with pytest.raises(GatedRepoError):
        hf.get_hf_file_metadata(hf.hf_hub_url(REPO, "config.json", endpoint=hub.endpoint))
    hub.repo(REPO).token = "hf_y"
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(REPO)
    assert hf.HfApi(endpoint=hub.endpoint, token="hf_y").model_info(REPO).gated == "manual"


def test_ranges_counts_and_faults(hub: HubServer) -> None:
    url = hub.serve_plain("a/b.bin", b"0123456789")
    get = hf.get_session().get
    answer = get(url, headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert get(url).content == b"0123456789"
    assert get(url, headers={"Range": "bytes=10-"}).status_code == 416
    assert hub.file_bytes() == 13
    assert [seen.status for seen in hub.requests("plain")] == [206, 200, 416]
    hub.faults += [Fault("whole", "b.bin"), Fault("status", status=503, headers={"Retry-After": "3"})]
    assert get(url, headers={"Range": "bytes=2-4"}).status_code == 200
    assert get(url).headers["retry-after"] == "3"
    assert get(url).status_code == 200


def test_signed_addresses_expire(hub: HubServer) -> None:
    hub.add_folder(REPO, CHECKPOINT)
    url = hf.hf_hub_url(REPO, "model.safetensors", endpoint=hub.endpoint)
    there = hf.get_hf_file_metadata(url).location
    assert hf.get_session().get(there, headers={"Range": "bytes=0-3"}).content == WEIGHTS[:4]
    hub.expire_signatures()
    assert hf.get_session().get(there).status_code == 403
    there = hf.get_hf_file_metadata(url).location
    assert hf.get_session().get(there, headers={"Range": "bytes=0-0"}).status_code == 206


def test_errors_pass_through_the_client(hub: HubServer) -> None:
    hub.add_folder(REPO, CHECKPOINT)
    hub.faults.append(Fault("status", "api/models", status=500))
    with pytest.raises(HfHubHTTPError):
        hf.HfApi(endpoint=hub.endpoint).model_info(REPO)


def test_the_environment_points_at_it(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.add_folder(REPO, CHECKPOINT)
    script = "import sys, huggingface_hub as h; print(h.model_info(sys.argv[1]).sha)"
    env = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script, REPO], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == commit
