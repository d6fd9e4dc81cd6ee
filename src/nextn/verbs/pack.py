"""Publishing as functions: what the command line calls, and what tool builders import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..api import Steps, open_block, received
from ..errors import UsageError
from ..gguf.files import open_model
from ..gguf.types import TensorType, parse_type_name
from ..layouts.pack import PackOptions, best_source, has_block, plan_pack
from ..publish.packing import CardOptions, PackResult, pack_up, plan_package
from ..publish.pulling import PullResult
from ..publish.pulling import pull as _pull
from ..writing.execute import Progress, check_outputs
from ..writing.plan import LinkMode

PathLike = str | Path
_AS_IS = "as-is"
__all__ = ["PackResult", "PullResult", "pack", "pull"]


def _type(name: str | TensorType | None) -> TensorType | None:
    return name if name is None or isinstance(name, TensorType) else parse_type_name(name)


def pack(
    models: Sequence[PathLike],
    *,
    donor: PathLike | None = None,
    sidecar: PathLike | None = None,
    out: PathLike,
    layout: str | None = None,
    type: str | TensorType | None = None,
    draft_head: str | TensorType | None = None,
    embd_type: str | TensorType = "q4_0",
    duplicates: str = "keep",
    title: str | None = None,
    repo: str | None = None,
    base_model: str | None = None,
    verified: Sequence[PathLike] = (),
    link: str | LinkMode = LinkMode.AUTO,
    limit_rate: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> PackResult:
    """A folder to publish: quants of one model, each with and without an MTP block.

    The block is that of `donor` (which may be remote, as in `nextn.attach`), or `sidecar`, a local file that is
    published as it is. With neither it is the one that the models carry; when none does, its donor is looked for as
    `nextn.attach` does, and `say` is told what was chosen and why. `duplicates` is as in `nextn.attach`, for a donor.

    Raises what `nextn.attach` and `nextn.detach` raise.
    """
    from ..block.duplicates import KEEP
    from ..remote.address import parse_source
    from ..remote.opening import http_options

    if donor is not None and sidecar is not None:
        raise UsageError("name either the donor of the block (--from) or a ready sidecar (--sidecar), not both.")
    if sidecar is not None and not isinstance(parse_source(sidecar), Path):
        raise UsageError(
            f"'{sidecar}' is not here: --sidecar publishes a local file as it is; get it with 'nextn pull', or take "
            "the block out of it with --from."
        )
    if donor is None and duplicates != KEEP:
        raise UsageError("--duplicates looks at the donor's own embeddings and head; name the donor with --from.")
    options = PackOptions(
        Path(out),
        layout,
        _type(type),
        _type(draft_head),
        None if embd_type == _AS_IS else _type(embd_type),
        LinkMode(link),
        ready_sidecar=sidecar is not None,
    )
    opened = [open_model(model) for model in models]
    why, n_before = None, 0
    if donor is None and sidecar is None and opened and not any(map(has_block, opened)):
        from ..donors.find import find

        chosen = find(best_source(opened), layout="shards", options=http_options(limit_rate))
        donor, why, n_before = chosen.source, chosen.why, chosen.bytes_downloaded
        if say is not None:
            say(why)
    card = CardOptions(title, repo, base_model, [Path(path) for path in verified])
    with ExitStack() as stack:
        source = None
        if donor is not None or sidecar is not None:
            source = stack.enter_context(open_block(donor if donor is not None else str(sidecar), limit_rate))
        block, notes = (None, []) if source is None else source.to_write(duplicates if donor is not None else KEEP)
        packed = plan_pack(opened, block, options)
        packed = replace(packed, plan=packed.plan.noted(notes))
        package = plan_package(packed, card)
        remote = source.remote if source else None
        check_outputs(package.plan)
        missing = remote.missing_bytes(package.plan.ranges) if remote is not None and not dry_run else 0
        steps = Steps(progress, missing, package.hash_bytes + package.plan.bytes_written)
        if remote is not None and not dry_run:
            remote.fetch(package.plan.ranges, steps.fetched)
        result = pack_up(package, dry_run=dry_run, progress=lambda done, _: steps.wrote(done, 0))
        return replace(result, bytes_downloaded=n_before + received(remote), why=why)


def pull(
    repo: str,
    *,
    out: PathLike,
    variant: str = "mtp",
    quant: str | None = None,
    link: str | LinkMode = LinkMode.AUTO,
    limit_rate: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PullResult:
    """Exactly the files of one variant of one quant, from a repository on the Hub.

    `limit_rate`: bytes per second. `link`: how files get their names that the user's Hub cache has already.

    Raises UsageError, NoBlock, BlockPresent, IncompleteModel, FormatError, RemoteError, OutputExists, StorageError.
    """
    from ..remote.opening import http_options

    return _pull(
        repo,
        out=out,
        variant=variant,
        quant=quant,
        link=LinkMode(link),
        options=http_options(limit_rate),
        dry_run=dry_run,
        progress=progress,
    )
