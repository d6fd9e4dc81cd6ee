"""`nextn detach`: remove the MTP block."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..gguf.files import open_sound
from ..progress import Progress, Say
from ..writing.plan import LinkMode
from ..writing.result import Result, carry_out, link_mode
from . import in_place as changing


def detach(
    model: str | Path,
    *,
    out: str | Path | None = None,
    link: str | LinkMode = LinkMode.AUTO,
    qkv: str | None = None,
    for_engine: str | None = None,
    in_place: bool = False,
    all_links: bool = False,
    confirm: changing.Confirm | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Result:
    """Write the model without its MTP block, beside the bundled one, which stays unchanged.

    `in_place`: changes the model's own file instead (see `writing.in_place`); if nextn attached the block in place, the
    file is restored byte for byte. `all_links` and `confirm` are as in `attach`.

    `qkv`: "split" or "fused" rewrites the model as one file with q, k and v in that form, with or without a block.
    `for_engine`: as in `attach`.

    Raises NoBlock, UsageError, FormatError, IncompleteModel, OutputExists, NoSpace, StorageError, InPlaceRefused,
    ChangeUnfinished.
    """
    from ..layouts.detach import plan_detach

    if in_place:
        from ..layouts import in_place_detach as layout

        if out is not None or qkv is not None or for_engine is not None:
            raise UsageError(
                f"{model}: --in-place changes this file itself and writes no other, so -o, --qkv and --for have no "
                "meaning; leave them out."
            )
        changing.end_interrupted(model, dry_run=dry_run, say=say)
        opened = open_sound(model)
        plan = changing.named(layout.plan_detach(opened, changing.room_for(opened.entry)), opened)
        paths = [change.path for change in plan.changes]
        changing.check_files(paths, all_links=all_links, instead=changing.INSTEAD_OF_DETACH)
        if confirm is not None and not dry_run:
            confirm(plan)
        return carry_out(plan, dry_run, progress)

    return carry_out(plan_detach(open_sound(model), out, link_mode(link), qkv, for_engine), dry_run, progress)
