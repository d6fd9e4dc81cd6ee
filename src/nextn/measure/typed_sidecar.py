"""Sidecars whose block has another type, made on demand."""

from __future__ import annotations

from pathlib import Path

from ..block.anatomy import Anatomy
from ..block.from_gguf import block_from_model
from ..donors.open_donor import open_block
from ..errors import UsageError
from ..gguf.files import Model, open_model
from ..gguf.types import TensorType, parse_type_name
from ..layouts.attach import plan_attach
from ..layouts.extract import plan_extract
from ..layouts.options import AS_IS, AttachOptions, ExtractOptions
from ..writing.execute import execute
from .control import check_room
from .target import MeasuredModel


def typed_sidecar(
    target: MeasuredModel, donor: str | Path | None, type_name: str, folder: Path, embd_type: str
) -> Path:
    """A sidecar in `folder` whose block is of another type: from `donor`, or requantized from the target's own block.

    Raises QuantizeError, NoSpace and what attach and extract raise.
    """
    out = folder / f"mtp-{type_name}-{embd_type}.gguf"
    kind, embeddings = parse_type_name(type_name), None if embd_type == AS_IS else parse_type_name(embd_type)
    source = target.block_origin if donor is None else donor
    if isinstance(source, Model) and Anatomy.of(source).is_draft:
        raise UsageError(
            f"{source.entry}: this is a draft, a model of its own, and is compared as it is; convert it again with "
            "'nextn extract CHECKPOINT --for-trunk MODEL --type TYPE' for another type."
        )
    return write_sidecar(target.model, source, out, type=kind, embd_type=embeddings, scratch=True)


def write_sidecar(
    model: Model,
    source: Model | str | Path,
    out: Path,
    *,
    type: TensorType | None,
    embd_type: TensorType | None,
    draft_head: TensorType | None = None,
    scratch: bool,
) -> Path:
    """A sidecar of `model` at `out`: `source` is the open model whose block it is, or a donor as attach takes it.

    `embd_type` None: embeddings and head as they are. `scratch`: for a temporary file; free space is checked first.
    Raises QuantizeError, NoSpace, OutputExists and what attach and extract raise.
    """
    if isinstance(source, Model):
        options = ExtractOptions(type=type, embd_type=embd_type, out=out, draft_head=draft_head)
        plan = plan_extract(block_from_model(source), options)
        if scratch:
            check_room(plan.folder, plan.bytes_written, "a temporary sidecar")
        execute(plan)
        return out
    wanted = AttachOptions("sidecar", type=type, draft_head=draft_head, embd_type=embd_type, out=out)
    with open_block(source) as donor:
        plan = plan_attach(model, donor.block, wanted)
        if scratch:
            check_room(plan.folder, plan.bytes_written, "a temporary sidecar")
        donor.run(plan, expect=None, why=None, dry_run=False, progress=None)
    return out


def loaded_bytes(model: Model, sidecar: Path | None) -> int:
    """Bytes of the files that a setup loads."""
    return model.size_bytes + (open_model(sidecar).size_bytes if sidecar is not None else 0)
