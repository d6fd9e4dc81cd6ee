"""A checkpoint's tokenizer becomes the header pairs that llama.cpp's converter writes.

Expectations on edited tokenizers were taken from that converter (b11434 with transformers 5.23).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import CHECKPOINT, TRUNKS
from nextn.errors import FormatError, NextnError, UnsupportedFormat, UsageError
from nextn.gguf.files import open_model
from nextn.layouts.donor_check import tokens_hash
from nextn.sources.checkpoint import Checkpoint, open_checkpoint
from nextn.sources.tokenizer import CONTROL, NORMAL, UNUSED, USER_DEFINED, Tokenizer, tokenizer_hash

Edit = Callable[[dict[str, Any]], Any]
MARKS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Checkpoint]:
    """The trained checkpoint's JSON files, changed; None takes a file away."""

    def make(**edits: Edit | None) -> Checkpoint:
        for path in CHECKPOINT.glob("*.json"):
            edit = edits.get(path.stem, lambda data: None)
            if edit is None:
                continue
            data = json.loads(path.read_text())
            edit(data)
            (tmp_path / path.name).write_text(json.dumps(data))
        return open_checkpoint(tmp_path)

    return make


def pairs(checkpoint: Checkpoint) -> dict[str, Any]:
    return {kv.key.removeprefix("tokenizer.").removeprefix("ggml."): kv.value for kv in Tokenizer(checkpoint).kvs()}


def added(number: int, content: str, *, special: bool = False, normalized: bool = False) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": number, "content": content, "special": special, "normalized": normalized, **flags}


def replaced(*tokens: dict[str, Any]) -> Edit:
    """The vocabulary's last tokens given up for added ones."""

    def edit(data: dict[str, Any]) -> None:
        gone = {token["id"] for token in tokens}
        data["model"]["vocab"] = {text: n for text, n in data["model"]["vocab"].items() if n not in gone}
        data["added_tokens"] += tokens

    return edit


def test_the_hash_equals_that_of_a_gguf() -> None:
    for name in ("tiny-qwen35-BF16.gguf", "tiny-qwen35-Q8_0.gguf"):
        trunk = open_model(TRUNKS / name)
        checkpoint = open_checkpoint(CHECKPOINT)
        assert Tokenizer(checkpoint).tokens[0] == trunk.header.get("tokenizer.ggml.tokens")
        assert tokenizer_hash(checkpoint) == tokens_hash(trunk) is not None


def test_one_token_changes_the_hash(edited: Callable[..., Checkpoint]) -> None:
    other = edited(tokenizer=replaced(added(2044, "<think>")))
    assert tokenizer_hash(other) not in (None, tokenizer_hash(open_checkpoint(CHECKPOINT)))


def test_the_list_is_filled_up_to_the_models_vocabulary(edited: Callable[..., Checkpoint]) -> None:
    checkpoint = edited(config=lambda config: config.update(vocab_size=2050))
    tokens, types = Tokenizer(checkpoint).tokens
    assert len(tokens) == len(types) == 2050
    assert tokens[2047:] == ["<|im_end|>", "[PAD2048]", "[PAD2049]"]
    assert types[2047:] == [CONTROL, UNUSED, UNUSED]
    assert types[2044] == NORMAL


def test_the_type_of_added_tokens(edited: Callable[..., Checkpoint]) -> None:
    tokens = [
        added(2040, "<think>"),
        added(2041, "<|vision|>"),
        added(2042, "▁x y", normalized=True),
        added(2043, "Ġfoo"),
        added(2044, "aéb"),
    ]
    texts, types = Tokenizer(edited(tokenizer=replaced(*tokens))).tokens
    assert list(zip(texts, types, strict=True))[2040:2045] == [
        ("<think>", USER_DEFINED),
        ("<|vision|>", CONTROL),
        (" x y", USER_DEFINED),
        (" foo", USER_DEFINED),
        ("a\ufffdb", USER_DEFINED),
    ]


def test_tokens_that_the_settings_name_are_special(edited: Callable[..., Checkpoint]) -> None:
    checkpoint = edited(
        tokenizer_config=lambda data: data.update(
            additional_special_tokens=["def"],
            added_tokens_decoder={"2044": {"content": "<tool>", "special": False, "normalized": False}},
        )
    )
    texts, types = Tokenizer(checkpoint).tokens
    assert types[texts.index("def")] == CONTROL
    assert (texts[2044], types[2044]) == ("<tool>", USER_DEFINED)


def test_special_tokens_come_from_the_settings_before_the_config(edited: Callable[..., Checkpoint]) -> None:
    ids = {"eos_token_id": 2045, "bos_token_id": 2045, "pad_token_id": [1, 2]}
    found = pairs(edited(config=lambda config: config.update(ids)))
    assert (found["eos_token_id"], found["padding_token_id"], found["bos_token_id"]) == (2047, 2045, 2045)
    assert "mask_token_id" not in found


