"""A checkpoint's block: its tensors by the family's table, read row by row from where they are stored."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import replace

from ..archs import of_classes
from ..archs.base import Family, Rule, Source, Transform, missing, stops
from ..archs.drafts import kind_of_config
from ..archs.hparams import Config
from ..archs.others import words_of_classes
from ..archs.qwen import LAYER_PREFIX, name_in_block
from ..errors import FormatError, NoBlock, UnsupportedFormat, UnsupportedModel
from ..sources.checkpoint import CONFIG, INDEX, TOKENIZER, Checkpoint
from ..sources.matrix_parts import TransposedParts, head_parts, ranked_qkv
from ..sources.quantized import ADVICE, companions, describes_activations, logical_names, refuse_foreign, whole
from ..sources.reordered import InterleavedHalves, SideBySide
from ..sources.rows import CheckpointRows, RowSource, Span
from ..units import counted
from .model import Block, BlockTensor

_LAYER = re.compile(r"layers\.(\d+)\.")
_ARRANGED = (Transform.ROPE_PAIRS, Transform.FIRST_ROWS, Transform.OTHER_ROWS, Transform.BESIDE)


def block_names(checkpoint: Checkpoint, family: Family) -> dict[str, str]:
    """Name inside the block -> full name, for the family's prefix that the checkpoint uses.

    Blocks that follow the trunk's layers are renumbered: their first layer is `layers.0`.
    """
    n_trunk = checkpoint.integer("num_hidden_layers") if family.behind_trunk else 0
    if n_trunk is None:
        raise FormatError(
            "'num_hidden_layers' is missing: the block's layers cannot be identified", path=checkpoint.folder / CONFIG
        )
    for prefix in family.prefixes:
        found = {}
        for plain, name in checkpoint.plain_names.items():
            if not plain.startswith(prefix):
                continue
            local = plain[len(prefix) :]
            match = _LAYER.match(local)
            if not family.behind_trunk:
                found[local] = name
            elif match and int(match[1]) >= n_trunk:
                found[f"layers.{int(match[1]) - n_trunk}.{local[match.end() :]}"] = name
        if found:
            return found
    return {} if family.behind_trunk else _as_layers(checkpoint, family)


def _as_layers(checkpoint: Checkpoint, family: Family) -> dict[str, str]:
    """The same where the block was saved as layers after the trunk's."""
    found = {}
    n_trunk = checkpoint.integer("num_hidden_layers")
    for plain, name in checkpoint.plain_names.items():
        match = _LAYER.match(plain.removeprefix("model."))
        if n_trunk is None or match is None or int(match[1]) < n_trunk or not plain.startswith(LAYER_PREFIX):
            continue
        local = name_in_block(family, plain[len("model.") + match.end() :], int(match[1]) - n_trunk)
        if local is not None:
            found[local] = name
    return found


def _no_block(checkpoint: Checkpoint, family: Family) -> NoBlock:
    promised = checkpoint.integer(*family.count_keys) if family.count_keys else None
    if promised:
        return NoBlock(
            f"{checkpoint.place}: config.json promises {counted(promised, 'MTP block')}, but no tensor of any is "
            "present; fine-tuning tools lose them, so use the base model's checkpoint as the donor."
        )
    n_trunk = checkpoint.integer("num_hidden_layers") or 0
    mark = f"{family.prefixes[0]}layers.{n_trunk}." if family.behind_trunk else family.prefixes[0]
    return NoBlock(
        f"{checkpoint.place}: this checkpoint has no MTP block (no tensor named {mark}*); "
        "use the base model's checkpoint, or a GGUF that has the block, as the donor."
    )


def _head_halves(
    checkpoint: Checkpoint, source: Source, name: str
) -> tuple[RowSource, tuple[int, ...]]:
    """The keys' or the values' part of every head of kv_b."""
    span = whole(checkpoint, name)
    nope, value = (checkpoint.integer(key) for key in source.keys)
    n_rows, lora = span.tensor.n_rows, span.n_per_row
    if not nope or not value or n_rows % (nope + value):
        raise FormatError(
            f"the {n_rows:,} rows of '{name}' do not divide into heads of {' + '.join(source.keys)} ({nope} + {value})",
            path=checkpoint.folder / CONFIG,
        )
    n_head = n_rows // (nope + value)
    if source.transform is Transform.VALUE_HALF:
        return CheckpointRows(head_parts(span, n_head, nope, nope + value)), (lora, value, n_head)
    return TransposedParts(CheckpointRows(head_parts(span, n_head, 0, nope))), (nope, lora, n_head)


