"""A checkpoint's tokenizer as the `tokenizer.*` pairs of a GGUF header.

Read from tokenizer.json (vocabulary, merges, pre-tokenizer, added tokens), tokenizer_config.json (special tokens,
chat template), config.json (`vocab_size`, ids) and the chat template's own files. What is written is what
llama.cpp's converter writes for byte-level BPE (facts about conversion/base.py and gguf-py's vocab.py at b11549).
The converter identifies a tokenizer by a hash of its output on a sample text; here the pre-tokenizer's regular
expression decides, which is what `tokenizer.ggml.pre` stands for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

from ..archs import TEXT_SPLITS
from ..bounded import MOST_CONFIG, MOST_TOKENIZER, read_text
from ..errors import FormatError, UnsupportedFormat, UsageError
from ..gguf.kv import KV, KVType, encode_text
from ..shell import shell
from .checkpoint import CONFIG, TOKENIZER, Checkpoint, read_json

TOKENIZER_CONFIG = "tokenizer_config.json"
MAX_VOCAB = 1 << 24  # tokens; published models have up to a quarter of a million
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama_token_type

# Kind of special token -> its key after `tokenizer.ggml.`, in the order they are written.
_SPECIAL_IDS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # the format's own spelling
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
}
_NAMED_IDS = ("bos", "eos", "unk", "sep", "pad", "mask")  # what a checkpoint's files name
_ADDABLE = ("bos", "eos", "sep")
# Added tokens that published files mark as ordinary although they control the model.
_CONTROL_TEXTS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_CONTROL_SHAPES = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
_WORD_MARK = "▁"  # SentencePiece's space


@dataclass(frozen=True)
class Added:
    """A token that was added to the vocabulary: matched in the text before BPE."""

    text: str
    special: bool
    normalized: bool


def _text_of(entry: Any) -> str | None:
    """The text of a special token: a string, or an object with `content`."""
    found = entry.get("content") if isinstance(entry, dict) else entry
    return found if isinstance(found, str) else None


def _byte_of_char() -> dict[str, int]:
    """Byte-level BPE's alphabet: printable Latin-1 bytes are themselves, the other 68 bytes are U+0100 and up."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + i): byte for i, byte in enumerate(other)}


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer files of a checkpoint folder, each read once."""

    checkpoint: Checkpoint

    @property
    def path(self) -> Path:
        """tokenizer.json."""
        return self.checkpoint.folder / TOKENIZER

    @cached_property
    def data(self) -> dict[str, Any]:
        """tokenizer.json. Raises UsageError when it is missing: a sidecar needs a tokenizer."""
        if not self.path.exists():
            raise UsageError(
                f"{self.path.parent}: there is no {TOKENIZER} here, and a sidecar made from a checkpoint alone needs "
                f"one; use 'nextn attach TRUNK --from {shell(self.path.parent)} --layout sidecar', which takes the "
                "trunk's tokenizer."
            )
        return read_json(self.path, MOST_TOKENIZER)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """tokenizer_config.json, empty without that file."""
        path = self.checkpoint.folder / TOKENIZER_CONFIG
        return read_json(path, MOST_TOKENIZER) if path.exists() else {}

    @cached_property
    def model(self) -> dict[str, Any]:
        """The BPE part. Raises UnsupportedFormat for anything but byte-level BPE."""
        model = self.data.get("model")
        kind = model.get("type") if isinstance(model, dict) else None
        if not isinstance(model, dict) or (kind or "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
            raise self._unsupported(f"is of type {kind or '(none)'}")
        if model.get("byte_fallback") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise self._unsupported("marks words or bytes the way SentencePiece or the original BPE does")
        return model

    def _unsupported(self, what: str) -> UnsupportedFormat:
        return UnsupportedFormat(
            f"the tokenizer {what}, and only byte-level BPE with a known pre-tokenizer is written here; "
            "use 'nextn attach TRUNK --from' this folder with --layout sidecar, which takes the trunk's tokenizer",
            path=self.path,
        )

    def _damaged(self, what: str, path: Path | None = None) -> FormatError:
        return FormatError(f"{what}: the tokenizer is damaged", path=path or self.path)

    @cached_property
    def added(self) -> dict[int, Added]:
        """Added tokens by id.

        tokenizer_config.json's own list comes last, and the tokens it names (eos, pad, ...) are special.
        """
        found: dict[int, Added] = {}
        by_id = self.settings.get("added_tokens_decoder") or {}
        more = self.data.get("added_tokens") or []
        try:
            entries = [(index(entry["id"]), entry) for entry in more]
            entries += [(int(number), entry) for number, entry in by_id.items()]
            for number, entry in entries:
                text, special = entry["content"], bool(entry.get("special"))
                if not isinstance(text, str):
                    raise TypeError(text)
                found[number] = Added(text, special, bool(entry.get("normalized", not special)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged("an added token is not an object with 'id' and 'content'") from error
        known = {token.text for token in found.values()}
        for text in self._named_special():
            number = self.model["vocab"].get(text)
            if text not in known and isinstance(number, int):
                found[number] = Added(text, special=True, normalized=False)
        return found

    def _named_special(self) -> Iterator[str]:
        settings = self.settings
        named = [settings.get(f"{kind}_token") for kind in (*_NAMED_IDS, "cls")]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            more = settings.get(key)
            named += list(more.values()) if isinstance(more, dict) else more if isinstance(more, list) else []
        yield from (text for entry in named if (text := _text_of(entry)) is not None)

    @cached_property
    def tokens(self) -> tuple[list[str], list[int]]:
        """Texts and types of all `vocab_size` tokens; ids without a token are `[PADi]`, unused.

        Raises FormatError when ids exceed `vocab_size`, or the list is damaged.
        """
        n_vocab = self.checkpoint.integer("vocab_size")
        if n_vocab is None or n_vocab > MAX_VOCAB:
            what = "missing" if n_vocab is None else f"{n_vocab:,}, more than the {MAX_VOCAB:,} that are read"
            raise FormatError(f"'vocab_size' is {what}", path=self.checkpoint.folder / CONFIG)
        try:
            texts = {index(number): str(text) for text, number in self.model["vocab"].items()}
        except TypeError as error:
            raise self._damaged("an id in the vocabulary is not a whole number") from error
        added = self.added
        texts.update((number, token.text) for number, token in added.items())
        if texts and not 0 <= min(texts) <= max(texts) < n_vocab:
            raise FormatError(
                "token ids exceed the model's vocabulary",
                path=self.path,
                expected=f"ids from 0 to {n_vocab - 1:,}",
                found=f"{min(texts):,} to {max(texts):,}",
            )
        out, types = [], []
        for number in range(n_vocab):
            text, kind = texts.get(number, f"[PAD{number}]"), UNUSED if number not in texts else NORMAL
            if number in added:
                text, kind = self._added_token(added[number])
            out.append(text)
            types.append(kind)
        try:
            "".join(out).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise self._damaged("a token is not Unicode text") from error
        return out, types

    def _added_token(self, token: Added) -> tuple[str, int]:
        """Text and type as engines expect them: the text as it appears in a prompt."""
        text = token.text
        if not token.normalized and all(char in _BYTE_OF_CHAR for char in text):
            text = bytes(_BYTE_OF_CHAR[char] for char in text).decode("utf-8", "replace")
        shaped = any(text.startswith(head) and text.endswith(tail) for head, tail in _CONTROL_SHAPES)
        if token.special or shaped or text in _CONTROL_TEXTS:
            return text, CONTROL
        return text.replace(_WORD_MARK, " "), USER_DEFINED

    @property
    def pre(self) -> str:
        """`tokenizer.ggml.pre`. Raises UnsupportedFormat for a pre-tokenizer that is not in the table."""
        root = self.data.get("pre_tokenizer")
        steps = root.get("pretokenizers") if isinstance(root, dict) else None
        steps = steps if isinstance(steps, list) else [root]
        steps = [step for step in steps if isinstance(step, dict)]
        kinds = [step.get("type") for step in steps]
        if len(kinds) < 2 or kinds != ["Split"] * (len(kinds) - 1) + ["ByteLevel"]:
            raise self._unsupported("does not split by regular expressions into bytes")
        *splits, to_bytes = steps
        found = []
        for split in splits:
            pattern = split.get("pattern")
            if split.get("invert") or split.get("behavior") != "Isolated":
                raise self._unsupported("splits text in an unknown way")
            found.append(str(pattern.get("Regex") if isinstance(pattern, dict) else None))
        if to_bytes.get("use_regex", True):
            raise self._unsupported("splits text in an unknown way")
        known = TEXT_SPLITS.get(tuple(found))
        if known is None or (known.roles and not self._own_roles):
            raise self._unsupported(f"splits text with an unknown regular expression ({', '.join(map(repr, found))})")
        return known.pre

    @cached_property
    def _own_roles(self) -> dict[str, int]:
        """Special tokens by text, where a pre-tokenizer belongs to a model that has them; else empty."""
        by_text = {token.text: number for number, token in self.added.items()}
        for known in TEXT_SPLITS.values():
            if known.roles and set(known.roles.values()) <= by_text.keys():
                return {kind: by_text[text] for kind, text in known.roles.items()}
        return {}

    def _check_normalizer(self) -> None:
        """Engines apply NFC for none of these tokenizers, and cannot be configured otherwise."""
        normalizer = self.data.get("normalizer")
        steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else [normalizer]
        kinds = [step.get("type") if isinstance(step, dict) else step for step in steps]
        if any(kind not in (None, "NFC") for kind in kinds):
            raise self._unsupported(f"changes text with a normalizer ({', '.join(map(str, kinds))})")

    @property
    def merges(self) -> list[str]:
        """The merges as `left right`; both of the forms used in tokenizer.json are read."""
        merges = self.model.get("merges")
        if not isinstance(merges, list):
            raise self._damaged("'merges' is missing")
        out = []
        for merge in merges:
            if isinstance(merge, str):
                out.append(merge)
            elif isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge):
                out.append(" ".join(part.replace(" ", "Ġ") for part in merge))
            else:
                raise self._damaged("a merge is not a pair of strings")
        return out

    @property
    def special_ids(self) -> dict[str, int]:
        """Kind of special token -> id: by its text among the added tokens, else as given in config.json."""
        added = self.data.get("added_tokens") or []
        by_text = {entry.get("content"): entry.get("id") for entry in reversed(added) if isinstance(entry, dict)}
        config = self.checkpoint.config
        nested = config.get("text_config")
        found = {}
        for kind in _NAMED_IDS:
            number = by_text.get(_text_of(self.settings.get(f"{kind}_token")))
            if not isinstance(number, int):
                number = config.get(f"{kind}_token_id")
                if number is None and isinstance(nested, dict):
                    number = nested.get(f"{kind}_token_id")
            if not isinstance(number, int) or isinstance(number, bool):  # a list does not say which one
                continue
            if not 0 <= number < 1 << 32:
                raise FormatError(f"'{kind}_token_id' is {number}", path=self.checkpoint.folder / CONFIG)
            found[kind] = number
        return found | self._own_roles

    @property
    def adds(self) -> dict[str, bool]:
        """Kind of special token -> whether it is added around a prompt."""
        found: dict[str, bool] = {}
        after = self.data.get("post_processor")
        steps = after.get("processors", [after]) if isinstance(after, dict) else [] if after is None else [after]
        for step in steps if isinstance(steps, list) else [steps]:
            kind = step.get("type") if isinstance(step, dict) else step
            if kind == "ByteLevel":
                found |= {"bos": False, "eos": False}
            elif kind != "TemplateProcessing" or len(step.get("single") or []) > 1:
                raise self._unsupported(f"adds tokens around a prompt ({kind})")
        for kind in _ADDABLE:
            value = self.settings.get(f"add_{kind}_token")
            if isinstance(value, bool):
                found.setdefault(kind, value)
        return found

    @property
    def chat_templates(self) -> dict[str, str]:
        """Name -> template; the unnamed one is `default`."""
        value = self.settings.get("chat_template", self._template_files()) if self.settings else None
        if isinstance(value, str):
            return {"default": value}
        found = {}
        for entry in value if isinstance(value, list) else []:
            name, template = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
            if isinstance(name, str) and name and isinstance(template, str):
                found["".join(c if c in ascii_letters + digits else "_" for c in name)] = template
        return found

    def _template_files(self) -> Any:
        folder = self.checkpoint.folder
        jinja, old = folder / "chat_template.jinja", folder / "chat_template.json"
        if jinja.exists():
            more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
            named = [{"name": path.stem, "template": read_text(path, MOST_CONFIG)} for path in more]
            return [{"name": "default", "template": read_text(jinja, MOST_CONFIG)}, *named]
        return read_json(old).get("chat_template") if old.exists() else None

    def kvs(self) -> list[KV]:
        """All `tokenizer.*` pairs. Raises UsageError, UnsupportedFormat, FormatError, StorageError."""
        try:
            return self._kvs()
        except UnicodeEncodeError as error:  # JSON can contain lone surrogates
            raise self._damaged("a merge or a chat template is not Unicode text") from error

    def _kvs(self) -> list[KV]:
        tokens, types = self.tokens
        self._check_normalizer()
        ggml = "tokenizer.ggml."
        out = [
            KV.make(f"{ggml}model", KVType.STRING, "gpt2"),
            KV.make(f"{ggml}pre", KVType.STRING, self.pre),
            KV.make(f"{ggml}tokens", KVType.ARRAY, tokens, KVType.STRING),
            KV.make(f"{ggml}token_type", KVType.ARRAY, types, KVType.INT32),
            KV.make(f"{ggml}merges", KVType.ARRAY, self.merges, KVType.STRING),
            *(KV.make(ggml + _SPECIAL_IDS[kind], KVType.UINT32, number) for kind, number in self.special_ids.items()),
            *(KV.make(f"{ggml}add_{kind}_token", KVType.BOOL, value) for kind, value in self.adds.items()),
        ]
        templates = self.chat_templates
        named = [name for name in templates if name != "default"]
        out += [KV.make(f"tokenizer.chat_template.{name}", KVType.STRING, templates[name]) for name in named]
        if named:
            out.append(KV.make("tokenizer.chat_templates", KVType.ARRAY, named, KVType.STRING))
        if "default" in templates:
            out.append(KV.make("tokenizer.chat_template", KVType.STRING, templates["default"]))
        return out


_BYTE_OF_CHAR = _byte_of_char()


def ordinary_hash(tokens: Sequence[str], types: Sequence[int] | None) -> str:
    """SHA-256 over id (u64) and text (u64 length and bytes) of every ordinary token, hex.

    Special ones are left out: fine-tunes rename them, and it makes no difference to a block.
    """
    digest = hashlib.sha256()
    for number, text in enumerate(tokens):
        if types is None or types[number] == NORMAL:
            digest.update(number.to_bytes(8, "little") + encode_text(text))
    return digest.hexdigest()


def tokenizer_hash(checkpoint: Checkpoint) -> str | None:
    """`ordinary_hash` of the tokens as in a GGUF of this checkpoint.

    None when the checkpoint has no tokenizer.json, or one that is not byte-level BPE: there is nothing to compare.
    Raises FormatError when the list is damaged.
    """
    if not (checkpoint.folder / TOKENIZER).exists():
        return None
    try:
        return ordinary_hash(*Tokenizer(checkpoint).tokens)
    except UnsupportedFormat:
        return None
