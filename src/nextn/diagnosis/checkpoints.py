"""The same checks for checkpoint folders: does config.json keep its promise, and is the block complete?"""

from __future__ import annotations

from collections.abc import Iterator

from ..archs import of_classes
from ..archs.base import Family
from ..archs.drafts import kind_of_config
from ..archs.others import ASSISTANT_FOLDER
from ..block.from_checkpoint import block_from_checkpoint, block_names
from ..errors import FormatError, IncompleteModel, UnsupportedFormat, UnsupportedModel
from ..shell import Command
from ..sources.checkpoint import CONFIG, Checkpoint
from ..units import counted
from .advice import Advice, Help
from .commands import attach_command
from .finding import Finding, Severity
from .unpublished import words_of_class

COUNT_KEYS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")
_AS_PUBLISHED = "nothing to do: the checkpoint is as published"


def check_checkpoint(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Findings about a checkpoint, from names and config.json only: no tensor is read.

    Raises FormatError and related errors for a folder that cannot be read.
    """
    try:
        yield from _findings(checkpoint)
    except IncompleteModel as error:
        what = str(error).removeprefix(f"{checkpoint.folder}").lstrip("/: ").rstrip(".")
        yield _finding(
            "shards-missing", "error", f"{what}.", checkpoint, "get it from the same place as the others",
            "llama.cpp's converter stops",
        )  # fmt: skip


def _findings(checkpoint: Checkpoint) -> Iterator[Finding]:
    if (draft := _of_draft(checkpoint)) is not None:
        yield draft
        return
    family = of_classes(checkpoint.classes)
    words = words_of_class(checkpoint)
    names = {} if family is None else block_names(checkpoint, family)
    promised = checkpoint.integer(*COUNT_KEYS, *(family.count_keys if family else ()))
    if not names:
        yield _without(checkpoint, family, words, promised)
        return
    assert family is not None
    try:
        block = block_from_checkpoint(checkpoint)
    except (UnsupportedFormat, UnsupportedModel) as error:
        yield _finding("checkpoint-not-read", "note", str(error), checkpoint, _AS_PUBLISHED)
        return
    except FormatError as error:
        yield _finding(
            "checkpoint-block-not-whole",
            "error",
            str(error),
            checkpoint,
            Advice.of(
                "use the base model's checkpoint as the donor: ", attach_command("TRUNK", "--from", "BASE")
            ),
            "llama.cpp's converter stops, or writes a model that llama.cpp refuses",
        )
        return
    if promised is not None and promised != block.n_layer_nextn:
        yield _finding(
            "checkpoint-promise",
            "note",
            f"config.json promises {counted(promised, 'MTP block')}, but has {block.n_layer_nextn}.",
            checkpoint,
            "nothing to do: nextn goes by the tensors",
        )


def _of_draft(checkpoint: Checkpoint) -> Finding | None:
    """The finding for a draft that is a model of its own."""
    try:
        kind = kind_of_config(checkpoint.classes, checkpoint.text_config)
    except UnsupportedModel as error:
        return _finding("draft-model", "note", f"{error}.", checkpoint, _AS_PUBLISHED)
    if kind is None:
        return None
    made = Command.of("nextn", "extract", checkpoint.folder, "--for-trunk", "MODEL.gguf")
    return _finding(
        "draft-model", "note", f"this is {kind.article} {kind.title} draft, a model of its own without an MTP block.",
        checkpoint, Advice.of(made, " makes it a sidecar of the model that it drafts for"),
    )  # fmt: skip


def _without(checkpoint: Checkpoint, family: Family | None, words: str | None, promised: int | None) -> Finding:
    what, how = ASSISTANT_FOLDER
    if words == f"{what}: {how}.":
        return _finding("draft-model", "note", f"{what}.", checkpoint, how)
    if words is not None:
        return _finding("no-block-published", "note", words, checkpoint, _AS_PUBLISHED)
    base = _base_words(checkpoint)
    if promised:
        return _finding(
            "checkpoint-lost-block",
            "error",
            f"config.json promises {counted(promised, 'MTP block')}, but no tensor of any is present: fine-tuning "
            f"and merging tools lose them; {base}.",
            checkpoint,
            Advice.of(
                attach_command("TRUNK", "--from", _base_of(checkpoint) or "BASE"),
                ": the base model's block works on a fine-tune",
            ),
            "llama.cpp's converter writes a key without a block, or stops",
        )
    return _finding(
        "checkpoint-without-block",
        "note",
        f"this checkpoint has no MTP block, and config.json promises none; models of its class are published with one, "
        f"and {base}.",
        checkpoint,
        attach_command("TRUNK", "--from", _base_of(checkpoint) or "BASE"),
    )


def _base_of(checkpoint: Checkpoint) -> str | None:
    for key in ("base_model", "base_model_name_or_path", "_name_or_path"):
        value = checkpoint.config.get(key)
        if isinstance(value, str) and value.count("/") == 1 and not value.startswith((".", "/", "~")):
            return value
    return None


def _base_words(checkpoint: Checkpoint) -> str:
    base = _base_of(checkpoint)
    return f"config.json names {base} as its base" if base else "config.json does not name its base"


def _finding(
    ident: str, severity: Severity, what: str, checkpoint: Checkpoint, advice: Help, engine: str = ""
) -> Finding:
    return Finding(ident, severity, what, str(checkpoint.folder / CONFIG), engine, advice)
