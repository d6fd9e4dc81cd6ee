"""`nextn pull`: only the files of one variant of one quant, from a repository on the Hub."""

from __future__ import annotations

from pathlib import Path

from ..progress import Progress
from ..publish.pulling import PullResult
from ..publish.pulling import pull as _pull
from ..writing.plan import LinkMode


def pull(
    repo: str,
    *,
    out: str | Path,
    variant: str = "mtp",
    quant: str | None = None,
    link: str | LinkMode = LinkMode.AUTO,
    limit_rate: float | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PullResult:
    """Download exactly the files of one variant of one quant from a repository on the Hub.

    `limit_rate`: bytes per second. `link`: how to link files that are already in the user's Hub cache.

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
