"""A GGUF with one of its tensors in another type, everything else as it is."""

from __future__ import annotations

from pathlib import Path

from ..errors import QuantizeError
from ..ggml.quantize import can_read
from ..gguf.files import Model
from ..gguf.types import TensorType
from ..writing.plan import NewFile, Plan
from . import build
from .parts import KeptTensors, Part, Parts, data_segments, new_header

_NEVER = ("ffn_gate_inp.weight",)  # the router, which llama-quantize leaves as it is


def matrices(model: Model) -> list[str]:
    """Tensors whose type can be chosen, in the order of the file: matrices of layers and, of a draft, all others too.

    Embeddings and output head belong to a sidecar's trunk, so they are left out.
    """
    found = []
    for name, (_, info) in model.tensors.items():
        of_block = name.startswith("blk.") or name in ("fc.weight", "markov_w1.weight", "markov_w2.weight")
        is_matrix = sum(n > 1 for n in info.ne) > 1 and info.type is not None and can_read(info.type)
        if of_block and is_matrix and name.endswith(".weight") and not name.endswith(_NEVER):
            found.append(name)
    return found


def plan_retyped(model: Model, name: str, wanted: TensorType, out: Path) -> Plan:
    """The plan of a copy of `model`, a single file, with the tensor `name` as `wanted`.

    Raises QuantizeError for a type that cannot be written, or that does not fit the tensor's rows.
    """
    (file,) = model.files
    table = file.header.tensors
    notes: list[str] = []
    parts: list[Part] = []
    for part in Parts([KeptTensors(file, table)]):
        if part.info.name != name:
            parts.append(part)
            continue
        made = build.from_trunk(name, file, part.info, wanted, notes)
        if made.info.type_id != wanted.id:
            raise QuantizeError(f"{file.path}: {notes[-1]}.")
        parts.append(made)
    alignment = file.header.alignment
    header = new_header(file.header.kvs, parts, file.header.version, alignment)
    segments = (header, *data_segments(parts, alignment, [file]))
    return Plan(
        "bench", "sidecar", out.parent, (NewFile(out.name, segments),), out, out, model.header_bytes
    )
