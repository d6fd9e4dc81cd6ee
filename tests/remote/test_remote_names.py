"""What a user may name, and what is meant by it."""

from __future__ import annotations

from pathlib import Path

import pytest

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
        ("https://host/a/file.gguf", UrlSource("https://host/a/file.gguf")),
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
