"""Blocks of other types, made for the occasion."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .. import api
from ..block import block_from_model
from ..destinations.local import execute
from ..gguf.files import Model, open_model
from ..gguf.types import parse_type_name
from ..layouts.extract import ExtractOptions, plan_extract
from .control import check_room
from .target import Target


def typed_sidecar(target: Target, donor: str | Path | None, type_name: str, folder: Path, embd_type: str) -> Path:
    """A sidecar in `folder` whose block is of another type: from `donor`, or requantized from the target's own block.

    Raises QuantizeError, NoSpace and what attach and extract raise.
    """
    out = folder / f"mtp-{type_name}-{embd_type}.gguf"
    if donor is not None:
        dry = api.attach(
            target.model.entry, donor, layout="sidecar", type=type_name, embd_type=embd_type, out=out, dry_run=True
        )
        check_room(dry.plan.folder, dry.plan.bytes_written, "a temporary sidecar")
        api.attach(target.model.entry, donor, layout="sidecar", type=type_name, embd_type=embd_type, out=out)
        return out
    embeddings = None if embd_type == api.AS_IS else parse_type_name(embd_type)
    options = ExtractOptions(type=parse_type_name(type_name), embd_type=embeddings, out=out)
    plan = plan_extract(block_from_model(target.block_origin), options)
    check_room(plan.folder, plan.bytes_written, "a temporary sidecar")
    execute(plan)
    return out


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for temporary files, removed with everything in it however the command ends (kill -9 excepted)."""
    return tempfile.TemporaryDirectory(prefix="nextn-trial-")


def loaded_bytes(model: Model, sidecar: Path | None) -> int:
    """Bytes of the files that a setup loads."""
    return model.size_bytes + (open_model(sidecar).size_bytes if sidecar is not None else 0)
