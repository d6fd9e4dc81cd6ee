"""Does an EAGLE-3, DFlash or DSpark draft fit this target? What llama.cpp b11549 refuses, or aborts at.

Sources: src/models/eagle3.cpp and dflash.cpp (loaders), common/speculative.cpp (what it takes from the target).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..archs.drafts import EAGLE3, N_EAGLE_LAYERS, TARGET_LAYERS, TARGET_WIDTH
from ..block.draft import Draft, tokens_of
from ..compat.graphs import graphs
from ..errors import DonorMismatch, UnsupportedModel
from ..gguf.files import Model
from .donor_check import TOKENS, compare_tokens, n_layer_trunk


@dataclass(frozen=True)
class DraftMisfit:
    """One way in which a draft does not fit its target."""

    id: str
    what: str  # a clause about the draft
    where: str  # the key or tensor that shows it
    engine: str  # what llama.cpp does


def misfits(draft: Draft, trunk: Model) -> Iterator[DraftMisfit]:
    """All ways in which `draft` does not fit `trunk`, by their headers; tokenizers are not compared."""
    arch, known = trunk.architecture, graphs()
    key = f"{draft.kind.arch}.{TARGET_LAYERS}"
    if known.has_taps(arch) is False:
        yield DraftMisfit(
            "target-without-taps",
            f"the graph of '{arch}' hands no layer inputs to a draft",
            "general.architecture",
            f"llama.cpp {known.build} aborts when it drafts: '{known.no_taps[arch]}'",
        )
    n_layer = n_layer_trunk(trunk)
    # EAGLE-3 may also read what the last layer puts out, which counts as the input of one more.
    last = n_layer if draft.kind is EAGLE3 else n_layer - 1
    outside = [n for n in draft.target_layers or () if not 0 <= n <= last]
    if outside:
        shift = draft.kind is not EAGLE3 and outside == [n_layer]
        yield DraftMisfit(
            "target-layers-out-of-range",
            f"it reads the inputs of layers {_listed(draft.target_layers)}, but the model has layers 0 to {n_layer - 1}"
            + (" (layers are counted one too high, or the draft is of a deeper model)" if shift else ""),
            key,
            f"llama.cpp aborts: '{_ABORTS[draft.kind is EAGLE3]}'",
        )
    own = trunk.arch_int("embedding_length")
    if draft.target_width and own and draft.target_width != own:
        suffix = TARGET_WIDTH if draft.kind is EAGLE3 else "embedding_length"
        yield DraftMisfit(
            "draft-wrong-width",
            f"it was made for a hidden size of {draft.target_width:,}, but the model's is {own:,}",
            f"{draft.kind.arch}.{suffix}",
            "llama.cpp aborts: 'GGML_ASSERT(ggml_can_mul_mat(a, b)) failed', or 'embedding size mismatch'",
        )
    elif draft.width and own and draft.width != own and not (draft.own_embeddings and draft.n_head is not None):
        lacks = "output head" if draft.own_embeddings else "embeddings"
        yield DraftMisfit(
            "draft-wrong-width",
            f"it has no {lacks} of its own, and its hidden size of {draft.width:,} does not fit the model's ({own:,})",
            "output.weight" if draft.own_embeddings else "token_embd.weight",
            "llama.cpp aborts when it drafts: 'GGML_ASSERT(ggml_can_mul_mat(a, b)) failed'",
        )
    theirs, ours = draft.n_vocab, tokens_of(trunk)
    if theirs and ours and theirs != ours:
        yield DraftMisfit(
            "draft-wrong-tokenizer",
            f"it was made for a vocabulary of {theirs:,} tokens, but the model's has {ours:,}",
            TOKENS,
            "drafted tokens mean something else to the target, so hardly any is accepted",
        )


_MOST_LISTED = 16  # published drafts read up to 8 layers
# What llama.cpp says of a layer that the target does not have: to DFlash and DSpark, to EAGLE-3.
_ABORTS = (
    "GGML_ASSERT(lid <= model.hparams.n_layer()) failed' or 'layer input tensor is null",
    "target layer id ... exceeds target n_layer",
)


def _listed(layers: tuple[int, ...] | None) -> str:
    shown = list(map(str, (layers or ())[:_MOST_LISTED]))
    return ", ".join([*shown, "..."] if len(layers or ()) > _MOST_LISTED else shown)


def check_draft_fit(draft: Draft, trunk: Model, model: Model | None = None) -> list[str]:
    """Raise DonorMismatch for a draft that does not fit, UnsupportedModel for a target without taps; return warnings.

    `model`: the draft's GGUF, whose tokens are compared.
    """
    where = f"{draft.path} does not fit {trunk.entry.name}"
    if draft.target_layers is None or (draft.kind is EAGLE3 and len(draft.target_layers) != N_EAGLE_LAYERS):
        n = 0 if draft.target_layers is None else len(draft.target_layers)
        wanted = f"{N_EAGLE_LAYERS} target layers" if draft.kind is EAGLE3 else "a list of target layers"
        raise DonorMismatch(f"{draft.path}: engines demand {wanted} of {draft.kind.title} drafts, and it has {n}.")
    for each in misfits(draft, trunk):
        if each.id == "target-without-taps":
            raise UnsupportedModel(f"{where}: {each.what}, so {each.engine}.")
        raise DonorMismatch(f"{where}: {each.what}.")
    notes = []
    if graphs().has_taps(trunk.architecture) is None:
        notes.append(
            f"whether llama.cpp {graphs().build} accepts such a draft beside '{trunk.architecture}' was not measured"
        )
    return notes + ([] if model is None else check_tokens_beside(model, trunk, where))


def check_tokens_beside(draft: Model, trunk: Model, where: str) -> list[str]:
    """Raise DonorMismatch, beginning with `where`, if ordinary tokens differ; return a note on special ones."""
    ours, theirs = trunk.header.by_key.get(TOKENS), draft.header.by_key.get(TOKENS)
    if ours is None or theirs is None:
        return []
    same = memoryview(ours.buffer)[ours.value_start : ours.end] == memoryview(theirs.buffer)[
        theirs.value_start : theirs.end
    ]
    return [] if same else compare_tokens(dict(enumerate(theirs.value)), ours.value, trunk, where)
