"""Gemma 4's assistants: recognised, placed beside their model as they are, and never taken for a block."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ggufmaker import KV, arch_kvs, f32, make, root_tensors, trunk_tensors
from schema_check import validate

import nextn
from conftest import CHECKPOINT, Q4
from nextn.block.anatomy import Anatomy
from nextn.errors import BlockPresent, DonorMismatch, UnsupportedModel, UsageError
from nextn.gguf.files import open_model
from nextn.measure.target import open_target

TOKENS: list[KV] = [("tokenizer.ggml.tokens", "[str]", ["a", "b", "c", "d"]),
                    ("tokenizer.ggml.token_type", "[i32]", [1, 1, 1, 3])]  # fmt: skip


def sizes(n_layer: int, nextn_layers: int | None, arch: str, hidden: int) -> list[KV]:
    """All pairs but the tokenizer's."""
    return [kv for kv in arch_kvs(n_layer, nextn_layers, arch, hidden) if "tokenizer" not in str(kv[0])]


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "gemma-4-x-Q8_0.gguf"
    path.parent.mkdir()
    path.write_bytes(make([*sizes(2, None, "gemma4", 8), *TOKENS], [*root_tensors(), *trunk_tensors(2)]).whole)
    return path


def assistant(path: Path, width: int = 8, arch: str = "gemma4-assistant", tokens: list[KV] = TOKENS) -> Path:
    path.parent.mkdir(exist_ok=True)
    kvs = [*sizes(2, 2, arch, 4), (f"{arch}.embedding_length_out", "u32", width), *tokens]
    projections = [f32("nextn.pre_projection.weight", 16, 4), f32("nextn.post_projection.weight", 4, 8)]
    path.write_bytes(make(kvs, [*root_tensors(4), *projections, *trunk_tensors(2, 4)]).whole)
    return path


@pytest.mark.parametrize("arch", ["gemma4-assistant", "gemma4_mtp"])
def test_it_is_recognised(arch: str, tmp_path: Path) -> None:
    import json

    from conftest import ROOT

    found = nextn.inspect(assistant(tmp_path / "gemma-4-x-assistant-F32.gguf", arch=arch))
    assert (found.shape, found.n_layer_nextn, found.problems) == ("sidecar", 2, ())
    assert "beside a 'gemma4' model" in found.runs_on["llama.cpp"] and "nextn attach" in found.hints[-1]
    validate(found.to_json(), json.loads((ROOT / "src/nextn/schemas/inspect.json").read_text()))
    draft = found.to_json()["draft"]
    assert (draft["title"], draft["spec_type"], draft["target_width"]) == ("Gemma 4 assistant", "draft-mtp", 8)
    assert draft["target_layers"] is None and found.block_bytes == sum(found.types.values())
    note = nextn.doctor(assistant(tmp_path / "mtp-x.gguf", arch=arch)).before
    assert note.problems == () and [finding.id for finding in note.findings] == ["draft-model"]


def test_it_is_placed_as_it_is(trunk: Path, tmp_path: Path) -> None:
    path = assistant(tmp_path / "down" / "gemma-4-x-assistant-F32.gguf")
    dry = nextn.attach(trunk, path, dry_run=True)
    assert dry.outcome is None and len(list(trunk.parent.iterdir())) == 1
    made = nextn.attach(trunk, path)
    assert made.sidecar == trunk.parent / "mtp-gemma-4-x-F32.gguf" and made.sidecar.samefile(path)
    assert made.bytes_written == 0 and made.entry == trunk
    assert any("placed, not converted" in note for note in made.plan.notes)
    assert open_model(made.sidecar).kvs == open_model(path).kvs
    with pytest.raises(BlockPresent, match="already beside the model"):
        nextn.attach(trunk, made.sidecar)


def test_what_does_not_fit_is_refused(trunk: Path, tmp_path: Path) -> None:
    path = assistant(tmp_path / "down" / "a-F32.gguf")
    with pytest.raises(DonorMismatch, match="it drafts for 'gemma4', but the model is 'qwen35'"):
        nextn.attach(Q4, path, out=tmp_path / "x")
    with pytest.raises(DonorMismatch, match=r"hidden size of 16, but the model's is 8"):
        nextn.attach(trunk, assistant(tmp_path / "down" / "b-F32.gguf", width=16))
    other: list[KV] = [("tokenizer.ggml.tokens", "[str]", ["a", "x", "c", "d"]), TOKENS[1]]
    with pytest.raises(DonorMismatch, match="tokenizers differ"):
        nextn.attach(trunk, assistant(tmp_path / "down" / "c-F32.gguf", tokens=other))
    with pytest.raises(UsageError, match="--type has no effect"):
        nextn.attach(trunk, path, type="q8_0")
    with pytest.raises(UsageError, match="--layout has no effect"):
        nextn.attach(trunk, path, layout="bundle")
    assert [each.name for each in trunk.parent.iterdir()] == [trunk.name]
    with pytest.raises(UnsupportedModel, match="the draft for 'gemma4' is a separate model"):
        nextn.attach(trunk, CHECKPOINT)


def test_verbs_take_it_beside_its_model(trunk: Path, tmp_path: Path) -> None:
    path = nextn.attach(trunk, assistant(tmp_path / "down" / "gemma-4-x-assistant-F32.gguf")).sidecar
    assert path is not None and nextn.inspect(trunk).sidecars == (path,)
    assert open_target(trunk).sidecar_path == path == open_target(trunk, path).sidecar_path
    draft = open_model(path)
    assert all(Anatomy.of(draft).of_block(name) for name in draft.tensors)  # so the control shuffles all of them
    rows = {row.setup.id: row for row in nextn.plan(trunk, header_only=True, n_ctx=256).rows}
    with_it, without = rows["sidecar"], rows["no_mtp"]
    assert with_it.setup.disk_bytes - without.setup.disk_bytes == path.stat().st_size
    assert with_it.prediction is not None and without.prediction is not None
    assert with_it.prediction.sum("weights_bytes") > without.prediction.sum("weights_bytes")


def test_it_is_published_with_its_model(trunk: Path, tmp_path: Path) -> None:
    draft = assistant(trunk.parent / "mtp-gemma-4-x-F32.gguf")
    said: list[str] = []
    folder = nextn.pack([trunk], out=tmp_path / "out", say=said.append).folder
    assert (folder / draft.name).samefile(draft) and "a draft beside" in said[0]
    card = (folder / "README.md").read_text()
    assert f"| `{draft.name}` | Gemma 4 assistant | 8 | - | all tokens |" in card
    assert f"-md {draft.name} --spec-type draft-mtp" in card and "- gguf\n- mtp\n---" in card
    with pytest.raises(DonorMismatch, match="hidden size of 6"):
        nextn.pack([trunk], sidecar=assistant(tmp_path / "y" / "mtp-y.gguf", width=6), out=tmp_path / "other")


def test_its_page(trunk: Path, tmp_path: Path) -> None:
    draft = assistant(trunk.parent / "mtp-gemma-4-x-F32.gguf")
    (tmp_path / "results").mkdir()
    for number, found in enumerate((nextn.inspect(draft), nextn.doctor(draft, trunk=trunk), nextn.inspect(trunk))):
        (tmp_path / "results" / f"{number}.json").write_text(json.dumps(found.to_json()))
    result = nextn.report([tmp_path / "results"])
    shown = json.dumps(result.to_json())
    assert "Gemma 4 assistant" in shown and "hidden size of 8" in shown
