"""A GGUF's block: from a bundled model, a shard set, a sidecar or a donor file."""

from __future__ import annotations

from collections.abc import Collection

from ..archs import refuse_other_use
from ..archs.drafts import ARCHS as DRAFT_ARCHS
from ..errors import FormatError, NoBlock
from ..gguf.files import Model
from ..sources.ranges import FileRange
from ..sources.rows import GGUFRows
from .anatomy import KEY, Anatomy
from .model import Block, BlockTensor, split_name

MOST_TENSORS = 8_192  # of a file's blocks; those that are published have fewer than a hundred each


def is_f32_only(name: str, n_axes: int) -> bool:
    """Whether converters keep a tensor in F32: vectors, norms and gates."""
    if n_axes <= 1 or not name.endswith(".weight"):
        return True
    return name.endswith(("_norm.weight", "indexer.proj.weight")) or "ffn_gate_inp" in name


def block_from_model(model: Model, mending: Collection[int] = ()) -> Block:
    """The block of a bundled model, a shard set, a sidecar or a donor file.

    `mending`: layers of a model whose block is to be completed. For them, a file will do that holds some tensors of
    these layers and none of any other, even without one that marks a block.

    Raises NoBlock when there is none, FormatError when it is damaged, UnsupportedModel where the key means something
    else.
    """
    seen = Anatomy.of(model)
    arch, layers = seen.arch, list(seen.blocks)
    refuse_other_use(arch, model.entry)
    if arch in DRAFT_ARCHS:
        raise NoBlock(
            f"{model.entry}: this draft is a model of its own and has no MTP block; leave it beside its model, or put "
            "it there with 'nextn attach MODEL --from' it."
        )
    if not layers and len(seen.layers) <= len(mending) and seen.layers.keys() <= set(mending):
        layers = sorted(seen.layers)
    if not layers:
        more = f", though '{arch}.{KEY}' promises {seen.promised}: it was lost along the way" if seen.promised else ""
        raise NoBlock(
            f"{model.entry}: there is no MTP block in this model{more}; name the checkpoint that it was "
            "converted from, or another GGUF that has the block."
        )
    first = layers[0]
    if layers != list(range(first, first + len(layers))):
        raise FormatError(f"the MTP blocks are not in consecutive layers (layers {layers})", path=model.entry)
    tensors = []
    family = seen.family
    rules = {rule.target: rule for rule in family.rules} if family else {}
    held: list[int] = []
    for each in layers:
        held += seen.layers.rows(each)
        if len(held) > MOST_TENSORS:
            raise FormatError(
                f"more than {MOST_TENSORS:,} tensors are named as an MTP block's: no model's block has so many; get "
                "the model again",
                path=model.entry,
            )
    if not seen.has_trunk:
        roots = (model.table.row(target) for target, rule in rules.items() if rule.root)
        held += (row for row in roots if row is not None)
    for file, info in map(model.table.__getitem__, sorted(held)):
        own, suffix = split_name(info.name)
        rule = rules.get(suffix)
        is_root = rule is not None and rule.root and own is None and not seen.has_trunk
        layer = first if is_root else own
        if layer is None or not first <= layer < first + len(layers):
            continue
        start, end = file.value_range(info)
        tensors.append(
            BlockTensor(
                layer - first,
                suffix,
                info.ne,
                GGUFRows(file, info),
                FileRange.of(file, start, end),
                info.type_id,
                is_f32_only(info.name, len(info.ne)) or (rule is not None and rule.f32),
                root=is_root,
            )
        )
    embd = model.tensors.get("token_embd.weight")
    vocab = embd[1].ne[1] if embd and len(embd[1].ne) > 1 else model.header.get("nextn.vocab_size")
    return Block(
        origin=model.entry,
        kind=seen.shape,
        architecture=arch,
        n_layer_trunk=seen.home,
        n_layer_nextn=len(layers),
        tensors=tuple(tensors),
        hidden_size=model.arch_int("embedding_length") or None,
        n_vocab=vocab if isinstance(vocab, int) else None,
        header_bytes=model.header_bytes,
        model=model,
    )
