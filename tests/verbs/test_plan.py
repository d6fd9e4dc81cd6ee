"""nextn plan: headers against the engine's account, predictions against real runs, the table and its JSON."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from schema_check import validate

import nextn
from conftest import CHECKPOINT, DATA, Q4, ROOT, TRUNKS, TinyModels, need
from nextn.cli import main
from nextn.errors import UsageError
from nextn.gguf.files import open_model
from nextn.memory.answers import Machine, fits, longest_context
from nextn.memory.settings import kv_types
from nextn.memory.shape import shape_of
from nextn.memory.standin import sparse_file

SCHEMA = json.loads((ROOT / "src" / "nextn" / "schemas" / "plan.json").read_text())
ROUNDING = 20_000  # bytes: logs round each buffer to 0.01 MiB


def engine() -> None:
    need("xllamacpp", importlib.util.find_spec("xllamacpp") is not None)


def family_donor(kind: str, folder: Path) -> Path:
    from tiny_families import make_family

    return make_family(kind, folder / kind)


def near(said: int, real: int, share: float) -> bool:
    return abs(said - real) <= max(share * real, ROUNDING)


def check_measured(data: dict[str, Any]) -> None:
    for setup in data["setups"]:
        said, real = setup["totals"], setup["measured"]
        assert real is not None, (setup["id"], setup["notes"])
        weights = said["weights_bytes"] + said["repacked_bytes"]
        assert near(weights, real["weights_bytes"] + real["repacked_bytes"], 0.05), setup["id"]
        assert near(said["kv_cache_bytes"], real["kv_cache_bytes"], 0.05), setup["id"]
        assert near(said["recurrent_bytes"], real["recurrent_bytes"], 0.05), setup["id"]
        assert near(said["total_bytes"], real["total_bytes"], 0.10), setup["id"]
        assert real["rss_anonymous_bytes"] > real["kv_cache_bytes"] + real["recurrent_bytes"]
        assert real["peak_bytes"] >= real["rss_anonymous_bytes"]


@pytest.mark.engine
def test_predicted_is_what_the_demo_model_takes(tmp_path: Path) -> None:
    engine()
    found = nextn.plan(Q4, donor=CHECKPOINT, n_ctx=4096, measure=True).to_json()
    validate(found, SCHEMA)
    check_measured(found)
    off, on = (next(s for s in found["setups"] if s["id"] == name)["totals"] for name in ("bundled_off", "bundled_on"))
    assert found["unused_block_bytes"] == 0
    assert on["recurrent_bytes"] == 4 * off["recurrent_bytes"]  # n_max 3: one copy for each drafted token, and one
    assert on["kv_cache_bytes"] == 2 * off["kv_cache_bytes"]  # one attention layer, and the block's


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["glm4moe", "deepseek3", "mimo2", "glmdsa", "bailingmoe3", "glm5next"])
def test_predicted_is_what_other_families_take(kind: str, tmp_path: Path) -> None:
    engine()
    donor = family_donor(kind, tmp_path)
    check_measured(
        nextn.plan(TRUNKS / "families" / f"{kind}-Q8_0.gguf", donor=donor, n_ctx=2048, measure=True).to_json()
    )


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["step35", "hyv3", "cohere2moe"])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0,f16"])
def test_headers_say_what_the_engine_says(kind: str, kv_type: str, tmp_path: Path) -> None:
    engine()
    trunk, donor = TRUNKS / "families" / f"{kind}-Q8_0.gguf", family_donor(kind, tmp_path)
    asked: dict[str, Any] = {"donor": donor, "n_ctx": 2000, "n_parallel": 3, "kv_type": kv_type}
    by_engine = nextn.plan(trunk, **asked)
    by_header = nextn.plan(trunk, **asked, header_only=True)
    for left, right in zip(by_engine.rows, by_header.rows, strict=True):
        assert left.prediction is not None and right.prediction is not None, left.setup.why_not
        assert (left.prediction.source, right.prediction.source) == ("engine", "header"), left.notes
        for column in ("needed_weights_bytes", "kv_cache_bytes", "recurrent_bytes"):
            assert left.prediction.sum(column) == right.prediction.sum(column), (left.setup.id, column)
        assert right.prediction.total_bytes == pytest.approx(left.prediction.total_bytes, rel=0.35)


@pytest.mark.engine
def test_the_engine_accounts_for_the_same_cache_as_the_formulas(tmp_path: Path) -> None:
    engine()
    from nextn.engines.xllamacpp import Xllamacpp
    from nextn.memory.account import account

    bundle = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path).entry
    settings = nextn.plan(bundle, n_ctx=3000, header_only=True, n_max=2).settings
    found = account(Xllamacpp.find(), bundle, None, settings, mtp=True, scratch=tmp_path)
    said = nextn.plan(bundle, n_ctx=3000, header_only=True, n_max=2).row("bundled_on").prediction
    assert said is not None
    assert near(said.sum("kv_cache_bytes"), round(sum(c.kv_bytes for c in found.contexts)), 0.001)
    assert near(said.sum("recurrent_bytes"), round(sum(c.state_bytes for c in found.contexts)), 0.001)
    assert not found.unused[0]


def test_linear_parts_give_other_contexts() -> None:
    short, long = (nextn.plan(Q4, n_ctx=n, header_only=True).row("bundled_on").prediction for n in (512, 1024))
    assert short is not None and long is not None
    linear = short.devices[0].document.linear
    cache = sum(part.bytes_per_cell * min(1024, part.max_cells or 1024) for part in linear.kv)
    assert cache == long.sum("kv_cache_bytes") == 2 * short.sum("kv_cache_bytes")


def test_a_sliding_window_caps_its_cells() -> None:
    shape = shape_of(open_model(TRUNKS / "families" / "mimo2-Q8_0.gguf"))
    assert {layer.window for layer in shape.layers} == {True, False}
    long = nextn.plan(TRUNKS / "families" / "mimo2-Q8_0.gguf", n_ctx=8192, header_only=True).row("no_mtp").prediction
    assert long is not None
    caps = {part.kind: part.max_cells for part in long.devices[0].kv}
    assert caps["full"] is None and caps["window"] is not None and caps["window"] < 8192


def test_gpu_layers_move_the_end_of_the_model_by_headers() -> None:
    found = nextn.plan(Q4, n_gpu_layers=2, header_only=True, gpu_memory_bytes=1 << 30).row("no_mtp").prediction
    assert found is not None
    host, gpu = (next(use for use in found.devices if use.device == name) for name in ("Host", "GPU"))
    whole = nextn.plan(Q4, header_only=True).row("no_mtp").prediction
    assert whole is not None and gpu.weights_bytes > 0
    assert host.needed_weights_bytes + gpu.needed_weights_bytes >= whole.sum("needed_weights_bytes")
    assert gpu.kv_cache_bytes > 0 == host.kv_cache_bytes  # the only attention layer is the last


def test_what_fits_and_how_long() -> None:
    plan = nextn.plan(Q4, n_ctx=1024, header_only=True)
    found = plan.row("bundled_on").prediction
    assert found is not None
    need_now = found.devices[0].needed_at(plan.settings)
    assert fits(found, Machine(round(need_now) + 1, None), plan.settings) is True
    assert fits(found, Machine(round(need_now) - 1, None), plan.settings) is False
    assert fits(found, Machine(None, None), plan.settings) is None
    longest = longest_context(found, Machine(round(need_now) + 1, None), plan.settings, 1 << 17)
    assert longest == 1024
    assert longest_context(found, Machine(1, None), plan.settings, 1 << 17) == 0


def test_without_a_donor_the_family_tells_the_size() -> None:
    real = nextn.plan(Q4, donor=CHECKPOINT, header_only=True)
    guess = nextn.plan(Q4, header_only=True)
    assert guess.to_json()["block"]["exact"] is False
    assert guess.row("sidecar").setup.disk_bytes == pytest.approx(real.row("sidecar").setup.disk_bytes, rel=0.01)
    assert any("no donor" in note for note in guess.notes)


def test_disk_figures_are_what_attach_writes(tmp_path: Path) -> None:
    plan = nextn.plan(Q4, donor=CHECKPOINT, header_only=True)
    for id, layout in (("bundled_on", "bundle"), ("sidecar", "sidecar"), ("shards", "shards")):
        made = nextn.attach(Q4, CHECKPOINT, layout=layout, out=tmp_path / layout)
        assert plan.row(id).setup.disk_new_bytes == sum(path.stat().st_size for path in made.files)
    shared = plan.publishing
    assert shared is not None
    assert shared.separate_bytes - shared.shared_bytes == shared.saved_bytes > 0


@pytest.mark.parametrize("n_gpu_layers", [None, 0, 2])
@pytest.mark.parametrize("trunk", [Q4, TRUNKS / "kv-first" / "qwen35moe-BF16-00001-of-00003.gguf"], ids=["one", "set"])
def test_files_on_paper_weigh_what_real_ones_do(
    trunk: Path, n_gpu_layers: int | None, tmp_path: Path, checkpoints: Callable[[str], Path]
) -> None:
    asked: dict[str, Any] = {"header_only": True, "n_gpu_layers": n_gpu_layers}
    donor = CHECKPOINT if trunk == Q4 else checkpoints("qwen35moe-fused-bf16")
    planned = nextn.plan(trunk, donor=donor, **asked)
    made = {
        layout: nextn.attach(trunk, donor, layout=layout, embd_type="q4_0", out=tmp_path / layout)
        for layout in ("bundle", "sidecar", "shards")
    }
    bundle = nextn.plan(made["bundle"].entry, **asked)
    real = {
        **{id: bundle.row(id) for id in ("bundled_off", "bundled_on")},
        "sidecar": nextn.plan(trunk, sidecar=made["sidecar"].sidecar, **asked).row("sidecar"),
        "shards": nextn.plan(made["shards"].entry, **asked).row("shards"),
    }
    for id, row in real.items():
        on_paper = planned.row(id).prediction
        assert on_paper is not None and row.prediction is not None and row.setup.is_there, id
        assert on_paper.devices == row.prediction.devices, id
    taken_apart, plain = bundle.row("no_mtp").prediction, planned.row("no_mtp").prediction
    assert taken_apart is not None and plain is not None
    assert taken_apart.sum("needed_weights_bytes") == plain.sum("needed_weights_bytes")


def test_a_bundled_model_is_taken_apart_on_paper_only(tmp_path: Path) -> None:
    bundle = nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path).entry
    before = sorted(tmp_path.iterdir())
    data = nextn.plan(bundle, header_only=True).to_json()
    validate(data, SCHEMA)
    assert sorted(tmp_path.iterdir()) == before
    by_id = {setup["id"]: setup for setup in data["setups"]}
    assert by_id["no_mtp"]["disk_bytes"] == Q4.stat().st_size
    assert by_id["bundled_on"]["disk_new_bytes"] == 0
    assert all(setup["available"] for setup in data["setups"])


def test_shards_share_bytes() -> None:
    trunk = TRUNKS / "kv-first" / "qwen35moe-BF16-00001-of-00003.gguf"
    plan = nextn.plan(trunk, header_only=True)
    assert plan.publishing is not None and plan.publishing.how == "shards"
    assert plan.row("shards").setup.disk_new_bytes < plan.row("bundled_on").setup.disk_new_bytes / 3


def test_a_huge_model_is_planned_from_its_header(tmp_path: Path) -> None:
    """Sparse: the data of a 600 GB model is never needed."""
    from nextn.gguf.header import build_header, pad_to, place
    from nextn.gguf.kv import KV, KVType
    from nextn.gguf.kv_table import edit

    small = open_model(TRUNKS / "families" / "glm4moe-Q8_0.gguf")
    wide = [(info, 10**10) for info in small.header.tensors]
    kvs = edit(small.header.kvs, put=[KV.make("glm4moe.context_length", KVType.UINT32, 131072)])
    infos, _ = place([(info, info.computed_size_bytes or 0) for info, _ in wide], 32)
    head = build_header(kvs, infos)
    path = tmp_path / "big.gguf"
    sparse_file(path, head, pad_to(len(head), 32) + 600 * 10**9)
    plan = nextn.plan(path, header_only=True)
    assert plan.row("no_mtp").setup.disk_bytes > 600 * 10**9
    assert plan.row("sidecar").prediction is not None
    assert path.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["missing.gguf"], 22, "no such file"),
        ([str(Q4), "--kv-type", "q9"], 2, "not a type of KV cache"),
        ([str(Q4), "--kv-type", "f16,f16,f16"], 2, "not a type of KV cache"),
        ([str(Q4), "--gpu-memory", "lots"], 2, "is not a size"),
        ([str(Q4), "--sidecar", str(Q4)], 15, "has no MTP block, so it is not a sidecar"),
        ([str(Q4), "--measure", "--header-only"], 2, "--measure needs an engine"),
    ],
)
def test_bad_input_is_one_sentence(
    args: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *args, *([] if "--measure" in args else ["--header-only"])]) == code
    assert says in capsys.readouterr().err


def test_a_sidecar_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = nextn.attach(Q4, CHECKPOINT, layout="sidecar", out=tmp_path)
    assert main(["plan", str(made.sidecar), "--header-only"]) == 2
    assert "--sidecar" in capsys.readouterr().err


def test_a_donor_that_does_not_fit_leaves_the_plain_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(Q4), "--from", str(DATA / "trunks" / "qwen35moe-BF16.gguf"), "--header-only"]) == 15
    assert "no MTP block" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_table_fits_a_terminal(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["plan", str(Q4), "--from", str(CHECKPOINT), "--header-only"]) == 0
    out = capsys.readouterr().out
    table = [line for line in out.splitlines() if line.startswith(("┃", "│"))]
    assert len(table) == 6 and max(map(len, table)) <= 80
    assert "an unused block costs no memory" in out


def test_json_is_the_schemas(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(Q4), "--json", "--header-only"]) == 0
    validate(json.loads(capsys.readouterr().out), SCHEMA)
    validate(json.loads((DATA / "samples" / "plan.json").read_text()), SCHEMA)


@pytest.mark.slow
def test_a_remote_model_is_planned_from_its_header(tmp_path: Path) -> None:
    from hub_server import HubServer

    trunk = TRUNKS / "families" / "glm4moe-Q8_0.gguf"
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / trunk.name).write_bytes(trunk.read_bytes())
    outputs = []
    with HubServer() as server:  # in a process of its own: the Hub's client reads its address once, when it is imported
        server.add_folder("org/model", folder)
        here = {"NEXTN_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": server.endpoint}
        for model in ("hf:org/model", str(trunk)):
            command = [sys.executable, "-m", "nextn", "plan", model, "--header-only", "--json"]
            ran = subprocess.run(command, env={**os.environ, **here}, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stderr
            outputs.append(json.loads(ran.stdout))
        fetched = server.file_bytes()
    far, near_by = outputs
    assert [row["disk_bytes"] for row in far["setups"]] == [row["disk_bytes"] for row in near_by["setups"]]
    assert fetched < trunk.stat().st_size


@pytest.mark.engine
def test_types_that_the_engine_refuses_are_told(tmp_path: Path) -> None:
    engine()
    plan = nextn.plan(TRUNKS / "families" / "deepseek32-Q8_0.gguf", kv_type="q8_0,f16")
    row = plan.row("no_mtp")
    assert row.prediction is not None and row.prediction.source == "header"
    assert any("different K (q8_0) and V (f16)" in note for note in row.notes)


def test_cache_types() -> None:
    assert [kind.name for kind in kv_types("q8_0, f16")] == ["q8_0", "f16"]
    with pytest.raises(UsageError):
        kv_types("")



@pytest.mark.parametrize(
    ("program", "not_possible", "words"),
    [
        ("lmstudio", {"sidecar"}, "LM Studio takes no block in a file of its own"),
        ("ollama", {"bundled_off", "bundled_on", "sidecar", "shards"}, "there is nothing to write for ollama"),
        ("ik", {"sidecar"}, "ik_llama.cpp refuses a sidecar of 'qwen35' up to"),
        ("llama.cpp", set(), ""),
    ],
)
def test_only_setups_that_a_program_takes(program: str, not_possible: set[str], words: str) -> None:
    found = nextn.plan(Q4, donor=CHECKPOINT, header_only=True, for_engine=program).to_json()
    barred = {setup["id"]: setup["why_not"] for setup in found["setups"] if not setup["available"]}
    assert barred.keys() == not_possible
    assert all(words in why for why in barred.values())


def test_a_bundle_that_is_there_is_of_no_use_to_ollama(tiny_models: TinyModels) -> None:
    found = nextn.plan(tiny_models.bundled, header_only=True, for_engine="ollama").to_json()
    assert {setup["id"] for setup in found["setups"] if setup["available"]} == {"no_mtp"}
    assert "nextn detach" in found["setups"][1]["why_not"]
