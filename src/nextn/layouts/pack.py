"""Pack: quants of one model as a folder to publish, each with and without its block, sharing the same bytes.

A shard's name contains prefix and count, and engines find the other shards by both, so a trunk shard that belongs to
two variants needs two names: links here, and identical bytes for content-addressed storage.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..block.anatomy import Anatomy
from ..block.from_gguf import block_from_model
from ..block.model import Block
from ..brief import Brief
from ..errors import BlockPresent, NoBlock, UsageError
from ..gguf.files import Model, shard_name
from ..gguf.tensors import TensorInfo
from ..writing.plan import Link, NewFile, Plan
from . import naming, places
from .assistant import plan_place
from .attach import plan_attach
from .detach import plan_detach, without_block
from .options import AttachOptions, PackOptions

PLAIN, MTP = "plain", "mtp"
VARIANTS = (PLAIN, MTP)
TRUNK, FIRST, TRUNK_SHARD, BLOCK_SHARD, SIDECAR = "trunk", "first-shard", "trunk-shard", "block-shard", "sidecar"
LAYOUTS = ("shards", "sidecar")


@dataclass(frozen=True)
class Role:
    """A file's role in one variant."""

    name: str
    part: str  # TRUNK, FIRST, TRUNK_SHARD, BLOCK_SHARD or SIDECAR


@dataclass(frozen=True)
class Variant:
    """The files that one variant of one quant needs."""

    entry: str  # file to load
    sidecar: str | None  # file to pass with -md
    roles: tuple[Role, ...]


@dataclass(frozen=True)
class Quant:
    """One quant of the model."""

    label: str  # `Q4_K_M`
    layout: str  # "shards" or "sidecar": how its mtp variant is made
    variants: Mapping[str, Variant]  # by name; see VARIANTS


@dataclass(frozen=True)
class Pack(Brief):
    """The model's files as they will be published; card, checksums and manifest are added later."""

    plan: Plan
    quants: tuple[Quant, ...]
    model: Model  # the quant whose metadata describes the package


@dataclass(frozen=True)
class _Item:
    """One of the models to publish."""

    given: Model
    trunk: Model  # without a block; if `given` has one, this model is not on disk yet
    own: Block | None  # the block in `given`

    @classmethod
    def of(cls, model: Model) -> _Item:
        """A model with or without a block."""
        if not has_block(model):
            return cls(model, model, None)
        return cls(model, without_block(model), block_from_model(model))


def has_block(model: Model) -> bool:
    """Whether a model contains a block."""
    return Anatomy.of(model).has_block


def plan_pack(
    models: Sequence[Model], block: Block | None, options: PackOptions, draft: Model | None = None
) -> Pack:
    """The files of all quants, each with and without a block: `block`, or None for the one in the models.

    A model that contains its block is taken apart, and both variants share its trunk. `draft`: a model of its own that
    drafts (see `is_placed`), published as it is in place of a block. Raises what attaching and detaching raise, NoBlock
    and, when two models would get the same names or the same label, UsageError.
    """
    if not models:
        raise UsageError("there is no model to pack; name at least one.")
    items = [_Item.of(model) for model in models]
    trunks = [item.trunk for item in items]
    given = block
    planned, sidecar = _with_block(items, block, options) if draft is None else _with_draft(items, draft, options)
    outputs: list[NewFile | Link] = [] if sidecar is None else [sidecar]
    quants = []
    notes = [note for _, _, made in planned for note in made.notes]
    for item, layout, made in planned:
        plain = _plain(item, options)
        outputs += plain
        variants = {PLAIN: _variant(sorted(out.name for out in plain))}
        if item.own is not None and given is not None:
            notes.append(f"{item.given.entry.name} has its own block, which is left out for {given.donor_name}")
        if layout == "shards":
            outputs += _twins(made, item, plain, options)
            # Block shard, trunk shards, first shard: the order in which an attach writes them.
            block_shard, *middle, first = (out.name for out in made.outputs)
            variants[MTP] = _variant([first, *middle, block_shard], with_block=True)
            notes += _twice(item.trunk)
        else:
            assert sidecar is not None
            alone = variants[PLAIN]
            variants[MTP] = replace(alone, sidecar=sidecar.name, roles=(*alone.roles, Role(sidecar.name, SIDECAR)))
        quants.append(Quant(quant_label(item.trunk), layout, variants))
    _check_names(outputs, quants)
    notes += _named_apart(trunks)
    headers = {model.entry: model.header_bytes for model in models}
    if given is not None:
        headers[given.origin] = given.header_bytes
    plan = Plan(
        verb="pack",
        layout=quants[0].layout,
        folder=options.out,
        outputs=tuple(outputs),
        entry=options.out / quants[0].variants[MTP].entry,
        sidecar=None if sidecar is None else options.out / sidecar.name,
        header_bytes=sum(headers.values()),
        notes=tuple(dict.fromkeys(notes)),
    )
    return Pack(plan, tuple(quants), best_source(trunks))