def _spans(
    checkpoint: Checkpoint, rule: Rule, transform: Transform, names: list[str]
) -> tuple[tuple[Span, ...], tuple[int, ...]]:
    """The rows that make up a tensor, and its shape in ggml's order."""
    spans = tuple(whole(checkpoint, name) for name in names)
    first = spans[0]
    for span, name in zip(spans, names, strict=True):
        if span.shape != first.shape:
            raise FormatError(
                f"the experts of '{rule.target}' differ in shape: '{name}' has {list(span.shape)}, "
                f"'{names[0]}' {list(first.shape)}",
                path=span.tensor.where.path,
            )
    if transform in (Transform.GATE_HALF, Transform.UP_HALF):
        return _half(transform, first)
    ne = first.shape[::-1]
    return spans, (*ne, len(spans)) if transform is Transform.STACK_EXPERTS else ne


def _arranged(
    checkpoint: Checkpoint, source: Source, name: str, beside: str | None
) -> tuple[RowSource, tuple[int, ...]]:
    """Rows or columns in another order. Raises FormatError when config.json and shapes do not match."""
    left = whole(checkpoint, name)
    n_rows, n_columns = left.n_rows, left.n_per_row
    if beside is not None:
        right = whole(checkpoint, beside)
        if right.n_rows != n_rows:
            raise FormatError(
                f"'{name}' has {n_rows:,} rows, but '{beside}', which goes beside it, has {right.n_rows:,}",
                path=right.tensor.where.path,
                offset=right.tensor.where.start,
            )
        both = SideBySide(left, right)
        return both, (both.n_per_row, n_rows)
    count = math.prod(checkpoint.integer(key) or 0 for key in source.keys)
    keys = " * ".join(source.keys)
    if source.transform is Transform.ROPE_PAIRS:
        if len(left.shape) == 1:  # a bias: rows of one element
            left = replace(left, tensor=replace(left.tensor, shape=(n_columns, 1)), end=n_columns)
            n_rows, n_columns = n_columns, 1
        if count <= 0 or n_rows % (2 * count):
            raise FormatError(
                f"the {n_rows:,} rows of '{name}' do not divide into {count} heads ({keys})",
                path=checkpoint.folder / CONFIG,
            )
        return InterleavedHalves(CheckpointRows(head_parts(left, count, 0, n_rows // count))), (n_columns, n_rows)
    if not 0 < count < n_rows:
        raise FormatError(
            f"'{name}' has {n_rows:,} rows, but its first part should have {count:,} ({keys})",
            path=checkpoint.folder / CONFIG,
        )
    start, end = (0, count) if source.transform is Transform.FIRST_ROWS else (count, n_rows)
    return CheckpointRows((replace(left, start=start, end=end),)), (n_columns, end - start)


def _half(transform: Transform, fused: Span) -> tuple[tuple[Span, ...], tuple[int, ...]]:
    """Each expert's first or second half of the rows of gate_up [n_expert, 2*F, E]."""
    if len(fused.shape) != 3 or fused.shape[1] % 2:
        raise FormatError(
            f"'{fused.tensor.name}' should be [experts, 2*rows, columns], but is {list(fused.shape)}",
            path=fused.tensor.where.path,
        )
    n_expert, both, n_embd = fused.shape
    half = both // 2
    shift = 0 if transform is Transform.GATE_HALF else half
    spans = tuple(fused.part(x * both + shift, x * both + shift + half) for x in range(n_expert))
    return spans, (n_embd, half, n_expert)


def _ranked_qkv(checkpoint: Checkpoint, source: Source, name: str) -> tuple[RowSource, tuple[int, ...]]:
    """q, k and v of one tensor, each contiguous, with the head counts of a sliding-window layer."""
    span = whole(checkpoint, name, ranked=True)
    sizes = [checkpoint.integer(key) for key in source.keys]
    for key, size in zip(source.keys, sizes, strict=True):
        if size is None:
            raise FormatError(
                f"'{key}' is missing: the rows of '{name}' cannot be divided into q, k and v",
                path=checkpoint.folder / CONFIG,
            )
    n_q, n_kv, key_size, value_size = (size or 0 for size in sizes)
    spans = ranked_qkv(span, (n_q * key_size, n_kv * key_size, n_kv * value_size), source.ranks)
    return CheckpointRows(spans), span.shape[::-1]


def read_rule(
    checkpoint: Checkpoint, rule: Rule, names: dict[str, str], k: int, used: set[str]
) -> BlockTensor | None:
    """One tensor of block `k`, or None when it is not in the checkpoint; `used` gets the names that make it."""
    for source in rule.sources:
        local, beside = (name.replace("{k}", str(k)) for name in (source.name, source.beside))
        if "{x}" in local:
            numbers = _expert_numbers(names, local)
            if not numbers:
                continue
            if numbers != list(range(len(numbers))):
                raise FormatError(
                    f"experts are missing from the checkpoint: '{local}' has {len(numbers)} of "
                    f"{numbers[-1] + 1}; download the rest",
                    path=checkpoint.place,
                )
            found = [local.replace("{x}", str(x)) for x in numbers]
        elif local in names and (k == 0 or "{k}" in source.name):
            found = [local]
            if beside and beside not in names:
                continue
            if beside:
                found.append(beside)
        else:
            continue
        used.update(found)
        used.update(one for name in found for one in companions(name, names))
        rows: RowSource
        if source.transform in (Transform.KEY_HALF, Transform.VALUE_HALF):
            rows, ne = _head_halves(checkpoint, source, names[found[0]])
        elif source.transform is Transform.RANKED_QKV:
            rows, ne = _ranked_qkv(checkpoint, source, names[found[0]])
        elif source.transform in _ARRANGED:
            rows, ne = _arranged(checkpoint, source, names[found[0]], names[beside] if beside else None)
        else:
            spans, ne = _spans(checkpoint, rule, source.transform, [names[name] for name in found])
            rows = CheckpointRows(spans, 1.0 if source.transform is Transform.PLUS_ONE else 0.0)
        ne = _with_axes(ne, len(rule.ne.split()))
        stored = checkpoint.tensor(names[found[0]]).dtype if rule.as_source else ""
        f32 = rule.f32 or len(ne) <= 1 or stored == "F32"
        kept = stored.lower() if stored in ("BF16", "F16") else None
        return BlockTensor(k, rule.target, ne, rows, f32=f32, kept=kept, root=rule.root)
    return None


def _with_axes(ne: tuple[int, ...], n_axes: int) -> tuple[int, ...]:
    """A shape with fewer axes and the same bytes: axes of length 1 go first, then the slowest two become one."""
    while len(ne) > n_axes and 1 in ne[:-1]:
        at = ne.index(1)
        ne = (*ne[:at], *ne[at + 1 :])
    while len(ne) > n_axes:
        ne = (*ne[:-2], ne[-2] * ne[-1])
    return ne


def _expert_numbers(names: dict[str, str], pattern: str) -> list[int]:
    head, tail = pattern.split("{x}")
    inner = (name[len(head) : len(name) - len(tail)] for name in names if name.startswith(head) and name.endswith(tail))
    return sorted(int(text) for text in inner if text.isdigit())


def refuse_draft(checkpoint: Checkpoint) -> None:
    """Raise UnsupportedModel for a draft that is a model of its own: it has no block."""
    kind = kind_of_config(checkpoint.classes, checkpoint.text_config)
    if kind is not None:
        raise UnsupportedModel(
            f"{checkpoint.place}: this is {kind.article} {kind.title} draft, a model of its own without an MTP block; "
            "'nextn extract DRAFT --for-trunk MODEL.gguf' makes a sidecar of it."
        )


def block_from_checkpoint(checkpoint: Checkpoint, *, partial: bool = False) -> Block:
    """The block of a checkpoint folder; with `partial` also one that lacks some of its tensors.

    Raises UnsupportedModel for an unknown class, NoBlock when the block's tensors are missing (whatever config.json
    says), FormatError for tensors that are damaged, missing or unknown.
    """
    family = of_classes(checkpoint.classes)
    if family is None:
        refuse_draft(checkpoint)
        words = words_of_classes(checkpoint.classes, checkpoint.text_config.get("model_type"))
        if words is not None:
            raise UnsupportedModel(f"{checkpoint.place}: {words}.")
        raise UnsupportedModel(
            f"{checkpoint.folder / CONFIG}: nextn does not know the model class "
            f"{', '.join(checkpoint.classes) or '(none is named)'}, so it does not know where its MTP block is."
        )
    names = block_names(checkpoint, family)
    if not names:
        raise _no_block(checkpoint, family)
    for mark, what in family.not_blocks:
        if any(mark in name for name in names):
            raise UnsupportedModel(f"{checkpoint.place}: {what}.")
    refuse_foreign(checkpoint, names)
    names = logical_names(names)
    numbers = {int(match[1]) for name in names if (match := re.match(rf"{family.layer_mark}(\d+)\.", name))}
    n_blocks = -(-(max(numbers, default=0) + 1) // family.n_source_layers)
    if n_blocks > family.max_blocks:
        raise UnsupportedModel(
            f"{checkpoint.place}: the checkpoint has {n_blocks} MTP blocks, but engines accept "
            f"{family.max_blocks} for '{family.arch}'."
        )
    used: set[str] = set()
    tensors = []
    config = Config(checkpoint.text_config, checkpoint.folder / CONFIG, n_blocks)
    find = family.header.find(config) if family.header is not None else lambda suffix: None
    for k in range(n_blocks):
        found = [tensor for rule in family.rules if (tensor := read_rule(checkpoint, rule, names, k, used))]
        tensors += found
        there = {tensor.suffix for tensor in found}
        if reason := stops(family, there):
            raise UnsupportedModel(f"{checkpoint.place}: no engine drafts with this block: {reason}.")
        for target in [] if partial else missing(family.rules, there, find):
            sources = next(rule.sources for rule in family.rules if rule.target == target)
            wanted = " or ".join(source.name.replace("{k}", str(k)) for source in sources)
            raise FormatError(
                f"the MTP block is incomplete: '{wanted}' is missing; use another donor", path=checkpoint.place
            )
    refuse_leftovers(checkpoint, names, used)
    return Block(
        origin=checkpoint.place,
        kind="checkpoint",
        architecture=family.arch,
        n_layer_trunk=checkpoint.integer("num_hidden_layers"),
        n_layer_nextn=n_blocks,
        tensors=tuple(tensors),
        hidden_size=checkpoint.integer("hidden_size"),
        n_vocab=checkpoint.integer("vocab_size"),
        header_bytes=json_bytes(checkpoint, {names[name] for name in used if names[name] in checkpoint.weight_map}),
        checkpoint=checkpoint,
    )


def json_bytes(checkpoint: Checkpoint, used: set[str]) -> int:
    """Bytes of config, index, tokenizer, and of the safetensors headers that hold `used`."""
    total = 0
    for name in (CONFIG, INDEX, TOKENIZER):
        with contextlib.suppress(FileNotFoundError):
            total += (checkpoint.folder / name).stat().st_size
    files = {checkpoint.weight_map[name] for name in used}
    starts: dict[str, int] = {}
    for name, file in checkpoint.weight_map.items():
        if file in files:
            start = checkpoint.tensor(name).where.start
            starts[file] = min(start, starts.get(file, start))
    return total + sum(starts.values())


def refuse_leftovers(checkpoint: Checkpoint, names: dict[str, str], used: set[str]) -> None:
    """Raise UnsupportedFormat for tensors (name inside the block -> full) that no rule has `used`."""
    left = sorted(names[name] for name in names.keys() - used if not describes_activations(name))
    if not left:
        return
    quantized = [name for name in left if re.search(r"(scale|zero_point|_packed|_shape|_2)(_inv)?$", name)]
    if quantized:
        raise UnsupportedFormat(
            f"the block is stored quantized, and nextn does not read what '{quantized[0]}' says about it; {ADVICE}",
            path=checkpoint.place,
        )
    raise UnsupportedFormat(
        f"the block has {counted(len(left), 'tensor')} that nextn does not know, such as '{left[0]}': leaving "
        f"{'it' if len(left) == 1 else 'them'} out could break it",
        path=checkpoint.place,
    )
