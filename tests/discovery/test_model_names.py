"""What a user calls a model: paths, names of LM Studio and ollama, names on the Hub; and names that nothing has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from shelves import COMMIT, in_hub_cache, in_lm_studio, in_ollama, own_home

from conftest import Q4, TRUNKS, TinyModels
from nextn.discovery.model_names import resolve
from nextn.errors import NextnError, StorageError, UsageError

Q8 = TRUNKS / "tiny-qwen35-Q8_0.gguf"


def in_llama_cpp(home: Path, name: str) -> None:
    """A file as llama.cpp names what it has downloaded."""
    folder = home / ".cache" / "llama.cpp"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Q4, folder / name)


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
    in_llama_cpp(folder, "org_fetched-GGUF_fetched-Q4_K_M.gguf")
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
        ("hf:org/cached-GGUF@main", "hub", f"hf:org/cached-GGUF:{Q4.name}"),
        (f"https://huggingface.co/org/cached-GGUF/resolve/main/{Q4.name}?download=true", "hub",
         f"hf:org/cached-GGUF:{Q4.name}"),
        (f"hf.co/org/cached-GGUF/blob/main/{Q4.name}", "hub", f"hf:org/cached-GGUF:{Q4.name}"),
        (f"org/cached-GGUF/{Q4.name}", "hub", f"hf:org/cached-GGUF:{Q4.name}"),
        ("org/cached-GGUF/", "hub", f"hf:org/cached-GGUF:{Q4.name}"),
        ("org/fetched-GGUF", "llama.cpp", "org_fetched-GGUF_fetched-Q4_K_M.gguf"),
        ("org/fetched-GGUF:Q4_K_M", "llama.cpp", "org_fetched-GGUF_fetched-Q4_K_M.gguf"),
    ],
)
def test_names_of_models_that_are_here(text: str, place: str, name: str) -> None:
    found = resolve(text)
    assert (found.place, found.name, found.hub) == (place, name, None)
    assert found.path is not None and found.path.is_file() and str(found.path) in str(found.said)


def test_a_quant_chooses(home: Path) -> None:
    found = resolve("maker/Tiny-4B-GGUF", "Q8_0")
    assert found.name == "maker/Tiny-4B-GGUF/Tiny-4B-Q8_0.gguf"
    folder = in_hub_cache(home, "org/two-GGUF", Q4)
    (folder / Q8.name).symlink_to(Q8)
    assert resolve("org/two-GGUF", "Q8_0").name == f"hf:org/two-GGUF:{Q8.name}"
    assert str(resolve("org/two-GGUF", "Q2_K").hub) == "hf:org/two-GGUF:Q2_K"  # only there


def test_what_was_made_of_a_model_beside_it_is_not_another_of_its_name(home: Path) -> None:
    made = in_lm_studio(home, "other/Alone-GGUF", Q8, "Alone-MTP-Q8_0.gguf")
    assert resolve("other/Alone-GGUF").name == "other/Alone-GGUF/Alone-Q8_0.gguf"
    assert resolve("alone-mtp-q8_0").path == made


def test_models_that_ollama_lists_and_that_are_not_here(home: Path) -> None:
    manifests = home / ".ollama" / "models" / "manifests" / "registry.ollama.ai"
    for name, text in (("library/big/cloud", '{"layers": null}'), ("library/torn/latest", "{"), ("me/gone/latest", "")):
        (manifests / name).parent.mkdir(parents=True, exist_ok=True)
        (manifests / name).write_text(text)
    in_ollama(home, "registry.ollama.ai/me/gone/latest", Path(__file__)).unlink()
    with pytest.raises(UsageError, match=r"^big:cloud: big:cloud of ollama: no GGUF of it is on this machine"):
        resolve("big:cloud")
    with pytest.raises(UsageError, match=r"manifest .* cannot be read; get it again: ollama pull torn:latest"):
        resolve("torn")
    for text in ("me/gone", "ollama:me/gone"):  # not taken for a repository on the Hub
        with pytest.raises(UsageError, match=r"its file .* is missing; get it again: ollama pull me/gone:latest"):
            resolve(text)


def test_the_adapter_of_a_model_is_known(home: Path, tmp_path: Path) -> None:
    blob = in_ollama(home, "registry.ollama.ai/me/tuned/latest", Q4)
    manifest = home / ".ollama/models/manifests/registry.ollama.ai/me/tuned/latest"
    layers = json.loads(manifest.read_text())["layers"]
    layers.append({"mediaType": "application/vnd.ollama.image.adapter", "digest": "sha256:" + "a" * 64, "size": 1})
    manifest.write_text(json.dumps({"layers": layers}))
    found = resolve("me/tuned")
    assert found.path == blob and found.adapters == (blob.with_name("sha256-" + "a" * 64),)
    with pytest.raises(UsageError, match="did you mean me/tuned:latest"):
        resolve("tuned")


def test_only_a_sidecar_has_the_name(home: Path, tiny_models: TinyModels) -> None:
    path = in_lm_studio(home, "maker/Blocks-GGUF", tiny_models.sidecar, "mtp-Blocks-Q8_0.gguf")
    with pytest.raises(UsageError, match=rf"only what belongs to one \({path}\); name the model"):
        resolve("maker/Blocks-GGUF")


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
        ("org/new-GGUF/new-Q4_K_M.gguf", StorageError, "a file on the Hub would be hf:org/new-GGUF:new-Q4_K_M.gguf"),
        ("file:/models/gone.gguf", StorageError, "because this is an address; write /models/gone.gguf"),
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