def test_ids_may_stand_in_the_nested_config(edited: Callable[..., Checkpoint]) -> None:
    def nest(config: dict[str, Any]) -> None:
        text = dict(config, eos_token_id=2040)
        config.clear()
        config.update(text_config=text, pad_token_id=2041, eos_token_id=None)

    def forget(data: dict[str, Any]) -> None:
        del data["eos_token"], data["pad_token"]

    found = pairs(edited(config=nest, tokenizer_config=forget))
    assert (found["eos_token_id"], found["padding_token_id"]) == (2040, 2041)


def test_what_is_put_around_a_prompt(edited: Callable[..., Checkpoint]) -> None:
    assert {k: v for k, v in pairs(open_checkpoint(CHECKPOINT)).items() if k.startswith("add_")} == {
        "add_bos_token": False
    }
    checkpoint = edited(
        tokenizer=lambda data: data.update(
            post_processor={"type": "Sequence", "processors": [{"type": "ByteLevel", "use_regex": False}]}
        ),
        tokenizer_config=lambda data: data.update(add_eos_token=True),  # the post-processor is what really works
    )
    assert {k: v for k, v in pairs(checkpoint).items() if k.startswith("add_")} == {
        "add_bos_token": False,
        "add_eos_token": False,
    }


def test_both_forms_of_merges_are_one(edited: Callable[..., Checkpoint]) -> None:
    as_pairs = pairs(open_checkpoint(CHECKPOINT))["merges"]
    model_merges = [merge.split(" ") for merge in as_pairs]
    assert len(model_merges) == 1789
    checkpoint = edited(tokenizer=lambda data: data["model"].update(merges=as_pairs))
    assert pairs(checkpoint)["merges"] == as_pairs
    spaced = edited(tokenizer=lambda data: data["model"]["merges"].append(["a ", "b"]))
    assert pairs(spaced)["merges"][-1] == "aĠ b"


def test_chat_templates_in_their_own_files(edited: Callable[..., Checkpoint]) -> None:
    def forget(data: dict[str, Any]) -> None:
        del data["chat_template"]

    checkpoint = edited(tokenizer_config=forget)
    assert "chat_template" not in pairs(checkpoint)
    (checkpoint.folder / "chat_template.json").write_text(json.dumps({"chat_template": "old"}))
    assert pairs(checkpoint)["chat_template"] == "old"
    (checkpoint.folder / "chat_template.jinja").write_text("hé {{x}}\n", encoding="utf-8")
    assert pairs(checkpoint)["chat_template"] == "hé {{x}}\n"
    assert "chat_templates" not in pairs(checkpoint)
    (checkpoint.folder / "additional_chat_templates").mkdir()
    (checkpoint.folder / "additional_chat_templates" / "tool use.jinja").write_text("t")
    found = pairs(checkpoint)
    assert (found["chat_template"], found["chat_template.tool_use"]) == ("hé {{x}}\n", "t")
    assert found["chat_templates"] == ["tool_use"]


def regex(pattern: str) -> Edit:
    return lambda data: data["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=pattern)


def test_the_regular_expression_tells_the_pre_tokenizer(edited: Callable[..., Checkpoint]) -> None:
    assert pairs(open_checkpoint(CHECKPOINT))["pre"] == "qwen2"
    assert pairs(edited(tokenizer=regex(MARKS)))["pre"] == "qwen35"


def split(*patterns: str) -> Edit:
    """A pre-tokenizer of several regular expressions."""

    def edit(data: dict[str, Any]) -> None:
        *_, to_bytes = data["pre_tokenizer"]["pretokenizers"]
        steps = [{"type": "Split", "pattern": {"Regex": x}, "behavior": "Isolated", "invert": False} for x in patterns]
        data["pre_tokenizer"]["pretokenizers"] = [*steps, to_bytes]

    return edit


# As DeepSeek-V3's and GLM-4.5's tokenizer.json have them.
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^RN\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[RN]*"""
    r"""|\s*[RN]+|\s+(?!\S)|\s+""",
)
GLM = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def test_deepseeks_three_expressions_in_their_order(edited: Callable[..., Checkpoint]) -> None:
    patterns = [pattern.replace("RN", "\r\n") for pattern in DEEPSEEK]
    assert pairs(edited(tokenizer=split(*patterns)))["pre"] == "deepseek-v3"
    with pytest.raises(UnsupportedFormat, match="unknown regular expression"):
        pairs(edited(tokenizer=split(*patterns[::-1])))


def test_glm_is_told_from_llama_by_its_tokens_which_have_their_roles(edited: Callable[..., Checkpoint]) -> None:
    """The pattern alone is Llama 3's too, which is not written here."""
    with pytest.raises(UnsupportedFormat, match="unknown regular expression"):
        pairs(edited(tokenizer=split(GLM)))
    texts = {"[gMASK]": 1000, "<|user|>": 1001, "<|endoftext|>": 1002, "<|observation|>": 1003}

    def glm(data: dict[str, Any]) -> None:
        split(GLM)(data)
        data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in texts]
        for text in texts:
            data["model"]["vocab"].pop(text, None)
        replaced(*(added(n, text, special=True) for text, n in texts.items()))(data)

    found = pairs(edited(tokenizer=glm))
    assert found["pre"] == "glm4"
    roles = {"bos": 1000, "eot": 1001, "unknown": 1002, "eom": 1003}
    assert {kind: found[f"{kind}_token_id"] for kind in roles} == roles


