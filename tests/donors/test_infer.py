"""The donor that a trunk's own metadata names: what is guessed, what headers confirm, and when it is asked instead."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from ggufmaker import KV, arch_kvs, make, root_tensors, trunk_tensors

from conftest import CHECKPOINT, Q4
from nextn.donors.infer import (
    Confirmation,
    Guess,
    Headers,
    Strength,
    checkpoint_name,
    confirm,
    decide,
    find_donor,
    infer_donors,
    repo_of,
)
from nextn.errors import NoBlock, UsageError
from nextn.gguf.files import Model, open_model
from nextn.sources.checkpoint import open_checkpoint

HF = "https://huggingface.co/"


def trunk(folder: Path, *more: KV, name: str = "model.gguf", arch: str = "qwen35") -> Model:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make([*arch_kvs(2, arch=arch), *more], [*root_tensors(), *trunk_tensors(2)]).whole)
    return open_model(path)


def base(url: str, index: int = 0) -> list[KV]:
    return [("general.base_model.count", "u32", index + 1), (f"general.base_model.{index}.repo_url", "str", url)]


def strengths(model: Model) -> dict[str, Strength]:
    return {guess.repo: guess.strength for guess in infer_donors(model)}


# -- guesses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kvs", "name", "repo", "strength"),
    [
        ([("general.source.huggingface.repository", "str", "Qwen/Qwen3.6-27B")], "m.gguf", "Qwen/Qwen3.6-27B", 4),
        ([("general.source.repo_url", "str", HF + "Qwen/Qwen3.6-27B/tree/main")], "m.gguf", "Qwen/Qwen3.6-27B", 4),
        ([("general.source.url", "str", "https://hf.co/Qwen/Qwen3.6-27B")], "m.gguf", "Qwen/Qwen3.6-27B", 4),
        ([("general.repo_url", "str", HF + "Qwen/Qwen3.6-27B")], "m.gguf", "Qwen/Qwen3.6-27B", 4),
        # a quant repository: the checkpoint that it was made from
        ([("general.repo_url", "str", HF + "me/Nice-7B-i1-GGUF")], "m.gguf", "me/Nice-7B", 3),
        ([("general.repo_url", "str", HF + "bart/Qwen_Qwen3.6-27B-GGUF")], "m.gguf", "Qwen/Qwen3.6-27B", 3),
        ([("general.license.link", "str", HF + "Qwen/Qwen3.6-27B/blob/main/LICENSE")], "m.gguf", "Qwen/Qwen3.6-27B", 3),
        # a base model of the same name is the checkpoint; of another name, what was fine-tuned
        ([*base(HF + "Qwen/Qwen3.6-27B"), ("general.name", "str", "Qwen3.6 27B")], "m.gguf", "Qwen/Qwen3.6-27B", 4),
        (base(HF + "Qwen/Qwen3.6-27B"), "Qwen3.6-27B-UD-Q4_K_XL.gguf", "Qwen/Qwen3.6-27B", 4),
        ([*base(HF + "Qwen/Qwen3.6-27B"), ("general.name", "str", "Mytune")], "m.gguf", "Qwen/Qwen3.6-27B", 1),
        ([("general.base_model.count", "u32", 1), ("general.base_model.0.organization", "str", "Qwen"),
          ("general.base_model.0.name", "str", "Qwen3.6 27B")], "Qwen3.6-27B-Q4_K_M.gguf", "Qwen/Qwen3.6-27B", 4),
        # names alone
        ([("general.basename", "str", "Qwen3.6"), ("general.size_label", "str", "27B")], "m.gguf",
         "Qwen/Qwen3.6-27B", 2),
        ([("general.basename", "str", "Q"), ("general.size_label", "str", "2B"),
          ("general.finetune", "str", "Instruct"), ("general.organization", "str", "Some Org")], "m.gguf",
         "Some-Org/Q-2B-Instruct", 2),
        ([], "Qwen3.6-27B-Q4_K_M.gguf", "Qwen/Qwen3.6-27B", 2),
        ([], "Qwen3.6-27B-MTP-Q4_K_M-00001-of-00001.gguf", "Qwen/Qwen3.6-27B", 2),
        ([], "models--unsloth--Qwen3.6-27B-GGUF/snapshots/abc/m.gguf", "unsloth/Qwen3.6-27B", 3),
    ],
)  # fmt: skip
def test_what_metadata_names(kvs: Sequence[KV], name: str, repo: str, strength: int, tmp_path: Path) -> None:
    if "-of-" in name:
        kvs = [*kvs, ("split.count", "u16", 1)]
    assert strengths(trunk(tmp_path, *kvs, name=name)).get(repo) == strength


def test_the_surest_stands_first_and_each_once(tmp_path: Path) -> None:
    model = trunk(
        tmp_path, *base(HF + "Qwen/Qwen3.6-27B"), ("general.name", "str", "Qwen3.6-27B"),
        ("general.repo_url", "str", HF + "unsloth/Qwen3.6-27B-GGUF"), name="Qwen3.6-27B-Q4_K_M.gguf",
    )  # fmt: skip
    guesses = infer_donors(model)
    assert [(guess.repo, guess.strength) for guess in guesses] == [
        ("Qwen/Qwen3.6-27B", Strength.STATED), ("unsloth/Qwen3.6-27B", Strength.DERIVED)
    ]  # fmt: skip
    assert guesses[0].why == "general.base_model.0 names it"
    assert guesses[1].why == "general.repo_url names unsloth/Qwen3.6-27B-GGUF, a quant of it"


def test_metadata_of_the_wrong_type_or_host_names_nothing(tmp_path: Path) -> None:
    model = trunk(
        tmp_path, ("general.source.url", "u32", 7), ("general.repo_url", "str", HF + "unsloth"),
        ("general.source.repo_url", "str", "https://example.org/Qwen/Qwen3.6-27B"),
        ("general.base_model.count", "str", "many"), ("general.license.link", "str", HF + "datasets/a/b"), arch="other",
    )  # fmt: skip
    assert infer_donors(model) == []


@pytest.mark.parametrize(
    ("text", "repo"),
    [
        ("Qwen/X", "Qwen/X"), ("hf:Qwen/X", "Qwen/X"), (HF + "Qwen/X", "Qwen/X"), (HF + "Qwen/X/blob/main/L", "Qwen/X"),
        (HF + "Qwen", None), ("https://evil.example/huggingface.co/Qwen/X", None), ("../x", None), ("a/../b", None),
        ("file:///Qwen/X", None), (None, None), (HF + "spaces/a/b", None), ("a/b/c", None),
    ],
)  # fmt: skip
def test_repo_of(text: object, repo: str | None) -> None:
    assert repo_of(text) == repo


def test_checkpoint_name() -> None:
    for name in ("A-27B-GGUF", "A-27B-i1-GGUF", "A-27B-FP8", "A-27B-MTP-GGUF", "A-27B-UD-Q4_K_XL", "A-27B-AWQ-4bit"):
        assert checkpoint_name(name) == "A-27B"
    assert checkpoint_name("A-27B-Instruct") == "A-27B-Instruct"


# -- headers --------------------------------------------------------------------------------------------------------

GUESS = Guess("Qwen/tiny", "general.repo_url names it", Strength.STATED)


def headers(**change: object) -> Headers:
    """What would be read of the checkpoint that the demo's trunk was made from."""
    checkpoint = open_checkpoint(CHECKPOINT)
    config = {**json.loads((CHECKPOINT / "config.json").read_text()), **change}
    return Headers(config, set(checkpoint.weight_map), checkpoint.vocabulary)


