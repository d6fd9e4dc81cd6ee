"""Publishing as functions: what the command line calls, and what tool builders import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..destinations.local import check_outputs
from ..errors import UsageError
from ..gguf.files import open_model
from ..gguf.types import TensorType, parse_type_name
from ..layouts.pack import PackOptions, plan_pack
from ..layouts.plan import LinkMode
from .packing import CardOptions, PackResult, pack_up, plan_package
from .pulling import PullResult
from .pulling import pull as _pull

PathLike = str | Path
Progress = Callable[[int, int], None]  # (bytes done, bytes in all)
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
    title: str | None = None,
    repo: str | None = None,
    base_model: str | None = None,
    verified: Sequence[PathLike] = (),
    link: str | LinkMode = LinkMode.AUTO,
    limit_rate: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PackResult:
    """A folder to publish: quants of one model, each with and without the block of `donor` or `sidecar`.

    `donor` may be remote, as in `nextn.attach`; `sidecar` is published as it is, so it has to be a local file.

    Raises what `nextn.attach` raises.
    """
    from ..api import open_block

    if (donor is None) == (sidecar is None):
        raise UsageError("name either the donor of the block (--from) or a ready sidecar (--sidecar).")
    options = PackOptions(
        Path(out),
        layout,
        _type(type),
        _type(draft_head),
        None if embd_type == _AS_IS else _type(embd_type),
        LinkMode(link),
        ready_sidecar=sidecar is not None,
    )
    with open_block(donor if donor is not None else str(sidecar), limit_rate) as source:
        package = plan_package(
            plan_pack([open_model(model) for model in models], source.block, options),
            CardOptions(title, repo, base_model, [Path(path) for path in verified]),
        )
        if source.remote is not None and not dry_run:
            check_outputs(package.plan)
            source.remote.fetch(package.plan.ranges, progress)
        return pack_up(package, dry_run=dry_run, progress=progress)


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
    from ..sources.opening import http_options

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
