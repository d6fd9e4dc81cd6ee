"""q, k and v of attention as one tensor or as three, moved as rows: nothing is requantized.

A row of a quantized tensor is a whole number of ggml blocks, so the rows of three tensors of one type, concatenated,
are the fused tensor, and ranges of its rows are the three. No key says which form a file has: engines look for
`attn_qkv`, and most look for `attn_q`, `attn_k` and `attn_v` when it is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..archs.base import Family, Lookup
from ..block.model import Block, BlockTensor, layer_of, suffix_of
from ..errors import FormatError, QuantizeError, UnsupportedModel, UsageError
from ..gguf.files import GGUFFile, Model
from ..gguf.kv import KV
from ..gguf.kv_table import KVTable
from ..gguf.tensors import TensorInfo
from ..gguf.types import TensorType
from ..sources.rows import CheckpointRows, GGUFRows, JoinedRows, RowSource
from .factors import SIDES

SPLIT, FUSED, AS_TRUNK = "split", "fused", "as-trunk"
FORMS = (SPLIT, FUSED, AS_TRUNK)
WHOLE = "attn_qkv"
PARTS = ("attn_q", "attn_k", "attn_v")
ENDINGS = ("weight", "bias")
RECURRENT = ("ssm_", "attn_qkv_gate")  # in a layer with these, `attn_qkv` is something else


@dataclass(frozen=True)
class Rows3:
    """The numbers of rows that q, k and v have in a fused tensor."""

    q: int
    k: int
    v: int

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Start and end of each."""
        return (0, self.q), (self.q, self.q + self.k), (self.q + self.k, self.q + self.k + self.v)


def lookup_of(arch: str, kvs: Iterable[KV]) -> Lookup:
    """Values of `{arch}.*` among `kvs`."""
    table = KVTable.of(kvs)

    def find(suffix: str) -> Any:
        kv = table.find(f"{arch}.{suffix}")
        return None if kv is None else kv.value

    return find


def rows_of(find: Lookup, layer: int, n_rows: int, where: Path) -> Rows3:
    """The rows of q, k and v in a fused tensor of layer `layer`; q may carry a gate as large as itself.

    Raises FormatError when the model's head counts and sizes do not give `n_rows`.
    """

    def integer(suffix: str) -> int:
        value = find(suffix)
        if isinstance(value, list):
            value = value[layer] if layer < len(value) else None
        return value if isinstance(value, int) else 0

    heads, kv_heads = integer("attention.head_count"), integer("attention.head_count_kv")
    pattern, hidden = find("attention.sliding_window_pattern"), integer("embedding_length")
    slides = isinstance(pattern, list) and layer < len(pattern) and bool(pattern[layer])
    key = (slides and integer("attention.key_length_swa")) or integer("attention.key_length") or hidden // max(1, heads)
    value = (slides and integer("attention.value_length_swa")) or integer("attention.value_length") or key
    k, v = kv_heads * key, kv_heads * value
    q = n_rows - k - v
    if not k or not v or q not in (heads * key, 2 * heads * key):
        raise FormatError(
            f"layer {layer}: the {n_rows:,} rows of its fused q, k and v do not match the {heads} and {kv_heads} heads "
            f"of {key} and {value} in the metadata, so they cannot be separated; use --qkv fused",
            path=where,
        )
    return Rows3(q, k, v)


def _no_parts(kind: TensorType | None, n_rows: Iterable[int], what: str, where: Path) -> None:
    """QuantizeError for types whose rows are not independent."""
    if kind is None or kind.block_size is None:
        raise QuantizeError(
            f"{where}: {what} is stored in a type whose row layout nextn does not know; keep q, k and v as they are."
        )
    if any(n % kind.row_group for n in n_rows):
        raise QuantizeError(
            f"{where}: {what} is stored as {kind.name}, which interleaves {kind.row_group} rows, but q, k and v do not "
            "end where such groups end; keep them as they are."
        )


def check_parts(shapes: Mapping[str, tuple[int, ...]], form: str, where: Path, layer: str) -> None:
    """Raise FormatError unless q, k and v of one layer match: all present, of equal width, with a bias for every row.

    `shapes`: ne by name without the layer; `layer` names it in errors.
    """
    names = (WHOLE,) if form == FUSED else PARTS
    weights = [shapes.get(f"{name}.weight") for name in names]
    if None in weights or any(len(ne) < 2 for ne in weights if ne) or len({ne[0] for ne in weights if ne}) != 1:
        wanted = ", ".join(f"{name}.weight" for name in names)
        raise FormatError(f"{layer} has no matching {wanted}", path=where)
    biases = {name: math.prod(shapes[f"{name}.bias"]) for name in names if f"{name}.bias" in shapes}
    for name, weight in zip(names, weights, strict=True):
        rows = weight[1] if weight else 0
        if biases and biases.get(name) != rows:
            had = f"{biases[name]:,} values" if name in biases else "none"
            raise FormatError(f"the bias of {name} in {layer} has {had}, but its matrix has {rows:,} rows", path=where)


