"""The block's tensors: all present, none that the loader refuses, and no more blocks than the graph takes."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import replace
from functools import partial
from itertools import chain

from ..archs.base import TOGETHER, Family, chosen_forms, missing, same_shape
from ..archs.engines import IK_UP_TO
from ..block.anatomy import Anatomy
from ..block.model import DRAFT_HEAD, DRAFT_ROOTS, EMBED_TOKENS, Block, BlockTensor, split_name
from ..errors import FormatError, QuantizeError
from ..gguf.files import Model
from ..layouts.donor_check import ROUTER, misshapen, times
from ..layouts.experts import split_experts
from ..layouts.factors import SIDES, is_factor
from ..layouts.metadata import PROVENANCE
from .advice import Advice, Help
from .commands import attach_command, detach_command, doctor_command, donor_hint, donor_words, header_change
from .experts import GATE_AND_UP, GATE_UP, check_trunk_experts, fused_block
from .finding import Change, Finding
from .patient import Patient

FOR_IK = "head-for-ik-only"
_QKV, _KV_B = "attn_qkv.weight", "attn_kv_b.weight"
# Two forms of the same weights: if one is present, the other is not missing.
_OTHER_FORM = {
    "attn_q.weight": _QKV, "attn_k.weight": _QKV, "attn_v.weight": _QKV,
    "attn_q.bias": "attn_qkv.bias", "attn_k.bias": "attn_qkv.bias", "attn_v.bias": "attn_qkv.bias",
    "attn_k_b.weight": _KV_B, "attn_v_b.weight": _KV_B,
}  # fmt: skip
HEAD_NORM, _LAYER_NORM = "nextn.shared_head_norm.weight", "layer_output_norm.weight"  # MiMo has the second
# Optional in a family's table, and in its blocks where the trunk's layers have them (sinks: some layers).
_SINKS = "attn_sinks.weight"
_AS_IN_TRUNK = (_SINKS, "attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias",
                "attn_q_norm.weight", "attn_k_norm.weight", "attn_gate.weight", "exp_probs_b.bias", "exp_probs_b",
                "ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight")  # fmt: skip
_ASKED = {  # what the checks below look for besides a family's own names
    *_OTHER_FORM, *_OTHER_FORM.values(), *_AS_IN_TRUNK, *chain(*TOGETHER), GATE_UP, HEAD_NORM, _LAYER_NORM,
    EMBED_TOKENS, DRAFT_HEAD,
}  # fmt: skip
_SPLIT = ("attn_q.weight", "attn_k.weight", "attn_v.weight")


def check_blocks(seen: Anatomy, donor: Block | None = None, trunk: Model | None = None) -> Iterator[Finding]:
    """Findings about the block's own tensors; `trunk` is the model that a sidecar belongs to."""
    yield from _extra_roots(seen)
    yield from check_trunk_experts(seen)
    yield from check_factors(seen)
    yield from _other_experts(seen)
    yield from _other_shapes(seen)
    family = seen.family
    if family is None or not seen.is_language_model:
        return
    if seen.gone:
        yield _gone(seen, donor)
    known = {rule.target for rule in family.rules}
    roots = {rule.target for rule in family.rules if rule.root and rule.target in seen.model.tensors}
    for number, layer in enumerate(sorted((*seen.unmarked, *seen.all_blocks))[: family.max_blocks]):
        if layer in seen.gone:
            continue
        there = _present(family, seen.layers[layer]) | roots
        lost = missing(family.rules, there, seen.model.arch_value)
        lost = [name for name in lost if _OTHER_FORM.get(name) not in there]
        if family.qkv and not family.qkv.split and _QKV in lost and all(name in there for name in _SPLIT):
            lost.remove(_QKV)
            yield _split(seen, layer, family.qkv.refusal)
        if GATE_UP in there - known and lost:
            lost = [name for name in lost if name not in GATE_AND_UP]
            yield fused_block(seen, layer)
        if lost:
            yield _not_whole(seen, layer, number, lost, donor)
        else:
            yield from _unlike_others(seen, layer, number, there, donor, trunk)
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
            f"the model has {len(seen.blocks)} MTP blocks, but the graph of '{seen.arch}' takes {family.max_blocks}.",
            f"blk.{seen.blocks[len(kept)]}.*",
            "llama.cpp loads it and aborts when it drafts: 'MTP currently only supports a single MTP block'",
            Advice.of(detach_command(seen), f", then attach a donor with {family.max_blocks}"),
        )


