"""A published EAGLE-3, DFlash or DSpark draft as a GGUF beside its target, as llama.cpp loads it with -md.

Its header and tensors are those that llama.cpp's converter writes with --target-model-dir, but the target is the user's
own GGUF: its tokenizer is copied, and its sizes are what the draft has to fit. Nothing else is read of it.
"""

from __future__ import annotations

from pathlib import Path

from ..archs.drafts import D2T, of_target, target_layers
from ..block.draft import Draft, tokens_of
from ..block.draft_checkpoint import PublishedDraft, check_shapes
from ..gguf.files import Model
from ..gguf.header import Header
from ..gguf.kv import KV, KVType
from ..gguf.tensors import TensorInfo
from ..gguf.types import file_type_for, parse_type_name
from ..writing.plan import NewBytes, NewFile, Plan
from . import build, naming, places
from .donor_check import check_tokens, n_layer_trunk
from .draft_fit import check_draft_fit
from .options import ExtractOptions
from .parts import Part, data_segments
from .sidecar import main_type_of

ROPE_FREQS = "rope_freqs.weight"
I64 = parse_type_name("i64")
QUANTIZATION_VERSION = 2  # of ggml's block formats


def plan_draft(draft: PublishedDraft, trunk: Model, options: ExtractOptions, *, local: bool) -> Plan:
    """The plan that writes the draft's GGUF for `trunk`, of which only the header is read.

    Matrices become `options.type` (None: q8_0). It goes beside the trunk, unless `options.out` says otherwise or the
    trunk is not `local`. Raises FormatError for a draft that is incomplete or damaged, DonorMismatch for one that was
    made for another model, UnsupportedModel for a target whose graph hands no layer inputs to a draft, QuantizeError.
    """
    kind, config, block = draft.kind, draft.config, draft.block
    notes: list[str] = []
    n_vocab = tokens_of(trunk)
    layers, note = target_layers(kind, config, n_layer_trunk(trunk))
    notes += [note] if note else []
    target = {
        "arch": trunk.architecture,
        "embedding_length": trunk.arch_int("embedding_length"),
        "sections": trunk.arch_value("rope.dimension_sections") is not None,
    }
    own, of_tokenizer = of_target(kind, config, target, layers)
    pairs = [*kind.header.kvs(kind.arch, config), *own]
    notes += check_draft_fit(Draft.published(draft, pairs), trunk)
    notes += check_tokens(block, trunk, f"{block.origin} does not fit {trunk.entry.name}")
    check_shapes(draft, pairs, len(layers), n_vocab)
    parts = build.block_parts(block, 0, options.type, notes, in_model=False)
    wanted = options.type or main_type_of(parts)
    hashed = tuple(part.info.name for part in parts)
    if draft.table is not None:
        data = draft.target_tokens(n_vocab).astype("<i8").tobytes()
        info = TensorInfo(D2T, (draft.n_draft_vocab or 0,), I64.id, 0)
        parts.append(Part(info, len(data), NewBytes(data)))
    if kind.header.rope_factors is not None and (factors := kind.header.rope_factors(config)) is not None:
        parts.append(build.new_floats(ROPE_FREQS, factors))
    tokenizer = [kv for kv in trunk.kvs if kv.key.startswith("tokenizer.") and not kv.key.startswith(_NO_TOKENS)]
    known = {kv.key for kv in of_tokenizer}
    kvs = [
        *_general(draft, wanted.id), *pairs, *(kv for kv in tokenizer if kv.key not in known), *of_tokenizer
    ]
    home = places.sidecar_folder(trunk) if local else Path.cwd()
    folder, name = naming.resolve_output(options.out, home, naming.sidecar_name(trunk, wanted.label, kind.mark))
    if kind.mark not in name:
        notes.append(f"'{kind.mark}' is not in {name}: llama.cpp's -hf does not find it; -md loads it")
    provenance = build.Provenance(block.donor_name, block.revision, hashed)
    like = Header.blank()
    header = build.late_header(kvs, parts, like, provenance)
    segments = (header, *data_segments(parts, like.alignment, []))
    return Plan(
        verb="extract", layout="sidecar", folder=folder, outputs=(NewFile(name, segments),), entry=folder / name,
        sidecar=folder / name, header_bytes=block.header_bytes + trunk.header_bytes, notes=tuple(dict.fromkeys(notes)),
        json_bytes=block.header_bytes,
    )  # fmt: skip


_NO_TOKENS = "tokenizer.chat_template"  # the target's is used


def _general(draft: PublishedDraft, type_id: int) -> list[KV]:
    kind = TensorInfo("", (), type_id, 0).type
    number = file_type_for(kind) if kind is not None else None
    return [
        KV.make("general.architecture", KVType.STRING, draft.kind.arch),
        KV.make("general.type", KVType.STRING, "model"),
        KV.make("general.name", KVType.STRING, draft.block.origin.resolve().name),
        *([KV.make("general.file_type", KVType.UINT32, number)] if number is not None else []),
        KV.make("general.quantization_version", KVType.UINT32, QUANTIZATION_VERSION),
    ]
