"""The block's tensors: all there, none that the loader refuses, as many blocks as the graph takes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..archs.base import same_shape
from ..block import DRAFT_HEAD, EMBED_TOKENS, Block, BlockTensor, layer_of, suffix_of
from ..gguf.types import TensorType
from ..layouts import build
from ..layouts.detach import DRAFT_ROOTS
from .anatomy import Anatomy
from .counts import doctor_command, donor_hint, donor_words
from .finding import Finding
from .patient import Patient, quoted

_QKV, _GATE_UP, _KV_B = "attn_qkv.weight", "ffn_gate_up_exps.weight", "attn_kv_b.weight"
# Two forms of the same weights: with one there the other is not missing.
_OTHER_FORM = {
    "attn_q.weight": _QKV, "attn_k.weight": _QKV, "attn_v.weight": _QKV,
    "attn_q.bias": "attn_qkv.bias", "attn_k.bias": "attn_qkv.bias", "attn_v.bias": "attn_qkv.bias",
    "ffn_gate_exps.weight": _GATE_UP, "ffn_up_exps.weight": _GATE_UP,
    "attn_k_b.weight": _KV_B, "attn_v_b.weight": _KV_B,
}  # fmt: skip
# Optional in a family, and useless apart.
_TOGETHER = (
    ("ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight"),
    ("attn_q.bias", "attn_k.bias", "attn_v.bias"),
    ("attn_q_norm.weight", "attn_k_norm.weight"),
    ("ffn_latent_down.weight", "ffn_latent_up.weight"),
    ("indexer.k_norm.weight", "indexer.k_norm.bias", "indexer.proj.weight", "indexer.attn_k.weight",
     "indexer.attn_q_b.weight"),
)  # fmt: skip
HEAD_NORM, _LAYER_NORM = "nextn.shared_head_norm.weight", "layer_output_norm.weight"  # MiMo has the second
_IK_WANTS_NORM = ("glm-dsa",)  # src/llama-load-tensors.cpp: no TENSOR_NOT_REQUIRED
_SPLIT = ("attn_q.weight", "attn_k.weight", "attn_v.weight")


def check_blocks(seen: Anatomy, donor: Block | None = None) -> Iterator[Finding]:
    """Findings about the block's own tensors."""
    yield from _extra_roots(seen)
    family = seen.family
    if family is None or not seen.is_language_model:
        return
    unmarked = seen.unmarked_for(None if donor is None else donor.n_layer_trunk)
    for number, layer in enumerate(sorted((*unmarked, *seen.blocks))):
        there = {suffix_of(name) for name in seen.model.tensors if layer_of(name) == layer}
        there |= {rule.target for rule in family.rules if rule.root and rule.target in seen.model.tensors}
        needed = [rule.target for rule in family.rules if not rule.optional]
        lost = [name for name in needed if name not in there and _OTHER_FORM.get(name) not in there]
        lost += _torn(there & {rule.target for rule in family.rules if rule.optional})
        if _QKV in lost and all(name in there for name in _SPLIT):
            lost.remove(_QKV)
            yield _split(seen, layer)
        if lost:
            yield _not_whole(seen, layer, number, lost, donor)
        elif not there & {HEAD_NORM, _LAYER_NORM} and HEAD_NORM in {rule.target for rule in family.rules}:
            yield _no_head_norm(seen, layer, number, donor)
        known = {rule.target for rule in family.rules}
        refused = [name for name in (EMBED_TOKENS, DRAFT_HEAD) if name in there and name not in known]
        if refused:
            names = [f"blk.{layer}.{name}" for name in refused]
            yield Finding(
                "block-has-refused-tensor",
                "error",
                f"the loader of '{seen.arch}' does not know {_listed(refused)} in a block.",
                names[0],
                "llama.cpp refuses to load it: 'wrong number of tensors'",
                doctor_command(seen),
                partial(_without, names=names),
            )
    if len(seen.blocks) > family.max_blocks:
        kept = seen.blocks[: family.max_blocks]
        yield Finding(
            "too-many-blocks",
            "error",
            f"{len(seen.blocks)} MTP blocks are there, and the graph of '{seen.arch}' takes {family.max_blocks}.",
            f"blk.{seen.blocks[len(kept)]}.*",
            "llama.cpp loads it and aborts when it drafts: 'MTP currently only supports a single MTP block'",
            f"nextn detach {quoted(seen.model.entry)}, then attach a donor with {family.max_blocks}",
        )


def _torn(there: set[str]) -> list[str]:
    """Optional tensors that are missing where others are there that never come without them."""
    return [name for group in _TOGETHER if there & set(group) for name in group if name not in there]


def _split(seen: Anatomy, layer: int) -> Finding:
    return Finding(
        "block-wants-fused-qkv",
        "error",
        f"the MTP block in layer {layer} has q, k and v apart, and the draft graph of '{seen.arch}' wants them fused.",
        f"blk.{layer}.attn_q.weight",
        "llama.cpp loads it and aborts when it drafts: 'MIMO2 MTP requires fused attn_qkv'",
        f"nextn detach {quoted(seen.model.entry)}, then attach the block from the checkpoint",
    )


