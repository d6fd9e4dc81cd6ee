"""Attach: a block onto a trunk, as shards, as a sidecar, bundled, or in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..archs import FAMILIES, family_of
from ..archs.base import Family
from ..archs.engines import IK_UP_TO
from ..block.anatomy import Anatomy
from ..block.model import DRAFT_HEAD, EMBED_TOKENS, Block
from ..errors import UnsupportedModel, UsageError
from ..gguf.files import Model, set_prefix, shard_name
from ..gguf.header import DEFAULT_ALIGNMENT
from ..gguf.kv_table import KVTable, edit
from ..gguf.types import TensorType
from ..shell import shell
from ..writing.plan import Link, NewFile, Plan
from . import build, experts, for_engine, in_place, metadata, naming, places, programs, qkv
from .donor_check import check_fit, check_one_model, check_trunk, n_layer_trunk, other_experts
from .options import IN_PLACE, LAYOUTS, AttachOptions
from .parts import Part, data_segments, new_header, trunk_parts
from .sidecar import main_type_of, own_experts, sidecar_kvs, sidecar_roots, trunk_head

MAX_SHARDS_OLD_IK = 64  # GGML_MAX_CONTEXTS, one context per shard


@dataclass
class _Job:
    trunk: Model
    block: Block
    family: Family
    n_trunk: int
    options: AttachOptions
    notes: list[str] = field(default_factory=list)
    qkv: str | None = None  # the form to write
    engine_form: for_engine.EngineForm = field(default_factory=lambda: for_engine.EngineForm("bundle"))

    def provenance(self, parts: Sequence[Part]) -> build.Provenance:
        """What the header will say about these tensors."""
        return build.Provenance.of(self.block, parts)

    def kvs(self) -> KVTable:
        return metadata.attached_kvs(self.trunk, self.n_trunk, self.block)

    def block_parts(self) -> list[Part]:
        """The block's tensors, and the draft head when one is requested."""
        wanted = self.options.draft_head
        skip = [*([DRAFT_HEAD] if wanted is not None else []), *self.engine_form.leave_out]
        in_model = self.engine_form.layout != "sidecar"
        asked = [kind for kind in (self.options.type, wanted) if kind is not None]
        for_engine.check_block(self.options.for_engine, asked)  # first, since writing a type may need a library
        parts = build.block_parts(self.block, self.n_trunk, self.options.type, self.notes, skip, in_model=in_model)
        for_engine.check_trunk(self.options.for_engine, self.trunk.items())
        kinds = [part.info.type for part in parts if part.info.type is not None]
        for_engine.check_block(self.options.for_engine, kinds)
        if wanted is not None and self.engine_form.head_name is not None:
            parts.append(build.from_trunk(self.engine_form.head_name, *trunk_head(self.trunk), wanted, self.notes))
        elif wanted is not None:
            file, info = trunk_head(self.trunk)
            for layer in range(self.block.n_layer_nextn):
                name = f"blk.{self.n_trunk + layer}.{DRAFT_HEAD}"
                parts.append(build.from_trunk(name, file, info, wanted, self.notes))
        return parts


def default_layout(trunk: Model) -> str:
    """The layout used when none is requested."""
    family = FAMILIES.get(trunk.architecture)
    if family is not None and not family.takes_sidecar and len(trunk.files) == 1:
        return "bundle"
    return "shards" if len(trunk.files) > 1 and not (family and family.only_sidecar) else "sidecar"


def searched_layout(trunk: Model, layout: str | None, engine: str | None) -> str:
    """The layout that a donor is searched for: what was requested, else what the engine or program takes."""
    return layout or (default_layout(trunk) if engine in (None, for_engine.LLAMA_CPP) else "bundle")


def default_entry(trunk: Model, layout: str, engine: str | None = None) -> Path:
    """The path to load of a "bundle" or of "shards" without -o; of shards without their numbers."""
    base = naming.bundled_base(places.model_name(trunk))
    if layout == "shards":
        return places.default_folder(trunk) / base / f"{base}.gguf"
    home = programs.lm_studio_folder(trunk) if engine == for_engine.LMSTUDIO else places.default_folder(trunk)
    return home / f"{base}.gguf"