def test_the_checkpoint_itself_is_confirmed() -> None:
    found = confirm(open_model(Q4), GUESS, headers())
    assert found.fits
    assert found.reason.startswith("architecture, hidden size, vocabulary, layers, ")
    assert "more sizes" in found.reason and found.reason.endswith(" and tokens agree, and it has the block")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 512}, "its hidden size is 512, the trunk's 256"),
        ({"vocab_size": 4096}, "its vocabulary is 4,096, the trunk's 2,048"),
        ({"num_hidden_layers": 8}, "its number of trunk layers is 8, the trunk's 4"),
        ({"intermediate_size": 1024}, "'feed_forward_length' is 1024"),
        ({"num_key_value_heads": 1}, "'attention.head_count_kv' is 1"),
        ({"architectures": ["Qwen3NextForCausalLM"]}, "'qwen3next', the trunk's 'qwen35'"),
        ({"architectures": ["LlamaForCausalLM"]}, "model class is LlamaForCausalLM"),
        ({"architectures": None}, "model class is not named"),
        ({"hidden_size": "wide"}, "'hidden_size' is 'wide', not a whole number"),
        ({"layer_types": ["full_attention"] * 4}, "'attention.recurrent_layers'"),
    ],
)
def test_a_number_that_differs_refuses(change: dict, words: str) -> None:
    found = confirm(open_model(Q4), GUESS, headers(**change))
    assert not found.fits and words in found.reason