# -- a block -------------------------------------------------------------------------------------------------


def block_form(block: Block) -> str | None:
    """SPLIT or FUSED, or None for a block whose attention has no q, k and v."""
    names = {tensor.suffix for tensor in block.tensors}
    if f"{WHOLE}.weight" in names:
        return FUSED
    return SPLIT if {f"{part}.weight" for part in PARTS} <= names else None


def rules_form(family: Family) -> str | None:
    """The form that a family's table is written in."""
    names = {rule.target for rule in family.rules}
    if f"{WHOLE}.weight" in names:
        return FUSED
    return SPLIT if {f"{part}.weight" for part in PARTS} <= names else None


def shaped(block: Block, form: str | None, find: Lookup, wanted: TensorType | None = None) -> Block:
    """`block` in another form; unchanged when it already has that form, or none.

    `find` is the metadata of the model that the block becomes part of, `wanted` the type that matrices are converted
    to (None: as they are). Raises QuantizeError when rows cannot be moved as they are, FormatError.
    """
    now = block_form(block)
    if form is None or now is None or now == form:
        return block
    out: list[BlockTensor] = []
    for layer in range(block.n_layer_nextn):
        mine = [tensor for tensor in block.tensors if tensor.layer == layer]
        by_name = {tensor.suffix: tensor for tensor in mine}
        check_parts({name: tensor.ne for name, tensor in by_name.items()}, now, block.origin, f"MTP block {layer}")
        new = _fused(block, by_name, wanted) if form == FUSED else _split(block, by_name, find)
        old = {f"{name}.{end}" for name in (WHOLE, *PARTS) for end in (*ENDINGS, *SIDES)}
        first = next(i for i, tensor in enumerate(mine) if tensor.suffix in old)
        kept = [tensor for tensor in mine if tensor.suffix not in old]
        out += [*kept[:first], *new, *kept[first:]]
    return replace(block, tensors=tuple(out))


def _fused(block: Block, by_name: Mapping[str, BlockTensor], wanted: TensorType | None) -> list[BlockTensor]:
    where = block.origin
    for side in SIDES:
        if any(f"{part}.{side}" in by_name for part in PARTS):
            raise QuantizeError(
                f"{where}: q, k and v each have a factor ('{PARTS[0]}.{side}'), but a fused tensor can have only one; "
                "keep them split."
            )
    out = []
    for ending in ENDINGS:
        parts = [by_name[f"{part}.{ending}"] for part in PARTS if f"{part}.{ending}" in by_name]
        if not parts:
            continue
        if ending == "weight":
            _check_types(where, [(tensor.suffix, tensor.type_id) for tensor in parts], wanted)
        rows = _joined([tensor.rows for tensor in parts])
        if ending == "weight" and parts[0].type_id is not None and rows.block_type is not None:
            _no_parts(rows.block_type, [tensor.rows.n_rows for tensor in parts], f"'{WHOLE}.{ending}'", where)
        ne = (*parts[0].ne[:-1], sum(tensor.ne[-1] for tensor in parts))
        out.append(BlockTensor(parts[0].layer, f"{WHOLE}.{ending}", ne, rows, f32=parts[0].f32))
    return out


def _check_types(where: Path, types: Sequence[tuple[str, int | None]], wanted: TensorType | None) -> None:
    """QuantizeError unless the tensors can be joined: of one type, or all converted to `wanted`."""
    kinds = {type_id for _, type_id in types}
    if len(kinds) == 1 and (wanted is None or kinds <= {None, wanted.id}):
        return
    named = [(name, TensorInfo("", (), type_id, 0).type if type_id is not None else None) for name, type_id in types]
    if wanted is None:
        listed = ", ".join(f"{name} {kind.name if kind else 'of an unknown type'}" for name, kind in named)
        raise QuantizeError(
            f"{where}: q, k and v differ in type ({listed}), so they cannot become one tensor without requantizing "
            "them; keep them split, or give a --type."
        )
    from ..ggml.quantize import can_read  # loads numpy, which a header is checked without

    for name, kind in named:
        if kind is not None and not can_read(kind):
            raise QuantizeError(
                f"{where}: '{name}' is stored as {kind.name}, which ggml cannot decode here; leave out --type."
            )


