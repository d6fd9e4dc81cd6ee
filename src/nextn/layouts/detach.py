"""Detach: back to trunk-only. What the block does not affect is linked or moved by the kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..archs import refuse_other_use
from ..block.anatomy import Anatomy
from ..errors import FormatError, NoBlock, UsageError
from ..gguf.files import GGUFFile, Model, set_prefix, shard_name
from ..gguf.kv_table import KVTable, edit
from ..gguf.tensors import TensorInfo, TensorTable
from ..writing.plan import Link, LinkMode, NewFile, Plan
from . import build, for_engine, metadata, naming, places, qkv
from .parts import data_segments, new_header, trunk_parts


@dataclass(frozen=True)
class TrunkOf:
    """The part of a model that is its trunk."""

    seen: Anatomy
    n_layers: int
    kvs: KVTable  # of the model without its block

    def keeps(self, info: TensorInfo) -> bool:
        """Whether a tensor belongs to the trunk."""
        return self.seen.of_trunk(info.name)

    def tensors(self, file: GGUFFile) -> TensorTable:
        """Those of a file of the model."""
        return self.seen.trunk_table(file)

    def is_all_of(self, file: GGUFFile) -> bool:
        """Whether nothing in the file belongs to the block."""
        return len(self.seen.trunk_rows(file)) == len(file.header.tensors)

    @property
    def n_tensors(self) -> int:
        """Their number."""
        return sum(len(self.seen.trunk_rows(file)) for file in self.seen.model.files)


def trunk_of(model: Model) -> TrunkOf:
    """The trunk of a model that may have a block. Raises UsageError for sidecars and donor files, FormatError."""
    seen = Anatomy.of(model)
    if seen.is_block_only:
        raise UsageError(
            f"{model.entry}: this is a sidecar or donor file, with no trunk in it; name the model that it belongs "
            "to (which runs without MTP if this file is not loaded)."
        )
    model.check_whole()
    if seen.blocks and seen.blocks[0] < seen.n_trunk:
        raise FormatError(
            f"the MTP block is in layer {seen.blocks[0]}, and trunk layers come after it; get the model again",
            path=model.entry,
        )
    n_trunk = seen.n_trunk
    return TrunkOf(seen, n_trunk, metadata.detached_kvs(model, n_trunk) if seen.blocks else model.kvs)


def without_block(model: Model) -> Model:
    """The model as `plan_detach` would write it: its headers, over the data in its present place.

    Files that hold nothing but the block are left out. Sizes and offsets are those of the existing files; only a
    detach determines what they become.
    """
    trunk = trunk_of(model)
    first, *others = model.files
    left = [first, *filter(trunk.tensors, others)]
    n_tensors = trunk.n_tensors
    kvs = trunk.kvs
    if model.is_sharded:
        kvs = edit(kvs, put=metadata.split_kvs(0, len(left), n_tensors, model))
    return Model(
        tuple(
            replace(
                file,
                header=replace(
                    file.header,
                    kvs=kvs if file is first else file.header.kvs,
                    tensors=trunk.tensors(file),
                    all_tensors=file.header.all_tensors or file.header.tensors,
                ),
            )
            for file in left
        )
    )


def plan_detach(
    model: Model,
    out: Path | str | None,
    link: LinkMode = LinkMode.AUTO,
    form: str | None = None,
    engine: str | None = None,
) -> Plan:
    """The plan that takes the block off.

    With `form` ("split" or "fused") the model is rewritten as one file with its attention's q, k and v in that form;
    it does not need a block then. `engine` as in attach: types are checked, and no key that promises a block is left,
    since ik_llama.cpp would believe it. Raises NoBlock when there is none, UnsupportedModel where the key means
    something else, UsageError for sidecars and donor files, QuantizeError where q, k and v cannot be moved unchanged.
    """
    refuse_other_use(model.architecture, model.entry)
    if not Anatomy.of(model).has_block and form is None:
        raise NoBlock(f"{model.entry}: there is no MTP block in this model, so there is nothing to detach.")
    trunk = trunk_of(model)
    n_trunk, kvs = trunk.n_layers, trunk.kvs
    for_engine.check_name(engine)
    for_engine.check_trunk(engine, (each for each in model.items() if trunk.keeps(each[1])))
    counts = (at for at, key in enumerate(kvs.keys()) if key.endswith(".nextn_predict_layers"))
    if engine in (for_engine.IK, for_engine.BOTH, for_engine.OLLAMA) and any(kvs[at].value for at in counts):
        kvs = edit(kvs, put=[metadata.count_kv(model, "block_count", n_trunk)],
                   drop=[f"{model.architecture}.nextn_predict_layers"])  # fmt: skip
    base = naming.trunk_base(places.model_name(model))
    if form is not None:
        return _reshaped(model, kvs, trunk, base, out, n_trunk, form)
    if len(model.files) == 1:
        folder, name = naming.resolve_output(out, places.default_folder(model), base + ".gguf")
        naming.check_main_name(name)
        new = _rewritten(name, metadata.as_single_file(kvs, model), model.files[0], trunk)
        return _plan(model, folder, (new,), folder / name)
    return _detach_set(model, kvs, trunk, base, out, link)


def _reshaped(
    model: Model,
    kvs: KVTable,
    trunk: TrunkOf,
    base: str,
    out: Path | str | None,
    n_trunk: int,
    form: str,
) -> Plan:
    """One file with q, k and v in the requested form."""
    if form not in (qkv.SPLIT, qkv.FUSED):
        raise UsageError(f"{model.entry}: --qkv must be split or fused here: there is no block whose form to match.")
    layers = qkv.attention_layers(model, n_trunk)
    if not layers:
        raise UsageError(
            f"{model.entry}: no layer of '{model.architecture}' has q, k and v to fuse or split; leave out --qkv."
        )
    folder, name = naming.resolve_output(out, places.default_folder(model), f"{base}-{form}-qkv.gguf")
    naming.check_main_name(name)
    parts = build.reshaped(trunk_parts(model.files, trunk.seen.trunk_table), qkv.trunk_tensors(model, n_trunk, form))
    like = model.header
    header = new_header(metadata.as_single_file(kvs, model), parts, like.version, like.alignment)
    segments = (header, *data_segments(parts, like.alignment, model.files))
    return _plan(model, folder, (NewFile(name, segments),), folder / name)


def _detach_set(
    model: Model,
    kvs: KVTable,
    trunk: TrunkOf,
    base: str,
    out: Path | str | None,
    link: LinkMode,
) -> Plan:
    folder, name = naming.resolve_output(out, places.default_folder(model) / base, base + ".gguf")
    prefix = set_prefix(name)
    naming.check_main_name(prefix)
    first, *others = model.files
    left = [*filter(trunk.tensors, others)]
    if not left:  # everything but the block was in the first shard
        single = f"{prefix}.gguf"
        new = _rewritten(single, metadata.as_single_file(kvs, model), first, trunk)
        return _plan(model, folder, (new,), folder / single)
    count = len(left) + 1
    n_tensors = trunk.n_tensors
    outputs: list[NewFile | Link] = []
    for no, file in enumerate(left, start=1):
        name = shard_name(prefix, no + 1, count)
        if trunk.is_all_of(file) and file.header.get("split.no") == no:
            outputs.append(Link(name, file.path, file.size_bytes, link, file.stamp))
            continue
        own = edit(file.header.kvs, put=metadata.split_kvs(no, count, n_tensors, Model((file,))))
        outputs.append(_rewritten(name, own, file, trunk))
    entry = shard_name(prefix, 1, count)
    outputs.append(_rewritten(entry, edit(kvs, put=metadata.split_kvs(0, count, n_tensors, model)), first, trunk))
    return _plan(model, folder, tuple(outputs), folder / entry)


def _rewritten(name: str, kvs: KVTable, file: GGUFFile, trunk: TrunkOf) -> NewFile:
    """A file with a new header and the kept tensors' data."""
    parts = trunk_parts([file], trunk.seen.trunk_table)
    header = new_header(kvs, parts, file.header.version, file.header.alignment)
    return NewFile(name, (header, *data_segments(parts, file.header.alignment, [file])))


def _plan(model: Model, folder: Path, outputs: tuple[NewFile | Link, ...], entry: Path) -> Plan:
    return Plan(
        verb="detach",
        layout="trunk-only",
        folder=folder,
        outputs=outputs,
        entry=entry,
        sidecar=None,
        header_bytes=model.header_bytes,
    )
