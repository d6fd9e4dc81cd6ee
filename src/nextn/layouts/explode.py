"""Explode: a model as a set of shards, down to one tensor per file.

The rules are those of llama.cpp's `llama-gguf-split` (tools/gguf-split/gguf-split.cpp, b11549), so that each program
reads the other's sets: tensors keep their order, all of the model's pairs are in the first shard, and the others have
only `split.no`, `split.count` and `split.tensors.count` (and `general.alignment` where it is not the default; that
program leaves it out, so its own sets of such models cannot be read).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..block.anatomy import Anatomy
from ..errors import UsageError
from ..gguf.files import GGUFFile, Model, shard_name
from ..gguf.header import DEFAULT_ALIGNMENT, build_header, pad_to, place
from ..gguf.kv import KV, KVType
from ..gguf.kv_table import edit
from ..gguf.sets import SPLIT_KEYS, SPLIT_NO
from ..gguf.tensors import TensorInfo
from ..sources.ranges import FileRange
from ..writing.plan import Copy, Link, LinkMode, NewBytes, NewFile, Plan, Segment
from . import metadata, naming, places

ALIGNMENT_KEY = "general.alignment"
MOST_SHARDS = 65_535  # split.count is a u16
MAX_SHARDS_OLD = 64  # GGML_MAX_CONTEXTS, one context per shard

Tensor = tuple[GGUFFile, TensorInfo]


@dataclass(frozen=True)
class ExplodeOptions:
    """How to explode."""

    out: Path | str | None = None
    max_tensors: int | None = None  # tensors per shard; None with `max_bytes` None: 1
    max_bytes: int | None = None  # bytes of tensors per shard, padding included
    metadata_first: bool = False  # the first shard holds no tensor
    link: LinkMode = LinkMode.AUTO


def plan_explode(model: Model, options: ExplodeOptions) -> Plan:
    """The plan that writes the model's tensors as shards. Raises UsageError, FormatError for a truncated file."""
    if options.max_tensors is not None and options.max_bytes is not None:
        raise UsageError("--max-tensors and --max-size cannot be combined; choose one.")
    model.check_whole()
    groups = list(_groups(model, options))
    if len(groups) > MOST_SHARDS:
        raise UsageError(
            f"{model.entry}: this would make {len(groups):,} shards, but a set can have at most {MOST_SHARDS:,}; allow "
            "more per shard with --max-tensors or --max-size."
        )
    base = naming.same_base(places.model_name(model), is_model=Anatomy.of(model).has_trunk)
    folder, name = naming.resolve_output(options.out, places.default_folder(model) / f"{base}-shards", base + ".gguf")
    return set_plan("explode", model.kvs, model, groups, folder, naming.set_prefix(name), options.link)


def _groups(model: Model, options: ExplodeOptions) -> Iterator[list[Tensor]]:
    """The tensors of each shard."""
    most, most_bytes = options.max_tensors, options.max_bytes
    if most is None and most_bytes is None:
        most = 1
    alignment = model.header.alignment
    group: list[Tensor] = []
    if options.metadata_first:
        yield []
    size = 0
    for i, (file, info) in enumerate(model.items()):
        n_bytes = pad_to(file.header.stored_size(info) or file.stored_size(info), alignment)
        if (most is not None and i > 0 and i % most == 0) or (most_bytes and group and size + n_bytes > most_bytes):
            yield group
            group, size = [], 0
        group.append((file, info))
        size += n_bytes
    yield group


def set_plan(
    verb: str,
    kvs: Sequence[KV],
    model: Model,
    groups: Sequence[Sequence[Tensor]],
    folder: Path,
    prefix: str,
    link: LinkMode,
    notes: Sequence[str] = (),
) -> Plan:
    """A set of shards, one per group in `groups`; a group that an existing shard holds exactly is linked."""
    count, n_tensors = len(groups), sum(map(len, groups))
    outputs: list[NewFile | Link] = []
    whole = _whole_files(groups)
    for no, group in reversed(list(enumerate(groups))):
        name = shard_name(prefix, no + 1, count)
        file = whole.get(no)
        if file is not None and no > 0:
            outputs.append(Link(name, file.path, file.size_bytes, link, file.stamp))
            continue
        pairs: Sequence[KV] = metadata.split_kvs(no, count, n_tensors)
        if no == 0:
            pairs = edit(kvs, drop=SPLIT_KEYS).plus(pairs)
        elif model.header.alignment != DEFAULT_ALIGNMENT:
            pairs = [KV.make(ALIGNMENT_KEY, KVType.UINT32, model.header.alignment), *pairs]
        outputs.append(NewFile(name, segments(pairs, group, model.header.version, model.header.alignment)))
    entry = folder / shard_name(prefix, 1, count)
    said = list(notes)
    if count > MAX_SHARDS_OLD:
        said.append(
            f"{count:,} shards: builds of ik_llama.cpp up to 8337e4cd, and of llama.cpp before ggml allocated its "
            f"contexts individually, take at most {MAX_SHARDS_OLD} unless they were built with a higher "
            "GGML_MAX_CONTEXTS"
        )
    return Plan(
        verb=verb,
        layout="shards",
        folder=folder,
        outputs=tuple(outputs),
        entry=entry,
        sidecar=None,
        header_bytes=model.header_bytes,
        notes=tuple(said),
    )


def _whole_files(groups: Sequence[Sequence[Tensor]]) -> dict[int, GGUFFile]:
    """Shard number from 0 -> the existing shard of the same number with exactly its tensors, in order."""
    found = {}
    for no, group in enumerate(groups):
        if not group:
            continue
        file = group[0][0]
        if file.header.integer(SPLIT_NO) != no or len(file.header.tensors) != len(group):
            continue
        if all(each is file and info == own for (each, info), own in zip(group, file.header.tensors, strict=True)):
            found[no] = file
    return found


def segments(
    pairs: Sequence[KV], group: Sequence[Tensor], version: int, alignment: int
) -> tuple[Segment, ...]:
    """A file's header and its tensors, each a range moved by the kernel."""
    sized = [(info, *file.tensor_range(info)) for file, info in group]
    infos, _ = place([(info, end - start) for info, start, end in sized], alignment)
    out: list[Segment] = [NewBytes(build_header(pairs, infos, version=version, alignment=alignment))]
    for (file, _), (_, start, end) in zip(group, sized, strict=True):
        out.append(Copy(FileRange.of(file, start, end)))
        if padding := pad_to(end - start, alignment) - (end - start):
            out.append(NewBytes(bytes(padding)))
    return tuple(out)
