"""What a user calls a model: paths, names of LM Studio and ollama, names on the Hub; and names that nothing has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from shelves import COMMIT, in_hub_cache, in_lm_studio, in_ollama, own_home

from conftest import Q4, TRUNKS, TinyModels
from nextn.discovery.model_names import resolve
from nextn.errors import NextnError, StorageError, UsageError

Q8 = TRUNKS / "tiny-qwen35-Q8_0.gguf"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_models: TinyModels) -> Path:
    """Two quants in LM Studio, two tags in ollama, a repository in the Hub's cache; the current folder is empty."""
    folder = own_home(tmp_path, monkeypatch)
    in_lm_studio(folder, "maker/Tiny-4B-GGUF", Q4, "Tiny-4B-Q4_K_M.gguf")
    in_lm_studio(folder, "maker/Tiny-4B-GGUF", Q8, "Tiny-4B-Q8_0.gguf")
    in_lm_studio(folder, "maker/Tiny-4B-GGUF", tiny_models.sidecar, "mtp-Tiny-4B-Q8_0.gguf")
    in_lm_studio(folder, "other/Alone-GGUF", Q8, "Alone-Q8_0.gguf")
    in_ollama(folder, "registry.ollama.ai/library/tiny/latest", Q4)
    in_ollama(folder, "registry.ollama.ai/library/tiny/8b-q8", Q8)
    in_ollama(folder, "hf.co/maker/Tiny-GGUF/Q8_0", Q8)
    in_hub_cache(folder, "org/cached-GGUF", Q4)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return folder


@pytest.mark.parametrize(
    ("text", "place", "name"),
    [
        ("maker/Tiny-4B-GGUF/Tiny-4B-Q8_0.gguf", "lmstudio", "maker/Tiny-4B-GGUF/Tiny-4B-Q8_0.gguf"),
        ("tiny-4b-q4_k_m", "lmstudio", "maker/Tiny-4B-GGUF/Tiny-4B-Q4_K_M.gguf"),
        ("maker/tiny-4b@q8_0", "lmstudio", "maker/Tiny-4B-GGUF/Tiny-4B-Q8_0.gguf"),
        ("other/alone", "lmstudio", "other/Alone-GGUF/Alone-Q8_0.gguf"),
        ("lmstudio:alone", "lmstudio", "other/Alone-GGUF/Alone-Q8_0.gguf"),
        ("tiny", "ollama", "tiny:latest"),
        ("ollama:tiny:8b-q8", "ollama", "tiny:8b-q8"),
        ("hf.co/maker/Tiny-GGUF:Q8_0", "ollama", "hf.co/maker/Tiny-GGUF:Q8_0"),
        ("org/cached-GGUF", "hub", f"hf:org/cached-GGUF:{Q4.name}"),
        ("hf:org/cached-GGUF:Q4_K_M", "hub", f"hf:org/cached-GGUF:{Q4.name}"),
        (f"hf:org/cached-GGUF@{COMMIT}", "hub", f"hf:org/cached-GGUF:{Q4.name}"),
    ],
)
def test_names_of_models_that_are_here(text: str, place: str, name: str) -> None:
    found = resolve(text)
    assert (found.place, found.name, found.hub) == (place, name, None)
    assert found.path is not None and found.path.is_file() and str(found.path) in str(found.said)


def test_a_path_is_a_path(home: Path, tmp_path: Path) -> None:
    shutil.copy(Q4, tmp_path / "work" / "tiny")
    found = resolve("tiny")  # a file of that name comes before ollama's model
    assert (found.path, found.place, found.said) == (Path("tiny"), "", None)
    assert resolve(Q4).path == Q4
    shutil.copy(Q4, home / "mine.gguf")
    assert resolve("~/mine.gguf").path == home / "mine.gguf"  # in quotes, so that no shell expanded it


@pytest.mark.parametrize("text", ["org/new-GGUF:Q4_K_M", "hf:org/cached-GGUF:Q2_K", "hf:other/alone"])
def test_what_is_not_here_is_on_the_hub(text: str) -> None:
    found = resolve(text)
    assert found.path is None and str(found.hub) == (text if text.startswith("hf:") else f"hf:{text}")
    assert found.said == f"{found.hub} on the Hub"


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("maker/Tiny-4B-GGUF", UsageError, "2 models have this name .*Q4_K_M.gguf of LM Studio; .*Q8_0.gguf of LM"),
        ("tinny", UsageError, r"no model of LM Studio or ollama has this name; did you mean tiny"),
        ("ollama:tiny:9b", UsageError, "has this name"),
        ("qqqq", UsageError, "'nextn scan' lists what is here"),
        ("./gone.gguf", StorageError, "there is no such file or folder"),
        ("https://host.test/model.gguf", UsageError, "must be a local file or on the Hub; download this one first"),
    ],
)
def test_names_that_help_with_the_right_one(text: str, kind: type[NextnError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        resolve(text)
    assert str(caught.value).startswith(text.removeprefix("./")) and "\n" not in str(caught.value)


def test_a_near_miss_of_a_file(tmp_path: Path) -> None:
    shutil.copy(Q4, tmp_path / "work" / Q4.name)
    with pytest.raises(StorageError, match=rf"a similar name is {Q4.name}\."):
        resolve("./tiny-qwen35-Q4_K_N.gguf")
    with pytest.raises(StorageError, match=rf"a similar name is {Q4.name}\."):
        resolve("tiny-qwen35-Q4_K_N.gguf")
