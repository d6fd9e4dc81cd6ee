"""`nextn attach`: put a donor's MTP block onto a trunk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import NextnError, NoBlock, UnsupportedModel, UsageError
from ..gguf.files import open_sound
from ..gguf.types import TensorType
from ..progress import Progress, Say, heard
from ..shell import Command
from ..writing.plan import LinkMode, Plan

if TYPE_CHECKING:
    from ..gguf.files import Model
from ..donors.open_donor import open_block
from ..layouts.options import IN_PLACE, RoomPolicy, embeddings_type, named_type
from ..writing.result import Result, carry_out, link_mode
from . import in_place


def attach(
    trunk: str | Path,
    donor: str | Path | None = None,
    *,
    layout: str | None = None,
    type: str | TensorType | None = None,
    draft_head: str | TensorType | None = None,
    embd_type: str | TensorType = "q4_0",
    out: str | Path | None = None,
    link: str | LinkMode = LinkMode.AUTO,
    qkv: str | None = None,
    for_engine: str | None = None,
    duplicates: str = "keep",
    expect: str | None = None,
    limit_rate: float | None = None,
    all_links: bool = False,
    room_policy: RoomPolicy | None = None,
    confirm: in_place.Confirm | None = None,
    remember: bool = True,
    dry_run: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Result:
    """Put the donor's MTP block onto a trunk.

    `trunk`: a GGUF, any shard of a set, or a folder with one set. With `dry_run` it may be remote, since only its
    header is read. `donor`: a checkpoint folder, a bundled GGUF, a sidecar, a donor file; or ORG/NAME,
    hf:ORG/NAME@REVISION:FILE or an address; with None it is searched for beside the trunk, then where the trunk's
    metadata points, and `say` reports what was chosen and why. `layout`: "shards" (default for a set), "sidecar"
    (default for a single file), "bundle", or "in-place", the one layout that changes the trunk's own file (see
    `writing.in_place`): for it, `room_policy` says how much room is inserted for a header that does not fit (None: as
    little as possible), `all_links` allows a file with several names, and `confirm` is called with the plan before
    anything is changed. `type`: type of the block's matrices (default: q8_0 from a checkpoint, unchanged from a
    GGUF). `draft_head`: type of an extra low-bit head made from the trunk's. `embd_type`: type of a sidecar's
    embeddings and head, "as-is" to carry the trunk's. `expect`: the SHA-256 that the donor's block must have (see
    `fingerprint`), checked before anything is written. `qkv`: the form of q, k and v in the block's attention (in a
    bundle, also the trunk's), "split", "fused" or "as-trunk"; rows are moved without requantizing. `for_engine`: the
    engines the file must work in, "llama.cpp", "ik" or "both", or a program, "lmstudio" or "ollama"; layout, names and
    types are chosen to suit, and if that is impossible, the error says why. `duplicates`: "drop" drops the block's
    embeddings and heads when they duplicate the model's (see `duplicates`). `limit_rate`: bytes per second from a
    server.

    Raises DonorMismatch, BlockPresent, NoBlock, UnsupportedModel, QuantizeError, FormatError, IncompleteModel,
    OutputExists, NoSpace, StorageError, RemoteError, InPlaceRefused, ChangeUnfinished, UsageError; among the last,
    `sources.infer.Doubt` when several donors fit equally well.
    """
    from ..layouts.attach import plan_attach, searched_layout
    from ..layouts.options import AttachOptions
    from ..layouts.programs import check_ollama
    from ..remote.opening import http_options, opened

    options = AttachOptions(
        layout, named_type(type), named_type(draft_head), embeddings_type(embd_type), out, link_mode(link), qkv,
        for_engine,
    )
    if layout == IN_PLACE:
        if out is not None:
            raise UsageError(f"{trunk}: --layout in-place changes this file itself, so leave out -o.")
        in_place.end_interrupted(trunk, dry_run=dry_run, say=say)
    with opened(trunk) as found:
        if found.model is None:
            what = "this is a checkpoint, not a GGUF"
            if donor is not None and str(donor).endswith(".gguf"):
                raise UsageError(f"{found.name}: {what}; {_the_other_way(trunk, donor)}.")
            raise UsageError(f"{found.name}: {what}; name the quant to put the block onto.")
        if found.remote is not None and not dry_run:
            raise UsageError(
                f"{found.name}: a block is attached to local files only (a dry run reads the header of a remote one); "
                "get the model with 'nextn pull', then attach."
            )
        check_ollama(for_engine, found.model)
        _refuse_renamed(found.name, found.model)
        if layout == IN_PLACE:
            first, instead = found.model.files[0].path, in_place.INSTEAD_OF_ATTACH
            in_place.check_files([first], all_links=all_links, instead=instead)
            options = replace(options, room=in_place.room_for(found.model.entry, room_policy))
        why, n_before = None, 0
        if donor is None:
            from ..discovery.donors import find

            wanted = searched_layout(found.model, layout, for_engine)
            chosen = find(found.model, layout=wanted, options=http_options(limit_rate))
            donor, why, n_before = chosen.source, chosen.why, chosen.bytes_downloaded
            heard(say)(why)
        if (assistant := _assistant(donor)) is not None:
            from ..layouts.assistant import plan_place

            plan = _preceded(found.model, plan_place(found.model, assistant, options))
            return _noted(found.model, carry_out(plan, dry_run, progress), remember)
        with _not_swapped(trunk, donor, found.model), open_block(donor, limit_rate, trunk=found.model) as source:
            _refuse_renamed(donor, source.block.model)
            block, notes = source.to_write(duplicates)
            plan = _preceded(found.model, plan_attach(found.model, block, options).noted(notes))
            if plan.changes:
                plan = in_place.named(plan, found.model)
                if confirm is not None and not dry_run:
                    confirm(plan)
            result = source.run(plan, expect=expect, why=why, dry_run=dry_run, progress=progress)
            result = replace(result, bytes_downloaded=result.bytes_downloaded + n_before + found.bytes_downloaded)
            return _noted(found.model, result, remember)


def _refuse_renamed(name: str | Path, model: Model | None) -> None:
    from ..diagnosis.renamed import find_renamed

    renamed = None if model is None else find_renamed(model)
    if renamed is not None:
        raise UnsupportedModel(f"{name}: {renamed.what.rstrip('.')}: {renamed.mend}.")


def _preceded(model: Model, plan: Plan) -> Plan:
    """The plan, with a note if another sidecar of the model takes precedence over the one being made."""
    from ..discovery.sidecars import nearer_than

    found = None if plan.sidecar is None else nearer_than(model, plan.sidecar)
    if found is None:
        return plan
    return plan.noted([f"{found.place} and comes before this one; name this one with --sidecar"])


def _noted(model: Model, result: Result, remember: bool) -> Result:
    """The result; a note records its sidecar if its location or name does not show which model it belongs to."""
    from ..discovery.kept import note_down
    from ..discovery.sidecars import KEPT, find_sidecars

    sidecar = result.sidecar
    if sidecar is None or result.outcome is None or not remember:
        return result
    if any(each.path.samefile(sidecar) and each.where < KEPT for each in find_sidecars(model).candidates):
        return result
    try:
        note_down(model, sidecar)
    except NextnError as error:
        more = f"it is not remembered for this model, so name it with --sidecar: {error}"
        return replace(result, plan=result.plan.noted([more]))
    return result


def _the_other_way(trunk: str | Path, donor: str | Path) -> str:
    command = Command.of("nextn", "attach", donor, "--from", trunk)
    return f"TRUNK and DONOR may be the wrong way round: {command!s}"


@contextmanager
def _not_swapped(trunk: str | Path, donor: str | Path, model: Model) -> Iterator[None]:
    """A donor without a block is named as a mistake in the order where the trunk has one."""
    try:
        yield
    except NoBlock as error:
        from ..block.anatomy import Anatomy

        if not Anatomy.of(model).has_block:
            raise
        raise NoBlock(f"{donor}: there is no MTP block in this model; {_the_other_way(trunk, donor)}.") from error


def _assistant(donor: str | Path) -> Model | None:
    """A local draft model that is placed unchanged; None for all other donors."""
    from ..layouts.assistant import is_placed
    from ..remote.address import parse_source

    place = parse_source(donor)
    if not isinstance(place, Path) or place.suffix != ".gguf":
        return None
    model = open_sound(place)
    return model if is_placed(model) else None