def plan_attach(trunk: Model, block: Block, options: AttachOptions) -> Plan:
    """The plan that puts `block` onto `trunk`.

    Raises DonorMismatch, BlockPresent, UnsupportedModel, QuantizeError, UsageError, FormatError.
    """
    check_trunk(trunk)
    family = family_of(trunk.architecture, trunk.entry)
    metadata.growing_arrays(trunk, n_layer_trunk(trunk), block.n_layer_nextn)  # before shapes are checked against them
    published = qkv.rules_form(family)
    of_form: list[str] = []
    if (note := experts.trunk_note(trunk, family, options.for_engine)) is not None:
        of_form.append(note)
    if experts.has_both(block) and (not experts.takes_both(family) or options.for_engine in for_engine.WITH_IK):
        block = experts.split_experts(block)
        of_form.append(experts.NOTE)
    form = qkv.resolve(options.qkv, family, trunk, n_layer_trunk(trunk), of_form)
    given = block
    if published != qkv.block_form(block):  # checked, and by default written, in the published form
        block = _shaped(block, published, trunk, options.type)
    notes = check_fit(block, trunk, family) + of_form
    if form is not None:
        block = _shaped(given, form, trunk, options.type)
    if options.layout is not None and options.layout not in LAYOUTS:
        raise UsageError(f"'{options.layout}' is not a layout; choose one of {', '.join(LAYOUTS)}.")
    default = default_layout(trunk)
    if other_experts(block, trunk) is not None:
        default = "sidecar"
        if options.layout not in (None, default) or not family.takes_sidecar:
            check_one_model(block, trunk, family)
    head = options.draft_head is not None
    engine_form = for_engine.form_for(options.for_engine, family, trunk, block, options.layout, default, head=head)
    layout, notes = engine_form.layout, [*notes, *engine_form.notes]
    if layout != "sidecar":
        check_one_model(block, trunk, family)
    if layout != "sidecar" and family.only_sidecar:
        raise UnsupportedModel(
            f"{trunk.entry}: the block of '{family.arch}' runs only beside its trunk ({family.only_sidecar}); "
            "use --layout sidecar."
        )
    if head and engine_form.head_name is None and not family.draft_head:
        raise UnsupportedModel(
            f"{trunk.entry}: the loader for '{family.arch}' refuses a file with a draft head; leave out --draft-head."
        )
    job = _Job(trunk, block, family, n_layer_trunk(trunk), options, notes, form, engine_form)
    if "quantize.imatrix.file" in trunk.header.by_key:
        job.notes.append("the importance matrix that the trunk was quantized with does not describe the new block")
    return {"shards": _shards, "sidecar": _sidecar, "bundle": _bundle, IN_PLACE: _in_place}[layout](job)


def _shaped(block: Block, form: str | None, trunk: Model, wanted: TensorType | None) -> Block:
    if form is None or form == qkv.block_form(block):
        return block
    kvs = metadata.attached_kvs(trunk, n_layer_trunk(trunk), block)
    placed = replace(block, n_layer_trunk=n_layer_trunk(trunk))
    return replace(
        qkv.shaped(placed, form, qkv.lookup_of(trunk.architecture, kvs), wanted), n_layer_trunk=block.n_layer_trunk
    )


def _plan(job: _Job, layout: str, folder: Path, outputs: Iterable[NewFile | Link], entry: Path, **more: Path) -> Plan:
    return Plan(
        verb="attach",
        layout=layout,
        folder=folder,
        outputs=tuple(outputs),
        entry=entry,
        sidecar=more.get("sidecar"),
        header_bytes=job.trunk.header_bytes + job.block.header_bytes,
        notes=tuple(dict.fromkeys(job.notes)),
        json_bytes=job.block.header_bytes if job.block.checkpoint else 0,
    )


def _bundle(job: _Job) -> Plan:
    """One new file: the trunk's tensors in their order, then the block's."""
    trunk = job.trunk
    default = default_entry(trunk, "bundle", job.options.for_engine)
    folder, name = naming.resolve_output(job.options.out, default.parent, default.name)
    naming.check_main_name(name)
    if job.options.for_engine == for_engine.LMSTUDIO:
        job.notes += programs.lm_studio_notes(folder / name, trunk)
    new = job.block_parts()
    old = trunk_parts(trunk.files)
    if job.qkv is not None:
        old = build.reshaped(old, qkv.trunk_tensors(trunk, job.n_trunk, job.qkv))
    parts = old.then(new)
    header = build.late_header(
        metadata.without_split(job.kvs()), parts, trunk.header, job.provenance(new), trunk.header.data_offset
    )
    segments = (header, *data_segments(parts, trunk.header.alignment, trunk.files))
    return _plan(job, "bundle", folder, [NewFile(name, segments)], folder / name)


