"""inspect and doctor: one shape, the same findings of the header, one exit code, whatever the file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import ggufmaker
import pytest
from families import KINDS, trunk_of
from ggufmaker import KV, Tensor, block_tensors, f32, make, root_tensors, trunk_tensors
from hub_server import HubServer
from losses import LOSSES
from sick import rewrite
from sicknesses import CASES
from splitting import split_gguf

import nextn
from conftest import CHECKPOINT, DATA, DEMO, Q4, ROOT, TRUNKS
from nextn.cli import main
from nextn.errors import NextnError
from nextn.gguf.files import open_model

# What doctor reads tensors for, which inspect does not.
READ = {"norm-plus-one-missing", "norm-plus-one-doubled", "eh-proj-swapped"}
CASES_FOLDER = ROOT.parent / "shared" / "cases"
Answer: TypeAlias = tuple[Any, ...]


def answer_of_doctor(source: str | Path) -> Answer:
    try:
        found = nextn.doctor(source).before
    except NextnError as error:
        return type(error), error.exit_code, str(error)
    return found.shape, [each.entry for each in found.findings if each.id not in READ]


def answer_of_inspect(source: str | Path) -> Answer:
    try:
        found = nextn.inspect(source)
    except NextnError as error:
        return type(error), error.exit_code, str(error)
    assert list(found.problems) == [each.entry.what for each in found.findings if each.is_problem]
    json.dumps(found.to_json())
    return found.shape, [each.entry for each in found.findings]


def agree(source: str | Path) -> Answer:
    """What both verbs say."""
    answer = answer_of_inspect(source)
    assert answer == answer_of_doctor(source), source
    return answer


def ids(answer: Answer) -> list[str]:
    return [each.id for each in answer[1]]


def models_in(folder: Path) -> Iterator[Path]:
    """Every GGUF, every folder with one or with a checkpoint."""
    for path in sorted(folder.rglob("*")):
        is_folder = path.is_dir() and ((path / "config.json").exists() or any(path.glob("*.gguf")))
        if path.suffix == ".gguf" or path.name.startswith("sha256-") or is_folder:
            yield path


@pytest.mark.parametrize("folder", [DEMO, TRUNKS, DATA / "gguf_corpus"], ids=lambda path: path.name)
def test_all_that_is_shipped(folder: Path) -> None:
    answers = [agree(path) for path in models_in(folder)]
    assert len(answers) > 1


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("healthy")
    sidecar = nextn.attach(Q4, CHECKPOINT, layout="sidecar", out=folder / "sidecar").sidecar
    assert sidecar is not None
    return {"bundle": nextn.attach(Q4, CHECKPOINT, layout="bundle", out=folder / "bundle").entry, "sidecar": sidecar}


@pytest.mark.parametrize("name", CASES)
def test_each_sickness(name: str, healthy: dict[str, Path], tmp_path: Path) -> None:
    path = rewrite(healthy["bundle"], tmp_path / "sick-Q4_K_M.gguf", **CASES[name].how)
    assert CASES[name].found in ids(agree(path))
    assert run("inspect", path) == run("doctor", path) == 5


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


@pytest.mark.parametrize("layout", ["bundle", "sidecar"])
@pytest.mark.parametrize("name", LOSSES)
def test_each_loss(name: str, layout: str, healthy: dict[str, Path], tmp_path: Path) -> None:
    good = healthy[layout]
    answer = agree(rewrite(good, tmp_path / good.name, **LOSSES[name]))
    again = agree(rewrite(good, tmp_path / "other.gguf", **LOSSES[name]))  # whatever it is called
    assert answer[0] == again[0]


def test_a_bundle_without_its_first_layer_is_a_bundle(healthy: dict[str, Path], tmp_path: Path) -> None:
    answer = agree(rewrite(healthy["bundle"], tmp_path / "M.gguf", **LOSSES["layer 0"]))
    assert answer[0] == "bundled" and ids(answer) == ["trunk-layers-lost"]


def test_a_sidecar_without_embeddings_is_a_sidecar(healthy: dict[str, Path], tmp_path: Path) -> None:
    answer = agree(rewrite(healthy["sidecar"], tmp_path / "mtp-M.gguf", **LOSSES["embeddings"]))
    assert answer[0] == "sidecar" and ids(answer) == ["sidecar-without-roots"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_family(kind: str, family: Callable[[str], Path], tmp_path: Path) -> None:
    donor = family("deepseek4-plain" if kind == "deepseek4" else kind)
    assert agree(donor)[0] == "checkpoint"
    layout = "sidecar" if kind == "deepseek4" else "bundle"
    made = nextn.attach(trunk_of(kind), donor, layout=layout, out=tmp_path)
    good = made.sidecar or made.entry
    assert agree(good)[1] == []
    model = open_model(good)
    first = min(int(name.split(".")[1]) for name in model.tensors if ".nextn." in name)
    arch = model.architecture
    for lost in (f"blk.{first}.", f"blk.{first}.nextn.", "blk.0.", "blk.1.", "output", f"blk.{first}.attn"):
        agree(rewrite(good, tmp_path / "sick" / good.name, lose=lambda name, lost=lost: name.startswith(lost)))
    for key, values in (("block_count", (2, 9)), ("nextn_predict_layers", (0, 7))):
        for value in values:
            agree(rewrite(good, tmp_path / "sick" / good.name, put=[(f"{arch}.{key}", "u32", value)]))
            agree(rewrite(trunk_of(kind), tmp_path / "sick" / "M.gguf", put=[(f"{arch}.{key}", "u32", value)]))


# -- what cannot be opened --------------------------------------------------------------------------------------------


SETS: dict[str, Callable[[list[Path]], object]] = {
    "the first is missing": lambda paths: paths[0].unlink(),
    "one is missing": lambda paths: paths[1].unlink(),
    "two are missing": lambda paths: [path.unlink() for path in paths[1:]],
    "one is cut": lambda paths: os.truncate(paths[1], 100),
    "one is empty": lambda paths: os.truncate(paths[2], 0),
    "its data is cut": lambda paths: os.truncate(paths[2], paths[2].stat().st_size - 100),
    "two are exchanged": lambda paths: (paths[1].rename("t"), paths[2].rename(paths[1]), Path("t").rename(paths[2])),
    "one is of another model": lambda paths: shutil.copy(paths[0], paths[1]),
    "one is renamed": lambda paths: paths[0].rename(paths[0].with_name("first.gguf")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_each_broken_set(
    name: str, healthy: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = split_gguf(healthy["bundle"], tmp_path / "set", 3)
    SETS[name](paths)
    sources = [path for path in sorted((tmp_path / "set").iterdir()) if path.suffix == ".gguf"]
    for source in (tmp_path / "set", *sources):
        answer = agree(source)
        code = answer[1] if isinstance(answer[1], int) else 5 if answer[1] else 0
        assert code and run("inspect", source) == run("doctor", source) == code


def test_checkpoints(tmp_path: Path) -> None:
    whole = shutil.copytree(CHECKPOINT, tmp_path / "whole")
    assert agree(whole) == agree(whole / "config.json") == agree(whole / "model.safetensors")
    for lost in ("config.json", "model.safetensors"):
        part = shutil.copytree(CHECKPOINT, tmp_path / f"without-{lost}")
        (part / lost).unlink()
        agree(part)
        agree(part / "config.json")
    shutil.copy(Q4, whole)  # a checkpoint and a GGUF in one folder
    assert agree(whole)[0] == "checkpoint"
    config = json.loads((CHECKPOINT / "config.json").read_text())
    for change in ({"architectures": ["LlamaForCausalLM"]}, {"architectures": None}, {"architectures": ["NoSuch"]}):
        (part / "config.json").write_text(json.dumps(config | change))
        shutil.copy(CHECKPOINT / "model.safetensors", part)
        agree(part)
    (part / "config.json").write_text("{")
    agree(part)


def test_a_checkpoint_without_a_shard_that_its_index_names(tmp_path: Path) -> None:
    folder = shutil.copytree(CHECKPOINT, tmp_path / "part")
    names = list(nextn.inspect(folder).checkpoint.weight_map)  # type: ignore[union-attr]
    index = {"weight_map": dict.fromkeys(names, "gone.safetensors")}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert ids(agree(folder)) == ["shards-missing"]


@pytest.mark.parametrize("name", ["nothing.gguf", "folder"])
def test_what_is_not_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert isinstance(agree(tmp_path / name)[0], type)


def test_remote_sources(
    hub: HubServer, healthy: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NEXTN_CACHE", str(tmp_path / "own"))
    for i, name in enumerate(("layer 0", "eh_proj")):
        path = rewrite(healthy["bundle"], tmp_path / name / "M.gguf", **LOSSES[name])
        hub.repo(f"org/sick{i}").commit({path.name: path.read_bytes()})
        assert ids(agree(f"hf:org/sick{i}"))
    paths = split_gguf(healthy["bundle"], tmp_path / "set", 3)
    hub.repo("org/set").commit({path.name: path.read_bytes() for path in paths if path != paths[1]})
    assert ids(agree("hf:org/set")) == ["shards-missing"]
    hub.repo("org/checkpoint").commit({path.name: path.read_bytes() for path in CHECKPOINT.iterdir()})
    assert agree("hf:org/checkpoint")[0] == "checkpoint"
    hub.repo("org/page").commit({"M.gguf": b"<!DOCTYPE html>"})
    assert isinstance(agree("hf:org/page")[0], type)


@pytest.mark.slow
@pytest.mark.skipif(not CASES_FOLDER.is_dir(), reason=f"{CASES_FOLDER} is not there")
def test_the_collected_cases(tmp_path: Path) -> None:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    made = subprocess.run(
        ["bash", str(CASES_FOLDER / "ggufs" / "make.sh"), str(tmp_path)], cwd=ROOT, env=env, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    for folder in (tmp_path, CASES_FOLDER):
        assert len([agree(path) for path in models_in(folder)]) > 20


# -- large and absurd headers -----------------------------------------------------------------------------------------


def kvs_of(n_layer: int, nextn: int, arch: str = "qwen35") -> list[KV]:
    return [*ggufmaker.arch_kvs(n_layer, nextn, arch), ("tokenizer.ggml.model", "str", "gpt2")]


def marks(first: int, n: int, step: int = 1) -> list[Tensor]:
    return [f32(f"blk.{first + step * i}.nextn.eh_proj.weight", 1) for i in range(n)]


TRUNK = [*root_tensors(), *trunk_tensors(2)]
LARGE: dict[str, Callable[[], tuple[list[KV], list[Tensor]]]] = {  # made when they are needed: they take seconds
    "20,000 blocks": lambda: (kvs_of(20_002, 20_000), [*TRUNK, *marks(2, 20_000)]),
    "20,000 blocks of three": lambda: (kvs_of(20_002, 3, "mimo2"), [*TRUNK, *marks(2, 20_000)]),
    "20,000 blocks apart": lambda: (kvs_of(40_002, 20_000), [*TRUNK, *marks(2, 20_000, 2)]),
    "a sidecar of 20,000 blocks": lambda: (kvs_of(20_000, 20_000), [*root_tensors(), *marks(0, 20_000)]),
    "a million layers": lambda: (kvs_of(10**6, 1), TRUNK),
    "2^32 - 1 layers": lambda: (kvs_of(2**32 - 1, 1), TRUNK),
    "2^32 - 1 blocks": lambda: (kvs_of(2**32 - 1, 2**32 - 1), [*TRUNK, *block_tensors(2)]),
    "layer 2^32 - 2": lambda: (kvs_of(2**32 - 1, 1), [*TRUNK, *marks(2**32 - 2, 1)]),
    "a sidecar behind 2^32 - 3 layers": lambda: (kvs_of(2**32 - 1, 2), [*root_tensors(), *block_tensors(2**32 - 3)]),
    "200,000 tensors": lambda: (
        kvs_of(100_001, 1), [*root_tensors(), *trunk_tensors(100_000), *block_tensors(100_000)]
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_no_header_takes_long(name: str, tmp_path: Path) -> None:
    """In the processor's time: a header of 200,000 tensors takes about 2.5 times as long as to open it."""
    path = tmp_path / "M.gguf"
    path.write_bytes(make(*LARGE[name]()).whole)
    opening = min(_cpu_s(lambda: open_model(path)) for _ in range(3))
    assert any(_cpu_s(lambda: nextn.inspect(path)) < 5 * opening + 0.1 for _ in range(3))
    agree(path)


def _cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
