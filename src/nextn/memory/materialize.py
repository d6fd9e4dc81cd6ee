"""Setups whose files do not exist yet, actually made in the temporary folder so that they can be measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import UsageError
from ..gguf.files import Model, open_model
from ..gguf.types import parse_type_name
from ..layouts.attach import plan_attach
from ..layouts.detach import plan_detach
from ..layouts.options import AttachOptions
from ..writing.execute import execute
from ..writing.plan import Plan
from .setups import BUNDLED_OFF, BUNDLED_ON, EMBD_TYPE, NO_MTP, SIDECAR, Setup, Setups

LAYOUT = {BUNDLED_OFF: "bundle", BUNDLED_ON: "bundle", SIDECAR: "sidecar", "shards": "shards"}


class RealFiles:
    """Makes setups in a folder that its owner removes. What a setup needs is made only once."""

    def __init__(self, setups: Setups, folder: Path) -> None:
        self.setups, self.folder = setups, folder
        self._made: dict[str, Model] = {}

    def make(self, setup: Setup) -> Setup:
        """The setup on real files. Raises NextnError (NoSpace included) if it cannot be made."""
        if setup.id == NO_MTP:
            return replace(setup, model=self._trunk())
        layout = LAYOUT[setup.id]
        made = self._made.get(layout)
        if made is None:
            made = self._made[layout] = self._attached(setup, layout)
        if layout == "sidecar":
            return replace(setup, model=self._trunk(), sidecar=made)
        return replace(setup, model=made)

    def _trunk(self) -> Model:
        """The trunk's real files: the model's own, or a detached copy."""
        plain = self.setups.get(NO_MTP)
        if plain.is_there and plain.model is not None:
            return plain.model
        if NO_MTP not in self._made:
            bundled = self.setups.get(BUNDLED_OFF).model
            if bundled is None:
                raise UsageError("the trunk cannot be made")
            self._made[NO_MTP] = self._run(plan_detach(bundled, None), NO_MTP)
        return self._made[NO_MTP]

    def _attached(self, setup: Setup, layout: str) -> Model:
        block = self.setups.block
        if layout == "sidecar" and setup.plan is None and setup.sidecar is not None:
            return setup.sidecar  # an existing sidecar for a trunk that has to be made
        if block is None or block.kind == "family":
            raise UsageError("its block does not exist; name a donor with --from")
        options = AttachOptions(layout, embd_type=parse_type_name(EMBD_TYPE))
        return self._run(plan_attach(self._trunk(), block, options), layout)

    def _run(self, plan: Plan, name: str) -> Model:
        folder = self.folder / name
        folder.mkdir(parents=True)
        of_trunk = plan.layout == "sidecar"
        entry = plan.sidecar if of_trunk and plan.sidecar is not None else plan.entry
        moved = folder / entry.name
        execute(replace(plan, folder=folder, entry=moved, sidecar=moved if of_trunk else plan.sidecar))
        return open_model(moved)
