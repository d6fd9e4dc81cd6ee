"""Published drafts for a trunk: what is refused and with which words, what is fetched, and what the engine does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drafts import NAME, TRUNK, as_architecture, changed_draft, changed_gguf, made, number, target
from hub_server import HubServer

import nextn
from conftest import CHECKPOINT
from nextn.compat.graphs import graphs
from nextn.engines import Launch, Xllamacpp
from nextn.errors import DonorMismatch, FormatError, NextnError, UnsupportedFormat, UnsupportedModel, UsageError
from nextn.gguf.files import open_model
from tiny_drafts import DRAFTS, make_draft

Tensors = dict[str, "np.ndarray[Any, Any]"]


def test_it_goes_beside_its_trunk_under_the_name_that_llama_cpp_looks_for(tmp_path: Path) -> None:
    names = [made(kind, tmp_path).name for kind in ("eagle3-specforge", "dflash", "dspark")]
    assert names == [f"{mark}-tiny-qwen35-Q8_0.gguf" for mark in ("eagle3", "dflash", "dspark")]
    assert {path.name for path in tmp_path.glob("*.gguf")} == {NAME, *names}


def test_a_dry_run_writes_nothing_and_says_the_size(tmp_path: Path) -> None:
    source, trunk = make_draft("dspark-speculators", tmp_path / "d"), target(tmp_path)
    planned = nextn.extract(source, for_trunk=trunk, dry_run=True)
    assert not list(tmp_path.glob("dspark-*"))
    written = nextn.extract(source, for_trunk=trunk)
    assert planned.bytes_written == written.bytes_written == written.entry.stat().st_size


@pytest.mark.parametrize(("flag", "value"), [("block_only", True), ("qkv", "split"), ("for_engine", "ik")])
def test_options_of_blocks(flag: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is for MTP blocks, --for-trunk for other drafts"):
        nextn.extract(make_draft("dflash", tmp_path), for_trunk=TRUNK, **{flag: value})


@pytest.mark.parametrize("kind", ["eagle3-specforge", "eagle3-speculators", "dflash", "dspark"])
def test_without_a_trunk_it_says_what_is_needed(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"draft, a model of its own .* --for-trunk MODEL.gguf"):
        nextn.extract(make_draft(kind, tmp_path))


def test_something_else_than_a_published_draft(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this is a checkpoint of another kind; leave it out"):
        nextn.extract(CHECKPOINT, for_trunk=TRUNK)
    with pytest.raises(UsageError, match="this is a GGUF already; leave it out"):
        nextn.extract(made("dflash", tmp_path), for_trunk=TRUNK)
    with pytest.raises(UsageError, match="--for-trunk needs a GGUF"):
        nextn.extract(make_draft("dflash", tmp_path / "d"), for_trunk=CHECKPOINT)


def test_a_target_without_taps(tmp_path: Path) -> None:
    trunk = as_architecture(TRUNK, tmp_path / "t.gguf", "gemma3")
    assert graphs().has_taps("gemma3") is False
    with pytest.raises(UnsupportedModel, match="'gemma3' hands no layer inputs to a draft, so llama"):
        nextn.extract(make_draft("eagle3-specforge", tmp_path / "d"), for_trunk=trunk)


def _wider(tensors: Tensors) -> None:
    tensors["fc.weight"] = np.zeros((256, 3 * 512), tensors["fc.weight"].dtype)


def _double(tensors: Tensors) -> None:
    tensors["d2t"][1] = tensors["d2t"][0] - 1


def _beyond(tensors: Tensors) -> None:
    tensors["d2t"][-1] = 2048


CASES: list[tuple[str, dict[str, Any] | None, Any, type[NextnError], str]] = [
    ("eagle3-specforge", {"target_hidden_size": 512}, _wider, DonorMismatch,
     "made for a hidden size of 512, but the model's is 256"),
    ("eagle3-specforge", {"eagle_aux_hidden_state_layer_ids": [1, 2, 9]}, None, DonorMismatch,
     "reads the inputs of layers 1, 2, 9, but the model has layers 0 to 3"),
    ("eagle3-specforge", {"eagle_aux_hidden_state_layer_ids": [1, 2]}, None, DonorMismatch,
     "engines demand 3 target layers of EAGLE-3 drafts, and it has 2"),
    ("eagle3-specforge", {"eagle_aux_hidden_state_layer_ids": "x"}, None, FormatError, "not a list of layer numbers"),
    ("dflash", {"dflash_config": {"target_layer_ids": [1, 2, 3], "mask_token_id": 5}}, None, DonorMismatch,
     "layers are counted one too high"),
    ("dflash", {"dflash_config": {"target_layer_ids": [0, 1, 2]}}, None, FormatError, "'mask_token_id' is missing"),
    ("dflash", {"dflash_config": {"mask_token_id": 5}}, None, FormatError, "'target_layer_ids' is missing"),
    ("dflash", {"dflash_config": 5}, None, FormatError, "'dflash_config' is not a JSON object"),
    ("dflash", {"rope_is_neox_style": False}, None, UnsupportedModel, "rotated in neighbouring pairs"),
    ("dspark", {"markov_head_type": "gated"}, None, UnsupportedModel, "Markov head is 'gated'"),
    ("eagle3-specforge", None, lambda t: t.pop("d2t"), FormatError, "'draft_vocab_size' is 256 of 2,048 tokens"),
    ("eagle3-specforge", None, _double, FormatError, "maps two tokens of the draft to the same token"),
    ("eagle3-specforge", None, _beyond, FormatError, "maps 1 of 256 tokens to none of the target's 2,048"),
    ("eagle3-specforge", None, lambda t: t.pop("midlayer.hidden_norm.weight"), FormatError,
     "the draft is incomplete: 'layers.0.hidden_norm.weight' is missing"),
    ("eagle3-specforge", None, lambda t: t.pop("lm_head.weight"), FormatError, "but no head"),
    ("eagle3-specforge", None, lambda t: t.update({"midlayer.self_attn.q_proj.bias": t["norm.weight"]}),
     UnsupportedFormat, "1 tensor that nextn does not know, such as 'midlayer.self_attn.q_proj.bias'"),
    ("eagle3-speculators", {"norm_before_fc": False}, None, FormatError, "says nothing about it .'norm_before_fc'"),
    ("dflash", {"num_hidden_layers": 3}, None, FormatError, "the layers do not fit 'num_hidden_layers' .3."),
    ("dflash", {"intermediate_size": 96}, None, FormatError, "does not have the shape that config.json and the trunk"),
    ("dflash", {"architectures": ["Gemma4DSparkModel"]}, None, UnsupportedModel, "that nextn does not convert"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config", "change", "error", "words"), CASES, ids=[case[4][:40] for case in CASES])
def test_what_does_not_fit(
    kind: str, config: dict[str, Any] | None, change: Any, error: type[NextnError], words: str, tmp_path: Path
) -> None:
    source, trunk = changed_draft(kind, tmp_path / "d", config, change), target(tmp_path)
    with pytest.raises(error, match=words) as caught:
        nextn.extract(source, for_trunk=trunk)
    assert str(caught.value).startswith(str(tmp_path))
    assert not list(tmp_path.glob("*-tiny*.gguf"))


def test_layers_by_specforges_own_key_are_counted_as_inputs(tmp_path: Path) -> None:
    nested = {"eagle_aux_hidden_state_layer_ids": None, "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 1, 2]}}
    result = nextn.extract(changed_draft("eagle3-specforge", tmp_path / "d", nested), for_trunk=target(tmp_path))
    assert open_model(result.entry).arch_value("target_layers") == [1, 2, 3]
    assert any("'eagle_config', counted as inputs" in note for note in result.plan.notes)


def test_a_target_with_fewer_tokens(tmp_path: Path) -> None:
    source = changed_draft("eagle3-llama", tmp_path / "d", {"vocab_size": 4096, "draft_vocab_size": 4096})
    with pytest.raises(DonorMismatch, match="made for a vocabulary of 4,096 tokens, but the model's has 2,048"):
        nextn.extract(source, for_trunk=TRUNK, out=tmp_path)


def test_another_tokenizer_of_the_same_size(tmp_path: Path) -> None:
    source = make_draft("eagle3-specforge", tmp_path / "d")
    tokenizer = json.loads((CHECKPOINT / "tokenizer.json").read_text())
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    nextn.extract(source, for_trunk=TRUNK, out=tmp_path / "same", dry_run=True)
    vocab = tokenizer["model"]["vocab"]
    first, second = list(vocab)[300:302]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(DonorMismatch, match="the tokenizers differ in 2 of 2,048 tokens"):
        nextn.extract(source, for_trunk=TRUNK, out=tmp_path / "other")


def test_a_mask_token_of_its_own_is_refused(tmp_path: Path) -> None:
    source = make_draft("dflash", tmp_path / "d")
    (source / "mask_embedding.pt").write_bytes(b"torch")
    with pytest.raises(UnsupportedFormat, match="its mask token has an embedding of its own"):
        nextn.extract(source, for_trunk=TRUNK, out=tmp_path)


def test_only_what_is_needed_is_fetched(
    hub: HubServer, run_nextn: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    def fat(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = np.zeros((2048, 256), tensors["norm.weight"].dtype)

    source = changed_draft("dspark", tmp_path / "d", None, fat)  # a head that its GGUF leaves out
    hub.add_folder("org/draft", source)
    done = run_nextn("extract", "org/draft", "--for-trunk", target(tmp_path), "--type", "bf16")
    assert done.returncode == 0, done.stderr
    here = nextn.extract(source, for_trunk=tmp_path / NAME, type="bf16", out=tmp_path / "here")
    there, own = open_model(tmp_path / "dspark-tiny-qwen35-BF16.gguf"), open_model(here.entry)
    assert {name: info for name, (_, info) in there.tensors.items()} == {n: i for n, (_, i) in own.tensors.items()}
    assert hub.file_bytes() < (source / "model.safetensors").stat().st_size - 2048 * 256 * 2 + 64 * 1024


def test_a_trunk_of_another_width(tmp_path: Path) -> None:
    trunk = changed_gguf(TRUNK, tmp_path / "t.gguf", [number("qwen35.embedding_length", 128)])
    with pytest.raises(DonorMismatch, match="the model's is 128"):
        nextn.extract(make_draft("dflash", tmp_path / "d"), for_trunk=trunk)


@pytest.mark.engine
@pytest.mark.parametrize("kind", DRAFTS)
def test_the_engine_drafts_with_it_and_the_text_is_the_same(
    kind: str, xllamacpp_engine: Xllamacpp, tmp_path: Path
) -> None:
    sidecar = made(kind, tmp_path)
    answers = []
    for launch in (
        Launch(tmp_path / NAME, n_ctx=256, threads=1), Launch(tmp_path / NAME, sidecar, n_max=3, n_ctx=256, threads=1)
    ):  # fmt: skip
        with xllamacpp_engine.start(launch) as running:
            answers.append(running.complete("def read(self):\n", 32))
    off, on = answers
    assert on.tokens == off.tokens
    assert on.draft_n > 0 and off.draft_n == 0
