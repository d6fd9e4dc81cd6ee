"""What is to be measured: a model, its sidecar, and blocks of other types made for the occasion."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from .. import api
from ..block import block_from_model, block_layers, layer_of
from ..destinations.local import execute
from ..durable import free_bytes
from ..errors import NoBlock, NoSpace, UsageError
from ..gguf.files import Model, open_model
from ..gguf.types import parse_type_name
from ..layouts.extract import ExtractOptions, plan_extract
from ..layouts.plan import Plan


@dataclass(frozen=True)
class Target:
    """A model as an engine loads it."""

    model: Model
    sidecar: Model | None
    """The file with the block beside a trunk-only model."""
    notes: tuple[str, ...] = ()

    @property
    def has_block(self) -> bool:
        """Whether there is a block to draft with."""
        return self.sidecar is not None or bool(block_layers(list(self.model.tensors)))

    @property
    def sidecar_path(self) -> Path | None:
        """The file to pass with -md."""
        return None if self.sidecar is None else self.sidecar.entry

    @property
    def block_origin(self) -> Model:
        """The file or set that holds the block. Raises NoBlock."""
        if not self.has_block:
            raise NoBlock(f"{self.model.entry}: there is no MTP block in this model and no sidecar beside it.")
        return self.sidecar or self.model


def open_target(model: str | Path, sidecar: str | Path | None = None, *, needs_block: bool = True) -> Target:
    """The model with `sidecar`, or with the only one that lies beside a trunk-only model.

    Raises NoBlock (with `needs_block`), UsageError when several sidecars lie there, and what opening files raises.
    """
    opened = open_model(model)
    names = list(opened.tensors)
    layers = block_layers(names)
    if layers and not any(layer_of(name) == 0 for name in names):
        raise UsageError(f"{opened.entry}: this is a sidecar or donor file; name its trunk, and this with --sidecar.")
    if sidecar is not None:
        beside = open_model(sidecar)
        if not block_layers(list(beside.tensors)):
            raise NoBlock(f"{beside.entry}: there is no MTP block in this sidecar.")
        notes = ("the model has a block of its own, which the engine loads as well; the sidecar's is used",)
        return Target(opened, beside, notes if layers else ())
    if layers:
        return Target(opened, None)
    from ..inspection import inspect

    found = inspect(opened.entry).sidecars
    if len(found) == 1:
        return Target(opened, open_model(found[0]), (f"the sidecar {found[0].name} beside the model was taken",))
    if found:
        several = ", ".join(path.name for path in found)
        raise UsageError(f"{opened.entry}: {len(found)} sidecars lie beside it ({several}); name one with --sidecar.")
    if needs_block:
        raise NoBlock(
            f"{opened.entry}: there is no MTP block in this model and no sidecar beside it; name one with --sidecar, "
            "or attach a block first with 'nextn attach'."
        )
    return Target(opened, None)


def typed_sidecar(target: Target, donor: str | Path | None, type_name: str, folder: Path, embd_type: str) -> Path:
    """A sidecar in `folder` whose block is of another type: from `donor`, or requantized from the target's own block.

    Raises QuantizeError, NoSpace and what attach and extract raise.
    """
    out = folder / f"mtp-{type_name}-{embd_type}.gguf"
    if donor is not None:
        dry = api.attach(
            target.model.entry, donor, layout="sidecar", type=type_name, embd_type=embd_type, out=out, dry_run=True
        )
        check_room(dry.plan)
        api.attach(target.model.entry, donor, layout="sidecar", type=type_name, embd_type=embd_type, out=out)
        return out
    embeddings = None if embd_type == api.AS_IS else parse_type_name(embd_type)
    options = ExtractOptions(type=parse_type_name(type_name), embd_type=embeddings, out=out)
    plan = plan_extract(block_from_model(target.block_origin), options)
    check_room(plan)
    execute(plan)
    return out


def check_room(plan: Plan) -> None:
    """Raise NoSpace when a temporary file does not fit."""
    free = free_bytes(plan.folder)
    if plan.bytes_written > free:
        raise NoSpace(
            f"{plan.folder}: a temporary file needs {plan.bytes_written:,} bytes and {free:,} are free; set TMPDIR to "
            "a folder with room."
        )


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for temporary files, removed with everything in it however the command ends (kill -9 excepted)."""
    return tempfile.TemporaryDirectory(prefix="nextn-trial-")


def loaded_bytes(model: Model, sidecar: Path | None) -> int:
    """Bytes of the files that a setup loads."""
    return model.size_bytes + (open_model(sidecar).size_bytes if sidecar is not None else 0)
