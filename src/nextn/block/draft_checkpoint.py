"""A published EAGLE-3, DFlash or DSpark draft: its tensors by the kind's table, and its table of tokens."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..archs.base import dimensions, missing, resolve_shape, same_shape, surplus
from ..archs.drafts import DSPARK, EAGLE3, DraftKind, kind_of_config, refuse_variants, symbols
from ..archs.hparams import Config
from ..errors import FormatError, UnsupportedFormat, UnsupportedModel
from ..gguf.kv import KV
from ..sources.checkpoint import CONFIG, Checkpoint
from ..sources.quantized import logical_names, refuse_foreign
from ..sources.ranges import Reader
from ..sources.safetensors import SourceTensor
from .from_checkpoint import json_bytes, read_rule, refuse_leftovers
from .model import Block, BlockTensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LAYER = re.compile(r"layers\.(\d+)\.")
_TABLES = ("d2t", "t2d")
_NOT_WEIGHTS = re.compile(r"rotary_emb\.inv_freq$")
_MASK_FILE = "mask_embedding.pt"
_INTEGERS = {"I64": "<i8", "I32": "<i4"}


@dataclass(frozen=True)
class PublishedDraft:
    """A draft as it is published."""

    kind: DraftKind
    checkpoint: Checkpoint
    config: Config
    block: Block  # its tensors, numbered from layer 0
    table: SourceTensor | None  # d2t: distances from the draft's tokens to the target's

    @property
    def n_draft_vocab(self) -> int | None:
        """Tokens of a reduced vocabulary; None: it is the target's."""
        return None if self.table is None else self.table.n_rows * self.table.row_length

    def target_tokens(self, n_vocab: int) -> NDArray[np.int64]:
        """The target's token of each token of the draft, [draft vocabulary].

        Raises FormatError for tokens outside the target's vocabulary of `n_vocab`, or given twice.
        """
        import numpy as np

        assert self.table is not None
        with Reader() as reader:
            data = np.frombuffer(reader.read(self.table.where), _INTEGERS[self.table.dtype]).astype(np.int64)
        tokens = data + np.arange(len(data), dtype=np.int64)
        where = self.table.where.path
        outside = tokens[(tokens < 0) | (tokens >= n_vocab)]
        if len(outside):
            raise FormatError(
                f"'d2t' maps {len(outside):,} of {len(tokens):,} tokens to none of the target's {n_vocab:,} (the first "
                f"is {outside[0]:,}): this draft is for another model, or its table is damaged",
                path=where,
            )
        if len(np.unique(tokens)) != len(tokens):
            raise FormatError("'d2t' maps two tokens of the draft to the same token of the target", path=where)
        return tokens


