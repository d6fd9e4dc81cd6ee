"""From tensors to segments: what all layouts share."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..block.model import Block, BlockTensor
from ..errors import QuantizeError
from ..ggml.quantize import can_read, can_write, check_writable, fallback_type
from ..gguf.files import GGUFFile
from ..gguf.header import FIXED_BYTES, Header, header_of, pad_to
from ..gguf.kv import KV
from ..gguf.kv_table import KVTable
from ..gguf.tensors import TensorInfo
from ..gguf.types import TensorType, parse_type_name, tensor_size
from ..sources.matrix_parts import Factors, side_factors
from ..sources.ranges import FileRange
from ..sources.rows import CheckpointRows, GGUFRows, RowSource
from ..writing.plan import Carry, Convert, Copy, Hashes, NewBytes, Repack
from .factors import REFUSED, SLOTS, becomes_q8_0, is_factor, without_factors
from .metadata import padding_kv, padding_least, provenance_kvs, trained_kvs
from .parts import Part, Parts, PlannedFile, PlannedHeader
from .qkv import Moved

F32 = parse_type_name("f32")
Q8_0 = parse_type_name("q8_0")
REFLINK_GRAIN = 4096  # file systems only clone full blocks of this size


def carried(name: str, file: GGUFFile, info: TensorInfo) -> Part:
    """A tensor of the trunk under `name`, byte for byte."""
    start, end = file.tensor_range(info)
    where = FileRange.of(file, start, end)
    return Part(TensorInfo(name, info.ne, info.type_id, 0), end - start, Carry(name, where, of_block=False))


def converted(
    name: str,
    ne: tuple[int, ...],
    rows: RowSource,
    wanted: TensorType,
    notes: list[str],
    *,
    of_block: bool = True,
) -> Part:
    """A tensor converted to `wanted`, or to what llama-quantize falls back to when its rows do not fit.

    Raises QuantizeError for a type that cannot be written.
    """
    check_writable(wanted)
    target = fallback_type(wanted, ne[0])
    if target.id != wanted.id:
        notes.append(
            f"{name}: rows of {ne[0]:,} do not fit {wanted.name} (blocks of {wanted.block_size}); "
            f"{target.name} is used instead"
        )
    size = tensor_size(target.id, ne)
    assert size is not None and can_write(target)
    return Part(TensorInfo(name, ne, target.id, 0), size, Convert(name, rows, target, size, of_block))


def new_floats(name: str, values: Sequence[float]) -> Part:
    """A small F32 tensor that is computed, [n]."""
    data = struct.pack(f"<{len(values)}f", *values)
    return Part(TensorInfo(name, (len(values),), F32.id, 0), len(data), NewBytes(data))


def from_trunk(name: str, file: GGUFFile, info: TensorInfo, wanted: TensorType | None, notes: list[str]) -> Part:
    """A GGUF tensor converted to another type (None: unchanged); carried when it already has that type."""
    if wanted is None or info.type_id == wanted.id:
        return carried(name, file, info)
    file.value_range(info)
    if info.type is None or not can_read(info.type):
        raise QuantizeError(
            f"{file.path}: '{info.name}' is stored as {info.type_name}, which ggml cannot decode here; "
            "use --embd-type as-is to carry it unchanged."
        )
    return converted(name, info.ne, GGUFRows(file, info), wanted, notes, of_block=False)


def block_parts(
    block: Block,
    n_layer_trunk: int,
    wanted: TensorType | None,
    notes: list[str],
    skip: Iterable[str] = (),
    *,
    in_model: bool,
) -> list[Part]:
    """The block's tensors as parts, named for a trunk of `n_layer_trunk` layers.

    `wanted` None carries GGUF donors as they are, keeps the codes of what a checkpoint stores in MXFP4, and converts
    the rest to q8_0. nvfp4 keeps the codes of tensors stored in NVFP4, if there are any, and converts the rest to q8_0.
    `in_model`: they become part of a model, where NVFP4's factors are a risk (see `factors`).
    """
    left_out = set(skip)
    block = without_factors(block, wanted, notes, in_model=in_model)
    if wanted is not None and any(is_factor(tensor.suffix) for tensor in block.tensors):
        wanted = None  # they were kept, in a GGUF's block, whose other tensors stay as they are
    kept = wanted is not None and wanted.name == "nvfp4" and any(_factors(tensor) for tensor in block.tensors)
    return [
        part
        for tensor in block.tensors
        if tensor.suffix not in left_out
        for part in tensor_parts(
            tensor, tensor.name(n_layer_trunk), Q8_0 if kept and not _factors(tensor) else wanted, notes,
            in_model=in_model,
        )
    ]


def _factors(tensor: BlockTensor) -> dict[str, Factors]:
    return side_factors(tensor.rows) if isinstance(tensor.rows, CheckpointRows) else {}


def tensor_parts(
    tensor: BlockTensor, name: str, wanted: TensorType | None, notes: list[str], *, in_model: bool
) -> list[Part]:
    """A tensor of the block and, for NVFP4, the factors that engines multiply its result by."""
    kind = None if tensor.stored is not None or tensor.f32 else tensor.rows.block_type
    if kind is None or (wanted is not None and wanted.id != kind.id):
        return [block_part(tensor, name, wanted, notes)]
    factors = _factors(tensor)
    if factors and (wanted is None or not SLOTS.fullmatch(tensor.suffix)):
        if wanted is None:
            notes.append(becomes_q8_0(in_model=in_model))
        else:
            notes.append(f"{name}: llama.cpp accepts no factor beside it, so its NVFP4 becomes q8_0")
        return [block_part(tensor, name, Q8_0, notes)]
    if factors and in_model:
        notes.append(REFUSED)
    size = tensor_size(kind, tensor.ne)
    assert size is not None
    part = Part(TensorInfo(name, tensor.ne, kind.id, 0), size, Repack(name, tensor.rows, kind, size))
    return [
        part,
        *(
            converted(name.removesuffix("weight") + ending, (rows.n_per_row,), rows, F32, notes)
            for ending, rows in factors.items()
        ),
    ]


def block_part(tensor: BlockTensor, name: str, wanted: TensorType | None, notes: list[str]) -> Part:
    """One tensor of the block under its name in the file, as `wanted` (None: unchanged where it can be carried)."""
    target = F32 if tensor.f32 else parse_type_name(tensor.kept) if tensor.kept else wanted
    if tensor.stored is not None and tensor.type_id is not None:
        if target is None or tensor.type_id == target.id or (tensor.f32 and wanted is None):
            info = TensorInfo(name, tensor.ne, tensor.type_id, 0)
            return Part(info, tensor.stored.size_bytes, Carry(name, tensor.stored))
        kind = TensorInfo(name, tensor.ne, tensor.type_id, 0).type
        if kind is None or not can_read(kind):
            raise QuantizeError(
                f"{tensor.stored.path}: '{name}' is stored in {kind.name if kind else f'type {tensor.type_id}'}, "
                "which ggml cannot decode here; leave out --type to carry it unchanged."
            )
    return converted(name, tensor.ne, tensor.rows, target or parse_type_name("q8_0"), notes)


def reshaped(parts: Parts, moved: Mapping[str, Sequence[Moved]]) -> Parts:
    """`parts` with the tensors of `moved` replacing those that they are made of."""

    def made() -> Iterator[Part]:
        for part in parts:
            if part.info.name not in moved:
                yield part
                continue
            for tensor in moved[part.info.name]:
                pieces = [Copy(rows.where) for rows in tensor.pieces]
                size = sum(piece.size_bytes for piece in pieces)
                yield Part(tensor.info, size, pieces[0], tuple(pieces[1:]))

    return Parts((made,))


@dataclass(frozen=True)
class Provenance:
    """What the header will say about the block once its bytes are known."""

    donor: str
    revision: str | None
    names: tuple[str, ...]  # tensors whose hashes are recorded
    more: tuple[KV, ...] = ()  # what is known of how it was trained

    @classmethod
    def of(cls, block: Block, parts: Sequence[Part]) -> Provenance:
        """Of a block that becomes these tensors."""
        names = tuple(part.info.name for part in parts)
        return cls(block.donor_name, block.revision, names, trained_kvs(block.model))

    def pairs(self, hashes: Hashes, source_hash: str) -> list[KV]:
        """The header's pairs, once the hashes are known."""
        chosen = {name: hashes[name] for name in self.names}
        return [*provenance_kvs(self.donor, self.revision, chosen, source_hash), *self.more]


