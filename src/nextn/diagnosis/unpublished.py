"""Models that have no MTP block to attach, said plainly: what is known of whom, and what there is instead."""

from __future__ import annotations

from collections.abc import Iterator

from ..archs import FAMILIES, loads_only_of, of_classes
from ..archs.base import Family, Portrait, Unpublished
from ..archs.others import CLASS_STARTS, DRAFTS, LOADS_ONLY, NONE_PUBLISHED, NOT_RELEASED, OTHER_USE
from ..block.anatomy import Anatomy
from ..sources.checkpoint import Checkpoint
from .finding import Finding
from .patient import quoted

# How llama.cpp is told of drafts of another kind (common/arg.cpp, common/speculative.cpp at b11434).
OTHER_DRAFTS = (
    "an EAGLE-3 or DFlash draft is another mechanism, a model of its own: llama-server -m MODEL -md DRAFT.gguf "
    "--spec-type draft-eagle3 (or draft-dflash)"
)


def known_of(seen: Anatomy) -> Unpublished | None:
    """What the family's file says of a model that was published without a block."""
    if seen.family is None or seen.family.unpublished is None:
        return None
    header = seen.model.header
    names = (header.get(key) for key in ("general.name", "general.basename", "general.base_model.0.name"))
    pre = header.get("tokenizer.ggml.pre")
    portrait = Portrait(
        names=(*(name for name in names if isinstance(name, str)), seen.model.base_name),
        pre=pre if isinstance(pre, str) else "",
        n_trunk=seen.n_trunk,
        n_expert=seen.model.arch_int("expert_count"),
        q_lora_rank=seen.model.arch_int("attention.q_lora_rank"),
    )
    return seen.family.unpublished(portrait)


def known_of_config(family: Family, checkpoint: Checkpoint) -> Unpublished | None:
    """The same of a checkpoint, by its class and config.json."""
    if family.unpublished is None:
        return None
    names = (*checkpoint.classes, str(checkpoint.config.get("model_type")))
    integer = checkpoint.integer
    return family.unpublished(
        Portrait(
            names=names,
            pre="",
            n_trunk=integer("num_hidden_layers") or 0,
            n_expert=integer("n_routed_experts") or 0,
            q_lora_rank=integer("q_lora_rank") or 0,
        )
    )


def check_unpublished(seen: Anatomy) -> Iterator[Finding]:
    """A note for a model without a block when none was published; and of a block that no engine drafts with."""
    if seen.blocks and seen.is_language_model:
        if seen.arch not in FAMILIES:
            yield _useless(seen)
        return
    if not (seen.trunk or seen.blocks or seen.arch in DRAFTS):
        return
    entry = seen.model.entry
    words = mend = None
    if (found := known_of(seen)) is not None:
        words = f"{found.words}; {OTHER_DRAFTS}."
        if found.donor_layer is not None:
            holds = f"DONOR holds a native block in layer {found.donor_layer}"
            mend = f"nextn attach {quoted(entry)} --from DONOR, where {holds}"
    elif seen.arch in DRAFTS:
        words = f"'{seen.arch}' is {DRAFTS[seen.arch]}; there is no block to attach."
    else:
        words = _of_arch(seen.arch)
    if words is not None:
        ident = "draft-model" if seen.arch in DRAFTS else "no-block-published"
        yield Finding(ident, "note", words, entry.name, "", mend or "nothing to do: the model is whole as it is")


def _useless(seen: Anatomy) -> Finding:
    """A block in a model whose loader takes it in vain, or not at all."""
    arch, entry = seen.arch, seen.model.entry
    if arch in NONE_PUBLISHED:
        return Finding(
            "block-without-engine", "error",
            f"an MTP block is there (layer {seen.blocks[0]}), and no loader of '{arch}' knows one.",
            f"blk.{seen.blocks[0]}.*", "llama.cpp refuses to load it: 'wrong number of tensors'",
            f"nextn detach {quoted(entry)} takes it off",
        )  # fmt: skip
    why = LOADS_ONLY.get(arch)
    what = f"no engine drafts with '{arch}' ({why})" if why else f"nextn knows of no engine that drafts with '{arch}'"
    return Finding(
        "block-without-engine", "note", f"{what}: the block only costs memory.", entry.name, "",
        f"nextn detach {quoted(entry)} takes it off",
    )  # fmt: skip


def _of_arch(arch: str) -> str | None:
    if arch in FAMILIES:
        return None
    if arch in LOADS_ONLY:
        return f"no engine drafts with '{arch}' ({LOADS_ONLY[arch]}): a block would only cost memory."
    if arch in OTHER_USE:
        return f"'{arch}' uses the key for {OTHER_USE[arch]}, not for MTP; there is no block to attach."
    if arch in NONE_PUBLISHED:
        return f"no MTP block was ever published for {NONE_PUBLISHED[arch]} ('{arch}'); {OTHER_DRAFTS}."
    if arch in NOT_RELEASED:
        return f"{NOT_RELEASED[arch]}; {OTHER_DRAFTS}."
    return f"nextn knows of no MTP block for '{arch}', and of no engine that drafts with one; {OTHER_DRAFTS}."


def words_of_class(checkpoint: Checkpoint) -> str | None:
    """What is known of a checkpoint's class, None when blocks of it are published."""
    classes = checkpoint.classes
    family = of_classes(classes)
    if family is not None:
        found = known_of_config(family, checkpoint)
        return None if found is None else f"{found.words}; {OTHER_DRAFTS}."
    if (arch := loads_only_of(classes)) is not None:
        return _of_arch(arch)
    for name in classes:
        arch = next((arch for start, arch in CLASS_STARTS if name.startswith(start)), None)
        if arch is not None:
            return _of_arch(arch)
    return f"nextn knows of no MTP block for {', '.join(classes) or 'a model without a class'}; {OTHER_DRAFTS}."