def test_fine_tunes_may_change_what_is_no_size() -> None:
    assert confirm(open_model(Q4), GUESS, headers(max_position_embeddings=7, rms_norm_eps=1e-5)).fits


def test_a_nested_text_config_counts() -> None:
    whole = headers()
    nested = Headers({"architectures": whole.config["architectures"], "text_config": whole.config})
    assert confirm(open_model(Q4), GUESS, nested).fits


def test_a_lost_block_other_tokens_or_no_checkpoint_refuse() -> None:
    model, whole = open_model(Q4), headers()
    assert whole.tensor_names is not None and whole.vocabulary is not None
    lost = Headers(whole.config, {name for name in whole.tensor_names if not name.startswith("mtp.")})
    assert "no MTP block" in confirm(model, GUESS, lost).reason
    tokens = {**whole.vocabulary, 300: "something else"}
    assert "tokenizers differ in 1 of" in confirm(model, GUESS, Headers(whole.config, None, tokens)).reason
    assert not confirm(model, GUESS, None).fits


# -- decisions ------------------------------------------------------------------------------------------------------


def seen(repo: str, strength: Strength, fits: bool = True, reason: str = "all agree") -> Confirmation:
    return Confirmation(Guess(repo, f"why {repo}", strength), fits, reason)


def test_the_surest_that_fits_is_taken_and_said_why() -> None:
    model = open_model(Q4)
    made = decide(model, [seen("a/own", Strength.STATED), seen("b/base", Strength.BASE)])
    assert made.guess.repo == "a/own"
    assert made.sentence == f"{Q4.name}: the donor is a/own: why a/own; all agree."
    made = decide(model, [seen("a/own", Strength.STATED, False, "it has no MTP block"), seen("b/base", Strength.BASE)])
    assert made.guess.repo == "b/base"
    assert made.sentence.endswith("; a/own was skipped: it has no MTP block.")


def test_doubt_is_a_question() -> None:
    model = open_model(Q4)
    with pytest.raises(UsageError, match=r"2 checkpoints .* a/x \(why a/x\); b/x \(why b/x\); name one with --from"):
        decide(model, [seen("a/x", Strength.BASE), seen("b/x", Strength.BASE), seen("c/x", Strength.STATED, False)])
    with pytest.raises(NoBlock, match=r"a/x: it is too large; b/x: gone\); name one with --from"):
        lacking = [seen("a/x", Strength.STATED, False, "it is too large"), seen("b/x", Strength.BASE, False, "gone")]
        decide(model, lacking)
    with pytest.raises(NoBlock, match="names no repository"):
        decide(model, [])


def test_less_sure_guesses_are_not_asked_for_in_vain(tmp_path: Path) -> None:
    path = tmp_path / "models--me--tiny-GGUF" / "tiny-Q4_K_M.gguf"
    path.parent.mkdir()
    path.symlink_to(Q4)
    asked: list[str] = []

    def read(repo: str, there: frozenset[str]) -> Headers | None:
        asked.append(repo)
        return headers() if repo in there else None

    made = find_donor(open_model(path), lambda repo: read(repo, frozenset({"me/tiny"})))
    assert made.guess.repo == "me/tiny" and asked == ["me/tiny"]
    asked.clear()
    made = find_donor(open_model(path), lambda repo: read(repo, frozenset({"Qwen/tiny"})))
    assert made.guess.repo == "Qwen/tiny" and asked == ["me/tiny", "Qwen/tiny"]
    assert "me/tiny was skipped: there is no such checkpoint" in made.sentence
    with pytest.raises(NoBlock, match="name one with --from"):
        find_donor(open_model(path), lambda repo: None)


def test_a_hash_is_no_name(tmp_path: Path) -> None:
    name = "sha256-" + "ab" * 32
    assert infer_donors(trunk(tmp_path / "blobs", name=name)) == []
    assert all("sha256" not in guess.repo for guess in infer_donors(trunk(
        tmp_path / "blobs", ("general.name", "str", "Qwen3.6-27B"), name=name
    )))  # fmt: skip
    assert infer_donors(trunk(tmp_path, name="Qwen3.6-27B.gguf")) != []
