"""A native block to train: from one that was published, or grown from a layer of the trunk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...archs import family_of
from ...archs.training import BLOCKS, LATENT
from ...block.from_gguf import is_f32_only
from ...block.model import DRAFT_HEAD, EMBED_TOKENS, Block, BlockTensor
from ...donors.open_donor import open_block
from ...errors import NoBlock, UnsupportedModel, UsageError
from ...gguf.files import Model
from ...layouts.attach import plan_attach
from ...layouts.donor_check import check_fit, check_trunk, n_layer_trunk
from ...layouts.options import AttachOptions, embeddings_type, named_type
from ...sources.rows import GGUFRows
from ...writing.result import carry_out
from . import trunk as of_trunk
from .experts import SIGMOID, SOFTMAX, Routing
from .make import Made, vocabulary
from .native import EH_PROJ, FIXED, HEAD_NORM, LAYERS, OWN, NativeBlock, NativeShape
from .options import FitOptions
from .rope import rope_of
from .texts import Texts
from .write import TRAINED_HERE, ArrayRows

_ALL_TOKENS = 1 << 15  # up to this many the loss looks at all


def native(trunk: Model, texts: Texts, options: FitOptions, target: NDArray[np.int64] | None) -> tuple[Made, Block]:
    """The block as a module, and as what is written. Raises UsageError, UnsupportedModel, what opening a block does."""
    check_trunk(trunk)
    if not texts.manifest.nextn_state:
        raise UsageError(
            f"{texts.folder}: these states are not those that an MTP block reads; write states for this kind."
        )
    shape = shape_of(trunk)
    block = grown(trunk) if options.start is None else published(options.start, trunk)
    names = (*OWN, *LAYERS[shape.arch], *FIXED)
    tensors = {
        tensor.suffix: of_trunk.matrix(tensor.rows).reshape(tuple(reversed(tensor.ne)))
        for tensor in block.tensors
        if tensor.suffix in names
    }
    if options.start is None:
        _grow(tensors, shape, trunk)
    kept_as = embeddings_type(options.embd_type)
    own_embeddings, own_head = block.find(EMBED_TOKENS), block.find(DRAFT_HEAD)
    embeddings = of_trunk.embeddings(trunk, kept_as) if own_embeddings is None else of_trunk.matrix(own_embeddings.rows)
    n_vocab = embeddings.shape[0]
    counts = texts.label_counts(n_vocab)
    if target is None:
        few = n_vocab > _ALL_TOKENS
        target = vocabulary(counts, options.draft_vocab) if few else np.arange(n_vocab, dtype=np.int64)
    head = of_trunk.head(trunk, target, kept_as) if own_head is None else of_trunk.matrix(own_head.rows, target)
    compute = torch.float32 if options.exact else torch.bfloat16
    drafter = NativeBlock(shape, tensors, embeddings, head.to(compute), torch.from_numpy(target), compute)
    return Made(drafter, float(counts[target].sum() / max(1, counts.sum()))), block


def shape_of(trunk: Model) -> NativeShape:
    """What the header says beyond the tensors' shapes. Raises UnsupportedModel."""
    arch = trunk.architecture
    if arch not in LAYERS:
        known = ", ".join(LAYERS)
        raise UnsupportedModel(
            f"{trunk.entry}: nextn does not train blocks of '{arch}' (it trains those of {known}); train an EAGLE-3 "
            "draft if the model's graph supports one."
        )
    n_embd = trunk.arch_int("embedding_length")
    n_head = of_trunk.largest(trunk.arch_value("attention.head_count"), 1)
    routing = None
    if BLOCKS[arch] == LATENT:
        gating = trunk.arch_int("expert_gating_func") or SOFTMAX
        if gating not in (SOFTMAX, SIGMOID):
            raise UnsupportedModel(
                f"{trunk.entry}: nextn does not know how its experts are chosen (function {gating})."
            )
        routing = Routing(
            n_used=trunk.arch_int("expert_used_count"), gating=gating,
            normed=bool(trunk.arch_value("expert_weights_norm", False)),
            scale=float(trunk.arch_value("expert_weights_scale", 0.0)),
            n_groups=trunk.arch_int("expert_group_count"), n_groups_used=trunk.arch_int("expert_group_used_count"),
        )  # fmt: skip
    return NativeShape(
        arch=arch, n_embd=n_embd, n_head=n_head,
        rope=rope_of(trunk),
        eps=float(trunk.arch_value("attention.layer_norm_rms_epsilon") or 1e-6), routing=routing,
    )  # fmt: skip


