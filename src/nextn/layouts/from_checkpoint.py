"""A runnable sidecar straight from a checkpoint: header and tokenizer come from config.json and tokenizer.json.

The header matches what llama.cpp's converter writes with `--mtp`, and the tensors are byte-equal to its own where both
write the same type. Only the block, the embeddings, the final norm and the head are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..archs import family_of
from ..archs.base import Family, dimensions, resolve_shape, same_shape, surplus
from ..archs.hparams import Config, HParams
from ..block.model import DRAFT_HEAD, Block
from ..errors import FormatError, UnsupportedModel
from ..gguf.header import Header
from ..gguf.kv import KV, KVType
from ..gguf.tensors import TensorInfo
from ..gguf.types import TensorType, file_type_for, parse_type_name
from ..shell import shell
from ..sources.checkpoint import CONFIG, Checkpoint
from ..sources.quantized import first_whole
from ..sources.rows import CheckpointRows, Span
from ..sources.small_floats import FLOAT_DTYPES
from ..sources.tokenizer import Tokenizer
from ..writing.plan import Carry, NewFile, Plan
from . import build, naming, qkv
from .parts import Part, data_segments
from .sidecar import main_type_of

if TYPE_CHECKING:
    from .options import ExtractOptions

EMBD, OUTPUT_NORM, OUTPUT = "token_embd.weight", "output_norm.weight", "output.weight"
ROPE_FREQS = "rope_freqs.weight"
Q8_0 = parse_type_name("q8_0")
QUANTIZATION_VERSION = 2  # of ggml's block formats


def plan_checkpoint_sidecar(block: Block, options: ExtractOptions) -> Plan:
    """The plan that writes a sidecar from the checkpoint that `block` was found in.

    Embeddings and head are written as `options.embd_type` (None: the checkpoint's type), the block's
    matrices as `options.type` (None: q8_0).

    Raises UsageError when there is no tokenizer.json, UnsupportedFormat for a tokenizer that is not byte-level BPE,
    FormatError (naming key and file) for a config that lacks what an engine needs, UnsupportedModel for a family
    whose header cannot be made here, QuantizeError, IncompleteModel.
    """
    checkpoint = block.checkpoint
    assert checkpoint is not None
    family = family_of(block.architecture, block.origin)
    hparams = family.header
    if hparams is None:
        raise UnsupportedModel(
            f"{block.origin}: no engine accepts the block of '{family.arch}' in a separate file; use 'nextn attach "
            f"TRUNK --from {shell(block.origin)} --layout bundle', or extract it with --block-only."
        )
    notes: list[str] = []
    config = Config(checkpoint.text_config, checkpoint.folder / CONFIG, block.n_layer_nextn)
    n_trunk = config.integer("num_hidden_layers")
    of_block = build.block_parts(block, n_trunk, options.type, notes, in_model=False)
    wanted = options.type or main_type_of(of_block)
    kvs = _kvs(block, checkpoint, config, hparams, wanted)
    _check_shapes(block, family, kvs, checkpoint)
    has_head = any(part.info.name.endswith(DRAFT_HEAD) for part in of_block)
    roots = _Roots(checkpoint, config, family, hparams, options.embd_type, notes)
    parts = roots.parts(with_head=not has_head or family.head_needed) + of_block
    name = naming.split_quant(block.origin.resolve().name)[0].removeprefix("mtp-")
    folder, name = naming.resolve_output(options.out, Path.cwd(), f"mtp-{name}-{wanted.label}.gguf")
    if not name.startswith("mtp-"):
        notes.append(f"{name} does not start with 'mtp-': engines find it only when it is passed with -md")
    like = Header.blank()
    provenance = build.Provenance.of(block, of_block)
    header = build.late_header(kvs, parts, like, provenance)
    segments = (header, *data_segments(parts, like.alignment, []))
    return Plan(
        verb="extract",
        layout="sidecar",
        folder=folder,
        outputs=(NewFile(name, segments),),
        entry=folder / name,
        sidecar=folder / name,
        header_bytes=block.header_bytes,
        notes=tuple(dict.fromkeys(notes)),
        json_bytes=block.header_bytes,
    )


def _check_shapes(block: Block, family: Family, kvs: list[KV], checkpoint: Checkpoint) -> None:
    """Raise FormatError for a tensor that engines would refuse with this header."""
    find = qkv.lookup_of(family.arch, kvs)
    symbols = dimensions(find, block.n_vocab)
    symbols |= family.symbols(find, symbols) if family.symbols is not None else {}
    rules = {rule.target: rule for rule in family.rules}
    if unannounced := surplus(family.rules, {tensor.suffix for tensor in block.tensors}, find):
        key = rules[unannounced[0]].needed_by
        raise FormatError(
            f"the block has '{unannounced[0]}', but {CONFIG} says nothing about it ('{family.arch}.{key}' would be "
            f"{find(key) or 0}), so engines would refuse the file",
            path=checkpoint.folder,
        )
    for tensor in block.tensors:
        rule = rules.get(tensor.suffix)
        wanted = resolve_shape(rule.ne, symbols) if rule is not None else None
        if wanted is not None and not same_shape(tensor.ne, wanted):
            raise FormatError(
                f"'{tensor.suffix}' does not have the shape that {CONFIG} gives",
                path=checkpoint.folder,
                expected=" x ".join(f"{n:,}" for n in wanted),
                found=" x ".join(f"{n:,}" for n in tensor.ne),
            )


def _kvs(block: Block, checkpoint: Checkpoint, config: Config, hparams: HParams, wanted: TensorType) -> list[KV]:
    """The full header except provenance."""
    general = [
        KV.make("general.architecture", KVType.STRING, block.architecture),
        KV.make("general.type", KVType.STRING, "model"),
        KV.make("general.name", KVType.STRING, block.origin.resolve().name),
    ]
    number = file_type_for(wanted)
    if number is not None:
        general.append(KV.make("general.file_type", KVType.UINT32, number))
    general.append(KV.make("general.quantization_version", KVType.UINT32, QUANTIZATION_VERSION))
    return [*general, *hparams.kvs(block.architecture, config), *Tokenizer(checkpoint).kvs()]


class _Roots:
    """The tensors besides the block that an engine needs in a sidecar."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: Config,
        family: Family,
        hparams: HParams,
        wanted: TensorType | None,
        notes: list[str],
    ) -> None:
        self.checkpoint, self.config, self.family, self.hparams = checkpoint, config, family, hparams
        self.wanted, self.notes = wanted, notes
        self.n_embd, self.n_vocab = config.integer("hidden_size"), config.integer("vocab_size")
        self.tied = config.values.get("tie_word_embeddings") is True

    def parts(self, *, with_head: bool) -> list[Part]:
        """token_embd, output_norm and output; a tied model may have no output, and engines then tie it as well.

        With a draft head in the block, most engines never use `output`, so it is left out. Some families have no
        output_norm; some scale positions by a tensor. Raises FormatError.
        """
        uses = with_head and (not self.tied or self.hparams.keeps_tied_head)
        head = self._find(OUTPUT) if uses else None
        if with_head and not self.tied and head is None:
            raise FormatError(
                f"there is no head ('{self.family.root[OUTPUT][0]}'), and {CONFIG} does not say that it is tied to the "
                "embeddings ('tie_word_embeddings'); use the complete checkpoint",
                path=self.checkpoint.folder,
            )
        if head is None and self.family.head_needed:
            raise FormatError(
                f"{CONFIG} ties the head to the embeddings, but engines need a separate one for '{self.family.arch}'",
                path=self.checkpoint.folder,
            )
        out = [self._matrix(EMBD, self._need(EMBD))]
        if OUTPUT_NORM in self.family.root:
            out.append(self._norm(self._need(OUTPUT_NORM)))
        if head is not None:
            out.append(self._matrix(OUTPUT, head))
        factors = self.hparams.rope_factors(self.config) if self.hparams.rope_factors else None
        if factors is not None:
            out.append(build.new_floats(ROPE_FREQS, factors))
        return out

    def _find(self, target: str) -> Span | None:
        return first_whole(self.checkpoint, self.family.root[target])

    def _need(self, target: str) -> Span:
        found = self._find(target)
        if found is None:
            raise FormatError(
                f"'{self.family.root[target][0]}' is missing, and a sidecar cannot run without it; download the "
                "complete checkpoint",
                path=self.checkpoint.folder,
            )
        return found

    def _check(self, span: Span, shape: tuple[int, ...]) -> None:
        if span.shape != shape:
            raise FormatError(
                f"the shape of '{span.tensor.name}' does not fit {CONFIG}",
                path=span.tensor.where.path,
                offset=span.tensor.where.start,
                expected=str(list(shape)),
                found=str(list(span.shape)),
            )

    def _matrix(self, target: str, span: Span) -> Part:
        self._check(span, (self.n_vocab, self.n_embd))
        tensor, ne = span.tensor, span.shape[::-1]
        stored = parse_type_name(tensor.dtype.lower()) if tensor.dtype in FLOAT_DTYPES else None
        if stored is not None and (self.wanted is None or self.wanted.id == stored.id):
            size = tensor.where.size_bytes
            return Part(TensorInfo(target, ne, stored.id, 0), size, Carry(target, tensor.where, of_block=False))
        wanted = self.wanted or Q8_0  # for a quantized one its stored type is not an option
        return build.converted(target, ne, CheckpointRows((span,)), wanted, self.notes, of_block=False)

    def _norm(self, span: Span) -> Part:
        self._check(span, (self.n_embd,))
        add = 1.0 if self.hparams.output_norm_plus_one else 0.0
        rows = CheckpointRows((span,), add)
        return build.converted(OUTPUT_NORM, (self.n_embd,), rows, build.F32, self.notes, of_block=False)
