"""A Hugging Face checkpoint folder: config.json read raw, tensors found through the index.

config.json is never trusted by itself: keys lie (a default of 1 without weights; no key with weights), so counts
come from tensor names and are only compared with the keys.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any

from ..archs.others import TOP_DECIDES
from ..bounded import MOST_CONFIG, MOST_INDEX, MOST_TOKENIZER, parse_json, read_bounded, read_text
from ..errors import FormatError, IncompleteModel, UsageError
from ..gguf.strangers import by_content, is_unfinished
from ..shell import shell
from .safetensors import SourceTensor, read_safetensors

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
# Where a wrapper's config.json keeps its language model's config.
_TEXT_PLACES = (
    ("text_config",), ("llm_config",), ("lm_config",), ("thinker_config", "text_config"), ("language_config",),
    ("transformer_layer_config",),
)  # fmt: skip
_WRAPPED = "language_model."  # in a wrapper's tensor names
_VOCAB = re.compile(r'"vocab"\s*:\s*\{')
_ADDED = re.compile(r'"added_tokens"\s*:\s*\[')


def read_json(path: Path, most: int = MOST_CONFIG) -> dict[str, Any]:
    """A JSON object from a file of at most `most` bytes.

    Raises FormatError for anything else, StorageError when it cannot be read.
    """
    data = read_bounded(path, most)
    stranger = by_content(data)
    if stranger is not None:
        raise FormatError(stranger, path=path)
    value = parse_json(data, path)
    if not isinstance(value, dict):
        raise FormatError("this is not a JSON object", path=path)
    return value


def _nested(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The language model's own part of a wrapper's config.json; of several the last, as in llama.cpp's converter."""
    found = None
    for path in _TEXT_PLACES:
        part: Any = config
        for key in path:
            part = part.get(key) if isinstance(part, Mapping) else None
        found = part if isinstance(part, Mapping) else found
    return found


def text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's part of config.json: the top level overlaid with its own section, wherever that is.

    Configs that only list the kinds of their layers (`layers_block_type`) give the layer count by that list.
    """
    found = {**config, **(_nested(config) or {})}
    kinds = found.get("layers_block_type")
    if found.get("num_hidden_layers") is None and isinstance(kinds, list):
        found["num_hidden_layers"] = len(kinds)
    return found


def plain_name(name: str) -> str:
    """A tensor's name without wrapper prefixes."""
    return name.replace(_WRAPPED, "")


