"""A sidecar made from a checkpoint alone equals what llama.cpp's own converter writes with `--mtp`."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from described import described, stored_sha256

import nextn
from conftest import CHECKPOINT, DATA
from nextn.archs import FAMILIES
from nextn.errors import FormatError, UnsupportedFormat, UsageError
from nextn.gguf.files import open_model
from nextn.gguf.kv import KVType

GOLDENS = sorted(path.stem for path in (DATA / "goldens").glob("*-*.json"))
# Names that the converter guesses from folders; and the pre-tokenizer, which it was told when the goldens were made.
NAMING = ("general.name", "general.size_label", "general.basename", "general.finetune", "general.version")
TOLD = "tokenizer.ggml.pre"
Edit = Callable[[dict[str, Any]], Any]


def load(stem: str) -> dict[str, Any]:
    return json.loads((DATA / "goldens" / f"{stem}.json").read_text())


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """The trained checkpoint with JSON files changed; None takes a file away."""

    def make(**edits: Edit | None) -> Path:
        folder = tmp_path / "edited"
        folder.mkdir()
        for path in CHECKPOINT.iterdir():
            if path.suffix == ".safetensors":
                (folder / path.name).symlink_to(path)
            else:
                shutil.copyfile(path, folder / path.name)
        for name, edit in edits.items():
            path = folder / f"{name}.json"
            if edit is None:
                path.unlink()
                continue
            data = json.loads(path.read_text())
            edit(data)
            path.write_text(json.dumps(data))
        return folder

    return make


@pytest.mark.parametrize("stem", GOLDENS)
def test_the_sidecar_equals_the_upstream_converters(
    stem: str, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    golden, kind = load(stem), stem.rpartition("-")[2]
    made = nextn.extract(checkpoints(golden["model"]), type=kind, embd_type=kind, out=tmp_path / "mtp-x.gguf")
    model = open_model(made.entry)

    kvs = {kv.key: described(kv) for kv in model.kvs if not kv.key.startswith("nextn.") and kv.key not in NAMING}
    wanted = {key: entry for key, entry in golden["mtp"]["kv"].items() if key not in NAMING}
    assert kvs.pop(TOLD) == ["str", "qwen2"]  # what the regular expression in tokenizer.json says
    assert wanted.pop(TOLD)[0] == "str"
    assert kvs == wanted

    tensors = {
        name: [info.type_name.upper(), list(info.ne), stored_sha256(model, name)]
        for name, (_, info) in model.tensors.items()
    }
    assert tensors == golden["mtp"]["tensors"]


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", "BF16"), ("f16", "F16"), ("f32", "F32")])
def test_embeddings_as_they_are_and_the_block_in_q8_0_by_default(
    dtype: str, kind: str, checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    made = nextn.extract(checkpoints(f"qwen35-dense-{dtype}"), embd_type="as-is", out=tmp_path)
    assert made.entry.name == "mtp-qwen35-dense-Q8_0.gguf"
    model = open_model(made.entry)
    types = {name: info.type_name.upper() for name, (_, info) in model.tensors.items()}
    assert types["token_embd.weight"] == types["output.weight"] == kind
    assert types["output_norm.weight"] == "F32"
    assert types["blk.4.nextn.eh_proj.weight"] == "Q8_0"
    assert model.header.get("general.file_type") == 7
    same = load(f"qwen35-dense-{dtype}-{dtype}")["mtp"]["tensors"]
    for name in ("token_embd.weight", "output_norm.weight", "output.weight"):
        assert stored_sha256(model, name) == same[name][2], name


def test_a_low_bit_embedding_leaves_the_block_alone(tmp_path: Path) -> None:
    made = nextn.extract(CHECKPOINT, embd_type="q4_0", out=tmp_path)
    model = open_model(made.entry)
    assert model.tensors["token_embd.weight"][1].type_name.lower() == "q4_0"
    assert "output.weight" not in model.tensors  # tied
    block = {
        name: entry for name, entry in load("tiny-qwen35-mtp-q8_0")["mtp"]["tensors"].items() if name[:4] == "blk."
    }
    assert {name: stored_sha256(model, name) for name in block} == {name: entry[2] for name, entry in block.items()}


def test_only_what_is_written_is_read(tmp_path: Path) -> None:
    plan = nextn.extract(CHECKPOINT, out=tmp_path, dry_run=True).plan
    done = nextn.extract(CHECKPOINT, out=tmp_path)
    assert done.bytes_read == plan.bytes_read < (CHECKPOINT / "model.safetensors").stat().st_size / 2
    assert done.entry.stat().st_size == plan.bytes_written
    assert set(done.files) == {done.entry} == {done.sidecar}


@pytest.mark.parametrize(
    "key",
    ["hidden_size", "intermediate_size", "num_attention_heads", "rms_norm_eps", "linear_key_head_dim"],
)
def test_a_missing_key_is_named_with_its_file(key: str, edited: Callable[..., Path], tmp_path: Path) -> None:
    folder = edited(config=lambda config: config.pop(key))
    with pytest.raises(FormatError, match=f"'{key}' (or '.*' )?is missing") as caught:
        nextn.extract(folder, out=tmp_path / "out")
    assert caught.value.path == folder / "config.json"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["256", 256.5, True, -1, 1 << 32, [256]])
def test_a_value_of_the_wrong_kind_is_refused(value: Any, edited: Callable[..., Path], tmp_path: Path) -> None:
    folder = edited(config=lambda config: config.update(num_attention_heads=value))
    with pytest.raises(FormatError, match="'num_attention_heads'"):
        nextn.extract(folder, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "value"), [("num_hidden_layers", 10**12), ("num_hidden_layers", 0), ("vocab_size", 10**12)]
)
def test_absurd_sizes_cost_nothing(key: str, value: int, edited: Callable[..., Path], tmp_path: Path) -> None:
    folder = edited(config=lambda config: (config.pop("layer_types"), config.update({key: value})))
    with pytest.raises(FormatError, match=f"'{key}' is"):
        nextn.extract(folder, out=tmp_path / "out")


def test_a_layer_list_of_the_wrong_length_is_refused(edited: Callable[..., Path], tmp_path: Path) -> None:
    folder = edited(config=lambda config: config["layer_types"].pop())
    with pytest.raises(FormatError, match="'layer_types' has the wrong length"):
        nextn.extract(folder, out=tmp_path / "out")


def header_of(folder: Path, out: Path) -> dict[str, Any]:
    return {kv.key: kv.value for kv in open_model(nextn.extract(folder, out=out).entry).kvs}


def test_layers_without_a_list_follow_the_interval(edited: Callable[..., Path], tmp_path: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        del config["layer_types"]
        config["full_attention_interval"] = 2

    header = header_of(edited(config=edit), tmp_path)
    assert header["qwen35.attention.recurrent_layers"] == [True, False, True, False, False]
    assert header["qwen35.full_attention_interval"] == 2


def test_scaled_positions_are_written_and_unknown_scalings_refused(edited: Callable[..., Path], tmp_path: Path) -> None:
    scaled = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 512, "beta_fast": 32}
    folder = edited(config=lambda config: config["rope_parameters"].update(scaled))
    header = header_of(folder, tmp_path)
    assert {key: value for key, value in header.items() if ".rope.scaling." in key} == {
        "qwen35.rope.scaling.type": "yarn",
        "qwen35.rope.scaling.factor": 4.0,
        "qwen35.rope.scaling.original_context_length": 512,
        "qwen35.rope.scaling.yarn_beta_fast": 32.0,
    }
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_type"] = "longrope"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedFormat, match="'longrope'"):
        nextn.extract(folder, out=tmp_path / "second")


def test_older_configs_hold_rope_beside_one_another(edited: Callable[..., Path], tmp_path: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        del config["rope_parameters"]
        config.update(rope_theta=5e6, partial_rotary_factor=0.5)

    header = header_of(edited(config=edit), tmp_path)
    assert header["qwen35.rope.freq_base"] == 5e6
    assert header["qwen35.rope.dimension_count"] == 32
    assert header["qwen35.rope.dimension_sections"] == [11, 11, 10, 0]  # what the loader wants in any case


def test_a_checkpoint_without_a_tokenizer_is_pointed_to_attach(edited: Callable[..., Path], tmp_path: Path) -> None:
    folder = edited(tokenizer=None)
    with pytest.raises(UsageError, match=r"nextn attach TRUNK --from .* --layout sidecar"):
        nextn.extract(folder, out=tmp_path / "out")


def test_embeddings_that_do_not_fit_the_config_are_refused(edited: Callable[..., Path], tmp_path: Path) -> None:
    folder = edited(config=lambda config: config.update(vocab_size=2049))
    with pytest.raises(FormatError, match=r"does not fit config\.json"):
        nextn.extract(folder, out=tmp_path / "out")


def test_an_untied_model_without_a_head_is_refused(edited: Callable[..., Path], tmp_path: Path) -> None:
    folder = edited(config=lambda config: config.update(tie_word_embeddings=False))
    with pytest.raises(FormatError, match="there is no head"):
        nextn.extract(folder, out=tmp_path / "out")


def test_a_checkpoint_without_embeddings_is_refused(tmp_path: Path, edited: Callable[..., Path]) -> None:
    folder = edited()
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    table = data[8 : 8 + length].replace(b'"model.embed_tokens.weight"', b'"model.embed_tokenz.weight"')
    assert table != data[8 : 8 + length]
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(data[:8] + table + data[8 + length :])
    with pytest.raises(FormatError, match=r"'model.embed_tokens.weight' is missing"):
        nextn.extract(folder, out=tmp_path / "out")


def test_every_table_names_each_key_once() -> None:
    tables = {arch: family.header.rows for arch, family in FAMILIES.items() if family.header is not None}
    assert len(tables) >= 15
    for arch, rows in tables.items():
        keys = [row.suffix for row in rows]
        assert len(keys) == len(set(keys)), arch
        assert all((row.type is KVType.ARRAY) == (row.item_type is not None) for row in rows), arch
