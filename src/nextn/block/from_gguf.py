"""The block of a GGUF: a bundled model, a shard set, a sidecar or a donor file."""

from __future__ import annotations

from ..archs import FAMILIES, refuse_other_use
from ..errors import FormatError, NoBlock
from ..gguf.files import Model
from ..sources.ranges import FileRange
from ..sources.rows import GGUFRows
from .model import Block, BlockTensor, block_layers, layer_of, suffix_of


def is_f32_only(name: str, n_axes: int) -> bool:
    """Whether converters keep a tensor in F32: vectors, norms and gates."""
    if n_axes <= 1 or not name.endswith(".weight"):
        return True
    return name.endswith(("_norm.weight", "indexer.proj.weight")) or "ffn_gate_inp" in name


def block_from_model(model: Model) -> Block:
    """The block of a bundled model, a shard set, a sidecar or a donor file.

    Raises NoBlock when it has none, FormatError when it is damaged, UnsupportedModel where the key means something
    else.
    """
    names = list(model.tensors)
    layers = block_layers(names)
    arch = model.architecture
    refuse_other_use(arch, model.entry)
    if not layers:
        promised = model.arch_int("nextn_predict_layers")
        more = (
            f", though '{arch}.nextn_predict_layers' promises {promised}: it was lost on the way" if promised else ""
        )
        raise NoBlock(f"{model.entry}: there is no MTP block in this model{more}.")
    first = layers[0]
    if layers != list(range(first, first + len(layers))):
        raise FormatError(f"the MTP blocks are not behind one another (layers {layers})", path=model.entry)
    tensors = []
    has_trunk = any(layer_of(name) == 0 for name in names) and first > 0
    family = FAMILIES.get(arch)
    rules = {rule.target: rule for rule in family.rules} if family else {}
    for file, info in model.items():
        layer, rule = layer_of(info.name), rules.get(suffix_of(info.name))
        is_root = rule is not None and rule.root and layer is None and not has_trunk
        if is_root:
            layer = first
        if layer is None or not first <= layer < first + len(layers):
            continue
        start, end = file.tensor_range(info)
        tensors.append(
            BlockTensor(
                layer - first,
                suffix_of(info.name),
                info.ne,
                GGUFRows(file, info),
                FileRange(file.path, start, end),
                info.type_id,
                is_f32_only(info.name, len(info.ne)) or (rule is not None and rule.f32),
                root=is_root,
            )
        )
    embd = model.tensors.get("token_embd.weight")
    kind = "bundled" if has_trunk else "sidecar" if embd else "donor"
    vocab = embd[1].ne[1] if embd else model.header.get("nextn.vocab_size")
    return Block(
        origin=model.entry,
        kind=kind,
        architecture=arch,
        n_layer_trunk=first,
        n_layer_nextn=len(layers),
        tensors=tuple(tensors),
        hidden_size=model.arch_int("embedding_length") or None,
        n_vocab=vocab if isinstance(vocab, int) else None,
        header_bytes=model.header_bytes,
        model=model,
    )
