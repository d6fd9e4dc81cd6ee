"""The setups that one model can be run in, from existing files or from files as a plan would make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..archs import family_of
from ..block.anatomy import Anatomy
from ..block.from_gguf import block_from_model
from ..block.model import Block
from ..errors import NextnError, NoBlock, UsageError
from ..gguf.files import Model
from ..layouts import for_engine as aims
from ..layouts.attach import plan_attach
from ..layouts.detach import plan_detach
from ..layouts.options import AttachOptions
from ..layouts.programs import check_ollama
from ..schemas.plan import Publishing
from ..writing.plan import Link, Plan
from .on_paper import attached_on_paper, trunk_on_paper
from .standin import stand_in

NO_MTP, BUNDLED_OFF, BUNDLED_ON, SIDECAR, SHARDS = "no_mtp", "bundled_off", "bundled_on", "sidecar", "shards"
TITLES = {
    NO_MTP: "no MTP",
    BUNDLED_OFF: "bundled, off",
    BUNDLED_ON: "bundled, on",
    SIDECAR: "sidecar",
    SHARDS: "shards",
}
EMBD_TYPE = "q4_0"  # of a sidecar's embeddings and head, as attach writes them


@dataclass(frozen=True)
class File:
    """One file of a setup."""

    name: str
    size_bytes: int
    how: str  # "there", "write" or "link"


@dataclass(frozen=True)
class Setup:
    """One way to run the model. Without `model` it is not possible, and `why_not` says why."""

    id: str
    model: Model | None = None
    sidecar: Model | None = None
    files: tuple[File, ...] = ()
    plan: Plan | None = None  # how its new files would be made
    why_not: str | None = None

    @property
    def mtp(self) -> bool:
        """Whether it drafts."""
        return self.id not in (NO_MTP, BUNDLED_OFF)

    @property
    def is_there(self) -> bool:
        """Whether all its files exist."""
        return self.model is not None and all(file.how == "there" for file in self.files)

    @property
    def disk_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def disk_new_bytes(self) -> int:
        """Bytes that making it would write."""
        return sum(file.size_bytes for file in self.files if file.how == "write")


@dataclass
class Setups:
    """All setups in display order, and where the block comes from."""

    all: list[Setup]
    trunk: Model | None
    block: Block | None
    notes: list[str] = field(default_factory=list)

    def get(self, id: str) -> Setup:
        """The setup of that id."""
        return next(setup for setup in self.all if setup.id == id)


def _there(*models: Model) -> tuple[File, ...]:
    return tuple(File(file.path.name, file.size_bytes, "there") for model in models for file in model.files)


def _planned(plan: Plan) -> tuple[File, ...]:
    return tuple(File(o.name, o.size_bytes, "link" if isinstance(o, Link) else "write") for o in plan.outputs)


def _reason(error: NextnError, paths: dict[str, str]) -> str:
    text = str(error)
    for fake, real in paths.items():
        text = text.replace(fake, real)
    return text


class _Maker:
    """Makes setups one by one; one that is not possible carries its reason and does not stop the others."""

    def __init__(self, model: Model, scratch: Path, for_engine: str | None, *, on_disk: bool) -> None:
        self.on_disk = on_disk
        self.model, self.scratch, self.for_engine = model, scratch, for_engine
        self.has_block = Anatomy.of(model).has_block
        self.trunk: Model | None = None if self.has_block else model
        self.trunk_files: tuple[File, ...] = () if self.has_block else _there(model)
        self.trunk_plan: Plan | None = None

    def made(self, id: str, build: Callable[[], Setup]) -> Setup:
        """The setup, or the reason why it is not possible."""
        try:
            return build()
        except NextnError as error:
            return Setup(id, why_not=_reason(error, {str(self.scratch): str(self.model.entry.parent)}))

    def no_mtp(self) -> Setup:
        """Only the trunk: the model, or what detaching leaves of it."""
        if self.trunk is None:
            self.trunk_plan = plan_detach(self.model, None)
            folder = self.scratch / NO_MTP
            if self.on_disk:
                self.trunk = stand_in(self.trunk_plan, folder)
            else:
                folder.mkdir(parents=True, exist_ok=True)  # a writable folder, like one that a trunk would be in
                self.trunk = trunk_on_paper(self.trunk_plan, self.model, folder)
            self.trunk_files = _planned(self.trunk_plan)
        return Setup(NO_MTP, self.trunk, files=self.trunk_files, plan=self.trunk_plan)

    def attached(self, id: str, layout: str, block: Block) -> Setup:
        """What attaching the block in that layout produces."""
        if self.trunk is None:
            raise UsageError("the model cannot be split from its block, so this setup cannot be planned")
        if layout == "bundle" and self.has_block:
            return Setup(id, self.model, files=_there(self.model))
        if layout == "shards" and self.has_block and len(self.model.files) > 1:
            return Setup(id, self.model, files=_there(self.model))
        plan = plan_attach(self.trunk, block, self._options(layout))
        folder = self.scratch / id
        model = stand_in(plan, folder) if self.on_disk else attached_on_paper(plan, self.trunk, folder)
        if layout == "sidecar":
            return Setup(id, self.trunk, model, self.trunk_files + _planned(plan), plan)
        return Setup(id, model, files=_planned(plan), plan=plan)


    def _options(self, layout: str) -> AttachOptions:
        from ..gguf.types import parse_type_name

        return AttachOptions(layout, embd_type=parse_type_name(EMBD_TYPE), for_engine=self.for_engine)

    def why_not(self, layout: str, block: Block) -> str | None:
        """Why `for_engine` accepts no file in that layout, even if there is one; None: it accepts them."""
        if self.trunk is None or self.for_engine is None:
            return None
        try:
            check_ollama(self.for_engine, self.model)
            family = family_of(block.architecture, block.origin)
            aims.form_for(self.for_engine, family, self.trunk, block, layout, layout, head=False)
        except NextnError as error:
            return _reason(error, {str(self.scratch): str(self.model.entry.parent)})
        return None


def check_plannable(model: Model, sidecar: Model | None) -> None:
    """Raises UsageError for a model without a trunk, NoBlock for a sidecar without a block."""
    seen = Anatomy.of(model)
    if seen.is_block_only or not seen.layers:
        raise UsageError(
            f"{model.entry}: this is a sidecar or donor file; name its trunk, and this file with --sidecar."
        )
    if sidecar is not None and not Anatomy.of(sidecar).has_block:
        raise NoBlock(
            f"{sidecar.entry}: this file has no MTP block, so it is not a sidecar; leave out --sidecar, or name the "
            "file that 'nextn attach' wrote."
        )


def make_setups(
    model: Model,
    block: Callable[[Model], Block] | None,
    sidecar: Model | None,
    scratch: Path,
    for_engine: str | None = None,
    *,
    on_disk: bool,
) -> Setups:
    """All setups of `model`; files that do not exist yet become stand-ins in `scratch`, or are there only on paper.

    `block(trunk)` gives the block to attach when the model has none; None: there is none. `for_engine`: as in attach;
    setups that it does not accept are not possible. `on_disk`: an engine is to read them.
    """
    maker = _Maker(model, scratch, for_engine, on_disk=on_disk)
    first = maker.made(NO_MTP, maker.no_mtp)
    notes = [] if first.why_not is None else [first.why_not]
    found: Block | None = None
    why = "there is no block: name a donor with --from"
    try:
        if maker.has_block:
            found = block_from_model(model)
        elif block is not None:
            found = block(model)
    except NextnError as error:
        why = str(error)
    if maker.has_block and first.why_not is not None:  # existing files can be shown even if others cannot be planned
        maker.trunk = None
    setups = [first, *_with_block(maker, found, sidecar, why)]
    return Setups(setups, maker.trunk, found, notes)


def _with_block(maker: _Maker, block: Block | None, sidecar: Model | None, why: str) -> list[Setup]:
    out = []
    bundle: Setup | None = None
    for id, layout in ((BUNDLED_OFF, "bundle"), (BUNDLED_ON, "bundle"), (SIDECAR, "sidecar"), (SHARDS, "shards")):
        if id == BUNDLED_ON and bundle is not None and bundle.model is not None:
            out.append(Setup(id, bundle.model, files=bundle.files, plan=bundle.plan))
        elif block is not None and (barred := maker.why_not(layout, block)) is not None:
            out.append(Setup(id, why_not=barred))
        elif id == SIDECAR and sidecar is not None and maker.trunk is not None:
            out.append(Setup(id, maker.trunk, sidecar, maker.trunk_files + _there(sidecar)))
        elif layout == "bundle" and maker.has_block:
            out.append(Setup(id, maker.model, files=_there(maker.model)))
        elif block is None:
            out.append(Setup(id, why_not=why))
        else:
            out.append(maker.made(id, _later(maker, id, layout, block)))
        if id == BUNDLED_OFF:
            bundle = out[-1]
    return out


def _later(maker: _Maker, id: str, layout: str, block: Block) -> Callable[[], Setup]:
    return lambda: maker.attached(id, layout, block)


def publishing(setups: Setups) -> Publishing | None:
    """Bytes needed to publish the model both with and without its block; None if one of them is not possible."""
    plain, bundle = setups.get(NO_MTP), setups.get(BUNDLED_ON)
    if plain.model is None or bundle.model is None:
        return None
    separate = plain.disk_bytes + bundle.disk_bytes
    shared: dict[Literal["sidecar", "shards"], int] = {}
    beside, shards = setups.get(SIDECAR), setups.get(SHARDS)
    if beside.model is not None:
        shared["sidecar"] = beside.disk_bytes
    if shards.model is not None and len(plain.files) > 1:
        shared["shards"] = plain.disk_bytes + _unshared(plain.files, shards.files)
    best = min(shared, key=lambda how: shared[how], default=None)
    return Publishing(
        separate_bytes=separate,
        shared_bytes=None if best is None else shared[best],
        saved_bytes=None if best is None else separate - shared[best],
        how=best,
        by_layout={str(how): n_bytes for how, n_bytes in shared.items()},
    )


def _unshared(plain: Sequence[File], shards: Sequence[File]) -> int:
    """Bytes of the shards that the plain set does not have: those that are not links, or differ in length."""
    if any(file.how == "link" for file in shards):
        return sum(file.size_bytes for file in shards if file.how != "link")
    if any(file.how == "link" for file in plain):  # the plain set is what detaching would make
        return sum(f.size_bytes for f in shards) - sum(f.size_bytes for f in plain if f.how == "link")
    return sum(file.size_bytes for file in shards)
