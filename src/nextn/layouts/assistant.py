"""Drafts that are already sidecars: Gemma 4's assistants, EAGLE-3, DFlash, DSpark. They are placed, never converted.

An assistant has no block to attach: all of it drafts, using the target's embeddings and KV cache. Source: llama.cpp
b11549, src/models/gemma4-assistant.cpp; ik_llama.cpp 8337e4cd, which also accepts its own converter's name for them.
"""

from __future__ import annotations

import os

from ..archs.others import ASSISTANTS
from ..block.draft import Draft
from ..errors import BlockPresent, DonorMismatch, UsageError
from ..gguf.files import Model
from ..writing.plan import Link, Plan
from . import naming, places
from .donor_check import TOKEN_TYPES, TOKENS, compare_tokens
from .draft_fit import check_draft_fit
from .options import AttachOptions

_WIDTH_OUT = "embedding_length_out"  # hidden size of the target


def is_assistant(model: Model) -> bool:
    """Whether a model is a draft model that needs no attaching."""
    return model.header.get("general.architecture") in ASSISTANTS


def is_placed(model: Model) -> bool:
    """Whether a model is a draft of its own, of any kind, which is put beside its model as it is."""
    return is_assistant(model) or Draft.of(model) is not None


def plan_place(trunk: Model, assistant: Model, options: AttachOptions) -> Plan:
    """A link to `assistant`, which `is_placed`, beside `trunk`, under a name that llama.cpp finds.

    Raises DonorMismatch when it was not made for this model, UnsupportedModel for a model without taps, UsageError for
    options that would change it, BlockPresent when it is already there.
    """
    draft = Draft.of(assistant)
    about_tokens = check_assistant(trunk, assistant) if draft is None else check_draft_fit(draft, trunk, assistant)
    mark = "mtp-" if draft is None else draft.kind.mark
    asked = [
        flag
        for flag, value in (
            ("--layout", options.layout not in (None, "sidecar")), ("--type", options.type),
            ("--draft-head", options.draft_head), ("--qkv", options.qkv),
        )
        if value
    ]  # fmt: skip
    if asked:
        raise UsageError(
            f"{assistant.entry.name} is a complete draft and is placed beside the model as it is, so {asked[0]} has "
            "no effect; leave it out."
        )
    if len(assistant.files) > 1:
        raise UsageError(
            f"{assistant.entry}: a sidecar is a single file, not a shard set; engines would not find it."
        )
    title = "an assistant of Gemma 4" if draft is None else f"{draft.kind.article} {draft.kind.title} draft"
    notes = [f"{title} is already a sidecar: it is placed, not converted"]
    notes += about_tokens
    file = assistant.files[0]
    kind = naming.split_quant(assistant.base_name)[1] or max(
        ((file.stored_size(info), info.type_name.upper()) for info in file.header.tensors), default=(0, "F16")
    )[1]
    folder, name = naming.resolve_output(
        options.out, places.sidecar_folder(trunk), naming.sidecar_name(trunk, kind, mark)
    )
    target = folder / name
    if target.exists() and os.path.samefile(target, file.path):  # noqa: PTH121 - links are followed
        raise BlockPresent(f"{target}: this draft is already beside the model; load it with -md.")
    if not name.startswith(mark):
        notes.append(f"{name} does not start with '{mark}': engines find it only when it is passed with -md")
    return Plan(
        verb="attach", layout="sidecar", folder=folder,
        outputs=(Link(name, file.path, file.size_bytes, options.link, file.stamp),),
        entry=trunk.entry, sidecar=target, header_bytes=trunk.header_bytes + assistant.header_bytes, notes=tuple(notes),
    )  # fmt: skip


def check_assistant(trunk: Model, assistant: Model) -> list[str]:
    """Raise DonorMismatch when the assistant was not made for this model; return warnings."""
    wanted = ASSISTANTS[assistant.architecture]
    where = f"{assistant.entry} does not fit {trunk.entry.name}"
    if trunk.architecture != wanted:
        raise DonorMismatch(f"{where}: it drafts for '{wanted}', but the model is '{trunk.architecture}'.")
    out, own = assistant.arch_int(_WIDTH_OUT), trunk.arch_int("embedding_length")
    if out and own and out != own:
        raise DonorMismatch(f"{where}: it is made for a hidden size of {out:,}, but the model's is {own:,}.")
    return _tokens(trunk, assistant, where)


def _tokens(trunk: Model, assistant: Model, where: str) -> list[str]:
    ours, theirs = trunk.header.get(TOKENS), assistant.header.get(TOKENS)
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return ["one of the two has no token list: tokenizers were not compared"]
    if ours == theirs and trunk.header.get(TOKEN_TYPES) == assistant.header.get(TOKEN_TYPES):
        return []
    return compare_tokens(dict(enumerate(theirs)), ours, trunk, where)
