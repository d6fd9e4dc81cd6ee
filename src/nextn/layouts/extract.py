"""Extract: the block in a file of its own, runnable (sidecar) or nothing but the block (donor)."""

from __future__ import annotations

from pathlib import Path

from ..archs import family_of
from ..archs.base import Family
from ..block.anatomy import SHAPE
from ..block.model import DRAFT_HEAD, Block
from ..errors import UnsupportedModel, UsageError
from ..gguf.header import DEFAULT_ALIGNMENT, Header
from ..gguf.kv import KV, KVType
from ..gguf.kv_table import edit
from ..gguf.types import TensorType, tensor_type
from ..writing.plan import NewFile, Plan
from . import build, experts, for_engine, metadata, naming, places, qkv
from .donor_check import TOKENIZER_HASH, tokens_hash
from .options import ExtractOptions
from .parts import Part, data_segments
from .sidecar import main_type_of, sidecar_kvs, sidecar_roots, trunk_head


def plan_extract(block: Block, options: ExtractOptions) -> Plan:
    """The plan that writes the block's own file.

    Raises UsageError when a runnable sidecar is requested from a source that lacks what it needs.
    """
    family = family_of(block.architecture, block.origin)
    notes: list[str] = []
    if experts.has_both(block) and (not experts.takes_both(family) or options.for_engine in for_engine.WITH_IK):
        block = experts.split_experts(block)
        notes.append(experts.NOTE)
    if options.qkv is not None:
        block = _shaped(block, family, options, notes)
    if not options.block_only:
        _check_aim(block, family, options)
    plan = _plan(block, family, options)
    return plan.noted(notes)


def _check_aim(block: Block, family: Family, options: ExtractOptions) -> None:
    """Raise UnsupportedModel, QuantizeError when the engine does not accept such a sidecar."""
    for_engine.check_name(options.for_engine)
    if options.for_engine in for_engine.PROGRAMS:
        raise UnsupportedModel(
            f"{block.origin}: neither LM Studio nor ollama takes a block in a file of its own; attach it with --for "
            "lmstudio, or leave out --for."
        )
    if options.for_engine in (for_engine.IK, for_engine.BOTH) and not family.ik.drafts_with("sidecar"):
        raise UnsupportedModel(
            f"{block.origin}: {for_engine.no_sidecar(family)}; attach the block to a trunk with --layout bundle or "
            "shards, or extract it with --block-only."
        )
    kinds = [kind for tensor in block.tensors if (kind := tensor_type(tensor.type_id or 0)) is not None]
    for_engine.check_block(options.for_engine, [options.type] if options.type is not None else kinds)


def _shaped(block: Block, family: Family, options: ExtractOptions, notes: list[str]) -> Block:
    """The block in the requested form. Raises UsageError where q, k and v cannot be told apart."""
    model = block.model
    if model is None:
        raise UsageError(
            f"{block.origin}: --qkv needs a model's metadata to tell q, k and v apart; use it with 'nextn attach', or "
            "extract from a GGUF."
        )
    form = qkv.resolve(options.qkv, family, model, block.n_layer_trunk or 0, notes)
    return qkv.shaped(block, form, model.arch_value, options.type)


def _plan(block: Block, family: Family, options: ExtractOptions) -> Plan:
    if block.model is not None and block.n_layer_trunk is None:
        raise UsageError(
            f"{block.origin}: the block is numbered from 0, and nothing in the header says after how many trunk layers "
            "it belongs; attach it to its model with 'nextn attach MODEL --from' it."
        )
    if options.block_only:
        return _donor(block, options)
    if block.checkpoint is not None:
        from .from_checkpoint import plan_checkpoint_sidecar

        return plan_checkpoint_sidecar(block, options)
    if block.kind == "donor":
        raise UsageError(
            f"{block.origin}: a donor file has no embeddings and no tokenizer, so it cannot become a sidecar on its "
            "own; use 'nextn attach TRUNK --from' it with --layout sidecar."
        )
    return _sidecar(block, family, options)