def _shards(job: _Job) -> Plan:
    """A new first shard, the others linked, a new last shard with the block."""
    trunk = job.trunk
    count = len(trunk.files) + 1
    default = default_entry(trunk, "shards")
    folder, name = naming.resolve_output(job.options.out, default.parent, default.name)
    prefix = set_prefix(name)
    naming.check_main_name(prefix)
    if count > MAX_SHARDS_OLD_IK:
        job.notes.append(
            f"{count} shards: {IK_UP_TO} built with the default GGML_MAX_CONTEXTS takes at most {MAX_SHARDS_OLD_IK}"
        )
    block = job.block_parts()
    first = trunk_parts(trunk.files[:1])
    n_tensors = len(trunk.tensors) + len(block)
    kvs = edit(job.kvs(), put=metadata.split_kvs(0, count, n_tensors, trunk))
    header = build.late_header(
        kvs, first, trunk.header, job.provenance(block), trunk.header.data_offset if trunk.header.tensors else None
    )
    outputs: list[NewFile | Link] = [
        NewFile(
            shard_name(prefix, count, count),
            (
                new_header(
                    KVTable.of(metadata.split_kvs(count - 1, count, n_tensors, trunk)), block, 3, DEFAULT_ALIGNMENT
                ),
                *data_segments(block, DEFAULT_ALIGNMENT, []),
            ),
        )
    ]
    outputs += [
        Link(shard_name(prefix, i, count), file.path, file.size_bytes, job.options.link, file.stamp)
        for i, file in enumerate(trunk.files[1:], start=2)
    ]
    entry = shard_name(prefix, 1, count)
    outputs.append(NewFile(entry, (header, *data_segments(first, trunk.header.alignment, trunk.files))))
    return _plan(job, "shards", folder, outputs, folder / entry)


def _sidecar(job: _Job) -> Plan:
    """The block in a file of its own, with everything an engine needs to load it beside the trunk."""
    trunk, options = job.trunk, job.options
    _check_promise(trunk)
    block = job.block_parts()
    with_head = options.draft_head is None or job.family.head_needed
    roots = sidecar_roots(trunk, job.family, options.embd_type, job.notes, with_head=with_head)
    parts = roots + block
    main_type = main_type_of(block)
    kvs = sidecar_kvs(edit(job.kvs(), put=own_experts(job.block, trunk, job.family)), main_type, job.family)
    default = naming.sidecar_name(trunk, main_type.label)
    folder, name = naming.resolve_output(options.out, places.sidecar_folder(trunk), default)
    header = build.late_header(kvs, parts, trunk.header, job.provenance(block))
    segments = (header, *data_segments(parts, trunk.header.alignment, trunk.files))
    if not name.startswith("mtp-"):
        job.notes.append(f"{name} does not start with 'mtp-': engines find it only when it is passed with -md")
    if any(part.info.name.endswith(EMBED_TOKENS) for part in block):
        job.notes.append("the block has its own embeddings")
    return _plan(job, "sidecar", folder, [NewFile(name, segments)], trunk.entry, sidecar=folder / name)


def _check_promise(trunk: Model) -> None:
    """Raise UsageError for a trunk whose key spoils it, beside a sidecar too: it promises a block that is not there.

    Where `block_count` counts the promised block, llama.cpp runs the trunk as it should (xllamacpp 2026.10.11549, all
    families), and drafts with a sidecar beside it; where it does not, the last layers are taken for the block.
    """
    seen = Anatomy.of(trunk)
    if not seen.promised or seen.key_is_stale != seen.promise_counts:
        return
    spoilt = "engines take its last layers for one" if seen.key_is_stale else "engines refuse it"
    fixed = shell("nextn", "doctor", trunk.entry, "--fix")
    raise UsageError(
        f"{trunk.entry}: its metadata promises a block that it does not have, so {spoilt}, beside a sidecar too; drop "
        f"the key ({fixed}), or use --layout bundle or shards, which write a right header."
    )


def _in_place(job: _Job) -> Plan:
    """The first file itself, with the block after its last tensor."""
    block = job.block_parts()
    change, steps = in_place.attached(job.trunk, job.kvs(), block, job.provenance(block), job.options.room)
    plan = _plan(job, IN_PLACE, job.trunk.entry.parent, (), job.trunk.entry)
    return replace(plan, changes=(change,), change_steps=steps)