def _present(family: Family, layer: Set[str]) -> frozenset[str]:
    """Which of the names that matter a layer has: it may have any number of others."""
    return frozenset(name for name in _ASKED.union(rule.target for rule in family.rules) if name in layer)


def _split(seen: Anatomy, layer: int, refusal: str) -> Finding:
    return Finding(
        "block-wants-fused-qkv",
        "error",
        f"the MTP block in layer {layer} has separate q, k and v, but '{seen.arch}' needs them fused to draft.",
        f"blk.{layer}.attn_q.weight",
        f"llama.cpp loads it and aborts when it drafts: '{refusal}'",
        Advice.of(detach_command(seen), ", then attach the block from the checkpoint"),
    )


def _without(patient: Patient, names: list[str]) -> Patient:
    return patient.without(names)


def _extra_roots(seen: Anatomy) -> Iterator[Finding]:
    """A drafting head that only ik_llama.cpp knows."""
    for name in DRAFT_ROOTS:
        if name in seen.model.tensors:
            yield Finding(
                FOR_IK,
                "warning",
                f"'{name}' is a head for drafting that only ik_llama.cpp knows (up to 8337e4cd).",
                name,
                "llama.cpp refuses to load it: 'wrong number of tensors'; ik_llama.cpp up to 8337e4cd accepts it for "
                "Qwen3.5 and related models",
                Advice.of(doctor_command(seen), ", if llama.cpp is to load it"),
                partial(_without, names=[name]),
            )


def _other_experts(seen: Anatomy) -> Iterator[Finding]:
    """Another number of experts in a model's block, as when a whole model's block was joined to a pruned trunk."""
    own, most = seen.model.arch_int("expert_count"), seen.family.max_blocks if seen.family else 1
    for layer in seen.blocks[:most] if seen.has_trunk and own else ():
        found = seen.model.tensors.get(f"blk.{layer}.{ROUTER}")
        if found is None or len(found[1].ne) != 2 or found[1].ne[-1] == own:
            continue
        yield Finding(
            "block-with-other-experts",
            "error",
            f"the MTP block in layer {layer} has {found[1].ne[-1]:,} experts, but the model has {own:,}.",
            f"blk.{layer}.{ROUTER}",
            f"llama.cpp refuses to load it: 'tensor 'blk.{layer}.{ROUTER}' has wrong shape'",
            Advice.of(detach_command(seen).more("-o", "TRUNK"), ", then, as a sidecar may have another number: ",
                      attach_command("TRUNK", "--from", seen.model.entry, "--layout", "sidecar")),
        )  # fmt: skip


def _other_shapes(seen: Anatomy) -> Iterator[Finding]:
    """Tensors of a model's block that its header gives another shape: another model's block was joined to it."""
    family = seen.family
    if family is None or not seen.has_trunk:
        return
    for layer in seen.blocks[: family.max_blocks]:  # more than these are a finding of their own
        there = _present(family, seen.layers[layer])
        router = seen.model.tensors.get(f"blk.{layer}.{ROUTER}")
        # `_other_experts` says if it is not the model's
        n_expert = None if router is None or len(router[1].ne) != 2 else router[1].ne[-1]
        shapes = [(name, seen.model.tensors[f"blk.{layer}.{name}"][1].ne) for name in sorted(there)]
        wrong = misshapen(shapes, seen.model, family, n_expert)
        found = [each for each in wrong if len(each[1]) == len(each[2])]  # another model's have as many axes
        if not found:
            continue
        name, ne, wanted = found[0]
        more = f", and {len(found) - 1} more do not fit either" if len(found) > 1 else ""
        yield Finding(
            "block-with-other-shapes",
            "error",
            f"the MTP block in layer {layer} is another model's: '{name}' is {times(ne)}, but the model needs "
            f"{times(wanted)}{more}.",
            f"blk.{layer}.{name}",
            f"llama.cpp refuses to load it: 'tensor 'blk.{layer}.{name}' has wrong shape'",
            Advice.of(detach_command(seen).more("-o", "TRUNK"), ", then attach a block that fits: ",
                      attach_command("TRUNK", *donor_hint(seen))),
        )  # fmt: skip


