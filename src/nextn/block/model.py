"""The MTP block as one object, lazily read: names, shapes and places of its tensors, wherever it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..archs import FAMILIES, refuse_other_use
from ..errors import FormatError, NoBlock
from ..gguf.files import Model
from ..remote.opening import Opened, opened
from ..sources.checkpoint import Checkpoint
from ..sources.ranges import FileRange
from ..sources.rows import GGUFRows, RowSource

_BLOCK_TENSOR = re.compile(r"^blk\.(\d+)\.(.+)$")
EH_PROJ = "nextn.eh_proj.weight"
DRAFT_HEAD = "nextn.shared_head_head.weight"
EMBED_TOKENS = "nextn.embed_tokens.weight"


@dataclass(frozen=True)
class BlockTensor:
    """One tensor of a block."""

    layer: int  # number of the block it belongs to, from 0
    suffix: str  # GGUF name behind `blk.N.`
    ne: tuple[int, ...]  # ggml order
    rows: RowSource  # how to read it as float32
    stored: FileRange | None = None  # its bytes as they lie in a GGUF, to be carried
    type_id: int | None = None  # the type of `stored`
    f32: bool = False  # kept in F32 whatever type is asked for
    kept: str | None = None  # name of another type it is kept in whatever type is asked for
    root: bool = False  # no layer's tensor

    def name(self, n_layer_trunk: int) -> str:
        """The tensor's name on a trunk of so many layers."""
        return self.suffix if self.root else f"blk.{n_layer_trunk + self.layer}.{self.suffix}"


@dataclass(frozen=True)
class Block:
    """One or more predictor layers, with what must fit a trunk."""

    origin: Path  # file or folder it comes from
    kind: str  # "checkpoint", "bundled", "sidecar" or "donor"
    architecture: str
    n_layer_trunk: int | None  # layers of the trunk it was trained on
    n_layer_nextn: int
    tensors: tuple[BlockTensor, ...]
    hidden_size: int | None
    n_vocab: int | None
    header_bytes: int = 0  # bytes of headers, for checkpoints of JSON, that finding and comparing it takes
    revision: str | None = None
    label: str | None = None  # what to call the origin; None: its name
    model: Model | None = None  # for GGUF donors
    checkpoint: Checkpoint | None = None

    @property
    def donor_name(self) -> str:
        """What provenance calls the origin: never a path of this machine, since files are published."""
        return self.label or self.origin.resolve().name

    @property
    def read_bytes(self) -> int:
        """Source bytes of all its tensors."""
        return sum(tensor.rows.read_bytes for tensor in self.tensors)

    @property
    def ranges(self) -> list[FileRange]:
        """Where those bytes lie."""
        return [where for tensor in self.tensors for where in tensor.rows.ranges]

    def find(self, suffix: str) -> BlockTensor | None:
        """The first tensor of that name behind `blk.N.`."""
        return next((tensor for tensor in self.tensors if tensor.suffix == suffix), None)


def layer_of(name: str) -> int | None:
    """The layer number in a tensor's name, or None for root tensors."""
    match = _BLOCK_TENSOR.match(name)
    return int(match[1]) if match else None


def suffix_of(name: str) -> str:
    """The name behind `blk.N.`."""
    match = _BLOCK_TENSOR.match(name)
    return match[2] if match else name


def block_layers(names: Iterator[str] | list[str]) -> list[int]:
    """The layer numbers that carry `nextn.eh_proj`, sorted: an MTP block's certain mark."""
    return sorted({n for name in names if suffix_of(name) == EH_PROJ and (n := layer_of(name)) is not None})


# -- from a GGUF ---------------------------------------------------------------------------------------------


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


# -- from whatever a user names -------------------------------------------------------------------------------------


def open_donor(path: Path | str) -> Block:
    """The block of whatever local thing `path` is: a checkpoint folder, a GGUF, a shard, a folder with one set."""
    with opened(Path(path)) as source:
        return block_of(source)


def block_of(source: Opened) -> Block:
    """The block of an opened source, and where it comes from. Raises what `block_from_model` and its kin raise."""
    if source.model is not None:
        block = block_from_model(source.model)
    else:
        from .from_checkpoint import block_from_checkpoint

        assert source.checkpoint is not None
        block = block_from_checkpoint(source.checkpoint)
    return block if source.remote is None else replace(block, revision=source.revision, label=source.name)
