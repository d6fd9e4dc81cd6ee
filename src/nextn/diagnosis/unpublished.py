"""Models that have no MTP block to attach: what is known about each, and what they have instead."""

from __future__ import annotations

from collections.abc import Iterator

from ..archs import FAMILIES, of_classes
from ..archs.base import Family, Portrait, Unpublished, stops
from ..archs.others import (
    ASSISTANTS,
    DRAFTS,
    LOADS_ONLY,
    NONE_PUBLISHED,
    other_drafts,
    without_block,
    words_of_classes,
)
from ..block.anatomy import Anatomy
from ..sources.checkpoint import Checkpoint
from .advice import Advice, Help
from .commands import attach_command, detach_command
from .finding import Finding

NO_ENGINE = "block-without-engine"  # the finding for a block that costs memory and drafts on no engine


def known_of(seen: Anatomy) -> Unpublished | None:
    """What the family's file says about a model that was published without a block."""
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
    """The same for a checkpoint, by its class and config.json."""
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
    """A note for a model without a block when none was published, and for a block that no engine drafts with."""
    if seen.blocks and seen.is_language_model:
        if seen.arch not in FAMILIES:
            yield _useless(seen)
        elif reason := stops(FAMILIES[seen.arch], seen.layers[seen.blocks[0]]):
            yield Finding(
                NO_ENGINE, "note", f"no engine drafts with this block: {reason}.",
                f"blk.{seen.blocks[0]}.*", "llama.cpp loads it and aborts when it drafts",
                Advice.of(detach_command(seen), " removes it"),
            )  # fmt: skip
        return
    if not (seen.trunk or seen.blocks or seen.arch in DRAFTS):
        return
    entry = seen.model.entry
    words, found = words_of_trunk(seen), known_of(seen)
    advice: Help = "nothing to do: the model is complete as it is"
    if found is not None and found.donor_layer is not None:
        holds = f", where DONOR holds a native block in layer {found.donor_layer}"
        advice = Advice.of(attach_command(entry, "--from", "DONOR"), holds)
    elif seen.arch in ASSISTANTS.values():
        advice = Advice.of(attach_command(entry, "--from", "DRAFT.gguf"), " puts it beside the model")
    if words is not None:
        ident = "draft-model" if seen.arch in DRAFTS else "no-block-published"
        yield Finding(ident, "note", f"{words}.", entry.name, "", advice)


def _useless(seen: Anatomy) -> Finding:
    """A block in a model whose loader takes it to no effect, or not at all."""
    arch, entry = seen.arch, seen.model.entry
    if arch in NONE_PUBLISHED:
        return Finding(
            NO_ENGINE, "error",
            f"the file has an MTP block (layer {seen.blocks[0]}), but no loader for '{arch}' knows one.",
            f"blk.{seen.blocks[0]}.*", "llama.cpp refuses to load it: 'wrong number of tensors'",
            Advice.of(detach_command(seen), " removes it"),
        )  # fmt: skip
    why = LOADS_ONLY.get(arch)
    what = f"no engine drafts with '{arch}' ({why})" if why else f"nextn knows of no engine that drafts with '{arch}'"
    return Finding(
        NO_ENGINE, "note", f"{what}: the block only costs memory.", entry.name, "",
        Advice.of(detach_command(seen), " removes it"),
    )  # fmt: skip


def words_of_trunk(seen: Anatomy) -> str | None:
    """What is known of a model that was published without a block, and what else drafts for it; None: nothing."""
    if (found := known_of(seen)) is not None:
        return f"{found.words}; {other_drafts(seen.arch)}"
    return None if seen.arch in FAMILIES else without_block(seen.arch)


def words_of_class(checkpoint: Checkpoint) -> str | None:
    """What is known about a checkpoint's class; None if its blocks are published."""
    classes = checkpoint.classes
    family = of_classes(classes)
    if family is not None:
        unpublished = known_of_config(family, checkpoint)
        return None if unpublished is None else f"{unpublished.words}; {other_drafts(family.arch)}."
    found = words_of_classes(classes, checkpoint.text_config.get("model_type"))
    if found is not None:
        return f"{found}."
    return f"nextn knows of no MTP block for {', '.join(classes) or 'a model without a class'}."
