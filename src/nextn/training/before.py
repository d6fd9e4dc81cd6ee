"""What drafts for a trunk already: the block to start from, and to beat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..block.anatomy import Anatomy
from ..block.draft import Draft
from ..discovery.sidecars import find_sidecars
from ..donors.open_donor import open_block, open_draft
from ..errors import NextnError, UsageError
from ..gguf.files import Model, open_sound
from ..layouts.attach import plan_attach
from ..layouts.draft import plan_draft
from ..layouts.options import AttachOptions, ExtractOptions, embeddings_type
from ..progress import Say
from ..remote.address import parse_source
from .judge import DraftBefore
from .kind import DraftName


@dataclass(frozen=True)
class KnownDraft:
    """A draft or block that is there, before it is made ready for an engine."""

    name: str  # what to call it
    sidecar: Path | None  # a GGUF that an engine loads beside the trunk as it is
    in_trunk: bool = False  # the trunk has it
    donor: str | Path | None = None  # it has to be made a sidecar first
    is_named: bool = False  # by the user


def known_draft(trunk: Model, donor: str | Path | None) -> KnownDraft | None:
    """The draft that `donor` names, else the trunk's own block, else the sidecar that is found for it; or None.

    Raises UsageError when several sidecars fit equally well, and what opening a local donor raises.
    """
    if donor is not None:
        place = parse_source(donor)
        if isinstance(place, Path) and place.is_file():
            model = open_sound(place)
            seen = Anatomy.of(model)
            if (seen.is_block_only and seen.shape == "sidecar") or Draft.of(model) is not None:
                return KnownDraft(place.name, place, is_named=True)
        return KnownDraft(Path(str(donor)).name, None, donor=donor, is_named=True)
    if Anatomy.of(trunk).has_block:
        return KnownDraft(f"the block of {trunk.entry.name}", None, in_trunk=True)
    found = find_sidecars(trunk).best("--from")
    return None if found is None else KnownDraft(found.path.name, found.path)


def _path(folder: Path, kind: DraftName) -> Path:
    return folder / ("mtp-before.gguf" if kind == "native" else "eagle3-before.gguf")


def made_ready(known: KnownDraft, trunk: Model, kind: DraftName, folder: Path, say: Say) -> DraftBefore:
    """The draft as an engine loads it; the sidecar that a donor becomes is in `folder`, and kept for later runs.

    Raises what attaching a block, or extracting a draft, raises.
    """
    if known.donor is None:
        return DraftBefore(trunk.entry, known.sidecar, known.name)
    path = _path(folder, kind)
    if not path.exists():
        say(f"making a sidecar of {known.name}")
        _make(known.donor, trunk, kind, path, dry_run=False)
    return DraftBefore(trunk.entry, path, known.name)


def _make(donor: str | Path, trunk: Model, kind: DraftName, path: Path, *, dry_run: bool) -> None:
    (_block if kind == "native" else _draft)(donor, trunk, path, dry_run)


def _block(donor: str | Path, trunk: Model, path: Path, dry_run: bool) -> None:
    options = AttachOptions(layout="sidecar", embd_type=embeddings_type("q4_0"), out=path)
    with open_block(donor, trunk=trunk) as source:
        block, notes = source.to_write("keep")
        plan = plan_attach(trunk, block, options).noted(notes)
        source.run(plan, expect=None, why=None, dry_run=dry_run, progress=None)


def _draft(donor: str | Path, trunk: Model, path: Path, dry_run: bool) -> None:
    with open_draft(donor, option="--from") as (draft, source):
        plan = plan_draft(draft, trunk, ExtractOptions(out=path), local=True)
        source.run(plan, expect=None, why=None, dry_run=dry_run, progress=None)


def kind_of_draft(sidecar: Path) -> DraftName | None:
    """The kind of a sidecar; None for one that is not trained here."""
    try:
        model = open_sound(sidecar)
    except NextnError:
        return None
    draft = Draft.of(model)
    if draft is None:
        return "native" if Anatomy.of(model).blocks else None
    return "eagle3" if draft.kind.arch == "eagle3" else None


def start_of(before: DraftBefore | None, kind: DraftName) -> Path | None:
    """The GGUF that a fit of this kind starts from; None: from nothing, since nothing there is of this kind."""
    if before is None:
        return None
    if before.sidecar is None:
        return before.model if kind == "native" else None
    return before.sidecar if kind_of_draft(before.sidecar) == kind else None


def check_donor(known: KnownDraft | None, trunk: Model, kind: DraftName, folder: Path) -> None:
    """To be called before hours of work: `made_ready` will be able to use what --from names.

    Raises UsageError for a GGUF of another kind, and what attaching a block, or extracting a draft, raises.
    """
    if known is None or not known.is_named:
        return
    is_gguf = known.donor is not None and kind == "eagle3" and Path(known.donor).is_file()  # of another kind
    if known.donor is not None and not is_gguf:
        path = _path(folder, kind)
        if not path.exists():
            _make(known.donor, trunk, kind, path, dry_run=True)
        return
    if is_gguf or (known.sidecar is not None and kind_of_draft(known.sidecar) != kind):
        wanted = "an MTP block" if kind == "native" else "an EAGLE-3 draft"
        own = None if known.sidecar is None else kind_of_draft(known.sidecar)
        instead = f"write --kind {own}, or " * (own is not None)
        raise UsageError(
            f"{known.sidecar or known.donor}: this is not {wanted}, so training cannot start from it; {instead}leave "
            "out --from."
        )
