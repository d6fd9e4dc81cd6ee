"""`nextn detach`: take the MTP block off again."""

from __future__ import annotations

from pathlib import Path

from ..gguf.files import open_sound
from ..progress import Progress
from ..writing.plan import LinkMode
from ..writing.result import Result, carry_out, link_mode


def detach(
    model: str | Path,
    *,
    out: str | Path | None = None,
    link: str | LinkMode = LinkMode.AUTO,
    qkv: str | None = None,
    for_engine: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Take the MTP block off: a trunk-only model beside the bundled one, which stays as it is.

    `qkv`: "split" or "fused" writes the model anew as one file, q, k and v in that form, whether it has a block or not.
    `for_engine`: as in `attach`.

    Raises NoBlock, UsageError, FormatError, IncompleteModel, OutputExists, NoSpace, StorageError.
    """
    from ..layouts.detach import plan_detach

    return carry_out(plan_detach(open_sound(model), out, link_mode(link), qkv, for_engine), dry_run, progress)
