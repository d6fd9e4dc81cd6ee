"""Explode: a model as a set of shards, down to one tensor per file.

The rules are those of llama.cpp's `llama-gguf-split` (tools/gguf-split/gguf-split.cpp, b11549), so that each program
reads the other's sets: tensors keep their order, all of the model's pairs are in the first shard, and the others have
only `split.no`, `split.count` and `split.tensors.count` (and `general.alignment` where it is not the default; that
program leaves it out, so its own sets of such models cannot be read).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..block.anatomy import Anatomy
from ..errors import UsageError
from ..gguf.files import Model, set_prefix, shard_name
from ..gguf.header import DEFAULT_ALIGNMENT, pad_to
from ..gguf.kv import KV, KVType
from ..gguf.kv_table import KVTable, edit
from ..gguf.sets import SPLIT_KEYS, SPLIT_NO
from ..writing.plan import Link, LinkMode, NewFile, Plan
from . import metadata, naming, places
from .chosen import ChosenTensors, Groups, NewShard

ALIGNMENT_KEY = "general.alignment"
MOST_SHARDS = 65_535  # split.count is a u16
MAX_SHARDS_OLD = 64  # GGML_MAX_CONTEXTS, one context per shard


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
    chosen = ChosenTensors.all_of(model.files)
    ends = array("I", _ends(chosen, model.header.alignment, options))
    if len(ends) > MOST_SHARDS:
        raise UsageError(
            f"{model.entry}: this would make {len(ends):,} shards, but a set can have at most {MOST_SHARDS:,}; allow "
            "more per shard with --max-tensors or --max-size."
        )
    base = naming.same_base(places.model_name(model), is_model=Anatomy.of(model).has_trunk)
    folder, name = naming.resolve_output(options.out, places.default_folder(model) / f"{base}-shards", base + ".gguf")
    return set_plan("explode", model.kvs, model, (chosen, ends), folder, set_prefix(name), options.link)


def _ends(chosen: ChosenTensors, alignment: int, options: ExplodeOptions) -> Iterator[int]:
    """The place after the last tensor of each shard."""
    if options.metadata_first:
        yield 0
    if options.max_bytes is None:
        most = options.max_tensors or 1
        yield from range(most, len(chosen), most)
    else:
        size = first = 0
        for i, stored in enumerate(chosen.sizes):
            n_bytes = pad_to(stored, alignment)
            if i > first and size + n_bytes > options.max_bytes:
                yield i
                first, size = i, 0
            size += n_bytes
    yield len(chosen)


def set_plan(
    verb: str,
    kvs: Sequence[KV],
    model: Model,
    cut: tuple[ChosenTensors, array[int]],
    folder: Path,
    prefix: str,
    link: LinkMode,
    notes: Sequence[str] = (),
) -> Plan:
    """A set of shards, each of the chosen tensors up to one of the ends in `cut`.

    A shard that an existing one of the same number holds exactly is linked.
    """
    chosen, ends = cut
    count, n_tensors = len(ends), len(chosen)
    alignment = model.header.alignment

    def pairs(no: int) -> KVTable:
        own: Sequence[KV] = metadata.split_kvs(no, count, n_tensors)
        if no == 0:
            return edit(kvs, drop=SPLIT_KEYS).plus(own)
        if alignment != DEFAULT_ALIGNMENT:
            own = [KV.make(ALIGNMENT_KEY, KVType.UINT32, alignment), *own]
        return KVTable.of(own)

    def name(no: int) -> str:
        return shard_name(prefix, no + 1, count)

    groups = Groups(chosen, ends, pairs, model.header.version, alignment, name)
    outputs: list[NewFile | Link] = []
    for no in reversed(range(count)):
        file = groups.existing(no) if no > 0 else None
        if file is not None and file.header.integer(SPLIT_NO) == no:
            outputs.append(Link(name(no), file.path, file.size_bytes, link, file.stamp))
        else:
            outputs.append(NewShard(groups, no))
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