def _sidecar(block: Block, family: Family, options: ExtractOptions) -> Plan:
    model = block.model
    assert model is not None and block.n_layer_trunk is not None
    notes: list[str] = []
    skip = [] if options.draft_head is None else [DRAFT_HEAD]
    parts_of_block = build.block_parts(block, block.n_layer_trunk, options.type, notes, skip, in_model=False)
    if options.draft_head is not None:
        parts_of_block += _draft_heads(block, family, options.draft_head, notes)
    has_head = any(part.info.name.endswith(DRAFT_HEAD) for part in parts_of_block)
    # A sidecar's root tensors are already small, so they are carried.
    wanted = None if block.kind == "sidecar" else options.embd_type
    with_head = not has_head or family.head_needed
    roots = sidecar_roots(model, family, wanted, notes, with_head=with_head)
    parts = roots + parts_of_block
    kind = main_type_of(parts_of_block)
    kvs = edit(sidecar_kvs(model.kvs, kind, family), put=_counts(block), drop_prefixes=("nextn.",))
    folder, name = naming.resolve_output(
        options.out, places.default_folder(model), naming.sidecar_name(model, kind.label)
    )
    provenance = build.Provenance.of(block, parts_of_block)
    header = build.late_header(kvs, parts, model.header, provenance)
    segments = (header, *data_segments(parts, model.header.alignment, model.files))
    return Plan(
        "extract", "sidecar", folder, (NewFile(name, segments),), folder / name, folder / name,
        block.header_bytes, tuple(notes),
    )  # fmt: skip


def _draft_heads(block: Block, family: Family, wanted: TensorType, notes: list[str]) -> list[Part]:
    """A head with its own type for each predictor layer. Raises UnsupportedModel where loaders refuse one."""
    model = block.model
    assert model is not None and block.n_layer_trunk is not None
    if not family.draft_head:
        raise UnsupportedModel(
            f"{model.entry}: the loader for '{family.arch}' refuses a file with a separate draft head."
        )
    file, info = trunk_head(model)
    layers = range(block.n_layer_trunk, block.n_layer_trunk + block.n_layer_nextn)
    return [build.from_trunk(f"blk.{layer}.{DRAFT_HEAD}", file, info, wanted, notes) for layer in layers]


def _counts(block: Block) -> list[KV]:
    assert block.model is not None and block.n_layer_trunk is not None
    return [
        metadata.count_kv(block.model, "block_count", block.n_layer_trunk + block.n_layer_nextn),
        metadata.count_kv(block.model, "nextn_predict_layers", block.n_layer_nextn),
    ]


def _donor(block: Block, options: ExtractOptions) -> Plan:
    """Nothing but the block: its tensors, and the KV pairs that say what it fits."""
    notes: list[str] = []
    n_trunk = block.n_layer_trunk
    if n_trunk is None:
        raise UsageError(f"{block.origin}: config.json does not say how many layers the trunk has.")
    parts = build.block_parts(block, n_trunk, options.type, notes, in_model=False)
    kind = main_type_of(parts)
    alignment = block.model.header.alignment if block.model else DEFAULT_ALIGNMENT
    version = block.model.header.version if block.model else 3
    kvs = [*_donor_kvs(block, n_trunk), KV.make(SHAPE, KVType.STRING, "donor")]
    if block.n_vocab is not None:
        kvs.append(KV.make("nextn.vocab_size", KVType.UINT32, block.n_vocab))
    base = places.model_name(block.model) if block.model else block.origin.resolve().name
    folder, name = naming.resolve_output(
        options.out,
        places.default_folder(block.model) if block.model else Path.cwd(),
        naming.donor_name(base, kind.label),
    )
    provenance = build.Provenance.of(block, parts)
    like = Header.blank(version, alignment)
    header = build.late_header(kvs, parts, like, provenance)
    segments = (header, *data_segments(parts, alignment, []))
    return Plan(
        "extract", "donor", folder, (NewFile(name, segments),), folder / name, None, block.header_bytes, tuple(notes),
        block.header_bytes if block.checkpoint else 0,
    )  # fmt: skip


def _donor_kvs(block: Block, n_trunk: int) -> list[KV]:
    model, arch = block.model, block.architecture
    if model is not None:
        kept = [kv for kv in model.kvs if kv.key.startswith(("general.", f"{arch}."))]
        tokens_sha256 = tokens_hash(model)
        known = model.header.by_key.get(TOKENIZER_HASH)
        if tokens_sha256 is not None:
            kept.append(KV.make(TOKENIZER_HASH, KVType.STRING, tokens_sha256))
        elif known is not None:
            kept.append(known)
        return [*edit(kept, put=_counts(block))]
    assert block.checkpoint is not None
    from ..sources.tokenizer import tokenizer_hash

    tokens_sha256 = tokenizer_hash(block.checkpoint)
    counts = {
        "block_count": n_trunk + block.n_layer_nextn,
        "nextn_predict_layers": block.n_layer_nextn,
        "embedding_length": block.hidden_size or 0,
    }
    return [
        KV.make("general.architecture", KVType.STRING, arch),
        *(KV.make(f"{arch}.{suffix}", KVType.UINT32, value) for suffix, value in counts.items()),
        *([KV.make(TOKENIZER_HASH, KVType.STRING, tokens_sha256)] if tokens_sha256 else []),
    ]