_Planned = tuple[_Item, str, Plan]  # a model, how its mtp variant is made, the plan of its attach


def _with_block(
    items: Sequence[_Item], given: Block | None, options: PackOptions
) -> tuple[list[_Planned], NewFile | Link | None]:
    """Each model's attach, and the sidecar that single files share."""
    block = given or _carried(items)
    if options.layout is not None and options.layout not in LAYOUTS:
        raise UsageError(f"'{options.layout}' is not a layout to publish; choose one of {', '.join(LAYOUTS)}.")
    if options.ready_sidecar:
        _check_ready(block, options)
    planned = []
    for item in items:
        layout = _layout(item.trunk, options)
        own = block if given is not None or layout == "sidecar" else item.own or block
        made = _attached(item.trunk, own, layout, options)
        group = item.given.entry.name
        outputs = tuple(replace(out, group=group) if isinstance(out, NewFile) else out for out in made.outputs)
        planned.append((item, layout, replace(made, outputs=outputs)))
    beside = [(item.trunk, made) for item, layout, made in planned if layout == "sidecar"]
    return planned, _sidecar(beside, block, options) if beside else None


def _with_draft(items: Sequence[_Item], draft: Model, options: PackOptions) -> tuple[list[_Planned], Link]:
    """Each model with the draft beside it. Raises BlockPresent, and what placing a draft raises."""
    settings = AttachOptions(
        options.layout, options.type, options.draft_head, None, f"{options.out}{os.sep}", options.link
    )
    planned = []
    for item in items:
        if item.own is not None:
            raise BlockPresent(
                f"{item.given.entry}: this model has its own MTP block, which an engine would load as well; take it "
                "off with 'nextn detach', or leave out the draft."
            )
        planned.append((item, "sidecar", plan_place(item.trunk, draft, settings)))
    best = best_source([item.trunk for item in items])
    (made,) = next(plan.outputs for item, _, plan in planned if item.trunk is best)
    assert isinstance(made, Link)
    own, mark = draft.entry.name, made.name.partition("-")[0]
    return planned, replace(made, name=own) if own.startswith(f"{mark}-") else made


def _carried(items: Sequence[_Item]) -> Block:
    """The models' own block: of several, the one with the most precise root tensors."""
    carriers = {item.trunk.entry: item.own for item in items if item.own is not None}
    if not carriers:
        raise NoBlock(f"{items[0].given.entry}: this model has no MTP block; name a donor with --from.")
    best = carriers[best_source([item.trunk for item in items if item.own is not None]).entry]
    assert best is not None
    return best


def _layout(trunk: Model, options: PackOptions) -> str:
    if len(trunk.files) == 1 or options.ready_sidecar:
        return "sidecar"
    return options.layout or "shards"


def _attached(trunk: Model, block: Block, layout: str, options: PackOptions) -> Plan:
    """The plan of an attach into the folder: it checks the fit, and its outputs are published."""
    out = f"{options.out}{os.sep}"  # marks it as a folder, whatever its name
    return plan_attach(
        trunk, block, AttachOptions(layout, options.type, options.draft_head, options.embd_type, out, options.link)
    )


def _check_ready(block: Block, options: PackOptions) -> None:
    if block.kind != "sidecar":
        raise UsageError(
            f"{block.origin}: this is a {block.kind} file, not a sidecar; use --from to extract its block."
        )
    assert block.model is not None
    if len(block.model.files) > 1:
        raise UsageError(f"{block.origin}: a sidecar is a single file, not a shard set; engines would not find it.")
    asked = [
        flag
        for flag, value in (
            ("--layout shards", options.layout == "shards"),
            ("--type", options.type),
            ("--draft-head", options.draft_head),
        )
        if value
    ]
    if asked:
        raise UsageError(f"--sidecar publishes the file as it is, so {asked[0]} has no effect; use --from with it.")


def best_source(trunks: Sequence[Model]) -> Model:
    """The model with the most precise embeddings and head: a sidecar made from it also serves the others."""

    def weight(trunk: Model) -> tuple[int, int]:
        found = (trunk.tensors.get(name) for name in ("token_embd.weight", "output.weight"))
        return sum(file.stored_size(info) for file, info in filter(None, found)), trunk.size_bytes

    return max(trunks, key=weight)