def classes_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the published model classes, the decisive one first.

    A wrapper's language model names its own class, and that decides, except for a few wrappers known to be more
    exact (`TOP_DECIDES`).
    """

    def names(part: Mapping[str, Any] | None) -> tuple[str, ...]:
        found = part.get("architectures") if part is not None else None
        return tuple(str(name) for name in found) if isinstance(found, list) else ()

    top, inner = names(config), names(_nested(config))
    return (*top, *inner) if top[:1] and top[0] in TOP_DECIDES else (*inner, *top)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder; headers of safetensors files are read when their tensors are requested."""

    folder: Path
    assumed: Mapping[str, Any] | None = field(default=None, kw_only=True)  # used where config.json is missing
    files: tuple[str, ...] | None = field(default=None, kw_only=True)  # the only ones to read; None: all

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json as it is, or what is assumed of it."""
        return read_json(self.folder / CONFIG) if self.assumed is None else dict(self.assumed)

    @cached_property
    def text_config(self) -> dict[str, Any]:
        """The language model's part."""
        return text_part(self.config)

    @property
    def place(self) -> Path:
        """What to call it: the folder, or the one file that is read."""
        return self.folder / self.files[0] if self.files is not None and len(self.files) == 1 else self.folder

    @property
    def stated(self) -> Mapping[str, Any]:
        """The language model's part as far as config.json says it; empty where it was assumed."""
        return self.text_config if self.assumed is None else {}

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the published model classes, the decisive one first."""
        return classes_of(self.config)

    def integer(self, *keys: str) -> int | None:
        """The first of `keys` that is an integer in the text config."""
        for key in keys:
            value = self.text_config.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        return None

    @cached_property
    def weight_map(self) -> dict[str, str]:
        """Tensor name -> file name, from the index or from the headers of all files in the folder.

        Files that the index does not name are read as well: blocks added by third parties come that way. They also
        supply what the index says of a file that is not there: sets are renamed, and their index is not.
        """
        if self.files is not None:
            return {name: file for file in self.files for name in self._header(file)}
        listing = self.folder / INDEX
        if os.path.exists(listing):  # noqa: PTH110 - Path.exists may raise
            found = read_json(listing, MOST_INDEX).get("weight_map")
            if not isinstance(found, dict):
                raise FormatError("'weight_map' is missing", path=listing)
            for file in found.values():
                if "/" in str(file) or "\\" in str(file) or str(file) in ("", ".", ".."):
                    raise FormatError(f"the index names a file outside the folder: '{file}'", path=listing)
            known = {str(name): str(file) for name, file in found.items()}
            there = {path.name for path in self.folder.glob("*.safetensors")}
            more = {name: file for file in sorted(there - set(known.values())) for name in self._header(file)}
            return {**more, **{name: file for name, file in known.items() if file in there or name not in more}}
        files = sorted(path.name for path in self.folder.glob("*.safetensors"))
        if not files:
            begun = next((path.name for path in sorted(self.folder.iterdir()) if is_unfinished(path.name)), None)
            rest = f"{begun} is an unfinished download: resume it" if begun else "download the checkpoint's weights"
            raise IncompleteModel(
                f"{self.folder}: there are no .safetensors files and no {INDEX}; {rest} (PyTorch .bin files are not "
                "read)."
            )
        return {name: file for file in files for name in self._header(file)}

    @cached_property
    def plain_names(self) -> dict[str, str]:
        """Tensor name without wrapper prefixes -> the name in the files."""
        plain = {plain_name(name): name for name in self.weight_map if _WRAPPED in name}
        return {**plain, **{name: name for name in self.weight_map if _WRAPPED not in name}}

    @cached_property
    def _headers(self) -> dict[str, dict[str, SourceTensor]]:
        return {}

    def _header(self, file: str) -> dict[str, SourceTensor]:
        if file not in self._headers:
            path = self.folder / file
            if not os.path.exists(path):  # noqa: PTH110 - Path.exists may raise
                raise IncompleteModel(
                    f"{path}: this file is missing, and the index says that it holds tensors that are needed; "
                    "download it."
                )
            self._headers[file] = read_safetensors(path)
        return self._headers[file]

    def tensor(self, name: str) -> SourceTensor:
        """Where the tensor is. Raises FormatError when the index names a file that does not contain it."""
        file = self.weight_map[name]
        try:
            return self._header(file)[name]
        except KeyError:
            raise FormatError(
                f"the index says that tensor '{name}' is here, but it is not", path=self.folder / file
            ) from None

    @cached_property
    def vocabulary(self) -> dict[int, str] | None:
        """Token texts by id from tokenizer.json (added tokens included), or None without that file."""
        path = self.folder / TOKENIZER
        if not path.exists():
            return None
        vocab, added = _token_tables(path)
        if not isinstance(vocab, dict):
            return None
        try:
            texts = {index(number): str(text) for text, number in vocab.items()}
            for entry in added or []:
                texts[index(entry["id"])] = str(entry["content"])
        except (KeyError, TypeError) as error:
            raise FormatError("the token list is damaged", path=path) from error
        return texts


def _token_tables(path: Path) -> tuple[Any, Any]:
    """`model.vocab` and `added_tokens` of a tokenizer.json.

    The merges are not parsed: for a 250,000-token tokenizer they would take 150 MB. Text inside JSON strings has its
    quotes escaped, so the patterns match keys only; a file that they do not match is parsed completely.
    """
    text = read_text(path, MOST_TOKENIZER)
    vocab, added = _VOCAB.search(text), _ADDED.search(text)
    if vocab is None or (added is None and '"added_tokens"' in text):
        data = read_json(path, MOST_TOKENIZER)
        model = data.get("model")
        return (model.get("vocab") if isinstance(model, dict) else None), data.get("added_tokens")
    decode = json.JSONDecoder().raw_decode
    try:
        return decode(text, vocab.end() - 1)[0], decode(text, added.end() - 1)[0] if added else None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"this is not valid JSON ({error})", path=path) from error


def without_config(what: object) -> UsageError:
    """The error for a safetensors file, at a path or an address, that has no config.json beside it."""
    return UsageError(
        f"{what}: there is no {CONFIG} beside it, so nothing says of which model these tensors are; a block in it "
        f"takes the sizes of its trunk: {shell('nextn', 'attach', 'TRUNK', '--from', what)}"
    )


def open_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint folder. Raises UsageError when there is no config.json in it."""
    if not os.path.exists(folder / CONFIG):  # noqa: PTH110 - Path.exists may raise
        raise UsageError(f"{folder}: there is no {CONFIG} here, so this is not a checkpoint folder.")
    return Checkpoint(folder)
