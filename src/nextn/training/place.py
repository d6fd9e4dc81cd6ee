"""Where a trained draft goes, decided before hours of training; and how it gets there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..archs.drafts import EAGLE3
from ..block.from_gguf import block_from_model
from ..errors import OutputExists, UsageError
from ..gguf.files import Model, open_sound
from ..gguf.kv import KV
from ..layouts import naming, places
from ..layouts.attach import plan_attach
from ..layouts.options import AttachOptions
from ..layouts.trained import plan_trained
from ..writing.execute import check_place, execute
from ..writing.plan import Plan
from .kind import DraftName

TYPE = "Q8_0"  # of the draft's matrices
LAYOUTS = ("sidecar", "bundle")


@dataclass(frozen=True)
class DraftPlace:
    """The final file."""

    layout: str
    folder: Path
    name: str
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Its path."""
        return self.folder / self.name


def draft_place(trunk: Model, kind: DraftName, layout: str | None, out: str | Path | None) -> DraftPlace:
    """Where the draft will go. Without `out` a name that is taken gets `-trained`.

    Raises UsageError for a layout that this kind does not have, OutputExists, StorageError.
    """
    layout = layout or "sidecar"
    if layout not in LAYOUTS:
        raise UsageError(f"'{layout}' is not a layout of a trained draft; choose sidecar or bundle.")
    if layout == "bundle":
        if kind == "eagle3":
            raise UsageError(
                f"{trunk.entry}: an EAGLE-3 draft is a model of its own, which no engine loads from the same file; "
                "leave out --layout bundle."
            )
        folder, name = naming.resolve_output(
            out, places.default_folder(trunk), naming.bundled_base(places.model_name(trunk)) + ".gguf"
        )
        naming.check_main_name(name)
        return _free(DraftPlace(layout, folder, name), given=True)
    mark = EAGLE3.mark if kind == "eagle3" else "mtp-"
    folder, name = naming.resolve_output(out, places.sidecar_folder(trunk), naming.sidecar_name(trunk, TYPE, mark))
    notes = () if name.startswith(mark) else (
        f"{name} does not start with '{mark}': engines find it only when it is passed with -md",
    )  # fmt: skip
    return _free(DraftPlace(layout, folder, name, notes), given=out is not None)


def _free(place: DraftPlace, *, given: bool) -> DraftPlace:
    check_place(place.folder, [place.name])
    if not os.path.lexists(place.path):
        return place
    base, _, ending = place.name.rpartition(f"-{TYPE}")
    other = DraftPlace(
        place.layout, place.folder, f"{base}-trained-{TYPE}{ending}",
        (*place.notes, f"{place.name} is there already, so two sidecars fit: name this one with --sidecar"),
    )  # fmt: skip
    if given or not base or os.path.lexists(other.path):
        raise OutputExists(
            f"{place.path}: this file already exists, and nextn never overwrites; choose another -o."
        )
    return other


def written(trunk: Model, candidate: Path, pairs: Sequence[KV], place: DraftPlace, scratch: Path) -> Plan:
    """Write the candidate to its place, with `pairs` in its header; returns the plan that was carried out.

    Raises what attaching and writing raise.
    """
    model = open_sound(candidate)
    if place.layout == "sidecar":
        plan = plan_trained(model, pairs, place.folder, place.name)
    else:
        named = plan_trained(model, pairs, scratch, naming.sidecar_name(trunk, TYPE))
        execute(named)
        options = AttachOptions(layout="bundle", out=place.path)
        plan = plan_attach(trunk, block_from_model(open_sound(named.entry)), options)
    execute(plan)
    return plan
