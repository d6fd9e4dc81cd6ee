"""What verify and bench run: a model and, if it is trunk-only, the file with its block."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..archs.others import ASSISTANTS
from ..block.anatomy import Anatomy
from ..diagnosis.unpublished import words_of_trunk
from ..discovery.sidecars import find_sidecars
from ..errors import NoBlock, UsageError
from ..gguf.files import Model, open_sound


@dataclass(frozen=True)
class MeasuredModel:
    """A model as an engine loads it."""

    model: Model
    sidecar: Model | None  # the file with the block, for a trunk-only model
    notes: tuple[str, ...] = ()

    @property
    def has_block(self) -> bool:
        """Whether there is a block to draft with."""
        return self.sidecar is not None or Anatomy.of(self.model).has_block

    @property
    def sidecar_path(self) -> Path | None:
        """The file to pass with -md."""
        return None if self.sidecar is None else self.sidecar.entry

    @property
    def draft(self) -> Model | None:
        """The sidecar, if it is a draft that is a model of its own."""
        return self.sidecar if self.sidecar is not None and Anatomy.of(self.sidecar).is_draft else None

    @property
    def block_origin(self) -> Model:
        """The file or set that holds the block. Raises NoBlock."""
        if not self.has_block:
            raise NoBlock(f"{self.model.entry}: there is no MTP block in this model and no sidecar beside it.")
        return self.sidecar or self.model


def open_target(model: str | Path, sidecar: str | Path | None = None, *, needs_block: bool = True) -> MeasuredModel:
    """The model with `sidecar`, or a trunk-only model with the one that `discovery.sidecars` finds.

    Raises NoBlock (with `needs_block`), UsageError when several sidecars fit equally well, and what opening files
    raises.
    """
    opened = open_sound(model)
    seen = Anatomy.of(opened)
    if seen.is_block_only:
        raise UsageError(
            f"{opened.entry}: this is a sidecar or donor file; name its trunk, and this file with --sidecar."
        )
    if sidecar is not None:
        beside = open_sound(sidecar)
        if not Anatomy.of(beside).has_block:
            raise NoBlock(
                f"{beside.entry}: this file has no MTP block, so it is not a sidecar; leave out --sidecar, or name the "
                "file that 'nextn attach' wrote."
            )
        notes = ("the model has its own block, which the engine loads as well; the sidecar's is used",)
        return MeasuredModel(opened, beside, notes if seen.has_block else ())
    if seen.has_block:
        return MeasuredModel(opened, None)
    answer = find_sidecars(opened)
    found = answer.best()
    if found is not None:
        return MeasuredModel(opened, found.model, tuple(answer.notes()))
    if needs_block:
        over = "".join(f" ({note})" for note in answer.notes()[:1])
        known = None if seen.arch in ASSISTANTS.values() else words_of_trunk(seen)
        rest = "name one with --sidecar, or attach a block first with 'nextn attach'" if known is None else known
        raise NoBlock(f"{opened.entry}: there is no MTP block in this model and no sidecar for it{over}; {rest}.")
    return MeasuredModel(opened, None, tuple(answer.notes()))