def check_factors(seen: Anatomy) -> Iterator[Finding]:
    """Factors of NVFP4 in the block of a model, which only a model loaded with MTP can have."""
    if not seen.blocks or not seen.has_trunk:
        return
    candidates = filter(is_factor, seen.model.table.names_ending_with(SIDES[0]))  # the other ends with it too
    factors = sorted(split_name(name) for name in candidates if seen.of_block(name))
    names = [f"blk.{layer}.{name}" for layer, name in factors]
    if not names:
        return
    model = seen.model.entry
    yield Finding(
        "block-with-factors",
        "warning",
        f"the block's matrices have factors beside them ('{names[0]}' and {len(names) - 1} more), as NVFP4 has.",
        names[0],
        "llama.cpp drafts with it, and loaded without MTP refuses it: 'wrong number of tensors'",
        Advice.of(
            detach_command(seen).more("-o", "TRUNK"), " and ", attach_command("TRUNK", "--from", model),
            " write the block in q8_0, the factors multiplied in",
        ),
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _from_donor(seen: Anatomy, donor: Block | None, what: str, *, whole: bool) -> Help:
    """The command that takes tensors from a donor; if the donor lacks some, the advice to name another one."""
    if donor is None:
        return doctor_command(seen, *donor_hint(seen))
    if whole:
        return doctor_command(seen, "--from", donor.origin)
    return f"name another donor with --from: {donor.donor_name} does not have {what}"


def _gone(seen: Anatomy, donor: Block | None) -> Finding:
    """Complete blocks missing beside others. The remaining ones are never renumbered: each is a different step."""
    assert seen.family is not None  # without one, nothing shows that blocks are gone
    like = {name for layer in seen.blocks for name in _present(seen.family, seen.layers[layer])}
    rules = [rule for rule in seen.family.rules if not rule.root]
    like |= {name for name in missing(rules, like, seen.model.arch_value) if _OTHER_FORM.get(name) not in like}
    supply = [] if donor is None else [
        (layer, _supply(seen, seen.all_blocks.index(layer), sorted(like), donor)) for layer in seen.gone
    ]  # fmt: skip
    whole = bool(supply) and all(like <= tensors.keys() for _, tensors in supply)
    kept = len(seen.blocks)
    change: Change | None = None
    advice = _from_donor(seen, donor, "them in the right shapes", whole=whole)
    if whole:
        parts = [(layer, tuple(tensors[name] for name in sorted(like))) for layer, tensors in supply]
        change = partial(_all_completed, parts=parts)
    elif donor is None and seen.blocks == seen.all_blocks[:kept]:  # the first ones draft without those after them
        advice = Advice.of(
            doctor_command(seen), f" makes it a model with {kept} of them; ", advice, " puts the others back"
        )
        change = header_change(seen, kept, seen.n_trunk, PROVENANCE)  # which describes all of them
    return Finding(
        "block-not-whole",
        "error",
        f"{len(seen.gone)} of {len(seen.all_blocks)} MTP blocks have no tensors at all (layer "
        f"{', '.join(map(str, seen.gone))}); {donor_words(seen)}.",
        f"blk.{seen.gone[0]}.*",
        "llama.cpp refuses to load it: 'tensor ... not found'",
        advice,
        change,
    )


def _all_completed(patient: Patient, parts: list[tuple[int, tuple[BlockTensor, ...]]]) -> Patient:
    for layer, tensors in parts:
        patient = _completed(patient, tensors, layer)
    return patient


def _not_whole(seen: Anatomy, layer: int, number: int, lost: list[str], donor: Block | None) -> Finding:
    supply = {} if donor is None else _supply(seen, number, [*lost, *_AS_IN_TRUNK], donor)
    whole = bool(supply) and set(lost) <= supply.keys()
    doubt = ""
    if layer in seen.unmarked:
        doubt = " (judging by the key and the count; it may instead be a trunk layer, with the block gone)"
    return Finding(
        "block-not-whole",
        "error",
        f"the MTP block in layer {layer} lacks {len(lost)} of its tensors ({_listed(lost)}){doubt}; "
        f"{donor_words(seen)}.",
        f"blk.{layer}.{lost[0]}",
        "llama.cpp refuses to load it: 'tensor ... not found'; if nextn.eh_proj is missing, it loads and aborts when "
        "it drafts",
        _from_donor(seen, donor, "all of them in the right shapes", whole=whole),
        partial(_completed, tensors=tuple(supply.values()), layer=layer) if whole else None,
    )


def _unlike_others(
    seen: Anatomy, layer: int, number: int, there: frozenset[str], donor: Block | None, trunk: Model | None
) -> Iterator[Finding]:
    """Missing tensors that the loader does not need but the published block has."""
    rules = seen.family.rules if seen.family else ()
    forms = chosen_forms(rules, there)
    optional = [rule.target for rule in rules if rule.optional and (not rule.form or rule.form in forms)]
    head_norm = _LAYER_NORM if _LAYER_NORM in optional else HEAD_NORM
    if head_norm in optional and not there & {HEAD_NORM, _LAYER_NORM}:
        refused = seen.family is not None and seen.family.ik.needs_head_norm
        yield _optional(
            seen, layer, number, [head_norm], donor,
            "head-norm-missing", f"lacks '{head_norm}', the norm before its head",
            "llama.cpp silently drafts with the trunk's output_norm instead, whose values differ"
            + (f"; {IK_UP_TO} refuses to load it" if refused else ""),
        )  # fmt: skip
    last = seen.n_trunk - 1
    most = seen.family.max_blocks if seen.family else 0
    others = set()
    for model in (seen, *([] if trunk is None else [Anatomy.of(trunk)])):
        alike = [model.layers[n] for n in (*seen.blocks[:most], last) if n in model.layers]
        others |= {name for name in _AS_IN_TRUNK if any(name in layer for layer in alike)}
        if _SINKS in optional and any(name.endswith("." + _SINKS) for name in model.model.tensors):
            others.add(_SINKS)
    if donor is not None:
        others |= _supply(seen, number, list(_AS_IN_TRUNK), donor).keys()
    fused = [name for name in _AS_IN_TRUNK if _OTHER_FORM.get(name) in there]
    lost = [name for name in _AS_IN_TRUNK if name in optional and name in others - there and name not in fused]
    if lost:
        yield _optional(
            seen, layer, number, lost, donor,
            "optional-tensors-missing", f"lacks {_listed(lost)}, which other layers or the donor's block have",
            "llama.cpp reports nothing, and the block does not compute what it was trained to",
        )  # fmt: skip


def _optional(
    seen: Anatomy, layer: int, number: int, lost: list[str], donor: Block | None, ident: str, how: str, engine: str
) -> Finding:
    """A warning that a donor can end."""
    found = {} if donor is None else _supply(seen, number, lost, donor)
    tensors = tuple(found[name] for name in lost if name in found)
    whole = len(tensors) == len(lost)
    return Finding(
        ident,
        "warning",
        f"the MTP block in layer {layer} {how}; {donor_words(seen)}.",
        f"blk.{layer}.{lost[0]}",
        engine,
        _from_donor(seen, donor, "it in the right shape", whole=whole),
        partial(_completed, tensors=tensors, layer=layer) if whole else None,
    )


def _supply(seen: Anatomy, number: int, lost: list[str], donor: Block) -> dict[str, BlockTensor]:
    """The lost tensors from a donor that fits."""
    if donor.architecture != seen.arch or donor.hidden_size not in (None, seen.model.arch_int("embedding_length")):
        return {}
    if not set(lost).isdisjoint(GATE_AND_UP):
        try:
            donor = split_experts(donor)
        except (FormatError, QuantizeError):
            return {}
    blocks = sorted({*seen.all_blocks, *seen.unmarked})
    found = {tensor.suffix: tensor for tensor in donor.tensors if tensor.layer == number}
    mine = {
        name: seen.model.tensors[f"blk.{n}.{name}"][1]
        for n in blocks[: seen.family.max_blocks if seen.family else 1] if n in seen.layers
        for name in found if name in seen.layers[n]
    }  # fmt: skip
    if any(not same_shape(found[name].ne, info.ne) for name, info in mine.items()):
        return {}
    here = seen.layers.get(blocks[number], frozenset())
    known = {rule.target for rule in seen.family.rules} if seen.family else set()
    # Tensors that a block may lack were most likely lost with the rest if the donor's block has them.
    more = [name for name in found if name.startswith("nextn.") and name in known and name not in (*here, *lost)]
    supply = {name: found[name] for name in (*lost, *more) if name in found and name not in here}
    shapes = ((name, tensor.ne) for name, tensor in supply.items())
    return supply if seen.family is None or not misshapen(shapes, seen.model, seen.family) else {}


def _completed(patient: Patient, tensors: tuple[BlockTensor, ...], layer: int) -> Patient:
    from ..layouts import build  # loads numpy

    notes: list[str] = []
    seen = Anatomy.of(patient.model)
    at = layer if seen.is_promised(layer) else seen.n_trunk + tensors[0].layer
    names = [tensor.suffix if tensor.root else f"blk.{at}.{tensor.suffix}" for tensor in tensors]
    in_model = seen.has_trunk
    parts = [
        part
        for tensor, name in zip(tensors, names, strict=True)
        for part in build.tensor_parts(tensor, name, None, notes, in_model=in_model)
    ]
    return replace(patient, added=(*patient.added, *parts))
