"""What speculators is to read: the dataset, the hidden states, the trunk's matrices.

scripts/check_speculators.py reads an export with its own dataset class.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from trained import N_EMBD, TOP_K, answer

from conftest import Q4, need
from nextn.errors import OutputExists, UsageError
from nextn.ggml.quantize import dequantize
from nextn.gguf.files import open_model
from nextn.sources.safetensors import read_safetensors
from nextn.training.answers import WrittenAnswer
from nextn.training.export import check_export, export, export_taps, trunk_config
from nextn.training.states import States, StatesFolder, StatesManifest, Trunk

TAPS = export_taps((1, 2, 3), 4)


@pytest.fixture(autouse=True)
def arrow() -> None:
    need("pyarrow", importlib.util.find_spec("pyarrow") is not None)


def states(folder: Path, taps: tuple[int, ...] = TAPS) -> tuple[States, list[WrittenAnswer]]:
    folder.mkdir()
    wanted = StatesManifest(
        Trunk("tiny", 1, "ab" * 32), "qwen35", N_EMBD, 2048, list(taps), False, "engine", None, "xllamacpp", 0, TOP_K,
        16, 0.0, 1.0, {"sha256": ""},
    )  # fmt: skip
    made = StatesFolder.start(folder, wanted)
    sizes = ((3, 9), (5, 5), (4, 20), (2, 6))
    texts = [answer(number, n_prompt, n, len(taps)) for number, (n_prompt, n) in enumerate(sizes)]
    made.add(0, "fit", texts[:2], 1.0)
    made.add(0, "held", texts[3:], 1.0)
    made.add(2, "fit", texts[2:3], 1.0)
    return States.open(folder), [texts[0], texts[2], texts[3]]  # the second has no answer; held-out ones come last


def test_the_format(tmp_path: Path) -> None:
    import pyarrow as pa

    trunk = open_model(Q4)
    given, texts = states(tmp_path / "states")
    made = export(trunk, given, tmp_path / "new" / "out", lambda text: None)
    assert (made.n_texts, made.n_tokens) == (3, 35) and made.n_bytes > 0
    data = tmp_path / "new" / "out" / "data"
    assert json.loads((data / "state.json").read_text())["_format_type"] == "torch"
    features = json.loads((data / "dataset_info.json").read_text())["features"]
    assert list(features) == ["input_ids", "loss_mask", "seq_len"]
    with pa.memory_map(str(data / "data-00000-of-00001.arrow")) as file, pa.ipc.open_stream(file) as stream:
        rows = stream.read_all().to_pylist()
    for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
        assert row["input_ids"] == text.ids.tolist() and row["seq_len"] == text.n_tokens
        assert row["loss_mask"] == [0] * text.n_prompt + [1] * (text.n_tokens - text.n_prompt)
        found = read_safetensors(data / "hidden_states" / f"hs_{number}.safetensors")
        assert (found["token_ids"].dtype, found["token_ids"].shape) == ("I64", (text.n_tokens,))
        hidden = found["hidden_states"]
        assert (hidden.dtype, hidden.shape) == ("F16", (text.n_tokens, 4, N_EMBD))
        stored = np.fromfile(hidden.where.path, "<f2", offset=hidden.where.start, count=text.features.size)
        assert np.array_equal(stored.reshape(text.features.shape), text.features)
    assert not list((tmp_path / "new").glob("nextn-export*"))
    words = list(made.command)
    assert words[words.index("--target-layer-ids") + 1 :] == ["1", "2", "3"] and "--norm-before-fc" in words


def test_the_trunks_matrices(tmp_path: Path) -> None:
    trunk = open_model(Q4)
    given, _ = states(tmp_path / "states")
    folder = export(trunk, given, tmp_path / "out", lambda text: None).folder / "trunk"
    found = read_safetensors(folder / "model.safetensors")
    assert set(found) == {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    pairs = (("model.embed_tokens.weight", "token_embd.weight"), ("model.norm.weight", "output_norm.weight"))
    for name, source in pairs:
        file, info = trunk.tensors[source]
        start, end = file.tensor_range(info)
        with file.path.open("rb") as stream:
            stream.seek(start)
            data = stream.read(end - start)
        assert info.type is not None
        wanted = dequantize(data, info.type, info.ne[0])
        stored = np.fromfile(found[name].where.path, "<f4", offset=found[name].where.start, count=wanted.size)
        assert np.array_equal(stored, wanted.reshape(-1)) and found[name].shape == tuple(reversed(info.ne))
    config = json.loads((folder / "config.json").read_text())
    assert config == trunk_config(trunk)
    assert (config["hidden_size"], config["vocab_size"], config["num_hidden_layers"]) == (256, 2048, 4)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    given, _ = states(tmp_path / "states", (1, 2, 3))
    with pytest.raises(UsageError, match="lack what the last layer puts out"):
        export(open_model(Q4), given, tmp_path / "out", lambda text: None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(OutputExists, match="name a new folder"):
        check_export(tmp_path / "full")