def _without(patient: Patient, names: list[str]) -> Patient:
    return patient.without(names)


def _extra_roots(seen: Anatomy) -> Iterator[Finding]:
    """A head for drafting that only ik_llama.cpp knows."""
    for name in DRAFT_ROOTS:
        if name in seen.model.tensors:
            yield Finding(
                "head-for-ik-only",
                "warning",
                f"'{name}' is a head for drafting that ik_llama.cpp alone knows.",
                name,
                "llama.cpp refuses to load it: 'wrong number of tensors'; ik_llama.cpp takes it for Qwen3.5 and kin",
                f"{doctor_command(seen)}, if llama.cpp shall load it",
                partial(_without, names=[name]),
            )


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _not_whole(seen: Anatomy, layer: int, number: int, lost: list[str], donor: Block | None) -> Finding:
    supply = {} if donor is None else _supply(seen, number, lost, donor)
    whole = bool(supply) and set(lost) <= supply.keys()
    doubt = ""
    if layer in seen.unmarked:
        doubt = " (by the key and the count it is one; or it is the trunk's, and the block is gone)"
    if donor is None:
        mend = doctor_command(seen, donor_hint(seen))
    elif whole:
        mend = doctor_command(seen, f"--from {quoted(donor.origin)}")
    else:
        mend = f"name another donor with --from: {donor.origin.name} does not have all of them in the right shapes"
    return Finding(
        "block-not-whole",
        "error",
        f"the MTP block in layer {layer} lacks {len(lost)} of its tensors ({_listed(lost)}){doubt}; "
        f"{donor_words(seen)}.",
        f"blk.{layer}.{lost[0]}",
        "llama.cpp refuses to load it: 'tensor ... not found'; with nextn.eh_proj missing it loads, and aborts when it "
        "drafts",
        mend,
        partial(_completed, tensors=tuple(supply.values()), layer=layer) if whole else None,
    )


def _no_head_norm(seen: Anatomy, layer: int, number: int, donor: Block | None) -> Finding:
    """Every published block has this norm; loaders that can do without it take another one's place."""
    norm = {} if donor is None else _supply(seen, number, [HEAD_NORM], donor)
    norm = {name: tensor for name, tensor in norm.items() if name == HEAD_NORM}
    refused = seen.arch in _IK_WANTS_NORM
    return Finding(
        "head-norm-missing",
        "warning",
        f"the MTP block in layer {layer} lacks '{HEAD_NORM}', the norm before its head; {donor_words(seen)}.",
        f"blk.{layer}.{HEAD_NORM}",
        "llama.cpp says nothing and drafts with the trunk's output_norm in its place, whose values are others"
        + ("; ik_llama.cpp refuses to load it" if refused else ""),
        doctor_command(seen, f"--from {quoted(donor.origin)}" if donor is not None and norm else donor_hint(seen)),
        partial(_completed, tensors=tuple(norm.values()), layer=layer) if norm else None,
    )


def _supply(seen: Anatomy, number: int, lost: list[str], donor: Block) -> dict[str, BlockTensor]:
    """The lost tensors from a donor that fits."""
    if donor.architecture != seen.arch or donor.hidden_size != seen.model.arch_int("embedding_length"):
        return {}
    blocks = {*seen.blocks, *seen.unmarked}
    if seen.trunk - blocks and donor.n_layer_trunk not in (None, seen.n_trunk - len(seen.unmarked)):
        return {}
    found = {tensor.suffix: tensor for tensor in donor.tensors if tensor.layer == number}
    mine = {suffix_of(name): info for name, (_, info) in seen.model.tensors.items() if layer_of(name) in blocks}
    if any(name in found and not same_shape(found[name].ne, info.ne) for name, info in mine.items()):
        return {}
    here = {suffix_of(name) for name in seen.model.tensors if layer_of(name) == sorted(blocks)[number]}
    known = {rule.target for rule in seen.family.rules} if seen.family else set()
    # What a block may be without was most likely lost with the rest: the donor's has it.
    more = [name for name in found if name.startswith("nextn.") and name in known and name not in (*here, *lost)]
    return {name: found[name] for name in (*lost, *more) if name in found}


def _completed(
    patient: Patient, tensors: tuple[BlockTensor, ...], layer: int, wanted: TensorType | None = None
) -> Patient:
    from dataclasses import replace

    notes: list[str] = []
    seen = Anatomy.of(patient.model)
    at = layer if layer in (*seen.blocks, *seen.unmarked) else seen.n_trunk + (tensors[0].layer if tensors else 0)
    parts = [build.block_part(tensor, f"blk.{at}.{tensor.suffix}", wanted, notes) for tensor in tensors]
    return replace(patient, added=(*patient.added, *parts))
