"""`nextn pack`: a folder of quants to publish, each with and without its MTP block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..block.anatomy import Anatomy
from ..discovery.llama_cpp_names import mark_of
from ..donors.open_donor import Steps, open_block, received
from ..errors import OutputExists, UsageError
from ..gguf import strangers
from ..gguf.files import Model, model_candidates, open_sound, stranger_of
from ..gguf.types import TensorType
from ..layouts.assistant import is_placed
from ..layouts.options import PackOptions, embeddings_type, named_type
from ..layouts.pack import best_source, has_block, label_to_publish, plain_outputs, plan_pack
from ..layouts.places import check_folder
from ..progress import Progress, Say, heard
from ..publish.card import NAME as README
from ..publish.manifest import NAME
from ..publish.packed_folder import PackedFolder, bytes_to_compare, same_file
from ..publish.packing import CardOptions, PackResult, pack_up, plan_package
from ..publish.sums import Hasher
from ..units import size
from ..writing.again import Before, written_before
from ..writing.execute import check_outputs
from ..writing.leftovers import clean
from ..writing.plan import Link, LinkMode, NewFile, Plan
from ..writing.system import explained


def pack(
    models: Sequence[str | Path],
    *,
    donor: str | Path | None = None,
    sidecar: str | Path | None = None,
    out: str | Path,
    layout: str | None = None,
    type: str | TensorType | None = None,
    draft_head: str | TensorType | None = None,
    embd_type: str | TensorType = "q4_0",
    duplicates: str = "keep",
    title: str | None = None,
    repo: str | None = None,
    base_model: str | None = None,
    verified: Sequence[str | Path] = (),
    fragment: bool = False,
    skip_existing: bool = False,
    link: str | LinkMode = LinkMode.AUTO,
    limit_rate: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> PackResult:
    """Make a folder to publish: quants of one model, each with and without an MTP block.

    The block comes from `donor` (which may be remote, as in `nextn.attach`), or from `sidecar`, a local file that is
    published unchanged; a draft that is a model of its own may take the block's place. With neither, it is the one
    that the models carry, or the draft beside them; else a donor is searched for as in `nextn.attach`. `say` reports
    what was chosen and why. `duplicates`, for a donor, is as in `nextn.attach`. A folder among `models` stands for all
    models in it.

    `skip_existing`: `out` may be a folder that was packed before. A quant that it has is kept if its files have the
    recorded SHA-256, others are added, with the folder's own sidecar or block if nothing else is named; card, sums and
    manifest are renewed. What a run that was stopped left complete is kept if it has the bytes that would be written.
    `fragment`: in place of README.md, write sections for a card of one's own.

    Raises what `nextn.attach` and `nextn.detach` raise, and OutputExists.
    """
    from ..block.duplicates import KEEP
    from ..remote.address import check_hub_name, parse_source
    from ..remote.opening import http_options

    if donor is not None and sidecar is not None:
        raise UsageError("name either the donor of the block (--from) or a ready sidecar (--sidecar), not both.")
    if sidecar is not None and not isinstance(parse_source(sidecar), Path):
        raise UsageError(
            f"'{sidecar}' is not a local file: --sidecar publishes a local file as it is; get it with 'nextn pull', or "
            "take the block out of it with --from."
        )
    place = None if donor is None else parse_source(donor)
    if isinstance(place, Path) and place.suffix == ".gguf" and place.is_file() and _draft(place) is not None:
        raise UsageError(f"{place}: this draft is a model of its own, without a block to take; name it with --sidecar.")
    for name, option in ((repo, "--repo"), (base_model, "--base-model")):
        if name is not None:
            check_hub_name(name, option)
    if donor is None and duplicates != KEEP:
        raise UsageError("--duplicates concerns the donor's own embeddings and head; name the donor with --from.")
    options = PackOptions(
        check_folder(Path(out)),
        layout,
        named_type(type),
        named_type(draft_head),
        embeddings_type(embd_type),
        LinkMode(link),
        ready_sidecar=sidecar is not None,
    )
    existing = PackedFolder.of(options.out)
    if existing is not None and not skip_existing:
        raise OutputExists(
            f"{options.out}: this folder was packed before; --skip-existing adds quants to it and keeps what it has."
        )
    notes: list[str] = []
    opened = opened_models(models, options.out, notes)
    bytes_compared = 0
    if existing is not None:
        opened, bytes_compared = _to_add(opened, existing, options, dry_run, heard(say))
        if donor is None and sidecar is None and opened:
            sidecar = existing.sidecar
            donor = existing.donor if sidecar is None and not any(map(has_block, opened)) else None
            options = replace(options, ready_sidecar=sidecar is not None)
    why, n_before = None, 0
    draft = None if sidecar is None else _draft(sidecar)
    if donor is None and sidecar is None and opened and not any(map(has_block, opened)):
        from ..discovery.donors import find

        draft = _draft_beside(best_source(opened))
        if draft is not None:
            why = f"{draft.entry.name}, a draft beside {best_source(opened).entry.name}, is published with it."
        else:
            chosen = find(best_source(opened), layout="shards", options=http_options(limit_rate))
            donor, why, n_before = chosen.source, chosen.why, chosen.bytes_downloaded
        heard(say)(why)
    notes += _besides(models, options.out, {path.absolute() for path in _used(sidecar, donor, draft)}, fragment)
    card = CardOptions(title, repo, base_model, [Path(path) for path in verified], fragment)
    with ExitStack() as stack:
        source = None
        if opened and draft is None and (donor is not None or sidecar is not None):
            given, trunk = (donor if donor is not None else str(sidecar)), next(iter(opened), None)
            source = stack.enter_context(open_block(given, limit_rate, trunk=trunk))
        block, of_block = (None, []) if source is None else source.to_write(duplicates if donor is not None else KEEP)
        packed = None
        if opened or existing is None:
            packed = plan_pack(opened, block, options, draft)
            if not skip_existing:
                _check_not_in_out(packed.plan)
            packed = replace(packed, plan=packed.plan.noted([*notes, *of_block]))
        before = Before()
        if packed is not None and skip_existing:
            if not dry_run:
                with explained(options.out, "clean the folder"):
                    clean(options.out)  # before what is there is taken for complete
            before = written_before(packed.plan, heard(say), compare=not dry_run)
            bytes_compared += before.bytes_read
        package = plan_package(packed, card, existing, before)
        remote = source.remote if source else None
        check_outputs(package.to_execute, tidy=not dry_run)
        missing = remote.missing_bytes(package.plan.ranges) if remote is not None and not dry_run else 0
        steps = Steps(progress, missing, package.hash_bytes + package.plan.bytes_written)
        if remote is not None and not dry_run:
            remote.fetch(package.plan.ranges, steps.fetched)
        result = pack_up(package, dry_run=dry_run, progress=lambda done, _: steps.wrote(done, 0))
        return replace(
            result, bytes_downloaded=n_before + received(remote), bytes_compared=bytes_compared, why=why
        )


def _check_not_in_out(plan: Plan) -> None:
    """Raise OutputExists for a model that lies where its own name in the published folder would be."""
    for out in plan.outputs:
        if isinstance(out, Link) and out.twin_of is None and same_file(out.source, plan.folder / out.name):
            raise OutputExists(
                f"{out.source}: this model is in the folder that -o names; --skip-existing adds what is missing there, "
                "or choose another -o."
            )


def _used(sidecar: str | Path | None, donor: str | Path | None, draft: Model | None) -> list[Path]:
    """The files that the block or the draft is taken from."""
    named = [Path(given) for given in (sidecar, donor) if given is not None]
    return named if draft is None else [*named, *(file.path for file in draft.files)]


def _besides(models: Sequence[str | Path], out: Path, used: Set[Path], fragment: bool) -> Iterator[str]:
    """A note for each file in the given folders that belongs to a model and is not published: a card, a projector."""
    for folder in (folder for given in map(Path, models) if given.is_dir() for folder in _folders(given, out)):
        for path in sorted(folder.iterdir()):
            kind = _beside_models(path.name)
            if kind is not None and path.absolute() not in used and not same_file(folder, out):
                yield f"{path.name} is left out: it is {kind}; copy it into {out} to publish it as well"
        card = folder / README
        if card.is_file() and not fragment and not same_file(folder, out):
            yield f"{card} is left out: {out} gets a card of its own; --fragment makes sections for yours"


def _beside_models(name: str) -> str | None:
    """What a file is by the mark in its name that lies beside models and is not one; None for any other."""
    kind = next((mark for mark in ("mmproj", "imatrix") if mark in name), None)
    if name.startswith(".") or not name.endswith((".gguf", ".dat")):
        return None
    return strangers.by_kind(kind, None) or ("a sidecar" if mark_of(name) is not None else None)


def opened_models(models: Sequence[str | Path], out: Path, notes: list[str]) -> list[Model]:
    """The models; of a folder all that are in it and in the folders directly in it, without `out`.

    `notes` gets what is left out of a folder: sidecars, projectors and the like. Raises UsageError for a folder without
    a model, and what opening raises.
    """
    opened = []
    for given in map(Path, models):
        if not given.is_dir():
            opened.append(open_sound(given))
            continue
        there = [path for folder in _folders(given, out) for path in model_candidates(folder)]
        found = [model for path in there if (model := _to_publish(path, notes)) is not None]
        if not found:
            none = "there is no model in this folder or those directly in it; name one"
            raise UsageError(f"{given}: {none if there else strangers.no_gguf(given)}.")
        opened += found
    return opened


def _folders(folder: Path, out: Path) -> list[Path]:
    """The folder and those directly in it, without hidden and packed ones."""
    below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [folder, *(path for path in below if not same_file(path, out) and not (path / NAME).exists())]


def _to_publish(path: Path, notes: list[str]) -> Model | None:
    """The model, or None with a note for a file that is none."""
    kind = stranger_of(path)
    if kind is not None:
        notes.append(f"{path.name} is left out: {kind}")
        return None
    model = open_sound(path)
    if Anatomy.of(model).is_block_only:
        notes.append(f"{path.name} is left out: it is a sidecar or donor file")
        return None
    return model


def _to_add(
    models: Sequence[Model], existing: PackedFolder, options: PackOptions, dry_run: bool, say: Say
) -> tuple[list[Model], int]:
    """The models whose quants the folder lacks, and the bytes that are read to compare the others.

    Raises OutputExists for a quant that the folder has from other files.
    """
    hasher = Hasher()
    new = []
    compared: list[NewFile | Link] = []
    for model in models:
        label = label_to_publish(model)
        quant = existing.quant(label)
        if quant is None:
            new.append(model)
            continue
        say(f"comparing {label} with the one in {existing.path}: {size(model.size_bytes)}")
        outputs = plain_outputs(model, options)
        existing.check_same(quant, outputs, None if dry_run else hasher)
        compared += outputs
    return new, bytes_to_compare(compared) if dry_run else hasher.bytes_hashed


def _draft(sidecar: str | Path) -> Model | None:
    """A sidecar that is a model of its own, published as it is; None for one with an MTP block."""
    model = open_sound(sidecar)
    return model if is_placed(model) else None


def _draft_beside(trunk: Model) -> Model | None:
    """The draft, a model of its own, that engines use with this model. Raises UsageError if several fit equally."""
    from ..discovery.sidecars import find_sidecars

    found = find_sidecars(trunk).best()
    return found.model if found is not None and found.model is not None and is_placed(found.model) else None