def published(start: Path, trunk: Model) -> Block:
    """The block to be refined, which must have every tensor that is trained. Raises what opening it raises, NoBlock."""
    with open_block(start, trunk=trunk) as donor:
        block = donor.block
    check_fit(block, trunk, family_of(trunk.architecture, trunk.entry))
    lacking = [name for name in (*OWN, *LAYERS[trunk.architecture]) if block.find(name) is None]
    if HEAD_NORM in lacking:  # the graph takes the trunk's instead
        block = replace(block, tensors=(*block.tensors, _of_trunk(trunk, "output_norm.weight", HEAD_NORM)))
        lacking.remove(HEAD_NORM)
    if lacking:
        raise NoBlock(
            f"{start}: this block has no '{lacking[0]}', so it cannot be trained; give q, k and v as three tensors, "
            "and experts' gate and up as two."
        )
    return block


def grown(trunk: Model) -> Block:
    """A new block with the tensors of the trunk's last layer that has all of them. Raises UnsupportedModel."""
    names = LAYERS[trunk.architecture]
    n_layer = n_layer_trunk(trunk)
    layer = next(
        (n for n in reversed(range(n_layer)) if all(f"blk.{n}.{name}" in trunk.tensors for name in names)), None
    )
    if layer is None:
        raise UnsupportedModel(
            f"{trunk.entry}: no layer has the form of a block of '{trunk.architecture}', so none can be grown."
        )
    more = [name for name in FIXED if f"blk.{layer}.{name}" in trunk.tensors]
    n_embd = trunk.arch_int("embedding_length")
    tensors = [_of_trunk(trunk, f"blk.{layer}.{name}", name) for name in (*names, *more)]
    tensors += [_of_trunk(trunk, "output_norm.weight", name) for name in OWN if name != EH_PROJ]
    tensors.append(_tensor(EH_PROJ, np.zeros((n_embd, 2 * n_embd), np.float32)))
    return Block(
        origin=trunk.entry, kind="donor", architecture=trunk.architecture, n_layer_trunk=n_layer, n_layer_nextn=1,
        tensors=tuple(tensors), hidden_size=n_embd, n_vocab=None, label=TRAINED_HERE,
    )  # fmt: skip


def _of_trunk(trunk: Model, name: str, suffix: str) -> BlockTensor:
    file, info = trunk.tensors[name]
    return BlockTensor(0, suffix, info.ne, GGUFRows(file, info), f32=is_f32_only(name, len(info.ne)))


def _tensor(suffix: str, values: NDArray[np.float32], like: BlockTensor | None = None) -> BlockTensor:
    ne = tuple(reversed(values.shape))
    rows = ArrayRows(np.ascontiguousarray(values.reshape(-1, ne[0])))
    f32 = is_f32_only(f"blk.0.{suffix}", len(ne)) or (like is not None and like.f32)
    return BlockTensor(0 if like is None else like.layer, suffix, ne, rows, f32=f32)


def _grow(tensors: dict[str, Tensor], shape: NativeShape, trunk: Model) -> None:
    """Have the new block begin near what its layer does in the trunk: state and token enter in equal parts."""
    n = shape.n_embd
    for name in OWN:
        if name not in (EH_PROJ, HEAD_NORM):
            tensors[name] = torch.ones(n)
    eye = torch.eye(n)
    tensors[EH_PROJ] = torch.cat((eye, eye), 1) * 0.5 + torch.empty(n, 2 * n).normal_(std=0.5 * (2 * n) ** -0.5)
    tensors[HEAD_NORM] = of_trunk.output_norm(trunk)


def write_native(drafter: NativeBlock, block: Block, trunk: Model, out: Path, options: FitOptions) -> Path:
    """The block as the sidecar `out` of `trunk`. Raises what `plan_attach` and writing raise."""
    arrays = {name: tensor.float().cpu().numpy() for name, tensor in drafter.arrays().items()}
    tensors = tuple(
        _tensor(tensor.suffix, arrays[tensor.suffix], tensor) if tensor.suffix in arrays else tensor
        for tensor in block.tensors
    )
    made = replace(block, tensors=tensors, model=None, checkpoint=None)
    plan = plan_attach(
        trunk, made,
        AttachOptions(
            layout="sidecar", type=named_type(options.type), embd_type=embeddings_type(options.embd_type), out=out
        ),
    )  # fmt: skip
    done = carry_out(plan, dry_run=False, progress=None)
    assert done.sidecar is not None
    return done.sidecar