def _sidecar(made: Sequence[tuple[Model, Plan]], block: Block, options: PackOptions) -> NewFile | Link:
    best = best_source([trunk for trunk, _ in made])
    if options.ready_sidecar:
        assert block.model is not None
        file = block.model.files[0]
        own = file.path.name
        name = own if own.startswith("mtp-") else naming.sidecar_name(best, quant_label(block.model))
        return Link(name, file.path, file.size_bytes, options.link, file.stamp)
    plan = next(plan for trunk, plan in made if trunk is best)
    return plan.outputs[0]


def _plain(item: _Item, options: PackOptions) -> list[NewFile | Link]:
    """The trunk's own files, or those left after removing the block, under names without MTP."""
    base = naming.plain_base(places.model_name(item.given))
    if item.own is not None:
        return list(plan_detach(item.given, f"{options.out}{os.sep}{base}.gguf", options.link).outputs)
    trunk = item.trunk
    count = len(trunk.files)
    names = [f"{base}.gguf"] if not trunk.is_sharded else [shard_name(base, i + 1, count) for i in range(count)]
    for name in names:
        naming.check_main_name(name)
    return [
        Link(name, file.path, file.size_bytes, options.link, file.stamp)
        for name, file in zip(names, trunk.files, strict=True)
    ]


def _twins(
    made: Plan, item: _Item, plain: Sequence[NewFile | Link], options: PackOptions
) -> Iterator[NewFile | Link]:
    """The outputs of an attach; where they would link a file that `plain` rewrites, they link the rewritten one."""
    written = {out.name: out for out in plain if isinstance(out, NewFile)}
    by_path = {file.path: name for file, name in zip(item.trunk.files, sorted(out.name for out in plain), strict=True)}
    for out in made.outputs:
        new = written.get(by_path[out.source]) if isinstance(out, Link) else None
        if new is None or not isinstance(out, Link):
            yield out
        else:
            yield replace(out, source=options.out / new.name, size_bytes=new.size_bytes, stamp=None, twin_of=new.name)


def _variant(names: Sequence[str], with_block: bool = False) -> Variant:
    if len(names) == 1:
        return Variant(names[0], None, (Role(names[0], TRUNK),))
    last = BLOCK_SHARD if with_block else TRUNK_SHARD
    parts = [FIRST, *[TRUNK_SHARD] * (len(names) - 2), last]
    return Variant(names[0], None, tuple(Role(name, part) for name, part in zip(names, parts, strict=True)))


def plain_outputs(model: Model, options: PackOptions) -> list[NewFile | Link]:
    """The files of a model's plain variant."""
    return _plain(_Item.of(model), options)


def label_to_publish(model: Model) -> str:
    """The label that a model's quant gets."""
    return quant_label(_Item.of(model).trunk)


def quant_label(model: Model) -> str:
    """`Q4_K_M` from the file name, else the type that holds most of the bytes."""
    tag = naming.split_quant(model.base_name)[1]
    if tag:
        return tag
    weight = Counter[int]()
    for file, info in model.items():
        weight[info.type_id] += file.stored_size(info)
    winner = TensorInfo("", (), weight.most_common(1)[0][0], 0)
    return winner.type.label if winner.type is not None else winner.type_name.upper()


def _twice(trunk: Model) -> Iterator[str]:
    """The cost of a first shard with tensors: engines check `split.no`, so its data cannot move to another shard."""
    first = trunk.files[0]
    n_bytes = sum(first.stored_size(info) for info in first.header.tensors)
    if n_bytes:
        yield (
            f"{first.path.name} holds {n_bytes:,} bytes of tensors, which are published in two versions of the first "
            "shard; a set whose first shard holds only metadata avoids that"
        )


def _named_apart(trunks: Sequence[Model]) -> Iterator[str]:
    names = {str(name) for trunk in trunks if (name := trunk.header.get("general.name")) is not None}
    if len(names) > 1:
        yield f"the models have different names ({', '.join(sorted(names))}): make sure that they are the same model"


def _check_names(outputs: Sequence[NewFile | Link], quants: Sequence[Quant]) -> None:
    """Refuse two quants of one label, and names that differ in case at most: not every file system tells them apart."""
    labels = [(quant.label, quant.variants[PLAIN].entry) for quant in quants]
    for what, found in (("quant", labels), ("name", [(out.name, out.name) for out in outputs])):
        by_value: dict[str, list[str]] = {}
        for value, name in found:
            by_value.setdefault(value.lower(), []).append(name)
        again = next((names for names in by_value.values() if len(names) > 1), None)
        if again is not None:
            both = " and ".join(dict.fromkeys(again[:2]))
            same = next(value for value, name in found if name == again[0])
            raise UsageError(
                f"{both}: two of the files to publish have the {what} '{same}'; give the models names like "
                "NAME-Q4_K_M.gguf that differ in their last part, or pack different models into folders of their own."
            )
