"""What a user may name, and what is meant by it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import HubServer

from conftest import CHECKPOINT, Q4
from nextn.errors import UsageError
from nextn.remote.address import HubSource, UrlSource, parse_source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("Qwen/Qwen3.6-27B", HubSource("Qwen/Qwen3.6-27B", bare=True)),
        ("Qwen/Qwen3.6-27B@v1", HubSource("Qwen/Qwen3.6-27B", "v1", bare=True)),
        ("hf:org/repo", HubSource("org/repo")),
        ("hf://org/repo@refs/pr/3", HubSource("org/repo", "refs/pr/3")),
        ("hf:org/repo@main:Q4/a-00001-of-00002.gguf", HubSource("org/repo", "main", "Q4/a-00001-of-00002.gguf")),
        ("hf:org/repo:Q4_K_M", HubSource("org/repo", None, "Q4_K_M")),
        ("https://huggingface.co/org/repo", HubSource("org/repo")),
        ("https://hf.co/org/repo/blob/main/a/b.gguf?download=true", HubSource("org/repo", "main", "a/b.gguf")),
        ("https://huggingface.co/org/repo/tree/main/Q4_K_M/", HubSource("org/repo", "main", "Q4_K_M")),
        ("https://huggingface.co/org/repo/tree/refs%2Fpr%2F3", HubSource("org/repo", "refs/pr/3")),
        ("https://huggingface.co/org/repo?show_file_info=a%2Fb.gguf", HubSource("org/repo", None, "a/b.gguf")),
        ("https://huggingface.co/org/repo/discussions/7", HubSource("org/repo")),
        ("https://huggingface.co/org/repo/commits/main", HubSource("org/repo")),
        ("huggingface.co/org/repo/blob/main/a.gguf", HubSource("org/repo", "main", "a.gguf")),
        ("hf.co/org/repo:Q4_K_M", HubSource("org/repo", None, "Q4_K_M")),
        ("https://hf.co/org/repo:Q4_K_M", HubSource("org/repo", None, "Q4_K_M")),
        ("hf:org/repo/", HubSource("org/repo")),
        ("org/repo/", HubSource("org/repo", bare=True)),
        ("https://host/a/file.gguf", UrlSource("https://host/a/file.gguf")),
        ("https://huggingface.co/models", UrlSource("https://huggingface.co/models")),
        ("./org/repo", Path("org/repo")),
        ("/models/x.gguf", Path("/models/x.gguf")),
        ("models/x.gguf", Path("models/x.gguf")),
        ("x.gguf", Path("x.gguf")),
        ("a/b/c", Path("a/b/c")),
    ],
)
def test_what_a_name_means(text: str, source: object) -> None:
    assert parse_source(text) == source


def test_what_exists_here_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "repo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_source("org/repo") == Path("org/repo")
    assert parse_source("hf:org/repo") == HubSource("org/repo")


@pytest.mark.parametrize("text", ["hf:", "hf:repo", "hf:a/b/c", "https:///x.gguf"])
def test_a_name_that_is_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_source(text)


def test_a_mistyped_path_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"models/foo: the folder 'models' has no file .* write hf:models/foo for"):
        parse_source("models/foo")
    assert parse_source("hf:models/foo") == HubSource("models/foo")
    assert parse_source("models/foo", maybe_local=False) == HubSource("models/foo", bare=True)


@pytest.mark.slow
def test_what_is_taken_for_a_repository_is_said_to_be(
    hub: HubServer, run_nextn: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    hub.add_folder("org/tiny", CHECKPOINT)
    own = {"HF_ENDPOINT": hub.endpoint}  # in a process of its own, to whose standard error the logger writes
    said = "org/tiny: there is no local path of this name, so it is hf:org/tiny on the Hub\n"
    assert said in run_nextn("inspect", "org/tiny", **own).stderr
    assert said in run_nextn("attach", Q4, "--from", "org/tiny", "-o", tmp_path / "out", "--dry-run", **own).stderr
    assert said not in run_nextn("inspect", "hf:org/tiny", **own).stderr
    gone = run_nextn("inspect", "org/none", **own)
    assert gone.returncode == 23 and "there is no local 'org/none' either" in gone.stderr


@pytest.mark.slow
def test_a_folder_that_was_pulled_is_pulled_again(
    hub: HubServer,
    run_nextn: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ORG/NAME is a repository to pull, although a folder of that name is there after the first run."""
    hub.repo("org/quants").commit({"M-Q4_K_M.gguf": Q4.read_bytes()})
    (tmp_path / "org" / "quants").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        done = run_nextn("pull", "org/quants", "--variant", "plain", "-o", tmp_path / "org" / "quants")
        assert done.returncode == 0, done.stderr
