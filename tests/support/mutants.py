"""Crafted files: a whole model, or a checkpoint's config, with one thing in it that no honest tool writes.

Systematic lists for tests (`key_mutants`, `tensor_mutants`, `config_mutants`), and random ones of several kinds at
once for the fuzzers (`random_mutant`).
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ggufmaker import CODES, FORMS, pad, pair, start, text

from nextn.gguf.files import read_header

UGLY = "\x1b]0;TITLE\x07\x1b[31m\nnextn: done\r\x9b2J\u202egnp.\u2066x\u200b\u2028\x7f\x00"
BIG = (1 << 31, 1 << 63)


@dataclass(frozen=True)
class TensorPart:
    """An entry of the tensor table."""

    name: bytes
    ne: tuple[int, ...]
    type_id: int
    offset: int

    def encode(self) -> bytes:
        return text(self.name) + struct.pack(
            f"<I{len(self.ne)}QIQ", len(self.ne), *self.ne, self.type_id, self.offset
        )


@dataclass(frozen=True)
class Parts:
    """A GGUF file taken apart: pairs as bytes by key, table, data."""

    pairs: dict[str, bytes]
    tensors: tuple[TensorPart, ...]
    data: bytes

    @classmethod
    def of(cls, path: Path) -> Parts:
        header = read_header(path).header
        return cls(
            {kv.key: bytes(kv.raw) for kv in header.kvs},
            tuple(TensorPart(text(i.name)[8:], i.ne, i.type_id, i.offset) for i in header.tensors),
            path.read_bytes()[header.data_offset :],
        )

    def put(self, key: str, kind: str, value: Any) -> Parts:
        return replace(self, pairs={**self.pairs, key: pair(key, kind, value)})

    def without(self, key: str) -> Parts:
        return replace(self, pairs={other: raw for other, raw in self.pairs.items() if other != key})

    def with_tensor(self, number: int, **change: Any) -> Parts:
        tensors = list(self.tensors)
        tensors[number] = replace(tensors[number], **change)
        return replace(self, tensors=tuple(tensors))

    def without_tensors(self, lost: Callable[[bytes], bool]) -> Parts:
        return replace(self, tensors=tuple(t for t in self.tensors if not lost(t.name)))

    def encode(self) -> bytes:
        head = start(3, len(self.tensors), len(self.pairs)) + b"".join(self.pairs.values())
        return pad(head + b"".join(tensor.encode() for tensor in self.tensors), 32) + self.data


def strange_values() -> list[tuple[str, Any]]:
    """(type, value) of every KV type, with the ends of its range; arrays of each, empty, short, nested."""
    out: list[tuple[str, Any]] = []
    for kind, form in FORMS.items():
        if kind == "bool":
            out += [(kind, False), (kind, True), ("[bool]", [True] * 3)]
        elif kind.startswith("f"):
            out += [(kind, value) for value in (0.0, -1.5, float("nan"), float("inf"))]
            out += [(f"[{kind}]", [float("nan")] * 4)]
        else:
            bits = 8 * struct.calcsize(form)
            low = 0 if kind.startswith("u") else -(1 << (bits - 1))
            out += [(kind, value) for value in (0, 1, low, low + (1 << bits) - 1)]
            out += [(f"[{kind}]", []), (f"[{kind}]", [0]), (f"[{kind}]", [low + (1 << bits) - 1] * 5)]
    out += [("str", value) for value in ("", "4", UGLY, "9" * 400, b"\xff\xfe", "[" * 3000, '{"a":1e400}')]
    out += [("[str]", []), ("[str]", ["4", "", UGLY]), ("[str]", ["x"] * 300)]
    out += [("[[]]", []), ("[[]]", [("u32", [1, 2]), ("str", ["a"])])]
    return out


def one_of_each_type() -> list[tuple[str, Any]]:
    """Of every KV type one value that is unlike what any key holds."""
    out = [(kind, 1 if kind == "bool" else 3) for kind in CODES if kind not in ("str", "[]")]
    arrays: list[tuple[str, Any]] = [("[str]", ["a", "b"]), ("[u32]", [4, 4]), ("[[]]", [("u32", [1])])]
    return [*out, *arrays, ("str", UGLY), ("u64", (1 << 64) - 1)]


# Keys that files may have and the shipped ones may lack.
MORE_KEYS = (
    "general.name", "general.basename", "general.base_model.count", "general.base_model.0.name",
    "general.base_model.0.repo_url", "general.repo_url", "general.source.url", "general.file_type", "split.no",
    "split.count", "split.tensors.count", "tokenizer.ggml.token_type", "tokenizer.ggml.pre", "tokenizer.chat_template",
    "nextn.donor", "nextn.undo", "nextn.shape", "nextn.tensor_names", "nextn.tensor_sha256", "nextn.vocab_size",
    "nextn.tokenizer_sha256", "nextn.padding", "nextn.tool_version", "nextn.donor_sha256", "quantize.imatrix.file",
    "nextn_predict_layers",
)  # fmt: skip
MORE_SUFFIXES = (
    "block_count", "nextn_predict_layers", "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "feed_forward_length", "expert_count", "expert_used_count", "context_length",
    "attention.sliding_window", "attention.sliding_window_pattern", "attention.recurrent_layers", "ssm.conv_kernel",
    "expert_feed_forward_length", "full_attention_interval", "swiglu_clamp_exp", "vocab_size",
    "rope.dimension_sections", "nextn_shared_target_tensors",
)  # fmt: skip


def keys_of(parts: Parts, arch: str) -> list[str]:
    """The keys that a model has, and those that nextn also reads."""
    return list(dict.fromkeys([*parts.pairs, *MORE_KEYS, *(f"{arch}.{suffix}" for suffix in MORE_SUFFIXES)]))


def key_mutants(parts: Parts, arch: str, values: list[tuple[str, Any]]) -> Iterator[tuple[str, Parts]]:
    """(name, file): each key with each value."""
    for key in keys_of(parts, arch):
        yield f"{key} gone", parts.without(key)
        for kind, value in values:
            try:
                yield f"{key} {kind} {str(value)[:20]!r}", parts.put(key, kind, value)
            except struct.error:  # the value has no place in the type
                continue


AXES: tuple[tuple[int, ...], ...] = (
    (), (0,), (1,), (32,), (1 << 31,), (1 << 61,), (0, 0), (32, 0), (0, 32), (1, 1), (3, 5), (1 << 31, 2),
    (32, 1 << 31), (32, 32, 1), (2, 2, 2), (0, 0, 0), (1, 1, 1, 1), (32, 2, 1, 3), (0, 0, 0, 0),
)  # fmt: skip


def tensor_mutants(parts: Parts) -> Iterator[tuple[str, Parts]]:
    """(name, file): each tensor with other axes, types, offsets, names, or gone."""
    for number, tensor in enumerate(parts.tensors):
        name = tensor.name.decode("utf-8", "replace")
        yield f"{name} gone", parts.without_tensors(lambda other, own=tensor.name: other == own)
        for ne in AXES:
            yield f"{name} {ne}", parts.with_tensor(number, ne=ne)
        for type_id in (0, 1, 8, 12, 30, 144, 4, 31, 1000, (1 << 32) - 1):
            yield f"{name} type {type_id}", parts.with_tensor(number, type_id=type_id)
        for new in (UGLY.encode(), b"\xff\xfe" + tensor.name, b"", b"x" * 1000, tensor.name + b"\xff"):
            yield f"{name} as {new[:10]!r}", parts.with_tensor(number, name=new)
        for layer in (b"99", b"4294967296", b"9" * 400, b"-1"):
            if tensor.name.startswith(b"blk."):
                rest = tensor.name.split(b".", 2)[2]
                yield f"{name} in layer {layer[:12]!r}", parts.with_tensor(number, name=b"blk." + layer + b"." + rest)


JSON_VALUES: tuple[str, ...] = (
    "null", "true", "false", "0", "-1", "3", "2.5", "1e400", "-1e400", "NaN", "1" + "0" * 400, "4294967296", '""',
    '"x"', '"\\ud800"', '"\\u001b[31m\\n"', "[]", "[1]", '["x", null, {}]', "{}", '{"a": 1}', "[" * 900 + "]" * 900,
)  # fmt: skip
MARK = "@@here@@"


def config_mutants(document: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """(name, maker of JSON): each value of a document, at any depth, replaced with each JSON type, or gone.

    Of long lists and vocabularies the first few stand for all.
    """
    for where in _places(json.loads(document)):
        for value in JSON_VALUES:
            yield f"{where} {value[:20]}", partial(_with, document, where, value)
        if isinstance(where[-1], str):
            yield f"{where} gone", partial(_with, document, where, None)


def _with(document: str, where: tuple[str | int, ...], value: str | None) -> str:
    changed = _changed(json.loads(document), where, None if value is None else MARK)
    text_of = json.dumps(changed)
    return text_of if value is None else text_of.replace(f'"{MARK}"', value)


def _places(value: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())[: 3 if len(value) > 100 else None]
    elif isinstance(value, list):
        inner = list(enumerate(value[:2]))
    for key, child in inner:
        yield (*before, key)
        yield from _places(child, (*before, key))


def _changed(value: Any, where: tuple[str | int, ...], new: str | None) -> Any:
    spot = value
    for key in where[:-1]:
        spot = spot[key]
    if new is None:
        del spot[where[-1]]
    else:
        spot[where[-1]] = new
    return value


def random_mutant(parts: Parts, arch: str, dice: random.Random) -> tuple[str, bytes]:
    """One to four changes at once, or bytes of the header overwritten."""
    said = []
    for _ in range(dice.choice((1, 1, 1, 2, 3, 4))):
        how = dice.random()
        if how < 0.5:
            key = dice.choice(keys_of(parts, arch))
            kind, value = dice.choice(strange_values())
            parts, what = parts.put(key, kind, value), f"{key} {kind} {str(value)[:20]!r}"
        elif how < 0.6:
            key = dice.choice(keys_of(parts, arch))
            parts, what = parts.without(key), f"{key} gone"
        elif how < 0.75:
            number = dice.randrange(len(parts.tensors))
            any_ne = tuple(dice.choice((0, 1, 2, 31, 32, 64, 1 << 20)) for _ in range(dice.randrange(5)))
            ne = dice.choice((*AXES, any_ne))
            what = f"{parts.tensors[number].name!r} {ne}"
            parts = parts.with_tensor(number, ne=ne)
        elif how < 0.8:
            number, type_id = dice.randrange(len(parts.tensors)), dice.randrange(45)
            what = f"{parts.tensors[number].name!r} type {type_id}"
            parts = parts.with_tensor(number, type_id=type_id)
        elif how < 0.9:
            lost = dice.choice(parts.tensors).name
            part = dice.choice((lost, lost.split(b".")[-2] if lost.count(b".") > 1 else lost))
            parts = parts.without_tensors(lambda name, part=part: part in name)
            what = f"all {part!r} gone"
            if not parts.tensors:
                break
        else:
            one, two = dice.choice(parts.tensors), dice.randrange(len(parts.tensors))
            moved = b"blk.%d." % dice.randrange(9) + one.name.split(b".", 2)[-1]
            new = one.name + b".x" if dice.random() < 0.3 else moved
            if any(new == tensor.name for tensor in parts.tensors):
                continue
            what = f"{parts.tensors[two].name!r} as {new!r}"
            parts = parts.with_tensor(two, name=new)
        said.append(what)
    data = bytearray(parts.encode())
    if dice.random() < 0.1:
        for _ in range(dice.randrange(1, 4)):
            spot = dice.randrange(min(len(data), 4000))
            data[spot] = dice.choice((0, 1, 0xFF, 0x7F, dice.randrange(256)))
            said.append(f"byte {spot} = {data[spot]}")
    return ", ".join(said), bytes(data)

