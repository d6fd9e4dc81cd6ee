"""doctor as people call it: exit codes, JSON, remote models by headers alone, and honesty where no block exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ggufmaker import KV, arch_kvs, block_tensors, make, root_tensors, trunk_tensors
from hub_server import HubServer
from schema_check import validate
from sick import rewrite
from sicknesses import checked

import nextn
from conftest import CHECKPOINT, DATA, Q4, ROOT, TinyModels
from nextn.diagnosis import examine
from nextn.errors import EXIT_PROBLEMS, NextnError, UsageError
from nextn.verbs.doctor import DoctorResult

SCHEMA = json.loads((ROOT / "src" / "nextn" / "schemas" / "doctor.json").read_text())
DOCS = (ROOT / "docs" / "doctor.md").read_text()
KEY = "qwen35.nextn_predict_layers"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(run_nextn: Run) -> Run:
    return partial(run_nextn, "doctor")


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sick")
    bundle = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=folder / "healthy").entry
    return rewrite(bundle, folder / "sick-Q4_K_M.gguf", drop=[KEY])


def data_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(done.stdout)
    validate(data, SCHEMA)
    return data


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_exit_codes_and_where_text_goes(run: Run, sick: Path, tmp_path: Path) -> None:
    found = run(sick)
    assert found.returncode == EXIT_PROBLEMS and "error: block-without-key" in found.stdout and found.stderr == ""
    assert "wrong number of tensors" in found.stdout and f"nextn doctor {sick} --fix" in found.stdout
    data = data_of(run(sick, "--json"))
    assert data["findings"][0]["fixable"] and data["mended"] is None
    dry = run(sick, "--fix", "--dry-run", "--json", "-o", tmp_path / "out")
    assert dry.returncode == 0 and data_of(dry)["mended"]["dry_run"] and not (tmp_path / "out").exists()
    done = run(sick, "--fix", "-o", tmp_path / "out")
    assert done.returncode == 0 and "nothing is left to fix" in done.stderr
    mended = Path(done.stdout.strip())
    assert mended.parent == tmp_path / "out" and run(mended).returncode == 0
    again = run(sick, "--fix", "-o", tmp_path / "out")
    assert again.returncode == 20 and "never overwrites" in again.stderr
    healthy = run(mended, "--fix")
    assert healthy.returncode == 0 and healthy.stdout == ""


@pytest.mark.slow
def test_what_is_no_model_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    for path in (tmp_path / "x.gguf", tmp_path / "nothing.gguf", tmp_path):
        done = run(path)
        assert done.returncode not in (0, 1, EXIT_PROBLEMS) and done.stderr.count("\n") == 1, done.stderr
        assert "Traceback" not in done.stderr


def test_bad_files_never_end_in_a_traceback() -> None:
    seen = 0
    for path in sorted((DATA / "gguf_corpus").rglob("*.gguf")):
        try:
            checked(DoctorResult(examine(path)))
        except NextnError as error:
            assert "\n" not in str(error)
        seen += 1
    assert seen > 10


# -- remote -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_remote_model_is_judged_by_its_headers(
    hub: HubServer, run: Run, sick: Path, tiny_models: TinyModels
) -> None:
    hub.repo("org/sick").commit({"sick-Q4_K_M.gguf": sick.read_bytes()})
    hub.repo("org/well").commit({"well-Q8_0.gguf": tiny_models.bundled.read_bytes()})
    found = run("org/sick", "--json")
    data = data_of(found)
    assert found.returncode == EXIT_PROBLEMS
    assert [each["id"] for each in data["findings"]] == ["block-without-key"]
    assert data["path"].startswith("hf:org/sick@") and data["path"].endswith(":sick-Q4_K_M.gguf")
    finding = data["findings"][0]
    assert not finding["fixable"] and finding["mend"].startswith("get the model ('nextn pull'), then: nextn doctor hf:")
    assert {each["check"] for each in data["skipped"]} == {"norms", "eh-proj-halves"}
    assert hub.file_bytes() < sick.stat().st_size / 4
    hub.reset()
    well = run("hf:org/well")
    assert well.returncode == 0 and "not checked: norms: only this model's headers are read" in well.stdout
    assert hub.file_bytes() < tiny_models.bundled.stat().st_size / 4
    refused = run("org/sick", "--fix")
    assert refused.returncode == UsageError.exit_code and "nextn pull" in refused.stderr


@pytest.mark.slow
def test_a_remote_checkpoint_and_a_remote_set_with_a_hole(hub: HubServer, run: Run, sick: Path) -> None:
    hub.add_folder("org/tiny", CHECKPOINT)
    assert data_of(run("org/tiny", "--json"))["findings"] == []
    assert hub.file_bytes() < 500_000
    hub.repo("org/hole").commit({"x-00001-of-00002.gguf": sick.read_bytes()})
    data = data_of(run("org/hole", "--json"))
    assert [each["id"] for each in data["findings"]] == ["shards-missing"] and data["shape"] == "set"


# -- honesty ----------------------------------------------------------------------------------------------------------


def _header(tmp_path: Path, arch: str, n_layer: int, *more: KV, nextn_layers: int | None = None) -> Path:
    path = tmp_path / f"{arch}.gguf"
    kvs = [*arch_kvs(n_layer, nextn_layers, arch=arch), *more]
    path.write_bytes(make(kvs, [*root_tensors(), *trunk_tensors(n_layer)]).whole)
    return path


def _kimi(tmp_path: Path) -> Path:
    more = [("deepseek2.expert_count", "u32", 384), ("tokenizer.ggml.model", "str", "gpt2")]
    return _header(tmp_path, "deepseek2", 61, *more)


def test_kimi_is_told_what_is_true(tmp_path: Path) -> None:
    found = examine(_kimi(tmp_path))
    assert found.problems == ()
    (note,) = found.findings
    assert note.id == "no-block-published" and "layer 60" in note.what and "layer 61" in note.what
    assert "EAGLE-3 or DFlash" in note.what and "aborts" in note.what
    assert "nextn attach" in note.mend and "layer 61" in note.mend
    checkpoint = tmp_path / "kimi"
    shutil.copytree(CHECKPOINT, checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    for change in ({"architectures": ["KimiK25ForConditionalGeneration"]}, {"model_type": "kimi_k2"}):
        (checkpoint / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 61, **change}))
        words = [finding.what for finding in examine(checkpoint).findings if finding.id == "no-block-published"]
        if "architectures" in change:
            assert words and "layer 60" in words[0]


def test_a_native_block_for_kimi_is_no_sickness(tmp_path: Path) -> None:
    path = tmp_path / "kimi-mtp.gguf"
    kvs = [*arch_kvs(62, 1, arch="deepseek2"), ("deepseek2.expert_count", "u32", 384)]
    path.write_bytes(make(kvs, [*root_tensors(), *trunk_tensors(61), *block_tensors(61)]).whole)
    assert "no-block-published" not in [finding.id for finding in examine(path).findings]


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("llama", "ever published for Llama"), ("qwen3", "ever published for Qwen3, dense"),
        ("gemma3", "Gemma 3"), ("glm4", "no engine drafts with 'glm4'"), ("graniteswitch", "not for MTP"),
        ("exaone-moe", "no engine drafts with"), ("never-heard-of", "nextn knows of no MTP block"),
    ],
)  # fmt: skip
def test_models_without_one_are_told_so(arch: str, words: str, tmp_path: Path) -> None:
    found = examine(_header(tmp_path, arch, 2))
    assert found.problems == () and [finding.id for finding in found.findings] == ["no-block-published"]
    assert words in found.findings[0].what


def test_a_key_that_means_something_else_is_no_promise(tmp_path: Path) -> None:
    assert examine(_header(tmp_path, "graniteswitch", 3, nextn_layers=1)).problems == ()


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, "checkpoint-lost-block"),
        ({"mtp_num_hidden_layers": 0}, "checkpoint-without-block"),
        ({"architectures": ["LlamaForCausalLM"]}, "no-block-published"),
    ],
)
def test_checkpoints_that_lost_it(config: dict[str, Any], wanted: str, tmp_path: Path) -> None:
    from make_tiny_checkpoints import make_checkpoint

    folder = tmp_path / "tune"
    make_checkpoint("qwen35-dense", folder, "bf16")
    known = json.loads((folder / "config.json").read_text())
    inner = known.get("text_config", known)
    inner.update({key: value for key, value in config.items() if key != "architectures"})
    known.update({key: value for key, value in config.items() if key == "architectures"})
    known["_name_or_path"] = "Qwen/Qwen3.5-0.8B"
    (folder / "config.json").write_text(json.dumps(known))
    _lose_block(folder)
    found = examine(folder)
    assert [finding.id for finding in found.findings] == [wanted]
    if wanted != "no-block-published":
        assert "Qwen/Qwen3.5-0.8B" in found.findings[0].what


def _lose_block(folder: Path) -> None:
    """As fine-tuning tools save it."""
    import numpy as np

    path = next(folder.glob("*.safetensors"))
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    kept, data = {}, b""
    for name, entry in header.items():
        if name == "__metadata__" or "mtp." in name:
            continue
        start, end = entry["data_offsets"]
        kept[name] = {**entry, "data_offsets": [len(data), len(data) + end - start]}
        data += raw[8 + size + start : 8 + size + end]
    text = json.dumps(kept).encode()
    path.write_bytes(np.uint64(len(text)).tobytes() + text + data)


# -- the page in docs -------------------------------------------------------------------------------------------------


def test_every_finding_has_its_place_in_the_docs() -> None:
    code = ROOT / "src" / "nextn"
    places = [*(code / "diagnosis").glob("*.py"), code / "layouts" / "draft_fit.py"]
    source = "".join(path.read_text() for path in places)
    headings = set(re.findall(r"^### `([a-z-]+)`", DOCS, re.M))
    assert len(headings) > 20
    assert all(f'"{heading}"' in source for heading in headings)
    named = set(re.findall(r'(?:Finding|_finding)\(\s*"([a-z-]+)"', source)) | {
        "norm-plus-one-missing", "norm-plus-one-doubled", "draft-model", "no-block-published"
    }  # fmt: skip
    assert named <= headings, named - headings