def late_header(
    kvs: Sequence[KV],
    parts: Parts | Sequence[Part],
    like: Header,
    provenance: Provenance,
    congruent_to: int | None = None,
) -> PlannedHeader:
    """A header that records hashes.

    With `congruent_to` (an absolute data offset in the source) a padding pair is added so that the new data
    offset differs from it by a multiple of the file system's block size: only then can the trunk's data be cloned.
    """
    parts, alignment = Parts.of(parts), like.alignment

    def pairs(hashes: Hashes, source_hash: str) -> KVTable:
        return KVTable.of(kvs).plus(provenance.pairs(hashes, source_hash))

    blank = "0" * 64
    draft, tables_bytes = pairs(dict.fromkeys(provenance.names, blank), blank), parts.tables_bytes
    extra: list[KV] = []
    if congruent_to is not None:
        extra = congruence(FIXED_BYTES + draft.size_bytes + tables_bytes, congruent_to, alignment)
        draft = draft.plus(extra)

    def build(hashes: Hashes, source_hash: str) -> bytes:
        kvs = pairs(hashes, source_hash).plus(extra)
        return header_of(kvs, parts.tables(alignment), version=like.version, alignment=alignment)

    size = pad_to(FIXED_BYTES + draft.size_bytes + tables_bytes, alignment)
    return PlannedHeader(size, build, PlannedFile(draft, parts, like.version, alignment))


def congruence(size: int, data_offset: int, alignment: int) -> list[KV]:
    """A padding pair that moves the data section to a multiple of the block size away from `data_offset`."""
    grain = max(REFLINK_GRAIN, alignment)
    if (pad_to(size, alignment) - data_offset) % grain == 0:
        return []
    target = size + padding_least()
    target += (data_offset - target) % grain
    return [padding_kv(target - size)]
