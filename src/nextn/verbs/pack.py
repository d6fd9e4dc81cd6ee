"""`nextn pack`: a folder of quants to publish, each with and without its MTP block."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..block.anatomy import Anatomy
from ..donors.open_donor import Steps, open_block, received
from ..errors import UsageError
from ..gguf.files import open_sound
from ..gguf.types import TensorType
from ..layouts.options import PackOptions, embeddings_type, named_type
from ..layouts.pack import best_source, has_block, plan_pack
from ..layouts.places import check_folder
from ..progress import Progress, Say, heard
from ..publish.packing import CardOptions, PackResult, pack_up, plan_package
from ..writing.execute import check_outputs
from ..writing.plan import LinkMode


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
    link: str | LinkMode = LinkMode.AUTO,
    limit_rate: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> PackResult:
    """Make a folder to publish: quants of one model, each with and without an MTP block.

    The block comes from `donor` (which may be remote, as in `nextn.attach`), or from `sidecar`, a local file that is
    published unchanged. With neither, it is the one that the models carry; if none does, a donor is searched for as
    in `nextn.attach`, and `say` reports what was chosen and why. `duplicates`, for a donor, is as in `nextn.attach`.

    Raises what `nextn.attach` and `nextn.detach` raise.
    """
    from ..block.duplicates import KEEP
    from ..remote.address import parse_source
    from ..remote.opening import http_options

    if donor is not None and sidecar is not None:
        raise UsageError("name either the donor of the block (--from) or a ready sidecar (--sidecar), not both.")
    if sidecar is not None and not isinstance(parse_source(sidecar), Path):
        raise UsageError(
            f"'{sidecar}' is not a local file: --sidecar publishes a local file as it is; get it with 'nextn pull', or "
            "take the block out of it with --from."
        )
    if donor is None and duplicates != KEEP:
        raise UsageError("--duplicates concerns the donor's own embeddings and head; name the donor with --from.")
    if sidecar is not None and (model := open_sound(sidecar)) and Anatomy.of(model).is_draft:
        raise UsageError(
            f"{sidecar}: pack publishes MTP blocks, and this is a draft, a model of its own; put it into the folder "
            "yourself, under a name that 'nextn doctor' finds right."
        )
    options = PackOptions(
        check_folder(Path(out)),
        layout,
        named_type(type),
        named_type(draft_head),
        embeddings_type(embd_type),
        LinkMode(link),
        ready_sidecar=sidecar is not None,
    )
    opened = [open_sound(model) for model in models]
    why, n_before = None, 0
    if donor is None and sidecar is None and opened and not any(map(has_block, opened)):
        from ..discovery.donors import find

        chosen = find(best_source(opened), layout="shards", options=http_options(limit_rate))
        donor, why, n_before = chosen.source, chosen.why, chosen.bytes_downloaded
        heard(say)(why)
    card = CardOptions(title, repo, base_model, [Path(path) for path in verified])
    with ExitStack() as stack:
        source = None
        if donor is not None or sidecar is not None:
            given, trunk = (donor if donor is not None else str(sidecar)), next(iter(opened), None)
            source = stack.enter_context(open_block(given, limit_rate, trunk=trunk))
        block, notes = (None, []) if source is None else source.to_write(duplicates if donor is not None else KEEP)
        packed = plan_pack(opened, block, options)
        packed = replace(packed, plan=packed.plan.noted(notes))
        package = plan_package(packed, card)
        remote = source.remote if source else None
        check_outputs(package.plan, tidy=not dry_run)
        missing = remote.missing_bytes(package.plan.ranges) if remote is not None and not dry_run else 0
        steps = Steps(progress, missing, package.hash_bytes + package.plan.bytes_written)
        if remote is not None and not dry_run:
            remote.fetch(package.plan.ranges, steps.fetched)
        result = pack_up(package, dry_run=dry_run, progress=lambda done, _: steps.wrote(done, 0))
        return replace(result, bytes_downloaded=n_before + received(remote), why=why)