REFUSED: dict[str, Edit] = {
    "unknown regular expression": regex(r"\p{N}{1,3}"),
    "of type Unigram": lambda data: data["model"].update(type="Unigram"),
    "SentencePiece": lambda data: data["model"].update(byte_fallback=True),
    "regular expressions into bytes": lambda data: data.update(pre_tokenizer=None),
    "in an unknown way": lambda data: data["pre_tokenizer"]["pretokenizers"][0].update(invert=True),
    "normalizer .Lowercase": lambda data: data.update(
        normalizer={"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}
    ),
    "tokens around a prompt": lambda data: data.update(post_processor={"type": "RobertaProcessing"}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_tokenizers_are_refused_with_a_way_out(what: str, edited: Callable[..., Checkpoint]) -> None:
    with pytest.raises(UnsupportedFormat, match=what) as caught:
        pairs(edited(tokenizer=REFUSED[what]))
    assert "nextn attach TRUNK --from" in str(caught.value)


def test_nfc_alone_is_what_engines_are_used_to(edited: Callable[..., Checkpoint]) -> None:
    assert pairs(edited(tokenizer=lambda data: data.update(normalizer={"type": "NFC"})))["pre"] == "qwen2"


def test_without_a_tokenizer_there_is_no_hash(edited: Callable[..., Checkpoint]) -> None:
    checkpoint = edited(tokenizer=None)
    assert tokenizer_hash(checkpoint) is None
    with pytest.raises(UsageError, match=r"nextn attach TRUNK --from"):
        _ = Tokenizer(checkpoint).tokens


def test_a_tokenizer_of_another_kind_has_no_hash(edited: Callable[..., Checkpoint]) -> None:
    assert tokenizer_hash(edited(tokenizer=REFUSED["of type Unigram"])) is None
    assert tokenizer_hash(edited(tokenizer=REFUSED["unknown regular expression"])) is not None


DAMAGED: dict[str, Edit] = {
    "ids exceed": lambda data: data["model"]["vocab"].update(x=2048),
    "not a whole number": lambda data: data["model"]["vocab"].update(x="7"),
    "a chat template": lambda data: data["model"]["merges"].append(["\ud800", "a"]),
    "added token": lambda data: data["added_tokens"].append({"id": 3, "content": ["x"]}),
    "an added token": lambda data: data["added_tokens"].append({"id": 3}),
    "not Unicode text": lambda data: data["model"]["vocab"].update({"\ud800": 5}),
    "not a pair of strings": lambda data: data["model"]["merges"].append(["a"]),
    "'merges' is missing": lambda data: data["model"].pop("merges"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_named(what: str, edited: Callable[..., Checkpoint]) -> None:
    with pytest.raises(FormatError, match=what) as caught:
        pairs(edited(tokenizer=DAMAGED[what]))
    assert caught.value.path is not None


@pytest.mark.parametrize("key", ["model", "added_tokens", "pre_tokenizer", "post_processor", "normalizer"])
@pytest.mark.parametrize("value", [7, "text", [7], [[]], {"type": 7}, True])
def test_nonsense_never_ends_in_a_bug(key: str, value: Any, edited: Callable[..., Checkpoint]) -> None:
    checkpoint = edited(tokenizer=lambda data: data.update({key: value}))
    with pytest.raises(NextnError):
        pairs(checkpoint)


@pytest.mark.parametrize("value", [7, "text", [7], [[]], {"type": 7}, {"a": {"content": 7}}, True])
def test_nonsense_in_the_settings_never_ends_in_a_bug(value: Any, edited: Callable[..., Checkpoint]) -> None:
    for key in ("added_tokens_decoder", "eos_token", "additional_special_tokens", "chat_template", "add_bos_token"):
        checkpoint = edited(tokenizer_config=lambda data, key=key: data.update({key: value}))
        try:
            assert pairs(checkpoint)["model"] == "gpt2"
        except NextnError as error:
            assert "tokenizer" in str(error)


def test_a_cut_tokenizer_is_damaged(tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINT, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    whole = (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match="not valid JSON"):
        pairs(open_checkpoint(tmp_path))