def _joined(parts: Sequence[RowSource]) -> RowSource:
    if all(isinstance(part, CheckpointRows) for part in parts):
        rows = [part for part in parts if isinstance(part, CheckpointRows)]
        if len({part.add for part in rows}) == 1:
            return CheckpointRows(tuple(span for part in rows for span in part.spans), rows[0].add)
    return JoinedRows(tuple(parts))


def _split(block: Block, by_name: Mapping[str, BlockTensor], find: Lookup) -> list[BlockTensor]:
    weight = by_name[f"{WHOLE}.weight"]
    layer = (block.n_layer_trunk or 0) + weight.layer
    sizes = rows_of(find, layer, weight.ne[1], block.origin)
    if weight.type_id is not None:
        kind = TensorInfo("", (), weight.type_id, 0).type
        _no_parts(kind, (sizes.q, sizes.k, sizes.v), f"'{weight.suffix}'", block.origin)
    out = []
    for part, (start, end) in zip(PARTS, sizes.ranges, strict=True):
        out.append(_cut(weight, f"{part}.weight", (weight.ne[0], end - start), start, end))
        bias = by_name.get(f"{WHOLE}.bias")
        if bias is not None:
            out.append(_cut(_upright(bias), f"{part}.bias", (end - start,), start, end))
        sides = [by_name[f"{WHOLE}.{side}"] for side in SIDES if f"{WHOLE}.{side}" in by_name]
        out += [replace(side, suffix=side.suffix.replace(WHOLE, part)) for side in sides]
    return out


def _upright(vector: BlockTensor) -> BlockTensor:
    """A vector read as rows of one element each, so that it can be cut like a matrix."""
    rows = vector.rows
    if isinstance(rows, GGUFRows):
        return replace(vector, rows=GGUFRows(rows.file, replace(rows.info, ne=(1, rows.info.n_elements))))
    assert isinstance(rows, CheckpointRows)
    span = rows.spans[0]
    upright = replace(span, tensor=replace(span.tensor, shape=(span.n_per_row, 1)), end=span.n_per_row)
    return replace(vector, rows=CheckpointRows((upright,), rows.add))


def _cut(tensor: BlockTensor, suffix: str, ne: tuple[int, ...], start: int, end: int) -> BlockTensor:
    """Rows `start` to `end` of a tensor, under another name."""
    rows = tensor.rows
    if isinstance(rows, GGUFRows):
        part = GGUFRows(rows.file, rows.info, rows.start + start, rows.start + end)
        return replace(tensor, suffix=suffix, ne=ne, rows=part, stored=part.where)
    assert isinstance(rows, CheckpointRows)
    spans = []
    for span in rows.spans:
        n = span.end - span.start
        low, high = max(start, 0), min(end, n)
        if low < high:
            spans.append(span.part(low, high))
        start, end = start - n, end - n
    return replace(tensor, suffix=suffix, ne=ne, rows=CheckpointRows(tuple(spans), rows.add))


# -- a trunk -------------------------------------------------------------------------------------------------


def attention_layers(model: Model, n_trunk: int) -> dict[int, str]:
    """Layer -> SPLIT or FUSED, for the trunk's layers whose attention has q, k and v."""
    names: dict[int, set[str]] = {}
    for name in model.tensors:
        layer = layer_of(name)
        if layer is not None and layer < n_trunk:
            names.setdefault(layer, set()).add(suffix_of(name))
    out = {}
    for layer, mine in sorted(names.items()):
        if any(name.startswith(RECURRENT) for name in mine):
            continue
        if f"{WHOLE}.weight" in mine:
            out[layer] = FUSED
        elif {f"{part}.weight" for part in PARTS} <= mine:
            out[layer] = SPLIT
    return out


def resolve(form: str | None, family: Family, model: Model, n_trunk: int, notes: list[str]) -> str | None:
    """The form to write, with as-trunk resolved. Raises UsageError, UnsupportedModel."""
    if form is None:
        return None
    if form not in FORMS:
        raise UsageError(f"'{form}' is not a form of q, k and v; choose one of {', '.join(FORMS)}.")
    layers = attention_layers(model, n_trunk)
    if form == AS_TRUNK:
        if not layers:
            return None
        form = layers[max(layers)]
    return checked(form, family, model.entry, notes)


def checked(form: str, family: Family, where: Path, notes: list[str]) -> str:
    """`form`, when the family's block can have it and its graph accepts it; a note when only the loader does."""
    takes = family.qkv
    if takes is None:
        raise UsageError(
            f"{where}: the attention of '{family.arch}' blocks has no q, k and v to fuse or split; leave out --qkv."
        )
    if form == FUSED and not takes.fused:
        raise UnsupportedModel(
            f"{where}: the drafting graph of '{family.arch}' needs q, k and v as three tensors; use --qkv split."
        )
    if form == SPLIT and not takes.split:
        notes.append(
            f"llama.cpp loads a '{family.arch}' block with separate q, k and v, but stops when it drafts with it; "
            "use --qkv fused for drafting"
        )
    return form