def draft_from_checkpoint(checkpoint: Checkpoint, beside: Collection[str] = ()) -> PublishedDraft | None:
    """A published draft, or None for a checkpoint of another kind; `beside`: names of all files of a remote one.

    Raises UnsupportedModel for a kind or form that is not converted, UnsupportedFormat, FormatError for tensors that
    are missing or unknown.
    """
    try:
        kind = kind_of_config(checkpoint.classes, checkpoint.text_config)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{checkpoint.folder}: {error}.") from error
    if kind is None:
        return None
    there = os.path.exists(checkpoint.folder / _MASK_FILE)  # noqa: PTH110 - Path.exists may raise
    if there or _MASK_FILE in beside:
        raise UnsupportedFormat(
            f"its mask token has an embedding of its own, in {_MASK_FILE}, which needs torch to be read; use "
            "llama.cpp's convert_hf_to_gguf.py",
            path=checkpoint.folder,
        )
    config = Config(checkpoint.text_config, checkpoint.folder / CONFIG, 0)
    refuse_variants(kind, config)
    names = {_inner(name): full for name, full in checkpoint.plain_names.items()}
    refuse_foreign(checkpoint, names)
    names = logical_names(names)
    n_layer = config.integer("num_hidden_layers")
    numbers = {int(match[1]) for name in names if (match := _LAYER.match(name))}
    if numbers != set(range(n_layer)) or (kind is EAGLE3 and n_layer != 1):
        raise FormatError(
            f"the layers do not fit 'num_hidden_layers' ({n_layer:,})"
            + (", and engines accept 1 for EAGLE-3" if kind is EAGLE3 else ""),
            path=checkpoint.folder, found=", ".join(map(str, sorted(numbers))) or "none",
        )  # fmt: skip
    used: set[str] = set()
    tensors: list[BlockTensor] = []
    for k in range(n_layer):
        tensors += [tensor for rule in kind.rules if (tensor := read_rule(checkpoint, rule, names, k, used))]
    table = checkpoint.tensor(names["d2t"]) if "d2t" in names else None
    if table is not None and table.dtype not in _INTEGERS:
        raise UnsupportedFormat(f"'d2t' is stored as {table.dtype}, not as whole numbers", path=table.where.path)
    used.update(name for name in names if name in _TABLES or _NOT_WEIGHTS.search(name))
    n_vocab = config.integer("vocab_size")
    own = config.count("draft_vocab_size", n_vocab)
    if kind is DSPARK and own == n_vocab:  # as the converter: the target's head serves
        tensors = [tensor for tensor in tensors if tensor.suffix != "output.weight"]
    if kind is DSPARK:
        has_confidence = any(tensor.suffix == "conf_proj.weight" for tensor in tensors)
        config = replace(config, values={**config.values, "has_confidence_head": has_confidence})
    refuse_leftovers(checkpoint, names, used)
    stored = {names[name] for name in used if names[name] in checkpoint.weight_map}
    block = Block(
        origin=checkpoint.folder, kind="checkpoint", architecture=kind.arch, n_layer_trunk=0, n_layer_nextn=n_layer,
        tensors=tuple(tensors), hidden_size=config.integer("hidden_size"), n_vocab=n_vocab,
        header_bytes=json_bytes(checkpoint, stored), checkpoint=checkpoint,
    )  # fmt: skip
    draft = PublishedDraft(kind, checkpoint, config, block, table)
    if own != (draft.n_draft_vocab or n_vocab):
        raise FormatError(
            f"'draft_vocab_size' is {own:,} of {n_vocab:,} tokens, but the table 'd2t', which maps them to the "
            "target's, " + ("is missing" if table is None else f"has {draft.n_draft_vocab:,}"),
            path=checkpoint.folder,
        )
    return draft


def _inner(name: str) -> str:
    """A tensor's name as the rules know it: without `model.`, and EAGLE-3's only layer as layer 0."""
    name = name.removeprefix("model.")
    return f"layers.0.{name.removeprefix('midlayer.')}" if name.startswith("midlayer.") else name


def check_shapes(draft: PublishedDraft, kvs: list[KV], n_layers_read: int, n_vocab: int) -> None:
    """Raise FormatError for a tensor that is missing, or that engines would refuse with the header `kvs`.

    `n_layers_read`: layers of the target whose inputs it reads; `n_vocab`: the target's tokens.
    """
    kind, folder = draft.kind, draft.checkpoint.folder
    values = {kv.key.removeprefix(f"{kind.arch}."): kv.value for kv in kvs if kv.key.startswith(f"{kind.arch}.")}
    known = dimensions(values.get, n_vocab)
    known |= symbols(kind, values.get, n_layers_read, draft.n_draft_vocab or n_vocab)
    there = {tensor.suffix: tensor for tensor in draft.block.tensors}
    if markov := there.get("markov_w1.weight"):
        known |= {"Mr": markov.ne[0], "Mc": known["E"] + markov.ne[0]}
    rules = {rule.target: rule for rule in kind.rules}
    for layer in range(draft.block.n_layer_nextn):
        own = {tensor.suffix for tensor in draft.block.tensors if tensor.layer == layer or tensor.root}
        if lost := missing(kind.rules, own, values.get):
            sources = " or ".join(source.name.replace("{k}", str(layer)) for source in rules[lost[0]].sources)
            raise FormatError(f"the draft is incomplete: '{sources}' is missing", path=folder)
        if unannounced := surplus(kind.rules, own, values.get):
            key = rules[unannounced[0]].needed_by
            raise FormatError(
                f"the draft has '{unannounced[0]}', but {CONFIG} says nothing about it ('{key}'), so engines would "
                "refuse the file",
                path=folder,
            )
    if draft.table is not None and "output.weight" not in there:
        raise FormatError("the draft has a vocabulary of its own ('d2t') but no head ('lm_head.weight')", path=folder)
    for tensor in draft.block.tensors:
        wanted = resolve_shape(rules[tensor.suffix].ne, known)
        if wanted is not None and not same_shape(tensor.ne, wanted):
            raise FormatError(
                f"'{tensor.suffix}' does not have the shape that {CONFIG} and the trunk give", path=folder,
                expected=" x ".join(f"{n:,}" for n in wanted), found=" x ".join(f"{n:,}" for n in tensor.ne),
            )  # fmt: skip