@dataclass(frozen=True)
class Moved:
    """A tensor of a rewritten trunk: bytes of existing tensors, concatenated."""

    info: TensorInfo  # without an offset
    pieces: tuple[GGUFRows, ...]


def trunk_tensors(model: Model, n_trunk: int, form: str) -> dict[str, tuple[Moved, ...]]:
    """First old name -> the tensors that replace it; names that are only dropped have none.

    Raises QuantizeError when types differ or rows are not independent, FormatError.
    """
    out: dict[str, tuple[Moved, ...]] = {}
    for layer, now in attention_layers(model, n_trunk).items():
        if now == form:
            continue
        prefix = f"blk.{layer}."
        there = {name: model.tensors[prefix + name] for name in _names(now) if prefix + name in model.tensors}
        check_parts({name: info.ne for name, (_, info) in there.items()}, now, model.entry, f"layer {layer}")
        made = _fuse_stored(model, prefix, there) if form == FUSED else _split_stored(model, prefix, there, layer)
        names = [prefix + name for name in there]
        out.update(dict.fromkeys(names, ()))
        out[names[0]] = tuple(made)
    return out


def _names(form: str) -> list[str]:
    names = (WHOLE,) if form == FUSED else PARTS
    return [f"{name}.{end}" for name in names for end in (*ENDINGS, *SIDES)]


def _check_axes(there: Mapping[str, tuple[GGUFFile, TensorInfo]], where: Path) -> None:
    """Raise QuantizeError for a matrix without two axes, or a bias without one."""
    for name, (_, info) in there.items():
        wanted = {"weight": 2, "bias": 1}.get(name.rpartition(".")[2])
        if wanted is not None and len(info.ne) != wanted:
            raise QuantizeError(
                f"{where}: '{info.name}' has {len(info.ne)} axes instead of {wanted}, so q, k and v cannot be "
                "joined or split; get the model again, or leave out --qkv."
            )


def _fuse_stored(model: Model, prefix: str, there: Mapping[str, tuple[GGUFFile, TensorInfo]]) -> list[Moved]:
    where = model.entry
    _check_axes(there, where)
    for side in SIDES:
        if f"{PARTS[0]}.{side}" in there:
            raise QuantizeError(
                f"{where}: q, k and v each have a factor ('{prefix}{PARTS[0]}.{side}'), but a fused tensor can have "
                "only one; keep them split."
            )
    out = []
    for ending in ENDINGS:
        parts = [there[f"{part}.{ending}"] for part in PARTS if f"{part}.{ending}" in there]
        if not parts:
            continue
        _check_types(where, [(info.name, info.type_id) for _, info in parts], None)
        if ending == "weight":
            _no_parts(parts[0][1].type, [info.ne[-1] for _, info in parts], f"'{parts[0][1].name}'", where)
        ne = (*parts[0][1].ne[:-1], sum(info.ne[-1] for _, info in parts))
        info = TensorInfo(f"{prefix}{WHOLE}.{ending}", ne, parts[0][1].type_id, 0)
        out.append(Moved(info, tuple(GGUFRows(file, part) for file, part in parts)))
    return out


def _split_stored(
    model: Model, prefix: str, there: Mapping[str, tuple[GGUFFile, TensorInfo]], layer: int
) -> list[Moved]:
    _check_axes(there, model.entry)
    file, weight = there[f"{WHOLE}.weight"]
    sizes = rows_of(model.arch_value, layer, weight.ne[1], model.entry)
    _no_parts(weight.type, (sizes.q, sizes.k, sizes.v), f"'{weight.name}'", model.entry)
    out = []
    for part, (start, end) in zip(PARTS, sizes.ranges, strict=True):
        info = TensorInfo(f"{prefix}{part}.weight", (weight.ne[0], end - start), weight.type_id, 0)
        out.append(Moved(info, (GGUFRows(file, weight, start, end),)))
        if f"{WHOLE}.bias" in there:
            own, bias = there[f"{WHOLE}.bias"]
            upright = replace(bias, ne=(1, bias.n_elements))
            info = TensorInfo(f"{prefix}{part}.bias", (end - start,), bias.type_id, 0)
            out.append(Moved(info, (GGUFRows(own, upright, start, end),)))
        for side in SIDES:
            if f"{WHOLE}.{side}" in there:
                own, factor = there[f"{WHOLE}.{side}"]
                out.append(Moved(replace(factor, name=f"{prefix}{part}.{side}", offset=0), (GGUFRows(own, factor),)))
    return out
